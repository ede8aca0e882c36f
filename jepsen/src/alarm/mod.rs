//! While the alarm for lack of space is on: is everything refused that needs space, and nothing else?

#[cfg(test)]
mod tests;

use quorate::proto::etcdserverpb::request_op::Request as Op;

use crate::history::{Alarm, History, Operation, Outcome, Request};
use crate::property::{Property, Violation};

/// Checks all calls against the alarms that the operator saw.
pub fn check(history: &History) -> Vec<Violation> {
    let violation = |operation: &Operation| {
        let what = judge(operation, &history.alarms)?;
        let message = format!("{what}:\n  {operation}");
        Some(Violation::of_operations(
            Property::NoSpace,
            [operation.id],
            message,
        ))
    };
    history.operations.iter().filter_map(violation).collect()
}

/// Whether a member refused for lack of space.
pub fn is_refused(operation: &Operation) -> bool {
    matches!(&operation.outcome, Outcome::Denied { text, .. } if text.contains("database space exceeded"))
}

fn judge(operation: &Operation, alarms: &[Alarm]) -> Option<&'static str> {
    let needs = needs_space(&operation.request);
    if is_refused(operation) && !needs {
        return Some("refused for lack of space, of which it needs none");
    }
    if operation.outcome.answer().is_none() || !needs {
        return None;
    }
    alarms
        .iter()
        .any(|alarm| is_within(operation, alarm))
        .then_some("carried out while the alarm for lack of space was on")
}

/// The members count a transaction by the greater of its branches, whichever is taken.
fn needs_space(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::LeaseGrant(_) => true,
        Request::Txn(txn) => txn
            .success
            .iter()
            .chain(&txn.failure)
            .any(|op| match &op.request {
                Some(Op::RequestPut(_)) => true,
                Some(Op::RequestTxn(nested)) => needs_space(&Request::Txn(nested.clone())),
                _ => false,
            }),
        _ => false,
    }
}

fn is_within(operation: &Operation, alarm: &Alarm) -> bool {
    let ended_before = |moment| operation.returned.is_some_and(|returned| returned < moment);
    alarm.seen < operation.invoked && alarm.disarmed.is_none_or(ended_before)
}
