//! What requests amount to, for whoever counts them: their kind, and the operations on keys that were carried out.
//!
//! Operations are counted as etcd counts them: a delete is one however many keys it deletes, a put or a delete that
//! looks at the pair before it is a range as well, and whatever takes more than one operation is a transaction. (etcd
//! also counts compares as ranges; here only what was asked to be read.)

use super::{Answer, Outcome};
use crate::base::figures::{RequestKind, StoreFigures};
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

    /// Adds it to a member's figures.
    pub fn count(&self, figures: &StoreFigures) {
        for (amount, counter) in [
            (self.ranges, &figures.ranges),
            (self.puts, &figures.puts),
            (self.deletes, &figures.deletes),
            (self.put_bytes, &figures.put_bytes),
        ] {
            if amount > 0 {
                counter.add(amount);
            }
        }
        if self.ranges + self.puts + self.deletes > 1 {
            figures.txns.inc();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{PutResponse, RangeRequest, ResponseOp};

    fn put(key: &'static str, value: &'static str) -> PutRequest {
        PutRequest {
            key: key.into(),
            value: value.into(),
            ..PutRequest::default()
        }
    }

    fn op(request: Op) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn answer(response: Response) -> ResponseOp {
        ResponseOp {
            response: Some(response),
        }
    }

    #[test]
    fn a_transaction_counts_for_what_it_did() {
        let nested = TxnRequest {
            success: vec![op(Op::RequestRange(RangeRequest::default()))],
            failure: vec![op(Op::RequestDeleteRange(DeleteRangeRequest {
                prev_kv: true,
                ..DeleteRangeRequest::default()
            }))],
            ..TxnRequest::default()
        };
        let request = TxnRequest {
            success: vec![
                op(Op::RequestPut(put("key", "value"))),
                RequestOp { request: None },
                op(Op::RequestTxn(nested)),
            ],
            failure: vec![op(Op::RequestPut(put("other", "")))],
            ..TxnRequest::default()
        };
        let put_answer = || answer(Response::ResponsePut(PutResponse::default()));
        let nested_answer = TxnResponse {
            succeeded: false,
            responses: vec![answer(Response::ResponseDeleteRange(Default::default()))],
            ..TxnResponse::default()
        };
        let done = TxnResponse {
            succeeded: true,
            responses: vec![put_answer(), answer(Response::ResponseTxn(nested_answer))],
            ..TxnResponse::default()
        };
        let tally = OpCounts::of_txn(&request, &done);
        let expected = OpCounts {
            ranges: 1,
            puts: 1,
            deletes: 1,
            put_bytes: 8,
        };
        assert_eq!(tally, expected);
        let failed = TxnResponse {
            succeeded: false,
            responses: vec![put_answer()],
            ..TxnResponse::default()
        };
        let figures = StoreFigures::default();
        tally.count(&figures);
        OpCounts::of_txn(&request, &failed).count(&figures);
        let counted = [&figures.ranges, &figures.puts, &figures.deletes, &figures.txns];
        assert_eq!(counted.map(|counter| counter.get()), [1, 2, 1, 1]);
        assert_eq!(figures.put_bytes.get(), 13);
    }

    #[test]
    fn what_was_refused_did_nothing() {
        let outcome = |answer| Outcome {
            answer,
            revision: 1,
            events: Vec::new(),
            unread: Default::default(),
        };
        let request = Request::Put(PutRequest {
            prev_kv: true,
            ..put("key", "")
        });
        let refused = outcome(Err(crate::base::Denied::LEASE_NOT_FOUND));
        assert_eq!(OpCounts::of_command(&request, &refused), OpCounts::default());
        let done = outcome(Ok(Answer::Put(PutResponse::default())));
        let tally = OpCounts::of_command(&request, &done);
        assert_eq!((tally.puts, tally.ranges, tally.put_bytes), (1, 1, 3));
    }
}
