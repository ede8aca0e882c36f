//! A second opinion that does not believe in revisions: each key by itself, as a register with a
//! version counter, judged by the general search.
//!
//! A linearizable store is linearizable on each key, so every operation is projected on the keys it
//! touches: a transaction becomes the steps that it took on one key. Compares are not projected, nor
//! are reads of old revisions, serializable reads and answers that do not show the pair. What is left
//! is weaker than the whole, but independent of every revision number that the store hands out.
//!
//! ```text
//!   operations ─► one list of (key, operation, step), steps referring to the history ─► sorted by key ─► key by key
//! ```
//!
//! A long run has millions of keys, and its last reads show all of them: what such an answer shows of each key is found in
//! one pass over both, and only one key's calls are there at a time.

use std::marker::PhantomData;

use bytes::Bytes;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use quorate::proto::etcdserverpb::{self as pb};
use quorate::proto::mvccpb::KeyValue;

use super::is_serializable;
use super::search::{Call, Spec, Verdict, search};
use crate::history::{Answer, History, InOrder, OpId, Operation, Request, show_bytes};
use crate::property::{Property, Violation};

/// Placements tried for each key.
const BUDGET: u64 = 400_000;

/// What an operation does to one key.
#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    /// `before`: the pair that the answer showed to have been there, if it told.
    Put {
        value: &'a Bytes,
        before: Option<Option<&'a KeyValue>>,
    },
    Delete {
        before: Option<Option<&'a KeyValue>>,
    },
    Read {
        seen: Option<&'a KeyValue>,
    },
}

/// One key: nothing, or a value and how often it was put since it was created.
#[derive(Default)]
struct Register<'a>(PhantomData<&'a ()>);

