//! Transactions: the paths are chosen on the state before, checked, and then run in order.

use std::collections::BTreeSet;

use bytes::Bytes;
use quorate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use quorate::proto::etcdserverpb::{self as pb};
use quorate::proto::mvccpb::KeyValue;

use super::range::{check_range_shape, covers, same_range_answer};
use super::{Change, Model, Refusal, header};

/// `--max-txn-ops`.
const OPS_MAX: usize = 128;

/// A transaction whose branches are chosen, here and in everything nested.
struct Plan<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Range(&'a pb::RangeRequest),
    Put(&'a pb::PutRequest),
    Delete(&'a pb::DeleteRangeRequest),
    Txn(Plan<'a>),
    Nothing,
}

impl Model {
    pub(super) fn txn(
        &mut self,
        r: &pb::TxnRequest,
        change: &mut Change,
    ) -> Result<pb::TxnResponse, Refusal> {
        check_shape(r, OPS_MAX)?;
        for branch in [&r.success, &r.failure] {
            check_duplicates(branch)?;
        }
        let plan = self.plan(r);
        self.check_plan(&plan)?;
        let mut response = self.run(&plan, change);
        response.header = header(change.revision());
        Ok(response)
    }

    fn plan<'a>(&self, r: &'a pb::TxnRequest) -> Plan<'a> {
        let succeeded = r.compare.iter().all(|compare| self.holds(compare));
        let branch = if succeeded { &r.success } else { &r.failure };
        let step = |op: &'a pb::RequestOp| match &op.request {
            Some(Op::RequestRange(r)) => Step::Range(r),
            Some(Op::RequestPut(r)) => Step::Put(r),
            Some(Op::RequestDeleteRange(r)) => Step::Delete(r),
            Some(Op::RequestTxn(r)) => Step::Txn(self.plan(r)),
            None => Step::Nothing,
        };
        let steps = branch.iter().map(step).collect();
        Plan { succeeded, steps }
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let pairs = self.live(&compare.key, &compare.range_end, i64::MAX);
        if !pairs.is_empty() {
            return pairs.iter().all(|kv| pair_holds(compare, kv));
        }
        // Nothing there: the numbers are 0, and no statement about a value is true.
        let of_value = compare.target == CompareTarget::Value as i32;
        !of_value && pair_holds(compare, &KeyValue::default())
    }

    fn check_plan(&self, plan: &Plan<'_>) -> Result<(), Refusal> {
        plan.steps.iter().try_for_each(|step| match step {
            Step::Range(r) => self.check_range_revision(r, self.revision),
            Step::Put(r) => self.check_put(r),
            Step::Delete(_) | Step::Nothing => Ok(()),
            Step::Txn(plan) => self.check_plan(plan),
        })
    }

    fn run(&mut self, plan: &Plan<'_>, change: &mut Change) -> pb::TxnResponse {
        let mut responses = Vec::with_capacity(plan.steps.len());
        for step in &plan.steps {
            let response = match step {
                Step::Range(r) => Some(Re::ResponseRange(self.range_inside(r, change))),
                Step::Put(r) => Some(Re::ResponsePut(self.put(r, change))),
                Step::Delete(r) => Some(Re::ResponseDeleteRange(self.delete(r, change))),
                Step::Txn(plan) => Some(Re::ResponseTxn(self.run(plan, change))),
                Step::Nothing => None,
            };
            responses.push(pb::ResponseOp { response });
        }
        pb::TxnResponse {
            header: header(0),
            succeeded: plan.succeeded,
            responses,
        }
    }

    fn range_inside(&self, r: &pb::RangeRequest, change: &Change) -> pb::RangeResponse {
        self.range(r, change.revision())
            .expect("shape and revision were checked before the first step")
    }
}

fn pair_holds(compare: &pb::Compare, kv: &KeyValue) -> bool {
    let Ok(target) = CompareTarget::try_from(compare.target) else {
        return true;
    };
    let number = match &compare.target_union {
        Some(
            TargetUnion::Version(n)
            | TargetUnion::CreateRevision(n)
            | TargetUnion::ModRevision(n)
            | TargetUnion::Lease(n),
        ) => *n,
        _ => 0,
    };
    let ordering = match target {
        CompareTarget::Version => kv.version.cmp(&number),
        CompareTarget::Create => kv.create_revision.cmp(&number),
        CompareTarget::Mod => kv.mod_revision.cmp(&number),
        CompareTarget::Lease => kv.lease.cmp(&number),
        CompareTarget::Value => match &compare.target_union {
            Some(TargetUnion::Value(value)) => kv.value.cmp(value),
            _ => kv.value.cmp(&Bytes::new()),
        },
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Err(_) => true,
    }
}

