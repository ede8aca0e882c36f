//! The replicated state machine: `apply(position, command) -> outcome`.
//!
//! Pure, synchronous, deterministic: no clock, no I/O of its own, no async, no randomness, no lock.

use crate::base::{Denied, Revision};
use crate::proto::{etcdserverpb as pb, mvccpb};

/// Where a command stands in the raft log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

/// What applying one command did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The answer for the client, or etcd's refusal. A refused command changed nothing.
    pub answer: Result<Answer, Denied>,
    /// The store's revision afterwards.
    pub revision: Revision,
    /// The changes of this command in order, as watchers see them (without `prev_kv`).
    pub events: Vec<mvccpb::Event>,
}

/// The answers of commands. Headers carry only the revision; the server adds the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compaction,
    LeaseGrant { id: i64, ttl: i64 },
    LeaseRevoke,
    Alarm(Vec<pb::AlarmMember>),
    Empty,
}

/// The state machine.
pub struct State {}
