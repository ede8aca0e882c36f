//! Why a member did not start, or stopped.

use std::io;
use std::path::PathBuf;

use crate::base::{Broken, MemberId};
use crate::consensus::StopReason;

/// See the module. The texts are what operators read; nothing is decided by them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The member was removed from its cluster: there is nothing to repair.
    #[error("{}", StopReason::Removed)]
    Removed,
    /// Durability or an invariant is lost.
    #[error(transparent)]
    Broken(Broken),
    /// What it was told by flags, files or DNS cannot be.
    #[error("{0}")]
    Config(String),
    /// An address that it cannot serve.
    #[error("listen {what} {address}: {error}")]
    Listen {
        what: &'static str,
        address: String,
        kind: io::ErrorKind,
        error: String,
    },
    /// A directory or file that the system does not let it use.
    #[error("{}: {error}", .path.display())]
    Path {
        path: PathBuf,
        kind: io::ErrorKind,
        error: String,
    },
    #[error("{}: another process uses this data directory", .0.display())]
    InUse(PathBuf),
    /// An engine without its log.
    #[error(
        "{}: the log is missing, but {} holds the state of a member; restore the log (--wal-dir?), or remove the data and \
         rejoin as a new member", .wal_dir.display(), .member_dir.display()
    )]
    LogMissing { wal_dir: PathBuf, member_dir: PathBuf },
    #[error("the data directory {} is another member's: that of {owner}", .data_dir.display())]
    ForeignData { data_dir: PathBuf, owner: String },
    #[error("{} holds no member", .0.display())]
    NoMember(PathBuf),
    #[error("{} holds a member already", .0.display())]
    MemberExists(PathBuf),
    /// A file or directory of etcd's that was to be taken over.
    #[error("{0}")]
    Import(String),
    /// A discovery service did not take the member.
    #[error("failed to join discovery cluster ({0})")]
    Discovery(String),
    /// It is to join a cluster, and nobody of it answers.
    #[error(
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
    )]
    NobodyAnswers,
    /// It is to join a cluster that is not the one of its flags, or not with it as they say.
    #[error("error validating peerURLs {cluster}: {reason}")]
    NotAsListed { cluster: String, reason: Mismatch },
    /// A member of a new cluster has begun before, say the others, and has nothing any more.
    #[error(
        "member {0:x} has already been bootstrapped: its data are gone; remove it from the cluster, add it again, and \
         start it with --initial-cluster-state=existing"
    )]
    DataGone(MemberId),
    /// What it holds, or is, does not go with the rest of the cluster.
    #[error("{0}")]
    Unfit(String),
}

/// What differs between a cluster and the flags of a member that is to join it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("member count is unequal")]
    Count,
    #[error("PeerURLs: no match found for existing member ({member:x}, {peer_urls:?})")]
    Unlisted {
        member: MemberId,
        peer_urls: Vec<String>,
    },
    #[error("couldn't find local name {0:?}")]
    NoLocalName(String),
    #[error(
        "member {0:x} has taken part before, and its data are gone: remove it from the cluster and add it again"
    )]
    DataGone(MemberId),
}

impl NodeError {
    pub fn is_removal(&self) -> bool {
        matches!(self, NodeError::Removed)
    }

    pub fn is_discovery(&self) -> bool {
        matches!(self, NodeError::Discovery(_))
    }

    /// The others know the member, and it has nothing: its promises are gone with its data.
    pub fn has_lost_data(&self) -> bool {
        matches!(
            self,
            NodeError::DataGone(_)
                | NodeError::NotAsListed {
                    reason: Mismatch::DataGone(_),
                    ..
                }
        )
    }

    /// What is broken, below raft if raft stopped for it.
    pub fn broken(&self) -> Option<&Broken> {
        match self {
            NodeError::Broken(broken) => Some(broken.root()),
            _ => None,
        }
    }
}

impl From<Broken> for NodeError {
    fn from(broken: Broken) -> Self {
        NodeError::Broken(broken)
    }
}

impl From<StopReason> for NodeError {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Removed => NodeError::Removed,
            StopReason::Broken(broken) => NodeError::Broken(broken),
        }
    }
}

#[cfg(test)]
mod tests;
