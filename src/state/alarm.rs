//! Alarms: which are raised, by whom, and what they stop on the whole cluster.
//!
//! Who raises them, and when, is decided elsewhere; here they arrive as commands like any other.

use prost::Message;

use super::digest::Kind;
use super::{Answer, State};
use crate::base::{Denied, MemberId};
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, RequestOp, TxnRequest, alarm_request::AlarmAction, request_op,
};

fn member((alarm, member_id): (i32, MemberId)) -> AlarmMember {
    AlarmMember { member_id, alarm }
}

impl State {
    /// Alarms that are raised, by type and member.
    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms.iter().copied().map(member).collect()
    }

    /// GET lists by type (NONE: all), whatever member it names; ACTIVATE raises; DEACTIVATE disarms exactly the one it
    /// names, so that "all" is a loop in the client. The answer has the alarms that were listed or changed.
    pub(super) fn alarm(&mut self, request: &AlarmRequest) -> Answer {
        let named = (request.alarm, request.member_id);
        let none = i32::from(AlarmType::None);
        let alarms: Vec<AlarmMember> = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => {
                let listed = |alarm: &&(i32, MemberId)| request.alarm == none || alarm.0 == request.alarm;
                self.alarms.iter().filter(listed).copied().map(member).collect()
            }
            Ok(AlarmAction::Activate) if request.alarm == none => Vec::new(),
            Ok(AlarmAction::Activate) => {
                self.alarms.insert(named);
                vec![member(named)]
            }
            Ok(AlarmAction::Deactivate) => {
                let disarmed = self.alarms.remove(&named);
                disarmed.then(|| member(named)).into_iter().collect()
            }
            Err(_) => Vec::new(),
        };
        if request.action != i32::from(AlarmAction::Get) {
            self.digest.add(Kind::Alarm, &request.encode_to_vec());
        }
        Answer::Alarm(alarms)
    }

    /// NOSPACE stops what adds, CORRUPT stops everything that reads or writes keys and leases through the log.
    pub(super) fn refused_by_alarm(&self, request: &Request) -> Option<Denied> {
        if self.alarms.is_empty() {
            return None;
        }
        let raised = |alarm: AlarmType| self.alarms.iter().any(|&(raised, _)| raised == i32::from(alarm));
        let touches_data = matches!(
            request,
            Request::Range(_)
                | Request::Put(_)
                | Request::DeleteRange(_)
                | Request::Txn(_)
                | Request::Compaction(_)
                | Request::LeaseGrant(_)
                | Request::LeaseRevoke(_)
        );
        if touches_data && raised(AlarmType::Corrupt) {
            Some(Denied::Corrupt)
        } else if adds(request) && raised(AlarmType::Nospace) {
            Some(Denied::NoSpace)
        } else {
            None
        }
    }
}

/// Whether a request makes the store larger.
fn adds(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::LeaseGrant(_) => true,
        Request::Txn(txn) => txn_adds(txn),
        _ => false,
    }
}

/// A put in either branch counts, whichever would run.
fn txn_adds(txn: &TxnRequest) -> bool {
    let op_adds = |op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestPut(_)) => true,
        Some(request_op::Request::RequestTxn(nested)) => txn_adds(nested),
        _ => false,
    };
    txn.success.iter().chain(&txn.failure).any(op_adds)
}
