//! A second opinion that does not believe in revisions: each key by itself, as a register with a
//! version counter, judged by the general search.
//!
//! A linearizable store is linearizable on each key, so every operation is projected on the keys it
//! touches: a transaction becomes the steps that it took on one key. Compares are not projected, nor
//! are reads of old revisions, serializable reads and answers that do not show the pair. What is left
//! is weaker than the whole, but independent of every revision number that the store hands out.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use quorate::proto::etcdserverpb::{self as pb};
use quorate::proto::mvccpb::KeyValue;

use super::is_serializable;
use super::search::{Call, Spec, Verdict, search};
use crate::history::{Answer, History, OpId, Operation, Request, show_bytes};
use crate::model::covers;
use crate::property::{Property, Violation};

/// Placements tried for each key.
const BUDGET: u64 = 400_000;

/// A pair as one key's register sees it.
type Pair = (Bytes, i64);

/// What an operation does to one key.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// `before`: the pair that the answer showed to have been there, if it told.
    Put {
        value: Bytes,
        before: Option<Option<Pair>>,
    },
    Delete {
        before: Option<Option<Pair>>,
    },
    Read {
        seen: Option<Pair>,
    },
}

/// One key: nothing, or a value and how often it was put since it was created.
struct Register;

impl Spec for Register {
    type Op = Vec<Step>;
    type State = Option<Pair>;

    fn initial(&self) -> Option<Pair> {
        None
    }

    fn step(&self, state: &Option<Pair>, steps: &Vec<Step>) -> Option<Option<Pair>> {
        let mut now = state.clone();
        for step in steps {
            let known = match step {
                Step::Put { before, .. } | Step::Delete { before } => before.as_ref(),
                Step::Read { seen } => Some(seen),
            };
            if known.is_some_and(|known| *known != now) {
                return None;
            }
            now = match step {
                Step::Put { value, .. } => Some((value.clone(), now.map_or(1, |(_, version)| version + 1))),
                Step::Delete { .. } => None,
                Step::Read { .. } => now,
            };
        }
        Some(now)
    }
}

/// What the per-key check found.
#[derive(Debug, Default)]
pub struct PerKey {
    pub violations: Vec<Violation>,
    pub keys: usize,
    /// Keys whose search gave up.
    pub undecided: usize,
}

/// Checks each key of a history by itself.
pub fn check(history: &History) -> PerKey {
    let mut result = PerKey::default();
    for (key, calls) in project(history) {
        result.keys += 1;
        let (ids, calls): (Vec<OpId>, Vec<Call<Vec<Step>>>) = calls.into_iter().unzip();
        match search(&Register, &calls, BUDGET) {
            Verdict::Linearizable => {}
            Verdict::OutOfBudget => result.undecided += 1,
            Verdict::NotLinearizable { pending } => {
                let ids = pending.into_iter().filter_map(|call| ids.get(call).copied());
                result
                    .violations
                    .push(explain(history, &key, ids.take(8).collect()));
            }
        }
    }
    result
}

fn explain(history: &History, key: &[u8], ids: Vec<OpId>) -> Violation {
    let mut message = format!(
        "key {}: no order of its operations explains all answers; it gets stuck before one of:",
        show_bytes(key)
    );
    for id in &ids {
        message.push_str(&format!("\n  {}", history.operations[*id]));
    }
    Violation::of_operations(Property::PerKey, ids, message).on_key(key)
}

type Projected = BTreeMap<Bytes, Vec<(OpId, Call<Vec<Step>>)>>;

fn project(history: &History) -> Projected {
    let mut projected = Projected::new();
    for operation in &history.operations {
        for key in put_keys(&operation.request) {
            projected.entry(key).or_default();
        }
    }
    for operation in &history.operations {
        if operation.outcome.is_denied() || is_serializable(&operation.request) {
            continue;
        }
        let mut steps = Steps {
            known: &projected,
            by_key: BTreeMap::new(),
        };
        steps.project(operation);
        for (key, steps) in steps.by_key {
            let calls = projected.entry(key).or_default();
            let invoked = operation.invoked.order;
            let mut call = |returned, op| {
                let call = Call {
                    invoked,
                    returned,
                    op,
                };
                calls.push((operation.id, call));
            };
            match operation.outcome.answer().and(operation.returned) {
                Some(returned) => call(Some(returned.order), steps),
                // Which branch was taken is unknown too: each step may have happened.
                None => steps.into_iter().for_each(|step| call(None, vec![step])),
            }
            if lease_of(&operation.request) != 0 {
                // The lease may take the key away at any time.
                call(None, vec![Step::Delete { before: None }]);
            }
        }
    }
    projected
}

fn lease_of(request: &Request) -> i64 {
    match request {
        Request::Put(r) => r.lease,
        _ => 0,
    }
}

