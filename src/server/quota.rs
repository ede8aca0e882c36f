//! The quota: what a request would add, and the alarm that is raised when it does not fit.
//!
//! Sizes are logical and counted by the state. Looking at them for each write would make writes wait for the
//! state's lock, so the size is looked at exactly only when little is left.
//!
//! The front sees the writes of its own clients alone. What comes by way of other members, whose quota may be greater,
//! is seen once it is applied: etcd's second check.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::Api;
use super::auth::Caller;
use crate::base::Denied;
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, PutRequest, RequestOp, TxnRequest, alarm_request::AlarmAction,
    request_op::Request,
};

/// etcd's quota when none is given.
const DEFAULT_BYTES: i64 = 2 << 30;
/// What a key costs besides its bytes.
const KEY_BYTES: u64 = 256;
/// What a lease costs.
pub const LEASE_BYTES: u64 = 64;
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

/// What a put adds.
pub fn put(request: &PutRequest) -> u64 {
    KEY_BYTES + (request.key.len() + request.value.len()) as u64
}

/// The greater of the two branches, nested transactions included.
pub fn txn(request: &TxnRequest) -> u64 {
    let branch = |ops: &[RequestOp]| -> u64 {
        let cost = |op: &RequestOp| match &op.request {
            Some(Request::RequestPut(request)) => put(request),
            Some(Request::RequestTxn(request)) => txn(request),
            _ => 0,
        };
        ops.iter().map(cost).sum()
    };
    branch(&request.success).max(branch(&request.failure))
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
    pub(super) async fn reserve(&self, cost: u64) -> Result<(), Denied> {
        let Ok(quota) = u64::try_from(effective(self.options.quota_bytes)) else {
            return Ok(());
        };
        if cost == 0 || self.allowance.take(cost) {
            return Ok(());
        }
        let (used, _) = self.consensus.read(|state, _| state.logical_bytes());
        if used + cost < quota {
            self.allowance.refill(quota - used - cost);
            return Ok(());
        }
        // The refusal stands, whether or not the others can be told.
        self.raise_no_space(used, quota).await;
        Err(Denied::NO_SPACE)
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

/// Raises the alarm when what was applied goes beyond the quota. A size that does not grow is left alone: the operator
/// who disarms and then deletes is not to be alarmed again.
pub async fn watch_applied(api: Arc<Api>) {
    let Ok(quota) = u64::try_from(effective(api.options.quota_bytes)) else {
        return;
    };
    let raised = AlarmMember {
        member_id: api.consensus.member_id(),
        alarm: AlarmType::Nospace.into(),
    };
    let look = || {
        api.consensus
            .read(|state, _| (state.logical_bytes().0, state.alarms().contains(&raised)))
    };
    let (mut seen, _) = look();
    loop {
        api.env.sleep(LOOK_EVERY).await;
        let (used, is_raised) = look();
        if used > quota && used > seen && !is_raised {
            api.raise_no_space(used, quota).await;
        }
        seen = used;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_op(value_len: usize) -> RequestOp {
        let put = PutRequest {
            key: "k".into(),
            value: vec![0; value_len].into(),
            ..PutRequest::default()
        };
        RequestOp {
            request: Some(Request::RequestPut(put)),
        }
    }

    #[test]
    fn a_transaction_costs_its_greater_branch() {
        let nested = TxnRequest {
            success: vec![put_op(1000)],
            ..TxnRequest::default()
        };
        let request = TxnRequest {
            success: vec![put_op(10), put_op(20)],
            failure: vec![RequestOp {
                request: Some(Request::RequestTxn(nested)),
            }],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&request), 256 + 1001);
        assert_eq!(txn(&TxnRequest::default()), 0);
    }

    #[test]
    fn the_allowance_is_what_was_found_free_and_no_more() {
        let allowance = Allowance::default();
        assert!(!allowance.take(1), "nothing is known yet");
        allowance.refill(1000);
        assert!(allowance.take(300) && allowance.take(200));
        assert!(!allowance.take(1), "half of what was free is used up");
        allowance.refill(1 << 40);
        assert!(!allowance.take(LOOK_EVERY_BYTES + 1));
    }
}
