//! Transactions: compares on the state before, then operations in order, all or nothing.
//!
//! Which branch is taken everywhere, nested ones included, is fixed on the state before any operation runs, and
//! every operation on the chosen path is checked there; so an operation that runs cannot fail.

use std::cmp::Ordering;

use super::index::Entry;
use super::range::{Picked, RangeCursor, header};
use super::unread::Asked;
use super::validate::RangeEnd;
use super::{Changes, Pending, State};
use crate::base::kv::Read;
use crate::base::{Broken, Denied, Revision};
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseOp,
    TxnRequest, TxnResponse, compare::CompareResult, compare::CompareTarget, compare::TargetUnion,
    request_op::Request, response_op::Response,
};

/// The branches a transaction takes: of each level whether its compares held, nested ones in order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

/// A compare that is read in bounded looks.
pub struct CompareCursor<'a> {
    compare: &'a Compare,
    pub cursor: RangeCursor,
    found: bool,
}

impl<'a> CompareCursor<'a> {
    /// `cursor`: see [`State::open_compare`].
    pub fn new(compare: &'a Compare, cursor: RangeCursor) -> Self {
        CompareCursor {
            compare,
            cursor,
            found: false,
        }
    }

    /// To be called after each look: whether the compare holds, once that is known. `store` has to be there if the cursor needs
    /// one.
    pub fn judge(&mut self, store: Option<&dyn Read>) -> Result<Option<bool>, Broken> {
        for picked in self.cursor.take_picked() {
            self.found = true;
            if !holds_for(self.compare, Some(picked), store)? {
                return Ok(Some(false));
            }
        }
        Ok(match (self.cursor.is_read(), self.found) {
            (false, _) => None,
            (true, true) => Some(true),
            (true, false) => Some(holds_for(self.compare, None, store)?),
        })
    }
}

/// The ranges of a transaction that has no other operations.
pub fn taken_ranges(request: &TxnRequest, succeeded: bool) -> impl Iterator<Item = &RangeRequest> {
    let nested = Vec::new();
    let ops = taken(request, &Path { succeeded, nested });
    ops.iter().filter_map(|op| match &op.request {
        Some(Request::RequestRange(range)) => Some(range),
        _ => None,
    })
}

/// The answer to a transaction that has no other operations.
pub fn answer_ranges(now: Revision, succeeded: bool, ranges: Vec<RangeResponse>) -> TxnResponse {
    let ranges = ranges.into_iter().map(Response::ResponseRange);
    TxnResponse {
        header: header(now),
        succeeded,
        responses: ranges.map(answer).collect(),
    }
}

impl State {
    /// A transaction of ranges alone, on the local state. alone, on the local state.
    pub fn read_txn(
        &self,
        request: &TxnRequest,
        store: &dyn Read,
    ) -> Result<Result<TxnResponse, Denied>, Broken> {
        let path = self.choose(request, store)?;
        if let Err(denied) = self.check_path(request, &path) {
            return Ok(Err(denied));
        }
        let mut ranges = Vec::new();
        for range in taken_ranges(request, path.succeeded) {
            match self.range(range, store)? {
                Ok(response) => ranges.push(response),
                Err(denied) => return Ok(Err(denied)),
            }
        }
        Ok(Ok(answer_ranges(self.revision, path.succeeded, ranges)))
    }

    /// Begins to read what a compare is about, where `now` counts as the current revision.
    pub fn open_compare(&self, compare: &Compare, now: Revision) -> RangeCursor {
        let range = RangeRequest {
            key: compare.key.clone(),
            range_end: compare.range_end.clone(),
            ..RangeRequest::default()
        };
        let cursor = self.open_range_as_of(&range, now);
        cursor.expect("no revision was asked for")
    }

    /// Whether the ranges of a transaction that has no other operations can be read.
    pub fn check_ranges(&self, request: &TxnRequest, succeeded: bool) -> Result<(), Denied> {
        taken_ranges(request, succeeded).try_for_each(|range| self.check_txn_revision(range.revision))
    }

    pub(super) fn apply_txn(
        &mut self,
        request: &TxnRequest,
        changes: &mut Changes,
        store: &mut Pending<'_>,
        asked: Option<&mut Asked>,
    ) -> Result<Result<TxnResponse, Denied>, Broken> {
        let path = self.choose(request, store)?;
        if let Err(denied) = self.check_path(request, &path) {
            return Ok(Err(denied));
        }
        let response = self.run(request, &path, changes, store, asked)?;
        Ok(Ok(TxnResponse {
            header: header(changes.now()),
            ..response
        }))
    }

    fn choose(&self, request: &TxnRequest, store: &dyn Read) -> Result<Path, Broken> {
        let mut succeeded = true;
        for compare in &request.compare {
            if !self.holds(compare, store)? {
                succeeded = false;
                break;
            }
        }
        let mut path = Path {
            succeeded,
            nested: Vec::new(),
        };
        for op in taken(request, &path) {
            if let Some(Request::RequestTxn(nested)) = &op.request {
                let nested = self.choose(nested, store)?;
                path.nested.push(nested);
            }
        }
        Ok(path)
    }

