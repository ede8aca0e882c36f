//! Ranges: which keys, at which revision, filtered, sorted and cut as etcd does it.

use std::cmp::Ordering;

use bytes::Bytes;

use super::State;
use super::check::{RangeEnd, has_revision_filter};
use super::index::{Entry, Past};
use super::record::Record;
use crate::base::kv::{Read, Space};
use crate::base::{Broken, Denied, Revision};
use crate::proto::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader, range_request::SortOrder, range_request::SortTarget,
};
use crate::proto::mvccpb::KeyValue;

/// A header that carries only a revision; the server adds the rest.
pub(super) fn header(revision: Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

/// A part of a range.
pub struct Part {
    pub kvs: Vec<KeyValue>,
    /// The key to go on with; `None`: there is no more.
    pub next: Option<Bytes>,
}

impl State {
    /// A read of the local state. `Err(Broken)` if a record that must exist is missing or damaged.
    pub fn range(
        &self,
        request: &RangeRequest,
        store: &dyn Read,
    ) -> Result<Result<RangeResponse, Denied>, Broken> {
        self.range_at(request, self.revision, store)
    }

    /// [`range`](Self::range), where `now` counts as the current revision (inside a transaction).
    pub(super) fn range_at(
        &self,
        request: &RangeRequest,
        now: Revision,
        store: &dyn Read,
    ) -> Result<Result<RangeResponse, Denied>, Broken> {
        if let Err(denied) = self.check_revision(request.revision, now) {
            return Ok(Err(denied));
        }
        let revision = if request.revision <= 0 {
            now
        } else {
            request.revision
        };
        let mut response = RangeResponse {
            header: header(now),
            ..RangeResponse::default()
        };
        if request.count_only {
            response.count = self.count_range(&request.key, &request.range_end, revision) as i64;
            return Ok(Ok(response));
        }
        let (mut picked, count) = self.pick(request, revision);
        response.count = count as i64;
        picked.retain(|(_, past)| passes(request, past));
        let order = effective_order(request);
        let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0);
        let limit = limit.unwrap_or(usize::MAX);
        response.more = picked.len() > limit;
        if request.sort_target() == SortTarget::Value && order != SortOrder::None {
            response.kvs = self.sorted_by_value(&picked, order, limit, store)?;
        } else {
            sort(request.sort_target(), order, &mut picked);
            picked.truncate(limit);
            response.kvs = picked
                .into_iter()
                .map(|(entry, past)| self.asked_value(request, entry, past, store))
                .collect::<Result<_, _>>()?;
        }
        if request.keys_only {
            response.kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        Ok(Ok(response))
    }

    /// The keys an answer is made from, in key order, and how many there are in the range.
    fn pick<'a>(&'a self, request: &RangeRequest, revision: Revision) -> (Vec<(&'a Entry, Past)>, usize) {
        // One more than the limit, as etcd: without an order it sorts what it has read, and only then cuts.
        let read_max = match usize::try_from(request.limit) {
            Ok(limit) if limit > 0 && is_cut_in_key_order(request) => limit.saturating_add(1),
            _ => usize::MAX,
        };
        let mut picked = Vec::new();
        let mut rest = None;
        self.visit_range(&request.key, &request.range_end, |entry| {
            if picked.len() == read_max {
                rest = Some(entry);
                return false;
            }
            picked.extend(entry.living_at(revision).map(|past| (entry, past)));
            true
        });
        let uncounted = rest.map_or(0, |entry| {
            self.count_range(&entry.key, &request.range_end, revision)
        });
        let count = picked.len() + uncounted;
        (picked, count)
    }

    fn sorted_by_value(
        &self,
        picked: &[(&Entry, Past)],
        order: SortOrder,
        limit: usize,
        store: &dyn Read,
    ) -> Result<Vec<KeyValue>, Broken> {
        let pairs = picked
            .iter()
            .map(|&(entry, past)| self.key_value(entry, past, store));
        let mut kvs = pairs.collect::<Result<Vec<_>, _>>()?;
        kvs.sort_by(|a, b| directed(order, a.value.cmp(&b.value)));
        kvs.truncate(limit);
        Ok(kvs)
    }

    /// A part of a range in key order at `revision`, for answers that are too large for one look: pairs from `key`
    /// on, until they pass `keys_max` or `bytes_max`.
    pub fn range_part(
        &self,
        request: &RangeRequest,
        key: &[u8],
        revision: Revision,
        (keys_max, bytes_max): (usize, usize),
        store: &dyn Read,
    ) -> Result<Result<Part, Denied>, Broken> {
        if let Err(denied) = self.check_revision(revision, self.revision) {
            return Ok(Err(denied));
        }
        let (mut kvs, mut bytes) = (Vec::new(), 0);
        let mut resume = None;
        let mut damaged = None;
        self.visit_range(key, &request.range_end, |entry| {
            let Some(past) = entry.living_at(revision) else {
                return true;
            };
            if kvs.len() >= keys_max || bytes >= bytes_max {
                resume = Some(Bytes::copy_from_slice(&entry.key));
                return false;
            }
            let kv = self.asked_value(request, entry, past, store);
            match kv {
                Ok(kv) => {
                    bytes += kv.key.len() + kv.value.len();
                    kvs.push(kv);
                    true
                }
                Err(broken) => {
                    damaged = Some(broken);
                    false
                }
            }
        });
        match damaged {
            Some(broken) => Err(broken),
            None => Ok(Ok(Part { kvs, next: resume })),
        }
    }

    /// Future, compacted, or fine.
    pub(super) fn check_revision(&self, revision: Revision, now: Revision) -> Result<(), Denied> {
        if revision > now {
            return Err(Denied::FUTURE_REVISION);
        }
        if revision > 0 && revision < self.compact_revision {
            return Err(Denied::COMPACTED);
        }
        Ok(())
    }

    pub(super) fn visit_range<'a>(
        &'a self,
        key: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&'a Entry) -> bool,
    ) {
        match RangeEnd::of(end) {
            RangeEnd::Single => {
                if let Some(entry) = self.index.get(key) {
                    visit(entry);
                }
            }
            RangeEnd::Open => self.index.visit(key, None, visit),
            RangeEnd::Before(end) if key < end => self.index.visit(key, Some(end), visit),
            RangeEnd::Before(_) => {}
        }
    }

    fn count_range(&self, key: &[u8], end: &[u8], revision: Revision) -> usize {
        match RangeEnd::of(end) {
            RangeEnd::Single => {
                let entry = self.index.get(key);
                usize::from(entry.is_some_and(|entry| entry.living_at(revision).is_some()))
            }
            RangeEnd::Open => self.index.count(key, None, revision),
            RangeEnd::Before(end) if key < end => self.index.count(key, Some(end), revision),
            RangeEnd::Before(_) => 0,
        }
    }

    /// The pair, or what keys_only leaves of it.
    fn asked_value(
        &self,
        request: &RangeRequest,
        entry: &Entry,
        past: Past,
        store: &dyn Read,
    ) -> Result<KeyValue, Broken> {
        // etcd 3.7 answers keys_only from its index alone, which knows no lease, unless it sorts by value.
        if request.keys_only && request.sort_target() != SortTarget::Value {
            Ok(without_value(entry, past))
        } else {
            self.key_value(entry, past, store)
        }
    }

    /// The pair that a change made: from the cache, or from the store.
    pub(super) fn key_value(&self, entry: &Entry, past: Past, store: &dyn Read) -> Result<KeyValue, Broken> {
        let at = past.at();
        let record = match &entry.cached {
            Some(cached) if past == entry.newest => cached.clone(),
            _ => store
                .get(Space::Records, &at.to_bytes())?
                .ok_or_else(|| Broken::new(format!("record {}_{} is missing", at.main, at.sub)))?,
        };
        Ok(Record::decode(at, record)?.kv)
    }
}

