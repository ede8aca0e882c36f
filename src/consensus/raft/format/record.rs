//! Votes, log ids and memberships as they are written down and sent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::Membership;
use serde::{Deserialize, Serialize};

use crate::base::{Broken, MemberId};
use crate::consensus::raft::types::{LogId, Peer, SnapshotMeta, StoredMembership, Vote, log_id, position};
use crate::state::Position;
use crate::transport::{decode, encode};

/// The name of an entry. In standard raft a term has one leader, so it is not named.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogIdRecord {
    pub term: u64,
    pub index: u64,
}

impl From<LogId> for LogIdRecord {
    fn from(id: LogId) -> Self {
        let Position { term, index } = position(&id);
        LogIdRecord { term, index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(LogIdRecord { term, index }: LogIdRecord) -> Self {
        log_id(Position { term, index })
    }
}

/// A log id that may be missing, in raft's terms.
pub fn raft_id(id: Option<LogIdRecord>) -> Option<LogId> {
    id.map(LogId::from)
}

/// Whom a member has voted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VoteRecord {
    pub term: u64,
    pub node: MemberId,
    /// A quorum has given it: the node leads, or has led.
    pub committed: bool,
}

impl From<&Vote> for VoteRecord {
    fn from(vote: &Vote) -> Self {
        VoteRecord {
            term: vote.leader_id.term,
            node: vote.leader_id.voted_for,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(vote: VoteRecord) -> Self {
        match vote.committed {
            true => Vote::new_committed(vote.term, vote.node),
            false => Vote::new(vote.term, vote.node),
        }
    }
}

/// A vote as the log keeps it.
pub fn encode_vote(vote: &Vote) -> Bytes {
    encode(&VoteRecord::from(vote))
}

pub fn decode_vote(bytes: &[u8]) -> Result<Vote, Broken> {
    let vote: VoteRecord =
        decode(bytes).map_err(|error| Broken::unreadable("the log's vote cannot be read", error))?;
    Ok(vote.into())
}

/// The term of a vote as the log keeps it.
pub fn term_in(vote: &[u8]) -> u64 {
    decode_vote(vote).map_or(0, |vote| vote.leader_id.term)
}

/// A membership of raft.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MembershipRecord {
    /// A quorum is a majority of each of these sets.
    pub voters: Vec<BTreeSet<MemberId>>,
    pub nodes: BTreeMap<MemberId, Peer>,
}

impl From<&Membership<MemberId, Peer>> for MembershipRecord {
    fn from(membership: &Membership<MemberId, Peer>) -> Self {
        MembershipRecord {
            voters: membership.get_joint_config().clone(),
            nodes: membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect(),
        }
    }
}

impl TryFrom<MembershipRecord> for Membership<MemberId, Peer> {
    type Error = Broken;

    fn try_from(record: MembershipRecord) -> Result<Self, Broken> {
        if record.voters.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(record.voters, record.nodes)
            .map_err(|error| Broken::unreadable("an impossible membership", error))
    }
}

/// A place in the log, and the last membership up to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AppliedStateRecord {
    applied: Option<LogIdRecord>,
    members: MembersRecord,
}

/// A membership, and the entry that it is from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MembersRecord {
    at: Option<LogIdRecord>,
    membership: MembershipRecord,
}

impl AppliedStateRecord {
    pub fn new(applied: Option<LogId>, membership: &StoredMembership) -> Self {
        AppliedStateRecord {
            applied: applied.map(LogIdRecord::from),
            members: AppliedStateRecord::members(membership),
        }
    }

    pub fn members(membership: &StoredMembership) -> MembersRecord {
        MembersRecord {
            at: membership.log_id().map(LogIdRecord::from),
            membership: membership.membership().into(),
        }
    }

    pub fn into_parts(self) -> Result<(Option<LogId>, StoredMembership), Broken> {
        let MembersRecord { at, membership } = self.members;
        let membership = StoredMembership::new(raft_id(at), membership.try_into()?);
        Ok((raft_id(self.applied), membership))
    }
}

/// The first frame of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SnapshotHead {
    vote: VoteRecord,
    applied_state: AppliedStateRecord,
}

impl SnapshotHead {
    pub fn new(vote: &Vote, meta: &SnapshotMeta) -> Self {
        SnapshotHead {
            vote: vote.into(),
            applied_state: AppliedStateRecord::new(meta.last_log_id, &meta.last_membership),
        }
    }

    pub fn into_parts(self) -> Result<(Vote, SnapshotMeta), Broken> {
        let (last_log_id, last_membership) = self.applied_state.into_parts()?;
        let meta = SnapshotMeta {
            last_log_id,
            last_membership,
        };
        Ok((self.vote.into(), meta))
    }
}

#[cfg(test)]
mod tests;
