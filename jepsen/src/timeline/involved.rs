//! The operations that a violation is about: those that the check names, and those that touched what
//! these show, so that a reader need not search for the write that a stale read missed.

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;

use super::data::Involved;
use crate::history::{Answer, History, OpId, Operation, Request, show_bytes};
use crate::linearizability::{made_revision, shown_pairs};
use crate::model::covers;
use crate::property::Violation;

/// More would hide the story.
const INVOLVED_MAX: usize = 10;

/// The operations and the part of each.
pub(super) fn of(history: &History, writes: &Writes<'_>, violation: &Violation) -> Vec<Involved> {
    let mut involved = Parts::default();
    for id in &violation.operations {
        involved.add(*id, "named by the check");
    }
    // What the others show is not in doubt.
    let last = violation
        .operations
        .iter()
        .filter_map(|id| history.operations.get(*id));
    if let Some(operation) = last.max_by_key(|operation| operation.invoked) {
        for (key, shown) in shown(operation, violation) {
            if let Some(writer) = writes.at(shown) {
                let part = format!("made revision {shown}, which #{} shows", operation.id);
                involved.add(writer.id, &part);
            }
            if let Some(missed) = writes.missed(&key, shown, operation) {
                let part = format!(
                    "wrote {} again, and was acknowledged before #{} was sent",
                    show_bytes(&key),
                    operation.id
                );
                involved.add(missed.id, &part);
            }
        }
    }
    if let Some(revision) = violation.revision {
        if let Some(writer) = writes.at(revision) {
            involved.add(writer.id, &format!("made revision {revision}"));
        }
        for next in writes.after(&violation.keys, revision).take(2) {
            involved.add(next.id, "wrote the same key next");
        }
    }
    involved.parts
}

#[derive(Default)]
struct Parts {
    parts: Vec<Involved>,
}

impl Parts {
    fn add(&mut self, operation: OpId, part: &str) {
        let known = self.parts.iter().any(|involved| involved.operation == operation);
        if !known && self.parts.len() < INVOLVED_MAX {
            let part = part.to_owned();
            self.parts.push(Involved { operation, part });
        }
    }
}

/// Keys that an operation shows with the revision of each, as far as the violation is about them.
fn shown(operation: &Operation, violation: &Violation) -> Vec<(Bytes, i64)> {
    let Some(answer) = operation.outcome.answer() else {
        return Vec::new();
    };
    let about = |key: &Bytes| violation.keys.is_empty() || violation.keys.iter().any(|own| *own == *key);
    let pairs = shown_pairs(&operation.request, answer);
    let mut shown: Vec<(Bytes, i64)> = pairs
        .iter()
        .filter(|kv| about(&kv.key))
        .map(|kv| (kv.key.clone(), kv.mod_revision))
        .collect();
    // A read of one key that found nothing: whatever wrote it was missed.
    if let Request::Range(r) = &operation.request
        && r.range_end.is_empty()
        && about(&r.key)
        && shown.is_empty()
    {
        shown.push((r.key.clone(), 0));
    }
    shown
}

/// Acknowledged writes, by revision.
pub(super) struct Writes<'a>(Vec<(i64, &'a Operation)>);

impl<'a> Writes<'a> {
    pub fn of(history: &'a History) -> Self {
        let made = |operation: &'a Operation| Some((made_revision(operation)?, operation));
        let mut writes: Vec<_> = history.operations.iter().filter_map(made).collect();
        writes.sort_by_key(|(revision, operation)| (*revision, operation.id));
        Writes(writes)
    }

    fn at(&self, revision: i64) -> Option<&'a Operation> {
        let (own, operation) = self.from(revision).first()?;
        (*own == revision).then_some(*operation)
    }

    /// Those of a revision and later ones.
    fn from(&self, revision: i64) -> &[(i64, &'a Operation)] {
        let before = self.0.partition_point(|(own, _)| *own < revision);
        self.0.get(before..).unwrap_or_default()
    }

    /// The first write of a key after a revision that a reader invoked later should have seen.
    fn missed(&self, key: &Bytes, revision: i64, reader: &Operation) -> Option<&'a Operation> {
        let mut later = self.from(revision.saturating_add(1)).iter();
        let missed = |(_, writer): &&(i64, &'a Operation)| writer.precedes(reader) && wrote(writer, key);
        later.find(missed).map(|(_, operation)| *operation)
    }

    fn after(&self, keys: &[Vec<u8>], revision: i64) -> impl Iterator<Item = &'a Operation> {
        let touched = move |writer: &Operation| keys.iter().any(|key| wrote(writer, key));
        let later = self.from(revision.saturating_add(1));
        later
            .iter()
            .map(|(_, operation)| *operation)
            .filter(move |writer| touched(writer))
    }
}

/// True if an acknowledged write put the key, or deleted a range that it lies in.
fn wrote(writer: &Operation, key: &[u8]) -> bool {
    match (&writer.request, writer.outcome.answer()) {
        (Request::Put(r), _) => r.key == key,
        (Request::Delete(r), _) => covers(&r.key, &r.range_end, key),
        (Request::Txn(r), Some(Answer::Txn(a))) => txn_wrote(r, a, key),
        _ => false,
    }
}

fn txn_wrote(r: &pb::TxnRequest, a: &pb::TxnResponse, key: &[u8]) -> bool {
    let branch = if a.succeeded { &r.success } else { &r.failure };
    let mut taken = branch.iter().zip(&a.responses);
    taken.any(|(op, response)| match (&op.request, &response.response) {
        (Some(Op::RequestPut(r)), _) => r.key == key,
        (Some(Op::RequestDeleteRange(r)), _) => covers(&r.key, &r.range_end, key),
        (Some(Op::RequestTxn(r)), Some(Re::ResponseTxn(a))) => txn_wrote(r, a, key),
        _ => false,
    })
}