fn put_keys(request: &Request) -> Vec<Bytes> {
    fn of_ops(ops: &[pb::RequestOp], keys: &mut Vec<Bytes>) {
        for op in ops {
            match &op.request {
                Some(Op::RequestPut(r)) => keys.push(r.key.clone()),
                Some(Op::RequestTxn(r)) => {
                    of_ops(&r.success, keys);
                    of_ops(&r.failure, keys);
                }
                _ => {}
            }
        }
    }
    let mut keys = Vec::new();
    match request {
        Request::Put(r) => keys.push(r.key.clone()),
        Request::Txn(r) => {
            of_ops(&r.success, &mut keys);
            of_ops(&r.failure, &mut keys);
        }
        _ => {}
    }
    keys
}

/// Collects what one operation does to each key.
struct Steps<'a> {
    known: &'a Projected,
    by_key: BTreeMap<Bytes, Vec<Step>>,
}

fn pair(kv: &KeyValue) -> Pair {
    (kv.value.clone(), kv.version)
}

impl Steps<'_> {
    fn project(&mut self, operation: &Operation) {
        match (&operation.request, operation.outcome.answer()) {
            (Request::Range(r), Some(Answer::Range(a))) => self.range(r, a),
            (Request::Put(r), Some(Answer::Put(a))) => self.put(r, Some(a)),
            (Request::Put(r), None) => self.put(r, None),
            (Request::Delete(r), Some(Answer::Delete(a))) => self.delete(r, Some(a)),
            (Request::Delete(r), None) => self.delete(r, None),
            (Request::Txn(r), Some(Answer::Txn(a))) => self.txn(r, a),
            (Request::Txn(r), None) => self.unknown_txn(r),
            _ => {}
        }
    }

    fn push(&mut self, key: &Bytes, step: Step) {
        self.by_key.entry(key.clone()).or_default().push(step);
    }

    fn covered(&self, key: &Bytes, end: &Bytes) -> Vec<Bytes> {
        let from = if key.as_ref() == [0] {
            Bytes::new()
        } else {
            key.clone()
        };
        self.known
            .range::<[u8], _>((Bound::Included(from.as_ref()), Bound::Unbounded))
            .map(|(candidate, _)| candidate)
            .filter(|candidate| covers(key, end, candidate))
            .cloned()
            .collect()
    }

    fn range(&mut self, r: &pb::RangeRequest, a: &pb::RangeResponse) {
        let filters = [
            r.min_mod_revision,
            r.max_mod_revision,
            r.min_create_revision,
            r.max_create_revision,
        ];
        if r.revision > 0 || r.serializable || r.keys_only || r.count_only || filters != [0; 4] {
            return;
        }
        for key in self.covered(&r.key, &r.range_end) {
            let seen = a.kvs.iter().find(|kv| kv.key == key).map(pair);
            if seen.is_some() || !a.more {
                self.push(&key, Step::Read { seen });
            }
        }
    }

    fn put(&mut self, r: &pb::PutRequest, answer: Option<&pb::PutResponse>) {
        let before = answer.filter(|_| r.prev_kv).map(|a| a.prev_kv.as_ref().map(pair));
        let value = r.value.clone();
        self.push(&r.key, Step::Put { value, before });
    }

    fn delete(&mut self, r: &pb::DeleteRangeRequest, answer: Option<&pb::DeleteRangeResponse>) {
        for key in self.covered(&r.key, &r.range_end) {
            let before = answer
                .filter(|a| r.prev_kv || a.deleted == 0)
                .map(|a| a.prev_kvs.iter().find(|kv| kv.key == key).map(pair));
            self.push(&key, Step::Delete { before });
        }
    }

    fn txn(&mut self, r: &pb::TxnRequest, a: &pb::TxnResponse) {
        let branch = if a.succeeded { &r.success } else { &r.failure };
        for (op, response) in branch.iter().zip(&a.responses) {
            match (&op.request, &response.response) {
                (Some(Op::RequestRange(r)), Some(Re::ResponseRange(a))) => self.range(r, a),
                (Some(Op::RequestPut(r)), Some(Re::ResponsePut(a))) => self.put(r, Some(a)),
                (Some(Op::RequestDeleteRange(r)), Some(Re::ResponseDeleteRange(a))) => {
                    self.delete(r, Some(a));
                }
                (Some(Op::RequestTxn(r)), Some(Re::ResponseTxn(a))) => self.txn(r, a),
                _ => {}
            }
        }
    }

    /// Both branches: which one was taken is unknown.
    fn unknown_txn(&mut self, r: &pb::TxnRequest) {
        for op in r.success.iter().chain(&r.failure) {
            match &op.request {
                Some(Op::RequestPut(r)) => self.put(r, None),
                Some(Op::RequestDeleteRange(r)) => self.delete(r, None),
                Some(Op::RequestTxn(r)) => self.unknown_txn(r),
                _ => {}
            }
        }
    }
}
