//! What the clients did and saw: the one history format of simulator and black-box runner.
//!
//! ```text
//!   invoke ──────────────► return      Ok(answer) | Denied (no effect) | Unknown (maybe, maybe later)
//!   create ─► response ─► response ─► closed ─► create …     a watch, over all its streams
//! ```
//!
//! Requests and answers are kept as the wire's own messages, so that nothing a checker may want is
//! lost on the way in. Every event has a [`Moment`]: nanoseconds for people and for leases, and a
//! running number that orders all events of the history even where a simulated clock stands still.
//! Real-time order ("returned before the other was invoked") is always that running number.
//!
//! This module knows neither etcd's rules nor verdicts; `status` knows which refusals are definite.

mod display;
mod in_order;
mod recorder;
mod status;
#[cfg(test)]
mod tests;

use quorate::proto::etcdserverpb as pb;
use tonic::Code;

pub use display::{show_bytes, show_kv};
pub use in_order::InOrder;
pub use recorder::Recorder;
pub use status::is_definite_refusal;

/// Number of an operation: its index in [`History::operations`].
pub type OpId = usize;
/// Number of a watch: its index in [`History::watches`].
pub type WatchId = usize;
/// Nanoseconds on the recorder's one clock.
pub type Nanos = u64;

/// How long a member may go on working at a call whose client has given up: etcd's request time-out
/// is 7 s by default.
pub const ABANDONED_CALL_MAX: Nanos = 10_000_000_000;

/// When something happened, as the recording process saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    pub nanos: Nanos,
    /// Running number over all events of the history; no two events share one.
    pub order: u64,
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Moment {
    /// By running number alone: a simulated clock may stand still between two events.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

/// Everything that was recorded in a run.
#[derive(Clone, Default, Debug)]
pub struct History {
    pub operations: Vec<Operation>,
    pub watches: Vec<WatchRecord>,
    /// What each member held at the end, when all was healed and quiet.
    pub finals: Vec<FinalState>,
    /// Clients who may do only what a [`Permission`] says.
    pub limited: Vec<u32>,
    pub permissions: Vec<Permission>,
    /// When auth may have been off: then limited clients may do everything.
    pub unguarded: Vec<Unguarded>,
    pub claims: Vec<Claim>,
    pub alarms: Vec<Alarm>,
    /// Faults and other remarks, for people.
    pub notes: Vec<Note>,
}

/// A call that changes something for all: repeated until it is acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The first attempt.
    pub invoked: Moment,
    /// The newest attempt of unknown outcome, which may still take effect.
    pub unknown: Option<Moment>,
    /// The acknowledgement.
    pub returned: Option<Moment>,
}

/// A time in which auth may have been off; without an end, to the end of the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unguarded {
    pub from: Moment,
    pub until: Option<Moment>,
}

/// What the limited clients may do with the keys of a prefix, from one change to another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Permission {
    pub prefix: Vec<u8>,
    pub reads: bool,
    pub writes: bool,
    pub given: Change,
    pub taken: Option<Change>,
}

/// A client was told that it holds a lock, or who leads an election: a key is the oldest below a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    pub client: u32,
    pub at: Moment,
    /// The method that said so.
    pub by: &'static str,
    /// Keys below it contend with one another; it ends with a slash.
    pub prefix: Vec<u8>,
    pub key: Vec<u8>,
    /// When it is so: the revision of the answer's header.
    pub revision: i64,
    /// The key's value then, if the answer told it.
    pub value: Option<Vec<u8>>,
}

/// An alarm for lack of space, as the operator saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alarm {
    /// The answer that showed it.
    pub seen: Moment,
    /// The first attempt to switch it off.
    pub disarmed: Option<Moment>,
}

/// One call of one client.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: OpId,
    /// The client: it has at most one call under way at a time.
    pub client: u32,
    /// The member that the call was sent to, the last time, counted from 0.
    pub member: u32,
    /// How earlier attempts ended that the client sent again by itself: to whoever made the call it is one.
    pub again: Vec<Code>,
    pub invoked: Moment,
    /// `None`: no answer before the end of the history.
    pub returned: Option<Moment>,
    pub request: Request,
    pub outcome: Outcome,
}

