//! What a look shows of one member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Whose votes count: a quorum is a majority of each set.
pub type Voters = Arc<Vec<BTreeSet<u64>>>;

/// One member at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    pub member: usize,
    /// Which life of the member's process.
    pub life: u64,
    /// Its member id.
    pub id: u64,
    /// It counts in elections, as far as it knows.
    pub is_voter: bool,
    /// Raft's membership is decided, as far as it knows.
    pub is_settled: bool,
    /// Term and index of the entry that raft's membership is from.
    pub membership: Option<(u64, u64)>,
    pub term: u64,
    /// The leader of that term as the member knows it: a member id.
    pub leader: Option<u64>,
    pub committed: u64,
    pub applied: u64,
    /// The last index of its newest snapshot.
    pub snapshot: u64,
    /// Up to this index its engine is durable.
    pub synced: u64,
    /// The index that the digest belongs to.
    pub digest_index: u64,
    pub digest: u64,
    /// Commands that came to be applied a second time, in this life.
    pub duplicates: u64,
}

/// For how long a member has read nothing that came from the leader that it names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderSilence {
    /// In simulated time, as far as its process ran without a pause.
    pub lasted: Duration,
    pub election_timeout: Duration,
}

/// What a member's log looks like, as a difference to the last look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogLook {
    /// The first index that the log holds, or would hold: everything below is gone.
    pub start: u64,
    /// One behind the newest entry.
    pub end: u64,
    /// One behind the newest entry that is durable.
    pub durable_end: u64,
    /// The newest term that the log notes.
    pub term: u64,
    /// Term and index of the last entry that the log notes as committed.
    pub committed: Option<(u64, u64)>,
    /// The entries that were added since the last look: the log's end. After a restart: all.
    pub added: Vec<Added>,
}

/// An entry of a log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Added {
    pub index: u64,
    pub term: u64,
    /// Of the payload.
    pub checksum: u32,
    pub membership: Membership,
}

/// Whether an entry changes who votes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Membership {
    /// The look did not show what the entry holds.
    Unseen,
    Unchanged,
    Changed(Voters),
}

/// A member in a look.
pub struct Sight {
    pub member: usize,
    pub life: u64,
    /// `None` if the process is about to end.
    pub observation: Option<Observation>,
    /// `None` if it names no other member as the leader.
    pub leader_silence: Option<LeaderSilence>,
    /// `None` if the process has only begun.
    pub log: Option<LogLook>,
}
