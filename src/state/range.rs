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
        let natural = is_natural(request);
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let everything = limit == 0 || !natural;
        let mut picked: Vec<(&Entry, Past)> = Vec::new();
        let mut count = 0;
        if !request.count_only || revision < now {
            let fast_count = revision == now;
            let mut resume = None;
            self.visit_range(&request.key, &request.range_end, |entry| {
                let Some(past) = entry.living_at(revision) else {
                    return true;
                };
                if !request.count_only && (everything || picked.len() < limit) {
                    picked.push((entry, past));
                } else if !request.count_only && fast_count {
                    resume = Some(&entry.key);
                    return false;
                }
                count += 1;
                true
            });
            if let Some(resume) = resume {
                count += self.count_range(resume, &request.range_end);
            }
        } else {
            count = self.count_range(&request.key, &request.range_end);
        }
        response.count = count as i64;
        if request.count_only {
            return Ok(Ok(response));
        }
        if natural {
            response.more = count > picked.len();
            response.kvs = self.key_values(&picked, request, store)?;
            return Ok(Ok(response));
        }
        let mut kvs = self.key_values(&picked, request, store)?;
        kvs.retain(|kv| passes(request, kv));
        // With no order but a target, etcd fetches in key order no more than the limit and the one
        // pair that tells that there are more, sorts these, and cuts.
        let cut_first = request.sort_order() == SortOrder::None && !has_revision_filter(request);
        if cut_first && limit > 0 {
            kvs.truncate(limit.saturating_add(1));
        }
        sort(request, &mut kvs);
        if limit > 0 && kvs.len() > limit {
            kvs.truncate(limit);
            response.more = true;
        }
        if request.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        response.kvs = kvs;
        Ok(Ok(response))
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
                resume = Some(entry.key.clone());
                return false;
            }
            let kv = if request.keys_only {
                Ok(without_value(entry, past))
            } else {
                self.key_value(entry, past, store)
            };
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

    fn count_range(&self, key: &[u8], end: &[u8]) -> usize {
        match RangeEnd::of(end) {
            RangeEnd::Single => usize::from(self.index.get(key).is_some_and(Entry::is_living)),
            RangeEnd::Open => self.index.count(key, None),
            RangeEnd::Before(end) if key < end => self.index.count(key, Some(end)),
            RangeEnd::Before(_) => 0,
        }
    }

    fn key_values(
        &self,
        picked: &[(&Entry, Past)],
        request: &RangeRequest,
        store: &dyn Read,
    ) -> Result<Vec<KeyValue>, Broken> {
        // etcd 3.7 answers keys_only from its index alone, which knows no lease.
        let index_only = request.keys_only && request.sort_target() != SortTarget::Value;
        let value = |&(entry, past): &(&Entry, Past)| {
            if index_only {
                Ok(without_value(entry, past))
            } else {
                self.key_value(entry, past, store)
            }
        };
        picked.iter().map(value).collect()
    }

    /// The pair that a change made: from the cache, or from the store.
    pub(super) fn key_value(&self, entry: &Entry, past: Past, store: &dyn Read) -> Result<KeyValue, Broken> {
        if past.at == entry.newest.at
            && let Some(cached) = &entry.cached
        {
            return Ok(KeyValue {
                value: cached.value.clone(),
                lease: entry.lease,
                ..without_value(entry, past)
            });
        }
        let missing = || Broken::new(format!("record {}_{} is missing", past.at.main, past.at.sub));
        let bytes = store
            .get(Space::Records, &past.at.to_bytes())?
            .ok_or_else(missing)?;
        Ok(Record::decode(past.at, bytes)?.kv)
    }
}

fn without_value(entry: &Entry, past: Past) -> KeyValue {
    KeyValue {
        key: entry.key.clone(),
        create_revision: past.create,
        mod_revision: past.at.main,
        version: past.version,
        ..KeyValue::default()
    }
}

/// Key order, no filter: results can be cut while they are collected.
fn is_natural(request: &RangeRequest) -> bool {
    let by_key = request.sort_target() == SortTarget::Key && request.sort_order() != SortOrder::Descend;
    by_key && !has_revision_filter(request)
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(
        kv.mod_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        kv.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let target = request.sort_target();
    let compare = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    match request.sort_order() {
        SortOrder::Descend => kvs.sort_by(|a, b| compare(b, a)),
        SortOrder::Ascend => kvs.sort_by(compare),
        SortOrder::None if target != SortTarget::Key => kvs.sort_by(compare),
        SortOrder::None => {}
    }
}