pub(super) fn check_put_shape(r: &pb::PutRequest) -> Result<(), Refusal> {
    if r.key.is_empty() {
        return Err(Refusal::EMPTY_KEY);
    }
    if r.ignore_value && !r.value.is_empty() {
        return Err(Refusal::VALUE_PROVIDED);
    }
    if r.ignore_lease && r.lease != 0 {
        return Err(Refusal::LEASE_PROVIDED);
    }
    Ok(())
}

/// Keys present, flags consistent, and no level with more operations than its parent left over.
fn check_shape(r: &pb::TxnRequest, ops_max: usize) -> Result<(), Refusal> {
    let most = r.compare.len().max(r.success.len()).max(r.failure.len());
    if most > ops_max {
        return Err(Refusal::TOO_MANY_OPS);
    }
    if r.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EMPTY_KEY);
    }
    for op in r.success.iter().chain(&r.failure) {
        match &op.request {
            Some(Op::RequestRange(r)) => check_range_shape(r).map(|_| ())?,
            Some(Op::RequestDeleteRange(r)) if r.key.is_empty() => return Err(Refusal::EMPTY_KEY),
            Some(Op::RequestPut(r)) => check_put_shape(r)?,
            Some(Op::RequestTxn(r)) => check_shape(r, ops_max - most)?,
            Some(_) => {}
            // etcd's own choice of text.
            None => return Err(Refusal::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// What one list of operations, with everything nested in it, puts and deletes.
#[derive(Default)]
struct Footprint {
    puts: BTreeSet<Bytes>,
    deletes: Vec<(Bytes, Bytes)>,
}

impl Footprint {
    fn deletes_key(&self, key: &[u8]) -> bool {
        // A range that ends in a single zero byte is not recognised as open-ended by this check.
        let hit = |(from, end): &(Bytes, Bytes)| {
            if end.as_ref() == [0] {
                return false;
            }
            covers(from, end, key)
        };
        self.deletes.iter().any(hit)
    }
}

/// No key is put twice, or put beside a delete that covers it. The two branches of one nested
/// transaction exclude each other, so they may repeat each other.
fn check_duplicates(ops: &[pb::RequestOp]) -> Result<Footprint, Refusal> {
    let mut all = Footprint::default();
    for op in ops {
        if let Some(Op::RequestDeleteRange(r)) = &op.request {
            all.deletes.push((r.key.clone(), r.range_end.clone()));
        }
    }
    for op in ops {
        if let Some(Op::RequestTxn(nested)) = &op.request {
            add_nested(&mut all, nested)?;
        }
    }
    for op in ops {
        if let Some(Op::RequestPut(r)) = &op.request
            && (all.deletes_key(&r.key) || !all.puts.insert(r.key.clone()))
        {
            return Err(Refusal::DUPLICATE_KEY);
        }
    }
    Ok(all)
}

fn add_nested(all: &mut Footprint, nested: &pb::TxnRequest) -> Result<(), Refusal> {
    let success = check_duplicates(&nested.success)?;
    let failure = check_duplicates(&nested.failure)?;
    let both: BTreeSet<Bytes> = success.puts.union(&failure.puts).cloned().collect();
    if both
        .iter()
        .any(|key| all.puts.contains(key) || all.deletes_key(key))
    {
        return Err(Refusal::DUPLICATE_KEY);
    }
    all.puts.extend(both);
    all.deletes.extend(success.deletes);
    all.deletes.extend(failure.deletes);
    Ok(())
}

/// Equality of two transaction answers but for the outermost header.
pub(super) fn same_txn_answer(
    r: &pb::TxnRequest,
    expected: &pb::TxnResponse,
    actual: &pb::TxnResponse,
) -> bool {
    if expected.succeeded != actual.succeeded || expected.responses.len() != actual.responses.len() {
        return false;
    }
    let branch = if expected.succeeded {
        &r.success
    } else {
        &r.failure
    };
    let pairs = expected.responses.iter().zip(&actual.responses);
    branch.iter().zip(pairs).all(|(op, (expected, actual))| {
        match (&op.request, &expected.response, &actual.response) {
            (Some(Op::RequestRange(r)), Some(Re::ResponseRange(e)), Some(Re::ResponseRange(a))) => {
                e.header == a.header && same_range_answer(r, e, a)
            }
            (Some(Op::RequestTxn(r)), Some(Re::ResponseTxn(e)), Some(Re::ResponseTxn(a))) => {
                same_txn_answer(r, e, a)
            }
            (_, e, a) => e == a,
        }
    })
}
