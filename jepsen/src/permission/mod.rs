//! Does what a limited user may do follow the changes of its permissions?
//!
//! ```text
//!            given.invoked   given.returned        taken.invoked   taken.returned
//!   refused ───────┼─────── either ──┼──── allowed ─────┼───── either ────┼─────── refused
//! ```
//!
//! Calls that overlap a change may go either way. An attempt to give whose outcome is unknown may take effect long after:
//! what it lets in is not held against the members. While auth may be off everybody may do everything.

#[cfg(test)]
mod tests;

use tonic::Code;

use crate::history::{ABANDONED_CALL_MAX, History, Operation, Outcome, Permission, Request, Unguarded};
use crate::property::{Property, Violation};

/// Checks the calls of limited clients.
pub fn check(history: &History) -> Vec<Violation> {
    let limited = |operation: &&Operation| history.limited.contains(&operation.client);
    history
        .operations
        .iter()
        .filter(limited)
        .filter_map(|operation| {
            let what = judge(operation, history)?;
            let message = format!("{what}:\n  {operation}");
            Some(Violation::of_operations(
                Property::Permission,
                [operation.id],
                message,
            ))
        })
        .collect()
}

/// Whether a member refused for want of a permission.
pub fn is_refused(operation: &Operation) -> bool {
    matches!(
        &operation.outcome,
        Outcome::Denied {
            code: Code::PermissionDenied,
            ..
        }
    )
}

fn judge(operation: &Operation, history: &History) -> Option<String> {
    let key = match &operation.request {
        Request::Range(range) => &range.key,
        Request::Put(put) => &put.key,
        _ => return None,
    };
    let permission = history.permissions.iter().find(|it| key.starts_with(&it.prefix));
    if operation.outcome.answer().is_some() {
        if history.unguarded.iter().any(|time| overlaps(operation, time)) {
            return None;
        }
        let refusal = permission.map_or(Some("nobody gave a permission for it"), |it| {
            refused(operation, it)
        });
        return refusal.map(|why| format!("carried out, though {why}"));
    }
    if is_refused(operation) && permission.is_some_and(|it| is_allowed(operation, it)) {
        return Some("refused, though its permission had been given and was not taken away".to_owned());
    }
    None
}

/// Whether auth may have been off when the call was carried out.
fn overlaps(operation: &Operation, time: &Unguarded) -> bool {
    let began_before = time.until.is_none_or(|until| operation.invoked < until);
    let ended_after = operation.returned.is_none_or(|returned| returned > time.from);
    began_before && ended_after
}

fn covers(operation: &Operation, permission: &Permission) -> bool {
    match operation.request {
        Request::Range(_) => permission.reads,
        _ => permission.writes,
    }
}

/// Why the call must have been refused, if it must.
fn refused(operation: &Operation, permission: &Permission) -> Option<&'static str> {
    if !covers(operation, permission) {
        return Some("the permission is for something else");
    }
    let returned = operation.returned?;
    if returned < permission.given.invoked {
        return Some("the permission was given afterwards");
    }
    let taken = permission.taken.as_ref()?;
    let lingers = permission
        .given
        .unknown
        .is_some_and(|attempt| attempt.nanos + ABANDONED_CALL_MAX > taken.invoked.nanos);
    let was_taken = taken.returned.is_some_and(|done| done < operation.invoked);
    (was_taken && !lingers).then_some("the permission had been taken away")
}

/// Whether the call must not have been refused.
fn is_allowed(operation: &Operation, permission: &Permission) -> bool {
    let was_given = permission
        .given
        .returned
        .is_some_and(|done| done < operation.invoked);
    let still = permission.taken.as_ref().is_none_or(|taken| {
        operation
            .returned
            .is_some_and(|returned| returned < taken.invoked)
    });
    covers(operation, permission) && was_given && still
}
