//! The quota: what a request would add, and the alarm that is raised when it does not fit.
//!
//! Sizes are logical and counted by the state. Looking at them for each write would make writes wait for the
//! state's lock, so the size is looked at exactly only when little is left.
//!
//! The front sees the writes of its own clients alone. What several members have under way together is seen by the leader
//! (`consensus::propose::quota_gate`), and what comes by way of members whose quota is greater, once it is applied: etcd's second check.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::base::Denied;
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{AlarmMember, AlarmRequest, AlarmType, alarm_request::AlarmAction};
use crate::server::api::Api;
use crate::server::auth::Caller;
use crate::state::State;

/// etcd's quota when none is given.
const DEFAULT_BYTES: i64 = 2 << 30;
/// The exact size is looked up once this many bytes were accepted since the last look, or may be missing.
const LOOK_EVERY_BYTES: u64 = 64 << 20;
/// How long the size of what was applied may be above the quota unseen.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The quota in force; negative: none.
pub fn effective(configured: i64) -> i64 {
    if configured == 0 {
        DEFAULT_BYTES
    } else {
        configured
    }
}

/// The quota of a member that is configured so; `None`: no bound.
pub fn bound(configured: i64) -> Option<u64> {
    u64::try_from(effective(configured)).ok()
}

/// Bytes that may still be accepted before the exact size has to be looked up again.
#[derive(Default)]
pub struct Allowance(AtomicU64);

impl Allowance {
    /// Takes `cost` out of the allowance, if it is there.
    fn take(&self, cost: u64) -> bool {
        self.0
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(cost))
            .is_ok()
    }

    fn refill(&self, left: u64) {
        self.0.store((left / 2).min(LOOK_EVERY_BYTES), Relaxed);
    }
}

impl Api {
    /// Refuses what does not fit, and raises the alarm that tells the whole cluster.
    pub async fn reserve(&self, cost: u64) -> Result<(), Denied> {
        let Some(quota) = bound(self.options.quota_bytes) else {
            return Ok(());
        };
        if cost == 0 || self.allowance.take(cost) {
            return Ok(());
        }
        let (used, _) = self.consensus.read(State::logical_bytes).await;
        if used + cost < quota {
            self.allowance.refill(quota - used - cost);
            return Ok(());
        }
        // The refusal stands, whether or not the others can be told.
        self.raise_no_space(used, quota).await;
        Err(Denied::NoSpace)
    }

    fn raised(&self) -> AlarmMember {
        AlarmMember {
            member_id: self.consensus.member_id(),
            alarm: AlarmType::Nospace.into(),
        }
    }

    async fn raise_no_space(&self, used: u64, quota: u64) {
        tracing::warn!(used, quota, "database space exceeded");
        let alarm = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: self.consensus.member_id(),
            alarm: AlarmType::Nospace.into(),
        };
        if let Err(error) = self.propose(&Caller::Member, Command::Alarm(alarm)).await {
            tracing::warn!(%error, "cannot raise the alarm");
        }
    }
}

/// Raises the alarm when what was applied goes beyond the quota, and when this member leads and refuses what would. A size
/// that does not grow is left alone: the operator who disarms and then deletes is not to be alarmed again.
pub async fn watch(api: Arc<Api>) {
    let Some(quota) = bound(api.options.quota_bytes) else {
        return;
    };
    let raised = api.raised();
    let look = || {
        api.consensus
            .read(move |state| (state.logical_bytes().0, state.alarms().contains(&raised)))
    };
    let mut refusals = api.consensus.quota_refusals();
    let (mut seen, _) = look().await;
    loop {
        let refused = api.env.timeout(LOOK_EVERY, refusals.changed()).await.is_ok();
        let (used, is_raised) = look().await;
        if (refused || (used > quota && used > seen)) && !is_raised {
            api.raise_no_space(used, quota).await;
        }
        seen = used;
    }
}

#[cfg(test)]
mod tests;
