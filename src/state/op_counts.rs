//! What requests amount to, for whoever counts them: their kind, and the operations on keys that were carried out.
//!
//! Operations are counted as etcd counts them: a delete is one however many keys it deletes, a put or a delete that
//! looks at the pair before it is a range as well, and whatever takes more than one operation is a transaction. (etcd
//! also counts compares as ranges; here only what was asked to be read.)

use super::{Answer, Outcome};
use crate::base::metrics::{RequestKind, StoreMetrics};
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, TxnResponse, request_op::Request as Op,
    response_op::Response,
};

/// The kind under which a command is told; members come and go in raft's entries in etcd, which have none, and
/// levels are not etcd's.
pub fn kind(request: &Request) -> Option<RequestKind> {
    Some(match request {
        Request::Range(_) => RequestKind::Range,
        Request::Put(_) => RequestKind::Put,
        Request::DeleteRange(_) => RequestKind::DeleteRange,
        Request::Txn(_) => RequestKind::Txn,
        Request::Compaction(_) => RequestKind::Compaction,
        Request::LeaseGrant(_) => RequestKind::LeaseGrant,
        Request::LeaseRevoke(_) => RequestKind::LeaseRevoke,
        Request::LeaseCheckpoint(_) => RequestKind::LeaseCheckpoint,
        Request::Alarm(_) => RequestKind::Alarm,
        Request::Authenticate(_) => RequestKind::Authenticate,
        Request::AuthEnable(_) => RequestKind::AuthEnable,
        Request::AuthDisable(_) => RequestKind::AuthDisable,
        Request::AuthStatus(_) => RequestKind::AuthStatus,
        Request::AuthUserAdd(_) => RequestKind::AuthUserAdd,
        Request::AuthUserDelete(_) => RequestKind::AuthUserDelete,
        Request::AuthUserGet(_) => RequestKind::AuthUserGet,
        Request::AuthUserChangePassword(_) => RequestKind::AuthUserChangePassword,
        Request::AuthUserGrantRole(_) => RequestKind::AuthUserGrantRole,
        Request::AuthUserRevokeRole(_) => RequestKind::AuthUserRevokeRole,
        Request::AuthUserList(_) => RequestKind::AuthUserList,
        Request::AuthRoleList(_) => RequestKind::AuthRoleList,
        Request::AuthRoleAdd(_) => RequestKind::AuthRoleAdd,
        Request::AuthRoleDelete(_) => RequestKind::AuthRoleDelete,
        Request::AuthRoleGet(_) => RequestKind::AuthRoleGet,
        Request::AuthRoleGrantPermission(_) => RequestKind::AuthRoleGrantPermission,
        Request::AuthRoleRevokePermission(_) => RequestKind::AuthRoleRevokePermission,
        Request::ClusterVersionSet(_) => RequestKind::ClusterVersionSet,
        Request::ClusterMemberAttrSet(_) => RequestKind::ClusterMemberAttrSet,
        Request::DowngradeInfoSet(_) => RequestKind::DowngradeInfoSet,
        Request::LevelRaise(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberPromote(_)
        | Request::MemberUpdate(_) => return None,
    })
}

/// Operations that were carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpCounts {
    pub ranges: u64,
    pub puts: u64,
    pub deletes: u64,
    /// Keys and values.
    pub put_bytes: u64,
}

impl OpCounts {
    pub const RANGE: OpCounts = OpCounts {
        ranges: 1,
        puts: 0,
        deletes: 0,
        put_bytes: 0,
    };

    /// Of a command that was applied.
    pub fn of_command(request: &Request, outcome: &Outcome) -> OpCounts {
        let mut tally = OpCounts::default();
        match (request, &outcome.answer) {
            (_, Err(_)) => {}
            (Request::Range(_), _) => tally.ranges = 1,
            (Request::Put(put), _) => tally.put(put),
            (Request::DeleteRange(delete), _) => tally.delete(delete),
            (Request::Txn(txn), Ok(Answer::Txn(answer))) => tally.txn(txn, answer),
            (Request::LeaseRevoke(_), _) => tally.deletes = outcome.events.len() as u64,
            _ => {}
        }
        tally
    }

    /// Of a transaction, by the way it took.
    pub fn of_txn(request: &TxnRequest, answer: &TxnResponse) -> OpCounts {
        let mut tally = OpCounts::default();
        tally.txn(request, answer);
        tally
    }

    fn put(&mut self, put: &PutRequest) {
        self.puts += 1;
        self.put_bytes += (put.key.len() + put.value.len()) as u64;
        self.ranges += u64::from(put.prev_kv || put.ignore_value || put.ignore_lease);
    }

    fn delete(&mut self, delete: &DeleteRangeRequest) {
        self.deletes += 1;
        self.ranges += u64::from(delete.prev_kv);
    }

    fn txn(&mut self, request: &TxnRequest, answer: &TxnResponse) {
        let taken = match answer.succeeded {
            true => &request.success,
            false => &request.failure,
        };
        let has_request = |op: &&RequestOp| op.request.is_some();
        for (op, answer) in taken.iter().filter(has_request).zip(&answer.responses) {
            match (&op.request, &answer.response) {
                (Some(Op::RequestRange(_)), _) => self.ranges += 1,
                (Some(Op::RequestPut(put)), _) => self.put(put),
                (Some(Op::RequestDeleteRange(delete)), _) => self.delete(delete),
                (Some(Op::RequestTxn(txn)), Some(Response::ResponseTxn(answer))) => self.txn(txn, answer),
                _ => {}
            }
        }
    }

    /// Adds it to a member's metrics.
    pub fn count(&self, metrics: &StoreMetrics) {
        for (amount, counter) in [
            (self.ranges, &metrics.ranges),
            (self.puts, &metrics.puts),
            (self.deletes, &metrics.deletes),
            (self.put_bytes, &metrics.put_bytes),
        ] {
            if amount > 0 {
                counter.add(amount);
            }
        }
        if self.ranges + self.puts + self.deletes > 1 {
            metrics.txns.inc();
        }
    }
}

#[cfg(test)]
mod tests;