/// What was asked.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    LeaseGrant(pb::LeaseGrantRequest),
    LeaseRevoke(pb::LeaseRevokeRequest),
    LeaseKeepAlive(pb::LeaseKeepAliveRequest),
    LeaseTimeToLive(pb::LeaseTimeToLiveRequest),
}

/// What was answered.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    Delete(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseKeepAlive(pb::LeaseKeepAliveResponse),
    LeaseTimeToLive(pb::LeaseTimeToLiveResponse),
}

/// How a call ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Ok(Answer),
    /// A definite refusal: the request had no effect and never will have.
    Denied {
        code: Code,
        text: String,
    },
    /// Time-out, connection lost, unavailable, or no answer at all: a write may take effect once,
    /// now or later, or never.
    Unknown {
        text: String,
    },
}

impl Outcome {
    pub fn answer(&self) -> Option<&Answer> {
        match self {
            Outcome::Ok(answer) => Some(answer),
            _ => None,
        }
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self, Outcome::Unknown { .. })
    }

    pub fn is_denied(&self) -> bool {
        matches!(self, Outcome::Denied { .. })
    }

    /// An unknown outcome with its reason.
    pub fn unknown(text: impl Into<String>) -> Self {
        Outcome::Unknown { text: text.into() }
    }
}

impl Answer {
    /// The header, which names the answering member and the store's revision.
    pub fn header(&self) -> Option<&pb::ResponseHeader> {
        match self {
            Answer::Range(a) => a.header.as_ref(),
            Answer::Put(a) => a.header.as_ref(),
            Answer::Delete(a) => a.header.as_ref(),
            Answer::Txn(a) => a.header.as_ref(),
            Answer::Compact(a) => a.header.as_ref(),
            Answer::LeaseGrant(a) => a.header.as_ref(),
            Answer::LeaseRevoke(a) => a.header.as_ref(),
            Answer::LeaseKeepAlive(a) => a.header.as_ref(),
            Answer::LeaseTimeToLive(a) => a.header.as_ref(),
        }
    }

    /// The header's revision; 0 without a header.
    pub fn revision(&self) -> i64 {
        self.header().map_or(0, |header| header.revision)
    }
}

impl Operation {
    /// The answer's header revision, if there was an answer.
    pub fn revision(&self) -> Option<i64> {
        self.outcome.answer().map(Answer::revision)
    }

    /// True if this call returned before `later` was invoked.
    pub fn precedes(&self, later: &Operation) -> bool {
        self.returned.is_some_and(|returned| returned < later.invoked)
    }
}

/// A watch as its user sees it: one wish, served over one or more streams.
#[derive(Clone, Debug)]
pub struct WatchRecord {
    pub id: WatchId,
    pub client: u32,
    /// The first create request, as the user meant it.
    pub request: pb::WatchCreateRequest,
    pub entries: Vec<WatchEntry>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct WatchEntry {
    pub at: Moment,
    pub event: WatchEvent,
}

/// What happened to a watch.
#[derive(Clone, PartialEq, Debug)]
pub enum WatchEvent {
    /// A create request was sent on a stream; `start_revision` is where it has to resume (the
    /// request's own on the first).
    Opened {
        stream: u64,
        member: u32,
        start_revision: i64,
    },
    /// A response for this watch, or (watch id -1) a progress answer for its whole stream.
    Received(Box<pb::WatchResponse>),
    /// A manual progress request was sent on its stream.
    ProgressRequested,
    /// The user cancelled the watch.
    CancelRequested,
    /// The stream ended, with its status or the connection's error.
    Closed { reason: String },
    /// The run is at its quiet end and the watch still open: every event up to `revision` must have
    /// been received by now.
    Due { revision: i64 },
}

/// What one member held at the end of the run.
#[derive(Clone, PartialEq, Debug)]
pub struct FinalState {
    pub member: u32,
    pub at: Moment,
    /// That revision.
    pub revision: i64,
    /// A serializable range over all keys, read at one revision that is the same for all members.
    pub range: pb::RangeResponse,
    pub hash_kv: Option<pb::HashKvResponse>,
    /// The member's own running digest of its state, where the tester can see it (the simulator can).
    pub digest: Option<u64>,
}

/// A remark on the timeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    pub at: Moment,
    pub text: String,
}
