//! Agreement: the only folder that names openraft.
//!
//! What the server may ask of it: [`Consensus::propose`], [`Consensus::read_barrier`],
//! [`Consensus::read`], leases that live on the leader's clock, membership and status.

use std::sync::Arc;
use std::time::Duration;

use crate::base::kv::Read;
use crate::base::{ClusterId, Denied, LeaseId, MemberId, Revision};
use crate::proto::command::command::Request;
use crate::proto::{etcdserverpb as pb, mvccpb};
use crate::runtime::signal;
use crate::state::{Outcome, State};

/// Told of everything that is applied, in order, while the state is locked: must be quick, must not call
/// back into [`Consensus`].
pub trait Observer: Send + Sync {
    /// One revision was applied; its events in order, without `prev_kv`.
    fn applied(&self, revision: Revision, events: &[mvccpb::Event]);
    /// The state was replaced by a snapshot: history up to here has to be read again.
    fn installed(&self, revision: Revision);
    /// Revisions up to this one are compacted.
    fn compacted(&self, revision: Revision);
}

/// What is known of raft at this moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    pub term: u64,
    pub leader: Option<MemberId>,
    /// Highest committed index that this member knows.
    pub committed: u64,
    pub applied: u64,
    pub is_learner: bool,
    /// Set when raft stopped: the member must not serve any more.
    pub fatal: Option<String>,
}

/// A handle on the replicated state machine of this member; cheap to clone.
#[derive(Clone)]
pub struct Consensus {}

impl Consensus {
    pub fn member_id(&self) -> MemberId {
        todo!()
    }

    pub fn cluster_id(&self) -> ClusterId {
        todo!()
    }

    /// Replicates a command and waits until this member has applied it. Works on every member.
    pub async fn propose(&self, _request: Request) -> Result<Outcome, Denied> {
        todo!()
    }

    /// Returns once a local read sees every write that was acknowledged before the call (ReadIndex).
    pub async fn read_barrier(&self) -> Result<(), Denied> {
        todo!()
    }

    /// Looks at the local state. The lock is held meanwhile: keep it short.
    pub fn read<T>(&self, _look: impl FnOnce(&State, &dyn Read) -> T) -> T {
        todo!()
    }

    pub fn status(&self) -> Status {
        todo!()
    }

    /// Watches [`Status`].
    pub fn status_signal(&self) -> signal::Receiver<Status> {
        todo!()
    }

    /// Members sorted by id, with the attributes they have published.
    pub fn members(&self) -> Vec<pb::Member> {
        todo!()
    }

    /// Renews a lease on the leader; the TTL, 0 if the lease is unknown.
    pub async fn lease_keep_alive(&self, _id: LeaseId) -> Result<i64, Denied> {
        todo!()
    }

    /// Remaining and granted TTL, and the keys if wanted, from the leader's clock; `None` if unknown.
    pub async fn lease_time_to_live(&self, _id: LeaseId, _keys: bool) -> Result<Option<LeaseTtl>, Denied> {
        todo!()
    }

    /// Leases known here, by remaining time.
    pub fn leases(&self) -> Vec<LeaseId> {
        todo!()
    }

    /// Hands leadership to `target`; only the leader can.
    pub async fn move_leader(&self, _target: MemberId) -> Result<(), Denied> {
        todo!()
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        todo!()
    }

    /// Size of the store: allocated and in use.
    pub fn store_bytes(&self) -> (u64, u64) {
        todo!()
    }
}

/// The answer of [`Consensus::lease_time_to_live`], in seconds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseTtl {
    pub remaining: i64,
    pub granted: i64,
    pub keys: Vec<bytes::Bytes>,
}

/// Tells nobody.
impl Observer for () {
    fn applied(&self, _revision: Revision, _events: &[mvccpb::Event]) {}
    fn installed(&self, _revision: Revision) {}
    fn compacted(&self, _revision: Revision) {}
}

/// The observer of a member.
pub type SharedObserver = Arc<dyn Observer>;
