//! What members say to each other besides streams of entries and snapshots.

use bytes::Bytes;
use openraft::raft::{StreamAppendError, TransferLeaderError};
use serde::{Deserialize, Serialize};

use crate::base::{LeaseId, Level, MemberId, Revision};
use crate::consensus::LeaseTtl;
use crate::consensus::lease::renewals::Renewal;
use crate::consensus::membership::{Change, Objection};
use crate::consensus::raft::format::record::{LogIdRecord, VoteRecord, raft_id};
use crate::consensus::raft::types::{
    AppendResponse, StreamAppendResult, TransferRequest, TypeConfig, Vote, VoteRequest, VoteResponse,
};
use crate::state::KvHash;

#[derive(Clone, Serialize, Deserialize)]
pub enum PeerRequest {
    Vote(Ballot),
    PreVote(Ballot),
    /// What [`encode_append`](crate::consensus::raft::format::append::encode_append) wrote.
    Heartbeat(Bytes),
    TransferLeader(Transfer),
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
    /// The same as `ReadIndex` of a member that was in this term still when its reads had begun. From
    /// [`Level::VOUCHED_READS`] on.
    VouchedReadIndex {
        term: u64,
    },
}

#[derive(Serialize, Deserialize)]
pub enum PeerResponse {
    Vote(BallotAnswer),
    Heartbeat(HeartbeatAnswer),
    TransferLeader(Result<(), TransferRefusal>),
    /// Whether the batch was handed to raft; if not, it will never be appended.
    Forward {
        taken: bool,
    },
    ReadIndex(Option<LogIdRecord>),
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
    /// Up to which it can apply what is in the log.
    pub level: Level,
}

/// What a member that receives a snapshot sends back.
#[derive(Serialize, Deserialize)]
pub enum SnapshotReply {
    /// It is still at work: a long silence means that it is gone.
    Working,
    /// The vote of whoever has it now.
    Installed(VoteRecord),
}

/// A candidate asks for a vote.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ballot {
    vote: VoteRecord,
    last: Option<LogIdRecord>,
    /// The leader hands over.
    transfer: bool,
}

impl From<&VoteRequest> for Ballot {
    fn from(request: &VoteRequest) -> Self {
        Ballot {
            vote: (&request.vote).into(),
            last: request.last_log_id.map(LogIdRecord::from),
            transfer: request.leadership_transfer,
        }
    }
}

impl From<Ballot> for VoteRequest {
    fn from(ballot: Ballot) -> Self {
        let mut request = VoteRequest::new(ballot.vote.into(), raft_id(ballot.last));
        request.leadership_transfer = ballot.transfer;
        request
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BallotAnswer {
    vote: VoteRecord,
    granted: bool,
    last: Option<LogIdRecord>,
}

impl From<&VoteResponse> for BallotAnswer {
    fn from(response: &VoteResponse) -> Self {
        BallotAnswer {
            vote: (&response.vote).into(),
            granted: response.vote_granted,
            last: response.last_log_id.map(LogIdRecord::from),
        }
    }
}

impl From<BallotAnswer> for VoteResponse {
    fn from(answer: BallotAnswer) -> Self {
        VoteResponse::new(Vote::from(answer.vote), raft_id(answer.last), answer.granted)
    }
}

/// What a follower makes of a heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum HeartbeatAnswer {
    Success,
    PartialSuccess(Option<LogIdRecord>),
    Conflict,
    HigherVote(VoteRecord),
}

impl From<AppendResponse> for HeartbeatAnswer {
    fn from(response: AppendResponse) -> Self {
        match response {
            AppendResponse::Success => HeartbeatAnswer::Success,
            AppendResponse::PartialSuccess(upto) => {
                HeartbeatAnswer::PartialSuccess(upto.map(LogIdRecord::from))
            }
            AppendResponse::Conflict => HeartbeatAnswer::Conflict,
            AppendResponse::HigherVote(vote) => HeartbeatAnswer::HigherVote((&vote).into()),
        }
    }
}

impl From<HeartbeatAnswer> for AppendResponse {
    fn from(answer: HeartbeatAnswer) -> Self {
        match answer {
            HeartbeatAnswer::Success => AppendResponse::Success,
            HeartbeatAnswer::PartialSuccess(upto) => AppendResponse::PartialSuccess(raft_id(upto)),
            HeartbeatAnswer::Conflict => AppendResponse::Conflict,
            HeartbeatAnswer::HigherVote(vote) => AppendResponse::HigherVote(vote.into()),
        }
    }
}

/// What a follower makes of a frame of entries: up to where it has them, or why not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AppendAnswer {
    Appended(Option<LogIdRecord>),
    Conflict(LogIdRecord),
    HigherVote(VoteRecord),
}

impl From<StreamAppendResult> for AppendAnswer {
    fn from(result: StreamAppendResult) -> Self {
        match result {
            Ok(upto) => AppendAnswer::Appended(upto.map(LogIdRecord::from)),
            Err(StreamAppendError::Conflict(at)) => AppendAnswer::Conflict(at.into()),
            Err(StreamAppendError::HigherVote(vote)) => AppendAnswer::HigherVote((&vote).into()),
        }
    }
}

impl From<AppendAnswer> for StreamAppendResult {
    fn from(answer: AppendAnswer) -> Self {
        match answer {
            AppendAnswer::Appended(upto) => Ok(raft_id(upto)),
            AppendAnswer::Conflict(at) => Err(StreamAppendError::Conflict(at.into())),
            AppendAnswer::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote.into())),
        }
    }
}

/// A leader hands over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    from: VoteRecord,
    to: MemberId,
    last: Option<LogIdRecord>,
}

impl From<&TransferRequest> for Transfer {
    fn from(request: &TransferRequest) -> Self {
        Transfer {
            from: request.from_leader().into(),
            to: *request.to_node_id(),
            last: request.last_log_id().map(|last| (*last).into()),
        }
    }
}

impl From<Transfer> for TransferRequest {
    fn from(transfer: Transfer) -> Self {
        TransferRequest::new(transfer.from.into(), transfer.to, raft_id(transfer.last))
    }
}

/// Why a member does not take over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum TransferRefusal {
    VoteChanged {
        expected: VoteRecord,
        actual: VoteRecord,
    },
    LogNotFlushed {
        expected: Option<LogIdRecord>,
        actual: Option<LogIdRecord>,
    },
}

impl From<TransferLeaderError<TypeConfig>> for TransferRefusal {
    fn from(error: TransferLeaderError<TypeConfig>) -> Self {
        match error {
            TransferLeaderError::VoteChanged { expected, actual } => TransferRefusal::VoteChanged {
                expected: (&expected).into(),
                actual: (&actual).into(),
            },
            TransferLeaderError::LogNotFlushed { expected, actual } => TransferRefusal::LogNotFlushed {
                expected: expected.map(LogIdRecord::from),
                actual: actual.map(LogIdRecord::from),
            },
        }
    }
}

impl From<TransferRefusal> for TransferLeaderError<TypeConfig> {
    fn from(refusal: TransferRefusal) -> Self {
        match refusal {
            TransferRefusal::VoteChanged { expected, actual } => TransferLeaderError::VoteChanged {
                expected: expected.into(),
                actual: actual.into(),
            },
            TransferRefusal::LogNotFlushed { expected, actual } => TransferLeaderError::LogNotFlushed {
                expected: raft_id(expected),
                actual: raft_id(actual),
            },
        }
    }
}
