//! Transactions: compares on the state before, then operations in order, all or nothing.
//!
//! Which branch is taken everywhere, nested ones included, is fixed on the state before any operation runs, and
//! every operation on the chosen path is checked there; so an operation that runs cannot fail.

use std::cmp::Ordering;

use super::check::RangeEnd;
use super::index::Entry;
use super::range::header;
use super::{Changes, Pending, State};
use crate::base::kv::Read;
use crate::base::{Broken, Denied, Revision};
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeResponse, PutResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
    compare::CompareResult, compare::CompareTarget, compare::TargetUnion, request_op::Request,
    response_op::Response,
};

/// The branches a transaction takes: of each level whether its compares held, nested ones in order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

impl State {
    /// A transaction of ranges alone, on the local state.
    pub fn read_txn(
        &self,
        request: &TxnRequest,
        store: &dyn Read,
    ) -> Result<Result<TxnResponse, Denied>, Broken> {
        let path = self.choose(request, store)?;
        if let Err(denied) = self.check_path(request, &path) {
            return Ok(Err(denied));
        }
        let mut responses = Vec::new();
        for op in taken(request, &path) {
            let Some(Request::RequestRange(range)) = &op.request else {
                continue;
            };
            match self.range(range, store)? {
                Ok(response) => responses.push(answer(Response::ResponseRange(response))),
                Err(denied) => return Ok(Err(denied)),
            }
        }
        Ok(Ok(TxnResponse {
            header: header(self.revision),
            succeeded: path.succeeded,
            responses,
        }))
    }

    pub(super) fn apply_txn(
        &mut self,
        request: &TxnRequest,
        changes: &mut Changes,
        store: &mut Pending<'_>,
    ) -> Result<Result<TxnResponse, Denied>, Broken> {
        let path = self.choose(request, store)?;
        if let Err(denied) = self.check_path(request, &path) {
            return Ok(Err(denied));
        }
        let response = self.run(request, &path, changes, store)?;
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
            return self.holds_for(compare, living, store);
        }
        let mut entries = Vec::new();
        self.visit_range(&compare.key, &compare.range_end, |entry| {
            if entry.is_living() {
                entries.push(entry);
            }
            true
        });
        if entries.is_empty() {
            return self.holds_for(compare, None, store);
        }
        for entry in entries {
            if !self.holds_for(compare, Some(entry), store)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn holds_for(&self, compare: &Compare, entry: Option<&Entry>, store: &dyn Read) -> Result<bool, Broken> {
        let past = entry.map(|entry| entry.newest).unwrap_or_default();
        let number = |wanted: i64, found: i64| found.cmp(&wanted);
        let Ok(target) = CompareTarget::try_from(compare.target) else {
            // etcd compares nothing for a target it does not know, and takes the two for equal.
            return Ok(outcome(compare.result, Ordering::Equal));
        };
        let ordering = match (target, &compare.target_union) {
            (CompareTarget::Value, union) => {
                // A missing key has no value to compare, so even "not equal" is false.
                let Some(entry) = entry else { return Ok(false) };
                let wanted: &[u8] = match union {
                    Some(TargetUnion::Value(value)) => value,
                    _ => &[],
                };
                self.key_value(entry, past, store)?.value.as_ref().cmp(wanted)
            }
            (CompareTarget::Version, union) => number(version_of(union), past.version),
            (CompareTarget::Create, union) => number(create_of(union), past.create),
            (CompareTarget::Mod, union) => number(mod_of(union), past.main()),
            (CompareTarget::Lease, union) => number(lease_of(union), entry.map_or(0, |entry| entry.lease)),
        };
        Ok(outcome(compare.result, ordering))
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
            return Err(Denied::COMPACTED);
        }
        self.check_revision(revision, self.revision)
    }

    fn run(
        &mut self,
        request: &TxnRequest,
        path: &Path,
        changes: &mut Changes,
        store: &mut Pending<'_>,
    ) -> Result<TxnResponse, Broken> {
        let mut nested = path.nested.iter();
        let mut responses = Vec::new();
        for op in taken(request, path) {
            let response = match &op.request {
                Some(Request::RequestRange(range)) => {
                    let found = self.range_at(range, changes.now(), store)?;
                    Response::ResponseRange(found.expect("check_path saw a valid revision"))
                }
                Some(Request::RequestPut(put)) => {
                    let response = self.put(put, changes, store)?;
                    Response::ResponsePut(PutResponse {
                        header: header(changes.now()),
                        ..response
                    })
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    let response = self.delete_range(delete, changes, store)?;
                    Response::ResponseDeleteRange(DeleteRangeResponse {
                        header: header(changes.now()),
                        ..response
                    })
                }
                Some(Request::RequestTxn(txn)) => {
                    let path = nested
                        .next()
                        .expect("choose descended into every nested transaction");
                    let response = self.run(txn, path, changes, store)?;
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
