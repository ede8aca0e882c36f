//! What members say to each other besides streams of entries and snapshots.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::LeaseTtl;
use super::members::{Change, Objection};
use super::renewals::Renewal;
use super::types::{
    AppendRequest, AppendResponse, LogId, SnapshotResponse, TransferRequest, TransferResponse, VoteRequest,
    VoteResponse,
};
use crate::base::{LeaseId, Revision};
use crate::state::KvHash;

#[derive(Clone, Serialize, Deserialize)]
pub enum PeerRequest {
    Vote(VoteRequest),
    PreVote(VoteRequest),
    Heartbeat(AppendRequest),
    TransferLeader(TransferRequest),
    /// Append this encoded batch, if you lead in `term`.
    Forward {
        term: u64,
        batch: Bytes,
    },
    /// The log id up to which a read must wait to be linearizable.
    ReadIndex,
    /// Renew these leases, if you lead.
    LeaseKeepAlive(Vec<LeaseId>),
    LeaseTimeToLive {
        id: LeaseId,
        keys: bool,
    },
    /// May the members be changed so? Only the leader knows who is well.
    MayChange(Change),
    /// Your hash of all that can be read at this revision?
    HashKv(Revision),
    /// Who are you? Also asked to learn whether one is still a member.
    Describe,
    /// What your compaction at this revision hashed?
    CompactionHash(Revision),
}

#[derive(Serialize, Deserialize)]
pub enum PeerResponse {
    Vote(VoteResponse),
    Heartbeat(AppendResponse),
    TransferLeader(TransferResponse),
    /// Whether the batch was handed to raft; if not, it will never be appended.
    Forward {
        taken: bool,
    },
    ReadIndex(Option<LogId>),
    /// What became of each.
    LeaseKeepAlive(Vec<Renewal>),
    LeaseTimeToLive(Option<LeaseTtl>),
    MayChange(Option<Objection>),
    HashKv(PeerHash),
    Describe(Description),
    /// Not now, or not by this member: try again.
    Refused(String),
    /// The batch will never be appended: this member cannot apply the command at this place of it.
    Unreadable {
        command: usize,
    },
    /// The batch does not fit into the leader's quota, and will never be appended.
    NoSpace,
}

/// A member's hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerHash {
    /// Where the member stands.
    pub revision: Revision,
    /// `None`: the revision is compacted there, or in the future; or what its compaction hashed is not known.
    pub hash: Option<KvHash>,
}

/// What a member says of itself.
#[derive(Clone, Serialize, Deserialize)]
pub struct Description {
    pub server_version: String,
}

/// What a member that receives a snapshot sends back.
#[derive(Serialize, Deserialize)]
pub enum SnapshotReply {
    /// It is still at work: a long silence means that it is gone.
    Working,
    Installed(SnapshotResponse),
}
