//! Forged histories: members that do as a test says, good and bad.
//!
//! Members have the ids 1, 2, …; entry 0 of every log is the first membership, of term 1, and everybody's digest at an index is
//! a function of that index.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{About, Added, LeaderSilence, LogLook, Membership, Observation, Properties, Sight, Vote};

pub struct Forge {
    properties: Properties,
    members: Vec<Observation>,
    logs: Vec<LogLook>,
    /// Everything that each log holds.
    held: Vec<Vec<Added>>,
    starting: BTreeSet<usize>,
    silences: BTreeMap<usize, LeaderSilence>,
}

fn entry(index: u64, term: u64) -> Added {
    Added {
        index,
        term,
        checksum: (term * 1_000 + index) as u32,
        membership: Membership::Unchanged,
    }
}

fn members(ids: impl IntoIterator<Item = u64>) -> super::Voters {
    Arc::new(vec![ids.into_iter().collect()])
}

impl Forge {
    /// A cluster at its beginning.
    pub fn new(count: usize) -> Self {
        let first = Added {
            membership: Membership::Changed(members(1..=count as u64)),
            ..entry(0, 1)
        };
        let observation = |member| Observation {
            member,
            life: 1,
            id: member as u64 + 1,
            is_voter: true,
            is_settled: true,
            membership: Some((1, 0)),
            term: 1,
            leader: None,
            committed: 0,
            applied: 0,
            snapshot: 0,
            synced: 0,
            digest_index: 0,
            digest: Self::digest_at(0),
            duplicates: 0,
        };
        let log = LogLook {
            start: 0,
            end: 1,
            durable_end: 1,
            term: 0,
            committed: None,
            added: vec![first.clone()],
        };
        Forge {
            properties: Properties::default(),
            members: (0..count).map(observation).collect(),
            logs: vec![log; count],
            held: vec![vec![first]; count],
            starting: BTreeSet::new(),
            silences: BTreeMap::new(),
        }
    }

    /// A cluster whose first member leads term 2, and whose logs have entries of that up to an index.
    pub fn led(count: usize, end: u64) -> Self {
        let mut forge = Forge::new(count);
        forge.elect(0, 2);
        forge.replicate(2, end);
        forge
    }

    /// The same, and all know the entries as committed.
    pub fn settled(count: usize, end: u64) -> Self {
        let mut forge = Forge::led(count, end);
        forge.commit_all(end);
        forge.good();
        forge
    }

    pub fn digest_at(index: u64) -> u64 {
        0xabc0_0000 + index
    }

    pub fn member(&mut self, member: usize) -> &mut Observation {
        &mut self.members[member]
    }

    pub fn log(&mut self, member: usize) -> &mut LogLook {
        &mut self.logs[member]
    }

    fn write(&mut self, member: usize, added: Vec<Added>) {
        let first = added.first().expect("something").index;
        let (log, held) = (&mut self.logs[member], &mut self.held[member]);
        held.retain(|entry| entry.index < first);
        log.added.retain(|entry| entry.index < first);
        log.end = added.last().expect("something").index + 1;
        log.durable_end = log.end;
        held.extend(added.iter().cloned());
        log.added.extend(added);
    }

    /// Appends entries of a term, instead of what is there.
    pub fn append(&mut self, member: usize, term: u64, range: Range<u64>) {
        self.write(member, range.map(|index| entry(index, term)).collect());
    }

    /// The same, with another content than all others have.
    pub fn append_other(&mut self, member: usize, term: u64, index: u64) {
        let other = Added {
            checksum: 1,
            ..entry(index, term)
        };
        self.write(member, vec![other]);
    }

    pub fn append_members(&mut self, member: usize, term: u64, index: u64, ids: &[u64]) {
        let change = Added {
            membership: Membership::Changed(members(ids.iter().copied())),
            ..entry(index, term)
        };
        self.write(member, vec![change]);
    }

    /// Every log has entries of this term up to an index.
    pub fn replicate(&mut self, term: u64, end: u64) {
        for member in 0..self.members.len() {
            self.append(member, term, 1..end);
        }
    }

    /// Removes the entries from an index on.
    pub fn cut(&mut self, member: usize, end: u64) {
        let log = &mut self.logs[member];
        log.added.retain(|entry| entry.index < end);
        self.held[member].retain(|entry| entry.index < end);
        (log.end, log.durable_end) = (end, end.min(log.durable_end));
        self.member(member).committed = self.members[member].committed.min(end - 1);
        self.rewind_commit(member, end);
    }

    fn rewind_commit(&mut self, member: usize, end: u64) {
        let last = end - 1;
        let now = &mut self.members[member];
        if now.applied > last {
            (now.applied, now.digest_index, now.digest) = (last, last, Self::digest_at(last));
        }
        if self.logs[member].committed.is_some_and(|(_, index)| index > last) {
            self.mark(member, last);
        }
    }

