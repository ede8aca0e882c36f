//! Leases and time: a key does not vanish before its lease is over, and does not outlive it for long.
//!
//! Only what a client can know is used. A lease that was granted or renewed by a call invoked at t lives
//! at least until t plus its time to live: elections and slow leaders only lengthen that. When it ended
//! is known only as "no later than the first sight of its effect". How long it may outlive its time is
//! bounded by nothing but a grace period that the tester chooses, counted from the last disturbance,
//! because each new leader begins all leases anew.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::history::{
    ABANDONED_CALL_MAX, Answer, History, Nanos, OpId, Operation, Outcome, Request, WatchEvent, show_kv,
};
use crate::linearizability::{Author, Timeline};
use crate::property::{Property, Violation};

const SECOND: Nanos = 1_000_000_000;

/// What the tester knows about time in this run.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// How much faster than the tester's a member's clock may run over a lease's life, in nanoseconds.
    pub clock_tolerance: Nanos,
    /// When the last fault ended.
    pub disturbed_until: Nanos,
    /// How long after its end, and after the last fault, a lease may still hold its keys.
    pub grace: Nanos,
}

/// A lease as its clients know it.
struct Lease<'a> {
    grant: &'a Operation,
    ttl_seconds: i64,
    /// Acknowledged grants and renewals.
    renewals: Vec<&'a Operation>,
    revoked: Vec<&'a Operation>,
    /// Renewals that were answered with no time: the lease is gone.
    ended: Vec<&'a Operation>,
    /// The last moment at which it may have been granted or renewed.
    renewable_until: Nanos,
}

/// Checks leases against the rebuilt write history.
pub fn check(history: &History, timeline: &Timeline, times: &LeaseTimes) -> Vec<Violation> {
    let leases = collect(history);
    let first_sights = first_sights(history);
    let mut violations = Vec::new();
    for (number, revision) in timeline.between(2, timeline.last()) {
        if let Author::Expiry { lease, .. } = revision.author
            && let Some(lease) = leases.get(&lease)
            && let Some(seen) = first_sights.range(number..).next().map(|(_, nanos)| *nanos)
        {
            violations.extend(too_early(lease, number, seen, times));
        }
    }
    for operation in &history.operations {
        violations.extend(outlived(history, &leases, operation, times));
    }
    violations
}

fn collect(history: &History) -> BTreeMap<i64, Lease<'_>> {
    let mut leases = BTreeMap::new();
    for operation in &history.operations {
        if let Outcome::Ok(Answer::LeaseGrant(answer)) = &operation.outcome {
            leases.insert(
                answer.id,
                Lease {
                    grant: operation,
                    ttl_seconds: answer.ttl,
                    renewals: vec![operation],
                    revoked: Vec::new(),
                    ended: Vec::new(),
                    renewable_until: over_by(operation),
                },
            );
        }
    }
    for operation in &history.operations {
        let lease = match &operation.request {
            Request::LeaseRevoke(r) => leases.get_mut(&r.id),
            Request::LeaseKeepAlive(r) => leases.get_mut(&r.id),
            _ => None,
        };
        let Some(lease) = lease.filter(|_| !operation.outcome.is_denied()) else {
            continue;
        };
        match (&operation.request, &operation.outcome) {
            (Request::LeaseRevoke(_), _) => lease.revoked.push(operation),
            (_, Outcome::Ok(Answer::LeaseKeepAlive(answer))) if answer.ttl <= 0 => {
                lease.ended.push(operation)
            }
            (_, outcome) => {
                lease.renewable_until = lease.renewable_until.max(over_by(operation));
                if outcome.answer().is_some() {
                    lease.renewals.push(operation);
                }
            }
        }
    }
    leases
}

/// When a call can have no effect any more.
fn over_by(operation: &Operation) -> Nanos {
    match (operation.returned, &operation.outcome) {
        (Some(returned), Outcome::Unknown { .. }) => returned.nanos.saturating_add(ABANDONED_CALL_MAX),
        (Some(returned), _) => returned.nanos,
        (None, _) => Nanos::MAX,
    }
}