impl<'a> Spec for Register<'a> {
    type Op = &'a [Touch<'a>];
    type State = Option<(&'a Bytes, i64)>;

    fn initial(&self) -> Self::State {
        None
    }

    fn step(&self, state: &Self::State, touches: &Self::Op) -> Option<Self::State> {
        let mut now = *state;
        for touch in *touches {
            let known = match touch.step {
                Step::Put { before, .. } | Step::Delete { before } => before,
                Step::Read { seen } => Some(seen),
            };
            if known.is_some_and(|known| known.map(|kv| (&kv.value, kv.version)) != now) {
                return None;
            }
            now = match touch.step {
                Step::Put { value, .. } => Some((value, now.map_or(1, |(_, version)| version + 1))),
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
    let keys = known_keys(history);
    let touches = project(history, &keys);
    let mut result = PerKey {
        keys: keys.len(),
        ..PerKey::default()
    };
    for of_key in touches.chunk_by(|a, b| a.key == b.key) {
        let (ids, calls) = calls(history, of_key);
        match judge(&calls) {
            Verdict::Linearizable => {}
            Verdict::OutOfBudget => result.undecided += 1,
            Verdict::NotLinearizable { pending } => {
                let ids = pending.into_iter().filter_map(|call| ids.get(call).copied());
                let key = of_key.first().and_then(|touch| keys.get(touch.key)).copied();
                let key = key.expect("touches are of known keys");
                result
                    .violations
                    .push(explain(history, key, ids.take(8).collect()));
            }
        }
    }
    result
}

fn judge<'a>(calls: &[Call<&'a [Touch<'a>]>]) -> Verdict {
    let register = Register::default();
    // One after the other, as nearly all keys of a long run have them, there is but one order.
    let explained = is_in_turn(calls).then(|| {
        let mut calls = calls.iter();
        calls.try_fold(register.initial(), |state, call| register.step(&state, &call.op))
    });
    match explained {
        Some(Some(_)) => Verdict::Linearizable,
        _ => search(&register, calls, BUDGET),
    }
}

/// True if every call returned, and before the next was invoked.
fn is_in_turn<O>(calls: &[Call<O>]) -> bool {
    let next = calls.iter().skip(1).map(|call| call.invoked);
    let next = next.chain([u64::MAX]);
    let mut pairs = calls.iter().zip(next);
    pairs.all(|(call, next)| call.returned.is_some_and(|returned| returned < next))
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

/// All keys that somebody wanted to put, in order.
fn known_keys(history: &History) -> Vec<&Bytes> {
    let mut keys = Vec::new();
    for operation in &history.operations {
        put_keys(&operation.request, &mut keys);
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

fn put_keys<'a>(request: &'a Request, keys: &mut Vec<&'a Bytes>) {
    fn of_ops<'a>(ops: &'a [pb::RequestOp], keys: &mut Vec<&'a Bytes>) {
        for op in ops {
            match &op.request {
                Some(Op::RequestPut(r)) => keys.push(&r.key),
                Some(Op::RequestTxn(r)) => {
                    of_ops(&r.success, keys);
                    of_ops(&r.failure, keys);
                }
                _ => {}
            }
        }
    }
    match request {
        Request::Put(r) => keys.push(&r.key),
        Request::Txn(r) => {
            of_ops(&r.success, keys);
            of_ops(&r.failure, keys);
        }
        _ => {}
    }
}

/// A step of an operation on a key, by the number of the key.
#[derive(Clone, Copy, Debug)]
struct Touch<'a> {
    key: usize,
    operation: OpId,
    step: Step<'a>,
}

/// What the end of a lease may do to a key, at any time.
const TAKEN_AWAY: &[Touch<'static>] = &[Touch {
    key: usize::MAX,
    operation: OpId::MAX,
    step: Step::Delete { before: None },
}];

/// The steps of all operations, key by key, and for each key in the order of the history.
fn project<'a>(history: &'a History, keys: &[&'a Bytes]) -> Vec<Touch<'a>> {
    let mut steps = Steps {
        known: keys,
        operation: 0,
        touches: Vec::new(),
    };
    for operation in &history.operations {
        if !operation.outcome.is_denied() && !is_serializable(&operation.request) {
            steps.operation = operation.id;
            steps.project(operation);
        }
    }
    // Stable: the steps of one operation on one key keep their order.
    steps.touches.sort_by_key(|touch| touch.key);
    steps.touches
}

type Calls<'a> = (Vec<OpId>, Vec<Call<&'a [Touch<'a>]>>);

/// The calls on one key, with the operation of each.
fn calls<'a>(history: &History, of_key: &'a [Touch<'a>]) -> Calls<'a> {
    let (mut ids, mut calls) = (Vec::new(), Vec::new());
    for touches in of_key.chunk_by(|a, b| a.operation == b.operation) {
        let Some(operation) = touches.first().map(|touch| &history.operations[touch.operation]) else {
            continue;
        };
        let mut call = |returned, op| {
            let invoked = operation.invoked.order;
            ids.push(operation.id);
            calls.push(Call {
                invoked,
                returned,
                op,
            });
        };
        match operation.outcome.answer().and(operation.returned) {
            Some(returned) => call(Some(returned.order), touches),
            // Which branch was taken is unknown too: each step may have happened.
            None => touches.chunks(1).for_each(|step| call(None, step)),
        }
        if lease_of(&operation.request) != 0 {
            // The lease may take the key away at any time.
            call(None, TAKEN_AWAY);
        }
    }
    (ids, calls)
}

fn lease_of(request: &Request) -> i64 {
    match request {
        Request::Put(r) => r.lease,
        _ => 0,
    }
}

/// Collects what operations do to each key.
struct Steps<'a, 'k> {
    known: &'k [&'a Bytes],
    /// The one at hand.
    operation: OpId,
    touches: Vec<Touch<'a>>,
}

impl<'a> Steps<'a, '_> {
    fn project(&mut self, operation: &'a Operation) {
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

    fn push(&mut self, key: usize, step: Step<'a>) {
        let operation = self.operation;
        self.touches.push(Touch { key, operation, step });
    }

    /// The numbers of the known keys that a range covers.
    fn covered(&self, key: &[u8], end: &[u8]) -> std::ops::Range<usize> {
        let below = |bound: &[u8]| self.known.partition_point(|known| known.as_ref() < bound);
        let from = if key == [0] && end == [0] { 0 } else { below(key) };
        let to = match end {
            [] => from + usize::from(self.known.get(from).is_some_and(|known| known.as_ref() == key)),
            [0] => self.known.len(),
            end => below(end),
        };
        from..to
    }

    fn range(&mut self, r: &pb::RangeRequest, a: &'a pb::RangeResponse) {
        let filters = [
            r.min_mod_revision,
            r.max_mod_revision,
            r.min_create_revision,
            r.max_create_revision,
        ];
        if r.revision > 0 || r.serializable || r.keys_only || r.count_only || filters != [0; 4] {
            return;
        }
        let mut shown = InOrder::of(&a.kvs);
        for key in self.covered(&r.key, &r.range_end) {
            let seen = shown.seek(self.known[key]);
            if seen.is_some() || !a.more {
                self.push(key, Step::Read { seen });
            }
        }
    }

    fn put(&mut self, r: &'a pb::PutRequest, answer: Option<&'a pb::PutResponse>) {
        let before = answer.filter(|_| r.prev_kv).map(|a| a.prev_kv.as_ref());
        let value = &r.value;
        for key in self.covered(&r.key, &[]) {
            self.push(key, Step::Put { value, before });
        }
    }

    fn delete(&mut self, r: &pb::DeleteRangeRequest, answer: Option<&'a pb::DeleteRangeResponse>) {
        let told = answer.filter(|a| r.prev_kv || a.deleted == 0);
        let mut shown = told.map(|a| InOrder::of(&a.prev_kvs));
        for key in self.covered(&r.key, &r.range_end) {
            let before = shown.as_mut().map(|shown| shown.seek(self.known[key]));
            self.push(key, Step::Delete { before });
        }
    }

    fn txn(&mut self, r: &'a pb::TxnRequest, a: &'a pb::TxnResponse) {
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
    fn unknown_txn(&mut self, r: &'a pb::TxnRequest) {
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