    /// Whether every key of the compare's range fulfils it.
    fn holds(&self, compare: &Compare, store: &dyn Read) -> Result<bool, Broken> {
        if RangeEnd::of(&compare.range_end) == RangeEnd::Single {
            let living = self.index.get(&compare.key).filter(|entry| entry.is_living());
            return holds_for(compare, living.map(newest), Some(store));
        }
        let mut entries = Vec::new();
        self.visit_range(&compare.key, &compare.range_end, |entry| {
            if entry.is_living() {
                entries.push(entry);
            }
            true
        });
        if entries.is_empty() {
            return holds_for(compare, None, Some(store));
        }
        for entry in entries {
            if !holds_for(compare, Some(newest(entry)), Some(store))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Every operation on the path can run: leases exist, keys that must exist do, revisions are valid.
    fn check_path(&self, request: &TxnRequest, path: &Path) -> Result<(), Denied> {
        let mut nested = path.nested.iter();
        for op in taken(request, path) {
            match &op.request {
                Some(Request::RequestRange(range)) => self.check_txn_revision(range.revision)?,
                Some(Request::RequestPut(put)) => self.check_put(put)?,
                Some(Request::RequestTxn(txn)) => {
                    let path = nested
                        .next()
                        .expect("choose descended into every nested transaction");
                    self.check_path(txn, path)?;
                }
                Some(Request::RequestDeleteRange(_)) | None => {}
            }
        }
        Ok(())
    }

    /// As [`check_revision`](State::check_revision), but here etcd takes only 0 for "now": a negative revision can
    /// be compacted.
    fn check_txn_revision(&self, revision: Revision) -> Result<(), Denied> {
        if revision < 0 && revision < self.compact_revision {
            return Err(Denied::Compacted);
        }
        self.check_revision(revision, self.revision)
    }

    fn run(
        &mut self,
        request: &TxnRequest,
        path: &Path,
        changes: &mut Changes,
        store: &mut Pending<'_>,
        mut asked: Option<&mut Asked>,
    ) -> Result<TxnResponse, Broken> {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in taken(request, path) {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => {
                    if let Some(asked) = &mut asked {
                        let cursor = self.open_range_at(range, changes.now(), changes.next());
                        asked.range(self, cursor.expect("check_path saw a valid revision"));
                    }
                    Response::ResponseRange(RangeResponse::default())
                }
                Some(Request::RequestPut(put)) => {
                    let response = self.put(put, changes, store, asked.is_some())?;
                    Response::ResponsePut(PutResponse {
                        header: header(changes.now()),
                        ..response
                    })
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    let response = self.delete_range(delete, changes, store, asked.as_deref_mut())?;
                    Response::ResponseDeleteRange(DeleteRangeResponse {
                        header: header(changes.now()),
                        ..response
                    })
                }
                Some(Request::RequestTxn(txn)) => {
                    let path = nested
                        .next()
                        .expect("choose descended into every nested transaction");
                    let response = self.run(txn, path, changes, store, asked.as_deref_mut())?;
                    Response::ResponseTxn(TxnResponse {
                        header: header(0),
                        ..response
                    })
                }
                None => continue,
            };
            responses.push(answer(response));
        }
        Ok(TxnResponse {
            header: None,
            succeeded: path.succeeded,
            responses,
        })
    }
}

fn newest(entry: &Entry) -> Picked {
    Picked::new(entry, entry.newest)
}

/// Whether a pair fulfils a compare; `None`: the key is not there.
fn holds_for(compare: &Compare, found: Option<Picked>, store: Option<&dyn Read>) -> Result<bool, Broken> {
    let past = found.as_ref().map(Picked::past).unwrap_or_default();
    let number = |wanted: i64, found: i64| found.cmp(&wanted);
    let Ok(target) = CompareTarget::try_from(compare.target) else {
        // etcd compares nothing for a target it does not know, and takes the two for equal.
        return Ok(outcome(compare.result, Ordering::Equal));
    };
    let ordering = match (target, &compare.target_union) {
        (CompareTarget::Value, union) => {
            // A missing key has no value to compare, so even "not equal" is false.
            let Some(found) = found else { return Ok(false) };
            let wanted: &[u8] = match union {
                Some(TargetUnion::Value(value)) => value,
                _ => &[],
            };
            found.into_pair(store)?.value.as_ref().cmp(wanted)
        }
        (CompareTarget::Version, union) => number(version_of(union), past.version),
        (CompareTarget::Create, union) => number(create_of(union), past.create),
        (CompareTarget::Mod, union) => number(mod_of(union), past.main()),
        (CompareTarget::Lease, union) => {
            let lease = found.map_or(Ok(0), |found| found.lease(store))?;
            number(lease_of(union), lease)
        }
    };
    Ok(outcome(compare.result, ordering))
}

fn outcome(result: i32, ordering: Ordering) -> bool {
    match CompareResult::try_from(result) {
        Ok(CompareResult::Equal) => ordering.is_eq(),
        Ok(CompareResult::NotEqual) => ordering.is_ne(),
        Ok(CompareResult::Greater) => ordering.is_gt(),
        Ok(CompareResult::Less) => ordering.is_lt(),
        // etcd takes an unknown operator for one that holds.
        Err(_) => true,
    }
}

fn taken<'a>(request: &'a TxnRequest, path: &Path) -> &'a [RequestOp] {
    if path.succeeded {
        &request.success
    } else {
        &request.failure
    }
}

fn answer(response: Response) -> ResponseOp {
    ResponseOp {
        response: Some(response),
    }
}

/// Getters that read a missing union, or one of another target, as zero.
macro_rules! target {
    ($name:ident, $variant:ident) => {
        fn $name(union: &Option<TargetUnion>) -> i64 {
            match union {
                Some(TargetUnion::$variant(value)) => *value,
                _ => 0,
            }
        }
    };
}

target!(version_of, Version);
target!(create_of, CreateRevision);
target!(mod_of, ModRevision);
target!(lease_of, Lease);
