//! The types that raft is made of here.

use std::fmt;

use bytes::Bytes;
use openraft::impls::leader_id_std;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::runtime::RaftRuntime;
use crate::base::MemberId;
use crate::state::Position;

openraft::declare_raft_types!(
    /// Standard raft: one leader per term.
    pub TypeConfig:
        D = Batch,
        R = (),
        NodeId = u64,
        Node = Peer,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        Vote = openraft::impls::Vote<Self::LeaderId>,
        Payload = openraft::EntryPayload<Batch, u64, Peer>,
        Entry = openraft::impls::Entry<<Self::LeaderId as RaftLeaderId>::Committed, Self::Payload>,
        AsyncRuntime = RaftRuntime,
);

pub type Raft = openraft::Raft<TypeConfig, Machine>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type Payload = openraft::EntryPayload<Batch, u64, Peer>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
pub type AppendResponse = openraft::raft::AppendEntriesResponse<TypeConfig>;
pub type VoteRequest = openraft::raft::VoteRequest<TypeConfig>;
pub type VoteResponse = openraft::raft::VoteResponse<TypeConfig>;
pub type TransferRequest = openraft::raft::TransferLeaderRequest<TypeConfig>;
pub type TransferResponse = openraft::raft::TransferLeaderResponse<TypeConfig>;
pub type SnapshotResponse = openraft::raft::SnapshotResponse<TypeConfig>;

/// A member as raft's membership records it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Peer {
    pub name: String,
    pub peer_urls: Vec<String>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.peer_urls.join(","))
    }
}

/// Commands that share one raft entry, and who waits for them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The member that proposed them; only it answers them.
    pub origin: MemberId,
    /// Which life of that member: a restarted one has forgotten who waited.
    pub life: u64,
    /// Numbers the batches of that life.
    pub sequence: u64,
    /// Encoded [`command::Command`](crate::proto::command::Command)s.
    pub commands: Vec<Bytes>,
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "batch {:x}/{}: {} commands",
            self.origin,
            self.sequence,
            self.commands.len()
        )
    }
}

/// The log id of a position.
pub fn log_id(position: Position) -> LogId {
    LogId::new(leader_of(position.term), position.index)
}

/// The position of a log id.
pub fn position(log_id: &LogId) -> Position {
    Position {
        term: log_id.leader_id.term,
        index: log_id.index,
    }
}

/// The leader of a term, as standard raft names it.
pub type TermLeader = <leader_id_std::LeaderId<u64, u64> as RaftLeaderId>::Committed;

pub fn leader_of(term: u64) -> TermLeader {
    leader_id_std::LeaderId { term, voted_for: 0 }.to_committed()
}
