//! What is known from all looks so far; judges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::member_log::{Change, Entry, MemberLog};
use super::memberships::Memberships;
use super::observation::{LeaderSilence, Observation, Sight, Voters};
use super::{Step, Vote};

/// See the module.
#[derive(Default)]
pub struct Book {
    /// By member id; a replaced member's last log stays as the evidence that it is.
    logs: BTreeMap<u64, MemberLog>,
    /// By member id: the most up-to-date end that its log was ever seen to have.
    peaks: BTreeMap<u64, (u64, u64)>,
    /// By member id: the last committed index that it has in a snapshot, and not in its log any more or not yet.
    taken_in: BTreeMap<u64, u64>,
    /// Which member id is at each place.
    ids: BTreeMap<usize, u64>,
    lives: BTreeMap<usize, u64>,
    last: BTreeMap<usize, Observation>,
    /// Places whose process has begun and was not looked at yet.
    starting: BTreeSet<usize>,
    committed: BTreeMap<u64, Entry>,
    committed_end: u64,
    /// From here on no committed entry was missed.
    committed_since: u64,
    memberships: Memberships,
    votes: BTreeMap<(u64, u64), BTreeSet<u64>>,
}

/// A sight that was noted, still to be judged.
pub(super) struct Taken {
    place: usize,
    id: u64,
    same_life: bool,
    now: Option<Observation>,
    leader_silence: Option<LeaderSilence>,
    change: Change,
}

impl Book {
    pub fn begin_life(&mut self, member: usize) {
        self.starting.insert(member);
    }

    pub fn forget(&mut self, member: usize) {
        self.ids.remove(&member);
        self.starting.remove(&member);
        self.lives.remove(&member);
        self.last.remove(&member);
    }

    pub(super) fn note(&mut self, sight: Sight) -> Option<Taken> {
        let place = sight.member;
        if let Some(now) = &sight.observation {
            self.ids.insert(place, now.id);
        }
        let (id, look) = (*self.ids.get(&place)?, sight.log?);
        self.starting.remove(&place);
        let same_life = self.lives.insert(place, sight.life) == Some(sight.life);
        look.added.iter().for_each(|added| self.memberships.note(added));
        let log = self.logs.entry(id).or_default();
        let change = log.take(&look);
        let known = sight.observation.as_ref().map_or(0, |now| now.committed);
        let taken_in = known.max(log.start().saturating_sub(1));
        if taken_in > 0 && log.last().is_none_or(|(_, last)| last < taken_in) {
            let newest = self.taken_in.entry(id).or_default();
            *newest = taken_in.max(*newest);
        }
        if let Some(last) = log.last() {
            let peak = self.peaks.entry(id).or_insert(last);
            *peak = last.max(*peak);
        }
        Some(Taken {
            place,
            id,
            same_life,
            now: sight.observation,
            leader_silence: sight.leader_silence,
            change,
        })
    }

    pub(super) fn step<'a>(&'a self, taken: &'a Taken) -> Option<Step<'a>> {
        let log = self.logs.get(&taken.id)?;
        Some(Step {
            same_life: taken.same_life,
            before: self.last.get(&taken.place),
            now: taken.now.as_ref(),
            leader_silence: taken.leader_silence,
            id: taken.id,
            log,
            change: &taken.change,
            committed_end: committed_end(log, taken.now.as_ref()),
        })
    }

    /// Takes over what a step, which was found well, shows to be committed.
    pub(super) fn commit(&mut self, taken: Taken) {
        let log = &self.logs[&taken.id];
        let end = log.proven_end();
        if end > self.committed_end {
            let start = self.committed_end.max(log.start());
            if start > self.committed_end {
                self.committed_since = start;
            }
            let entries = (start..end).filter_map(|index| Some((index, log.get(index)?.clone())));
            self.committed.extend(entries);
            self.committed_end = end;
        }
        if let Some(now) = taken.now {
            self.last.insert(taken.place, now);
        }
    }

    pub(super) fn voted(&mut self, vote: &Vote) {
        let voters = self.votes.entry((vote.term, vote.candidate)).or_default();
        voters.insert(vote.voter);
    }

    /// Who voted for a candidate, besides itself.
    pub fn voters_for(&self, term: u64, candidate: u64) -> BTreeSet<u64> {
        self.votes.get(&(term, candidate)).cloned().unwrap_or_default()
    }

    pub fn log(&self, id: u64) -> Option<&MemberLog> {
        self.logs.get(&id)
    }

    /// Term and index of the most up-to-date end that a log ever had, what a snapshot took out of it included. `None`: it is not
    /// known.
    pub fn peak(&self, id: u64) -> Option<(u64, u64)> {
        // A process takes part before it can be looked at: its start may wait for others.
        if self.is_uncertain(id) {
            return None;
        }
        let seen = self.peaks.get(&id).copied();
        let Some(index) = self.taken_in.get(&id) else {
            return seen;
        };
        let taken_in = (self.committed.get(index)?.term, *index);
        seen.max(Some(taken_in))
    }

    /// One behind the last index that anybody was seen to know as committed.
    pub fn committed_end(&self) -> u64 {
        self.committed_end
    }

    /// The committed entry at an index, unless it was never seen.
    pub fn committed(&self, index: u64) -> Option<&Entry> {
        self.committed.get(&index)
    }

    /// Committed entries from an index on.
    pub fn committed_from(&self, start: u64) -> impl Iterator<Item = (u64, &Entry)> {
        self.committed
            .range(start..)
            .map(|(index, entry)| (*index, entry))
    }

    /// Entries of all logs at these indexes that change who votes, or may: index, term, voters.
    pub fn memberships(
        &self,
        indexes: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, u64, Option<&Voters>)> {
        self.memberships.within(indexes)
    }

    /// The membership in force below an index, by a log and, before that begins, by what is committed. `None`: it is not known.
    pub fn membership_below(&self, log: &MemberLog, end: u64) -> Option<(u64, &Voters)> {
        let follows = log.start() <= self.committed_end;
        for (index, term, voters) in self.memberships(0..end).rev() {
            let entry = if index >= log.start() {
                log.get(index)
            } else if follows && index >= self.committed_since {
                self.committed.get(&index)
            } else {
                return None;
            };
            if entry?.term == term {
                return Some((index, voters?));
            }
        }
        None
    }

    /// Whether a member may hold what it was not seen to hold: it was not looked at since it began. Who begins at a place for
    /// the first time is one that was never seen.
    pub fn is_uncertain(&self, id: u64) -> bool {
        let is_it = |place: &usize| match self.ids.get(place) {
            Some(known) => *known == id,
            None => !self.logs.contains_key(&id),
        };
        self.starting.iter().any(is_it)
    }
}

fn committed_end(log: &MemberLog, now: Option<&Observation>) -> u64 {
    let known = now.map_or(0, |now| now.committed);
    log.committed_end().max(if known > 0 { known + 1 } else { 0 })
}

/// Whether members make up a majority of each set.
pub(super) fn is_quorum(voters: &Voters, has: impl Fn(u64) -> bool) -> bool {
    let majority = |set: &BTreeSet<u64>| set.iter().filter(|id| has(**id)).count() * 2 > set.len();
    voters.iter().all(majority)
}
