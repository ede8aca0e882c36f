//! Ranges: which keys, at which revision, in which order, and how a limit cuts.

use std::cmp::Ordering;
use std::ops::Bound;

use bytes::Bytes;
use quorate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use quorate::proto::etcdserverpb::{self as pb};
use quorate::proto::mvccpb::KeyValue;

use super::{Model, Refusal, at, header};

/// True if the range (`key`, `end`) contains `candidate`: no end means that one key, a single zero
/// byte means all keys from `key` on.
pub fn covers(key: &[u8], end: &[u8], candidate: &[u8]) -> bool {
    match end {
        [] => key == candidate,
        [0] => key <= candidate || key == [0],
        end => key <= candidate && candidate < end,
    }
}

/// A key is there and the sort order is one; returns the latter.
pub(super) fn check_range_shape(r: &pb::RangeRequest) -> Result<(SortOrder, SortTarget), Refusal> {
    if r.key.is_empty() {
        return Err(Refusal::EMPTY_KEY);
    }
    match (
        SortOrder::try_from(r.sort_order),
        SortTarget::try_from(r.sort_target),
    ) {
        (Ok(order), Ok(target)) => Ok((order, target)),
        _ => Err(Refusal::INVALID_SORT),
    }
}

fn upper_bound<'a>(key: &'a [u8], end: &'a [u8]) -> Bound<&'a [u8]> {
    match end {
        [] => Bound::Included(key),
        [0] => Bound::Unbounded,
        end => Bound::Excluded(end),
    }
}

impl Model {
    /// The pairs of a range after `revision`, in key order.
    pub(super) fn live(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<&KeyValue> {
        if !end.is_empty() && end != [0] && key >= end {
            return Vec::new();
        }
        let start = if key == [0] && end == [0] {
            Bound::Unbounded
        } else {
            Bound::Included(key)
        };
        self.keys
            .range::<[u8], _>((start, upper_bound(key, end)))
            .filter_map(|(_, versions)| at(versions, revision))
            .collect()
    }

    /// A range as the store answers it when its current revision is `current`.
    pub fn range(&self, r: &pb::RangeRequest, current: i64) -> Result<pb::RangeResponse, Refusal> {
        let (order, target) = check_range_shape(r)?;
        self.check_range_revision(r, current)?;
        let at = if r.revision > 0 { r.revision } else { current };
        let all = self.live(&r.key, &r.range_end, at);
        let mut response = pb::RangeResponse {
            header: header(current),
            count: all.len() as i64,
            ..Default::default()
        };
        if r.count_only {
            return Ok(response);
        }
        let mut kvs = select(r, all, order, target);
        if r.limit > 0 && kvs.len() as i64 > r.limit {
            kvs.truncate(r.limit as usize);
            response.more = true;
        }
        response.kvs = kvs.into_iter().map(|kv| shown(r, kv, target)).collect();
        Ok(response)
    }

    /// Whether the requested revision can be read when the current one is `current`.
    pub(super) fn check_range_revision(&self, r: &pb::RangeRequest, current: i64) -> Result<(), Refusal> {
        if r.revision > current {
            return Err(Refusal::FUTURE_REVISION);
        }
        if r.revision > 0 && r.revision < self.compact_revision {
            return Err(Refusal::COMPACTED);
        }
        Ok(())
    }
}

/// Filters and sorts. Without order and filters the limit (plus the one that tells that there is
/// more) is taken in key order before any sorting by another target.
fn select<'a>(
    r: &pb::RangeRequest,
    mut kvs: Vec<&'a KeyValue>,
    order: SortOrder,
    target: SortTarget,
) -> Vec<&'a KeyValue> {
    let bounds = [
        r.min_mod_revision,
        r.max_mod_revision,
        r.min_create_revision,
        r.max_create_revision,
    ];
    if order == SortOrder::None && bounds == [0; 4] && r.limit > 0 {
        kvs.truncate(usize::try_from(r.limit.saturating_add(1)).unwrap_or(usize::MAX));
    }
    kvs.retain(|kv| {
        (r.min_mod_revision == 0 || kv.mod_revision >= r.min_mod_revision)
            && (r.max_mod_revision == 0 || kv.mod_revision <= r.max_mod_revision)
            && (r.min_create_revision == 0 || kv.create_revision >= r.min_create_revision)
            && (r.max_create_revision == 0 || kv.create_revision <= r.max_create_revision)
    });
    match order {
        // As they are.
        SortOrder::None | SortOrder::Ascend if target == SortTarget::Key => {}
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a, target)),
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(|a, b| compare(a, b, target)),
    }
    kvs
}

fn compare(a: &KeyValue, b: &KeyValue, target: SortTarget) -> Ordering {
    match target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    }
}

/// A pair as the answer shows it. Since 3.7 keys-only answers come from the index, which does not
/// know leases, unless the values had to be fetched for sorting.
fn shown(r: &pb::RangeRequest, kv: &KeyValue, target: SortTarget) -> KeyValue {
    let mut kv = kv.clone();
    if r.keys_only {
        kv.value = Bytes::new();
        if target != SortTarget::Value {
            kv.lease = 0;
        }
    }
    kv
}

/// Equality of two answers to `r`, but for the header and for the order among pairs that compare
/// equal under a target other than the key: etcd's sort is not stable.
pub fn same_range_answer(
    r: &pb::RangeRequest,
    expected: &pb::RangeResponse,
    actual: &pb::RangeResponse,
) -> bool {
    if (expected.count, expected.more) != (actual.count, actual.more) {
        return false;
    }
    let target = SortTarget::try_from(r.sort_target).unwrap_or(SortTarget::Key);
    if target == SortTarget::Key || expected.kvs == actual.kvs {
        return expected.kvs == actual.kvs;
    }
    let by_target = |e: &KeyValue, a: &KeyValue| compare(e, a, target) == Ordering::Equal;
    let same_sequence = expected.kvs.len() == actual.kvs.len()
        && expected.kvs.iter().zip(&actual.kvs).all(|(e, a)| by_target(e, a));
    // Which of several equal pairs a limit keeps is open; without a cut the sets must be equal.
    same_sequence && (expected.more || expected.kvs.iter().all(|kv| actual.kvs.contains(kv)))
}
