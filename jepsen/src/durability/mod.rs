//! At the quiet end: is every acknowledged write there, and do all members hold the same?
//!
//! Deliberately simple and independent of the model: an acknowledged put of a key must still show, as
//! itself or as something later, unless an operation that could have removed the key took place, or
//! may have. That is weaker than the rebuilt timeline, but needs nothing but the final reads.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use quorate::proto::etcdserverpb::{self as pb};
use quorate::proto::mvccpb::KeyValue;

use crate::history::{Answer, FinalState, History, InOrder, OpId, Operation, Request, show_bytes, show_kv};
use crate::model::covers;
use crate::property::{Property, Violation};

/// At most this many lost writes are listed.
const VIOLATIONS_MAX: usize = 10;

/// Checks acknowledged writes against what each member held at the end.
pub fn check(history: &History) -> Vec<Violation> {
    let last_puts = last_acknowledged_puts(history);
    let removers: Vec<&Operation> = history.operations.iter().filter(|op| removes(op)).collect();
    let mut violations = Vec::new();
    for state in &history.finals {
        let mut held = InOrder::of(&state.range.kvs);
        for (key, (revision, id)) in &last_puts {
            let put = (*revision, &history.operations[*id]);
            violations.extend(check_key(state, held.seek(key), &removers, key, put));
            if violations.len() >= VIOLATIONS_MAX {
                return violations;
            }
        }
    }
    violations
}

/// For each key the acknowledged put with the highest revision.
fn last_acknowledged_puts(history: &History) -> BTreeMap<&Bytes, (i64, OpId)> {
    fn of_txn<'a>(r: &'a pb::TxnRequest, a: &pb::TxnResponse, keys: &mut Vec<&'a Bytes>) {
        let branch = if a.succeeded { &r.success } else { &r.failure };
        for (op, response) in branch.iter().zip(&a.responses) {
            match (&op.request, &response.response) {
                (Some(Op::RequestPut(r)), _) => keys.push(&r.key),
                (Some(Op::RequestTxn(r)), Some(Re::ResponseTxn(a))) => of_txn(r, a, keys),
                _ => {}
            }
        }
    }
    let mut last: BTreeMap<&Bytes, (i64, OpId)> = BTreeMap::new();
    for operation in &history.operations {
        let mut keys = Vec::new();
        match (&operation.request, operation.outcome.answer()) {
            (Request::Put(r), Some(_)) => keys.push(&r.key),
            (Request::Txn(r), Some(Answer::Txn(a))) => of_txn(r, a, &mut keys),
            _ => {}
        }
        let revision = operation.revision().unwrap_or(0);
        for key in keys {
            let newest = last.entry(key).or_insert((revision, operation.id));
            if newest.0 < revision {
                *newest = (revision, operation.id);
            }
        }
    }
    last
}

/// Judges what a member held of a key by the last put that was acknowledged.
fn check_key(
    state: &FinalState,
    held: Option<&KeyValue>,
    removers: &[&Operation],
    key: &Bytes,
    (revision, put): (i64, &Operation),
) -> Option<Violation> {
    let lost = |message| {
        Violation::of_operations(Property::Durability, [put.id], message)
            .on_key(key)
            .at_revision(revision)
            .seen_at(state.at.nanos)
    };
    if state.revision < revision {
        let message = format!(
            "member {} ended at revision {}, before this acknowledged write:\n  {put}",
            state.member, state.revision
        );
        return Some(lost(message));
    }
    let found = match held {
        Some(kv) if kv.mod_revision >= revision => return None,
        Some(kv) => format!("holds {}", show_kv(kv)),
        None if removers.iter().any(|op| may_remove(op, key, revision)) => return None,
        None => format!("does not hold {}", show_bytes(key)),
    };
    let message = format!(
        "member {} {found} at the end, but this write was acknowledged:\n  {put}",
        state.member
    );
    Some(lost(message))
}

/// True if `operation` may have removed any key at all.
fn removes(operation: &Operation) -> bool {
    fn in_ops(ops: &[pb::RequestOp]) -> bool {
        ops.iter().any(|op| match &op.request {
            Some(Op::RequestDeleteRange(_)) => true,
            Some(Op::RequestTxn(r)) => in_ops(&r.success) || in_ops(&r.failure),
            _ => false,
        })
    }
    match &operation.request {
        Request::Delete(_) => true,
        Request::Txn(r) => in_ops(&r.success) || in_ops(&r.failure),
        Request::Put(r) => r.lease != 0,
        _ => false,
    }
}

/// True if `operation` may have removed `key` after `revision`.
fn may_remove(operation: &Operation, key: &Bytes, revision: i64) -> bool {
    fn in_ops(ops: &[pb::RequestOp], key: &[u8]) -> bool {
        ops.iter().any(|op| match &op.request {
            Some(Op::RequestDeleteRange(r)) => covers(&r.key, &r.range_end, key),
            Some(Op::RequestTxn(r)) => in_ops(&r.success, key) || in_ops(&r.failure, key),
            _ => false,
        })
    }
    let touches = match &operation.request {
        Request::Delete(r) => covers(&r.key, &r.range_end, key),
        Request::Txn(r) => in_ops(&r.success, key) || in_ops(&r.failure, key),
        // A key that was ever put with a lease may go with it.
        Request::Put(r) => r.lease != 0 && r.key == *key && !operation.outcome.is_denied(),
        _ => false,
    };
    let attaches = matches!(&operation.request, Request::Put(_));
    touches
        && match operation.revision() {
            None => operation.outcome.is_unknown(),
            // The put that attaches the lease may be the very write that is looked for.
            Some(own) if attaches => own >= revision,
            Some(own) => own > revision,
        }
}

/// Checks that all members hold the same at the end.
pub fn check_convergence(history: &History) -> Vec<Violation> {
    let mut violations = Vec::new();
    let Some((first, others)) = history.finals.split_first() else {
        return violations;
    };
    for other in others {
        let mut fail = |message: String| {
            let violation = Violation::of_operations(Property::Convergence, [], message);
            violations.push(violation.seen_at(other.at.nanos));
        };
        let pair = format!("members {} and {}", first.member, other.member);
        if first.revision != other.revision {
            fail(format!(
                "{pair} were read at revisions {} and {}",
                first.revision, other.revision
            ));
        } else if first.range.kvs != other.range.kvs {
            fail(format!(
                "{pair} differ at revision {}: {}",
                first.revision,
                difference(first, other)
            ));
        }
        if let (Some(a), Some(b)) = (&first.hash_kv, &other.hash_kv)
            && (a.compact_revision, a.hash_revision) == (b.compact_revision, b.hash_revision)
            && a.hash != b.hash
        {
            fail(format!(
                "{pair} have the hashes {} and {} at revision {} (compacted at {})",
                a.hash, b.hash, a.hash_revision, a.compact_revision
            ));
        }
        if let (Some(a), Some(b)) = (first.digest, other.digest)
            && a != b
        {
            fail(format!("{pair} have the digests {a:016x} and {b:016x}"));
        }
    }
    violations
}

fn difference(first: &FinalState, other: &FinalState) -> String {
    let only = |a: &FinalState, b: &FinalState| {
        let mut others = InOrder::of(&b.range.kvs);
        let pairs = InOrder::of(&a.range.kvs);
        let mut missing = pairs.all().filter(|kv| others.seek(&kv.key) != Some(kv));
        missing.next().map_or("nothing".into(), show_kv)
    };
    format!("{} against {}", only(first, other), only(other, first))
}