fn without_value(entry: &Entry, past: Past) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(&entry.key),
        create_revision: past.create,
        mod_revision: past.main(),
        version: past.version,
        ..KeyValue::default()
    }
}

/// Whether etcd lets the limit cut before it filters and sorts.
fn is_cut_in_key_order(request: &RangeRequest) -> bool {
    let unsorted = match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    unsorted && !has_revision_filter(request)
}

/// With a target but no order etcd sorts ascending; in key order there is nothing left to do.
fn effective_order(request: &RangeRequest) -> SortOrder {
    match (request.sort_target(), request.sort_order()) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => SortOrder::None,
        (_, SortOrder::Descend) => SortOrder::Descend,
        (_, SortOrder::None | SortOrder::Ascend) => SortOrder::Ascend,
    }
}

fn passes(request: &RangeRequest, past: &Past) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(past.main(), request.min_mod_revision, request.max_mod_revision)
        && within(
            past.create,
            request.min_create_revision,
            request.max_create_revision,
        )
}

fn directed(order: SortOrder, ordering: Ordering) -> Ordering {
    match order {
        SortOrder::Descend => ordering.reverse(),
        SortOrder::None | SortOrder::Ascend => ordering,
    }
}

/// Sorts by what the index knows.
fn sort(target: SortTarget, order: SortOrder, picked: &mut [(&Entry, Past)]) {
    if order == SortOrder::None {
        return;
    }
    picked.sort_by(|(a, a_past), (b, b_past)| {
        let ordering = match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a_past.version.cmp(&b_past.version),
            SortTarget::Create => a_past.create.cmp(&b_past.create),
            SortTarget::Mod => a_past.main().cmp(&b_past.main()),
            SortTarget::Value => unreachable!("values are not in the index: sorted_by_value"),
        };
        directed(order, ordering)
    });
}
