//! Checks of a request that need no state: its shape, its size, what it may touch twice.
//!
//! They run at the front, before anything is proposed, in etcd's order; the texts are etcd's.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::base::{Denied, limits};
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, range_request::SortOrder,
    range_request::SortTarget, request_op::Request,
};

/// How the end of a range is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RangeEnd<'a> {
    /// Exactly the one key.
    Single,
    /// Every key from the start on.
    Open,
    /// Keys below this.
    Before(&'a [u8]),
}

impl<'a> RangeEnd<'a> {
    pub fn of(end: &'a [u8]) -> Self {
        match end {
            [] => RangeEnd::Single,
            [0] => RangeEnd::Open,
            end => RangeEnd::Before(end),
        }
    }
}

pub fn range(request: &RangeRequest) -> Result<(), Denied> {
    if request.key.is_empty() {
        return Err(Denied::EmptyKey);
    }
    let known =
        SortOrder::try_from(request.sort_order).is_ok() && SortTarget::try_from(request.sort_target).is_ok();
    if known {
        Ok(())
    } else {
        Err(Denied::InvalidSortOption)
    }
}

/// What RangeStream leaves out: sort orders other than the keys', and revision filters.
pub fn range_stream(request: &RangeRequest) -> Result<(), Denied> {
    let natural = match request.sort_order() {
        // Whatever the target: etcd does not look at it here.
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    if !natural {
        return Err(Denied::RangeStreamSort);
    }
    if has_revision_filter(request) {
        return Err(Denied::RangeStreamFilter);
    }
    Ok(())
}

pub fn has_revision_filter(request: &RangeRequest) -> bool {
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    bounds.iter().any(|&bound| bound != 0)
}

pub fn put(request: &PutRequest) -> Result<(), Denied> {
    if request.key.is_empty() {
        return Err(Denied::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Denied::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Denied::LeaseProvided);
    }
    Ok(())
}

pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), Denied> {
    if request.key.is_empty() {
        Err(Denied::EmptyKey)
    } else {
        Ok(())
    }
}

/// Shape, number of operations, and keys that a path may write twice.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), Denied> {
    txn_shape(request, ops_max)?;
    path(&request.success)?;
    path(&request.failure)?;
    Ok(())
}

fn txn_shape(request: &TxnRequest, ops_max: usize) -> Result<(), Denied> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if ops > ops_max {
        return Err(Denied::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Denied::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Request::RequestRange(request)) => range(request)?,
            Some(Request::RequestPut(request)) => put(request)?,
            Some(Request::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Request::RequestTxn(request)) => txn_shape(request, ops_max - ops)?,
            None => return Err(Denied::KeyNotFound),
        }
    }
    Ok(())
}

/// What a path of operations writes.
#[derive(Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deleted_keys: BTreeSet<Bytes>,
    /// From start to end, without overlaps: a key is looked up among tens of thousands.
    deleted_ranges: BTreeMap<Bytes, Bytes>,
}

impl Writes {
    /// etcd's check does not take a single zero byte for an open end, and neither does this one.
    fn delete(&mut self, start: &Bytes, end: &Bytes) {
        if end.is_empty() {
            self.deleted_keys.insert(start.clone());
        } else if start < end {
            self.delete_range(start.clone(), end.clone());
        }
    }

    fn delete_range(&mut self, mut start: Bytes, mut end: Bytes) {
        if let Some((before, its_end)) = self.deleted_ranges.range::<Bytes, _>(..=&start).next_back()
            && *its_end >= start
        {
            end = end.max(its_end.clone());
            start = before.clone();
        }
        while let Some((next, its_end)) = self.deleted_ranges.range::<Bytes, _>(&start..).next()
            && *next <= end
        {
            end = end.max(its_end.clone());
            let next = next.clone();
            self.deleted_ranges.remove(&next);
        }
        self.deleted_ranges.insert(start, end);
    }

    fn deletes_key(&self, key: &Bytes) -> bool {
        let last = self.deleted_ranges.range::<Bytes, _>(..=key).next_back();
        self.deleted_keys.contains(key) || last.is_some_and(|(_, end)| key < end)
    }

    /// Whatever another path deletes, too.
    fn delete_all(&mut self, other: Writes) {
        self.deleted_keys.extend(other.deleted_keys);
        for (start, end) in other.deleted_ranges {
            self.delete_range(start, end);
        }
    }
}

/// Refuses a put of a key that the same path puts or deletes elsewhere. Returns what the path writes.
fn path(ops: &[RequestOp]) -> Result<Writes, Denied> {
    let mut writes = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            writes.delete(&delete.key, &delete.range_end);
        }
    }
    // Nested transactions first: what they put meets the deletes of this level, and each other's puts.
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else {
            continue;
        };
        let (mut then, mut otherwise) = (path(&nested.success)?, path(&nested.failure)?);
        let mut puts = std::mem::take(&mut then.puts);
        // The same key may stand in both branches, of which only one runs.
        puts.append(&mut otherwise.puts);
        for key in puts {
            if writes.deletes_key(&key) || !writes.puts.insert(key) {
                return Err(Denied::DuplicateKey);
            }
        }
        writes.delete_all(then);
        writes.delete_all(otherwise);
    }
    for op in ops {
        let Some(Request::RequestPut(put)) = &op.request else {
            continue;
        };
        if writes.deletes_key(&put.key) || !writes.puts.insert(put.key.clone()) {
            return Err(Denied::DuplicateKey);
        }
    }
    Ok(writes)
}

/// Names that no store could keep. etcd dies of them.
pub fn names(request: &Command) -> Result<(), Denied> {
    let name = match request {
        Command::AuthUserAdd(request) => &request.name,
        Command::AuthRoleAdd(request) => &request.name,
        _ => return Ok(()),
    };
    if name.len() > limits::AUTH_NAME_BYTES_MAX {
        return Err(Denied::NameTooLong);
    }
    Ok(())
}

/// All operations of both branches are ranges: served without raft.
pub fn is_read_only(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(op.request, Some(Request::RequestRange(_))))
}

/// All ranges are serializable: served without asking the leader. True, as in etcd, without any range.
pub fn is_serializable(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(&op.request, Some(Request::RequestRange(range)) if range.serializable))
}

#[cfg(test)]
mod tests;