    /// The state is that of an earlier index.
    pub fn rewind(&mut self, member: usize, index: u64) {
        let now = &mut self.members[member];
        (now.applied, now.digest_index, now.digest) = (index, index, Self::digest_at(index));
    }

    /// The log forgets the entries before an index.
    pub fn purge(&mut self, member: usize, start: u64) {
        self.held[member].retain(|entry| entry.index >= start);
        let log = &mut self.logs[member];
        log.added.retain(|entry| entry.index >= start);
        log.start = start;
        log.end = log.end.max(start);
        log.durable_end = log.durable_end.max(start);
    }

    /// A snapshot up to an index takes the place of log and state.
    pub fn snapshot(&mut self, member: usize, last: u64) {
        self.purge(member, last + 1);
        self.commit(member, last + 1);
        (self.members[member].snapshot, self.members[member].synced) = (last, last);
    }

    /// The log notes its entry at an index as committed.
    fn mark(&mut self, member: usize, index: u64) {
        let own = self.held[member].iter().find(|entry| entry.index == index);
        let term = own.map_or(self.members[member].term, |entry| entry.term);
        self.logs[member].committed = Some((term, index));
    }

    /// A member knows entries as committed, and has applied them.
    pub fn commit(&mut self, member: usize, end: u64) {
        self.mark(member, end - 1);
        self.members[member].committed = end - 1;
        self.rewind(member, end - 1);
    }

    pub fn commit_all(&mut self, end: u64) {
        for member in 0..self.members.len() {
            self.commit(member, end);
        }
    }

    /// All vote for a member, which then leads.
    pub fn elect(&mut self, member: usize, term: u64) {
        let others: Vec<usize> = (0..self.members.len()).filter(|other| *other != member).collect();
        self.elect_by(member, term, &others);
    }

    pub fn elect_by(&mut self, member: usize, term: u64, voters: &[usize]) {
        let candidate = self.members[member].id;
        for &voter in voters {
            let vote = Vote {
                place: voter,
                voter: self.members[voter].id,
                term,
                candidate,
            };
            self.properties.voted(vote, None).expect("a fair election");
            (self.members[voter].term, self.members[voter].leader) = (term, None);
        }
        (self.members[member].term, self.members[member].leader) = (term, Some(candidate));
    }

    /// One vote; the property that it breaks, if any.
    pub fn vote(&mut self, voter: usize, term: u64, candidate: usize) -> Option<String> {
        let vote = Vote {
            place: voter,
            voter: self.members[voter].id,
            term,
            candidate: self.members[candidate].id,
        };
        let voter_end = self.properties.durable_end(vote.voter);
        let judged = self.properties.voted(vote, voter_end);
        judged.err().map(|violation| violation.property)
    }

    /// A process begins and shows nothing yet.
    pub fn begin_life(&mut self, member: usize) {
        self.properties.begin_life(member);
        self.starting.insert(member);
    }

    /// A process ends and begins again, with what it had.
    pub fn restart(&mut self, member: usize) {
        self.begin_life(member);
        self.starting.remove(&member);
        self.members[member].life += 1;
        self.members[member].leader = None;
        // What is read back from a disk is in no cache.
        let read_back = |entry: &Added| Added {
            membership: Membership::Unseen,
            ..entry.clone()
        };
        self.logs[member].added = self.held[member].iter().map(read_back).collect();
    }

    /// A member names another one as the leader, of whom it has heard nothing for so many election timeouts.
    pub fn follow(&mut self, member: usize, leader: usize, silence: f64) {
        let election_timeout = Duration::from_secs(1);
        let lasted = election_timeout.mul_f64(silence);
        self.members[member].leader = Some(self.members[leader].id);
        let silence = LeaderSilence {
            lasted,
            election_timeout,
        };
        self.silences.insert(member, silence);
    }

    fn look(&mut self) -> Result<(), crate::report::Violation> {
        let mut sights = Vec::new();
        for (member, (now, log)) in self.members.iter().zip(&mut self.logs).enumerate() {
            if self.starting.contains(&member) {
                continue;
            }
            let log_now = log.clone();
            log.added.clear();
            sights.push(Sight {
                member,
                life: now.life,
                observation: Some(now.clone()),
                leader_silence: self.silences.get(&member).copied(),
                log: Some(log_now),
            });
        }
        self.properties.look(sights)
    }

    /// Nothing is wrong with what the members look like now.
    #[track_caller]
    pub fn good(&mut self) {
        if let Err(violation) = self.look() {
            panic!("{}: {}", violation.property, violation.text);
        }
    }

    /// This property, and no other before it, refuses what the members look like now.
    #[track_caller]
    pub fn refused(&mut self, by: About) {
        let violation = self.look().expect_err("a bad history");
        assert_eq!(violation.property, by.name, "{}", violation.text);
    }
}
