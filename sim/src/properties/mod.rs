//! What must be true of the members while a run goes on, judged from looks: all members and their logs at one
//! moment.
//!
//! ```text
//!   Cluster::look ─► Sight per member ─► Book: logs, what was committed, who voted ─► each property: judge
//!   granted votes ────────────────────────▲
//! ```
//!
//! Each property is one small file: what it promises, its source, its test, and forged histories, good and bad.
//! The properties share the [`Book`], which only notes, and know nothing of each other. What clients saw is judged
//! by `quorate-jepsen`. The list of all is in sim/README.md; a test compares it with [`all`].

mod applied_in_order;
mod applied_once;
mod book;
mod commit_own_term;
mod commit_quorum;
mod committed_immutable;
mod durable_log;
mod durable_vote;
mod election_quorum;
mod election_safety;
#[cfg(test)]
mod forge;
mod indexes_ordered;
mod leader_append_only;
mod leader_completeness;
mod list;
mod log_gapless;
mod log_matching;
mod member_log;
mod membership_in_force;
mod membership_steps;
mod memberships;
mod monotonic;
mod no_hole;
mod no_leader_is_noticed;
mod observation;
mod purge_behind_engine;
mod snapshot_committed;
mod state_machine_safety;
mod vote_up_to_date;

pub use book::Book;
pub use list::{About, all, of_all, table};
pub use observation::{Added, LeaderSilence, LogLook, Membership, Observation, Sight, Voters};

use durable_vote::DurableVote;
use member_log::{Change, MemberLog};
use vote_up_to_date::VoteUpToDate;

use crate::report::Violation;

/// One member's step from one look to the next.
pub struct Step<'a> {
    /// Which life of the process it is now, and whether that was so at the last look.
    pub same_life: bool,
    pub before: Option<&'a Observation>,
    /// `None` while the process ends: only its log is seen then.
    pub now: Option<&'a Observation>,
    /// `None` if it names no other member as the leader.
    pub leader_silence: Option<LeaderSilence>,
    pub id: u64,
    /// The log as it is now.
    pub log: &'a MemberLog,
    pub change: &'a Change,
    /// One behind the last index that the member knows to be committed.
    pub committed_end: u64,
}

impl Step<'_> {
    /// The term that this member leads now, as far as it knows: what it says of itself can be older than what it has noted.
    pub fn leads(&self) -> Option<u64> {
        self.now
            .filter(|now| now.leader == Some(self.id) && now.term >= self.log.term)
            .map(|now| now.term)
    }

    pub fn name(&self) -> String {
        format!("{:x}", self.id)
    }
}

/// One promise about the members.
pub trait Property: Send {
    fn about(&self) -> About;
    /// Judges a step; an error says what was seen.
    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String>;
}

/// All properties of looks, and of votes.
pub struct Properties {
    book: Book,
    of_steps: Vec<Box<dyn Property>>,
    durable_vote: DurableVote,
}

impl Default for Properties {
    fn default() -> Self {
        Properties {
            book: Book::default(),
            of_steps: list::of_steps(),
            durable_vote: DurableVote::default(),
        }
    }
}

fn judged(about: About, judged: Result<(), String>) -> Result<(), Violation> {
    judged.map_err(|seen| Violation::new(about.name, format!("{}: {seen}", about.guarantee)))
}

impl Properties {
    /// A process begins: what its log holds is not known before the first look.
    pub fn begin_life(&mut self, member: usize) {
        self.book.begin_life(member);
    }

    /// Another member takes this one's place: it has promised nothing.
    pub fn forget(&mut self, member: usize) {
        self.book.forget(member);
        self.durable_vote.forget(member);
    }

    /// Judges what all members look like at one moment.
    pub fn look(&mut self, sights: Vec<Sight>) -> Result<(), Violation> {
        let steps: Vec<_> = sights
            .into_iter()
            .filter_map(|sight| self.book.note(sight))
            .collect();
        for taken in steps {
            let Some(step) = self.book.step(&taken) else {
                continue;
            };
            for property in &mut self.of_steps {
                judged(property.about(), property.judge(&step, &self.book))?;
            }
            self.book.commit(taken);
        }
        Ok(())
    }

    /// Term and index of the newest durable entry of a member's log at the last look. A process that was not looked at yet may
    /// have cut its log before the last one ended.
    pub fn durable_end(&self, id: u64) -> Option<(u64, u64)> {
        let log = self.book.log(id).filter(|_| !self.book.is_uncertain(id));
        log?.last_durable()
    }

    /// A vote left a member for a candidate, whose log was looked at just now. `voter_end`: the voter's
    /// [`durable_end`](Self::durable_end) some time before it voted.
    pub fn voted(&mut self, vote: Vote, voter_end: Option<(u64, u64)>) -> Result<(), Violation> {
        self.book.voted(&vote);
        let granted = self.durable_vote.granted(vote.place, vote.term, vote.candidate);
        judged(DurableVote::ABOUT, granted)?;
        let granted = VoteUpToDate::granted(&vote, voter_end, self.book.peak(vote.candidate));
        judged(VoteUpToDate::ABOUT, granted)
    }

    /// A member is back, in this term.
    pub fn recovered(&mut self, member: usize, term: u64) -> Result<(), Violation> {
        judged(DurableVote::ABOUT, self.durable_vote.recovered(member, term))
    }
}

/// A vote that was granted.
#[derive(Clone, Copy, Debug)]
pub struct Vote {
    /// Which member, counted from 0, and its id.
    pub place: usize,
    pub voter: u64,
    pub term: u64,
    pub candidate: u64,
}