/// When each revision, or a later one, was first seen by anybody.
fn first_sights(history: &History) -> BTreeMap<i64, Nanos> {
    let mut sights: BTreeMap<i64, Nanos> = BTreeMap::new();
    let mut see = |revision: i64, nanos: Nanos| {
        let first = sights.entry(revision).or_insert(nanos);
        *first = (*first).min(nanos);
    };
    for operation in &history.operations {
        if let (Some(revision), Some(returned)) = (operation.revision(), operation.returned) {
            see(revision, returned.nanos);
        }
    }
    for entry in history.watches.iter().flat_map(|watch| &watch.entries) {
        if let WatchEvent::Received(response) = &entry.event {
            for kv in response.events.iter().filter_map(|event| event.kv.as_ref()) {
                see(kv.mod_revision, entry.at.nanos);
            }
        }
    }
    let mut earliest = Nanos::MAX;
    for nanos in sights.values_mut().rev() {
        earliest = earliest.min(*nanos);
        *nanos = earliest;
    }
    sights
}

fn too_early(lease: &Lease<'_>, revision: i64, seen: Nanos, times: &LeaseTimes) -> Option<Violation> {
    // With a revocation under way the end may be its doing.
    if lease.revoked.iter().any(|revoke| revoke.invoked.nanos <= seen) {
        return None;
    }
    let ttl = Nanos::try_from(lease.ttl_seconds).ok()?.saturating_mul(SECOND);
    let lives_until = |renewal: &&&Operation| renewal.invoked.nanos.saturating_add(ttl);
    let renewal = lease
        .renewals
        .iter()
        .filter(|renewal| renewal.invoked.nanos <= seen)
        .max_by_key(lives_until)?;
    let due = lives_until(&renewal).saturating_sub(times.clock_tolerance);
    if seen >= due {
        return None;
    }
    let message = format!(
        "a lease of {} s ended at revision {revision}, seen {:.3} s before its time:\n  {}\n  {renewal}",
        lease.ttl_seconds,
        (due - seen) as f64 / SECOND as f64,
        lease.grant
    );
    let operations = [lease.grant.id, renewal.id];
    let violation = Violation::of_operations(Property::LeaseNotEarly, operations, message);
    Some(violation.at_revision(revision).seen_at(seen))
}

/// A linearizable read that shows a key whose lease was revoked or said to be gone before, or is long over.
fn outlived(
    history: &History,
    leases: &BTreeMap<i64, Lease<'_>>,
    operation: &Operation,
    times: &LeaseTimes,
) -> Option<Violation> {
    let (Request::Range(request), Outcome::Ok(Answer::Range(answer))) =
        (&operation.request, &operation.outcome)
    else {
        return None;
    };
    if request.serializable || request.revision > 0 {
        return None;
    }
    let invoked = operation.invoked.nanos;
    for kv in answer.kvs.iter().filter(|kv| kv.lease != 0) {
        let Some(lease) = leases.get(&kv.lease) else {
            continue;
        };
        let fail = |property, other: OpId, what: &str| {
            let message = format!(
                "{} is still there although {what}:\n  {}\n  {operation}",
                show_kv(kv),
                history.operations[other]
            );
            Violation::of_operations(property, [other, operation.id], message)
                .on_key(&kv.key)
                .at_revision(kv.mod_revision)
        };
        let acknowledged =
            |revoke: &&&Operation| revoke.outcome.answer().is_some() && revoke.precedes(operation);
        if let Some(revoke) = lease.revoked.iter().find(acknowledged) {
            return Some(fail(Property::LeaseExpires, revoke.id, "its lease was revoked"));
        }
        if let Some(ended) = lease.ended.iter().find(|ended| ended.precedes(operation)) {
            let what = "its lease was said to be gone";
            return Some(fail(Property::LeaseEndedAnswer, ended.id, what));
        }
        let ttl = Nanos::try_from(lease.ttl_seconds)
            .unwrap_or(0)
            .saturating_mul(SECOND);
        let gone_by = lease
            .renewable_until
            .max(times.disturbed_until)
            .saturating_add(ttl)
            .saturating_add(times.grace);
        if invoked > gone_by {
            return Some(fail(
                Property::LeaseExpires,
                lease.grant.id,
                "its lease is long over",
            ));
        }
    }
    None
}
