//! The key index: which revisions of each key exist, and the newest values.
//!
//! ```text
//!   chunks:  [ a.. ] [ f.. ] [ m.. ] ...      sorted runs of keys, each with its count of living keys
//!              |
//!              key -> newest change (inline, with its value while the cache has room), older changes
//! ```
//!
//! A lookup is two binary searches. Counting the living keys of a range adds up chunk counts, so that
//! counts and limited lists do not visit every key. Values are cached newest first in, first out: the order in
//! which commands came, so that every member caches the same.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::RevisionAt;

/// Keys after which a chunk is split.
const CHUNK_KEYS_MAX: usize = 256;

/// One change of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Past {
    pub at: RevisionAt,
    /// When this life of the key began; for a tombstone, 0.
    pub create: i64,
    /// Puts in this life; 0 marks a tombstone.
    pub version: i64,
    /// What its record weighs in the store.
    pub bytes: u32,
}

impl Past {
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// The newest value of a key, as long as it is in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cached {
    pub value: Bytes,
}

/// Everything known of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub key: Bytes,
    pub newest: Past,
    /// The lease of the newest change.
    pub lease: i64,
    pub cached: Option<Cached>,
    /// Oldest first. A boxed vector, since most keys have no past.
    #[allow(clippy::box_collection)]
    older: Option<Box<Vec<Past>>>,
}

impl Entry {
    /// The newest change with `main` at most `revision`.
    pub fn at(&self, revision: i64) -> Option<Past> {
        if self.newest.at.main <= revision {
            return Some(self.newest);
        }
        let older = self.older.as_deref()?;
        older.iter().rev().find(|past| past.at.main <= revision).copied()
    }

    /// [`at`](Self::at), unless the key is deleted there.
    pub fn living_at(&self, revision: i64) -> Option<Past> {
        self.at(revision).filter(|past| !past.is_tombstone())
    }

    pub fn is_living(&self) -> bool {
        !self.newest.is_tombstone()
    }
}

/// What [`Index::record`] did.
pub struct Recorded {
    /// The index's own copy of the key.
    pub key: Bytes,
    pub superseded: Option<Past>,
}

#[derive(Default)]
struct Chunk {
    entries: Vec<Entry>,
    living: usize,
}

/// See the module.
pub struct Index {
    chunks: Vec<Chunk>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    cached: usize,
    /// What was cached, in order; a place whose revision is no longer the newest is void.
    cache_order: VecDeque<(Bytes, RevisionAt)>,
}

impl Index {
    pub fn new(cache_bytes_max: usize) -> Self {
        Index {
            chunks: Vec::new(),
            cache_bytes: 0,
            cache_bytes_max,
            cached: 0,
            cache_order: VecDeque::new(),
        }
    }

    /// The chunk in which `key` is or belongs.
    fn chunk_of(&self, key: &[u8]) -> usize {
        let after = |chunk: &Chunk| {
            chunk
                .entries
                .first()
                .is_some_and(|first| first.key.as_ref() <= key)
        };
        self.chunks.partition_point(after).saturating_sub(1)
    }

    fn place_of(&self, key: &[u8]) -> Result<(usize, usize), (usize, usize)> {
        let chunk = self.chunk_of(key);
        let Some(entries) = self.chunks.get(chunk).map(|chunk| &chunk.entries) else {
            return Err((chunk, 0));
        };
        match entries.binary_search_by(|entry| entry.key.as_ref().cmp(key)) {
            Ok(at) => Ok((chunk, at)),
            Err(at) => Err((chunk, at)),
        }
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        let (chunk, at) = self.place_of(key).ok()?;
        self.chunks.get(chunk)?.entries.get(at)
    }

    /// Records a change, newer than all before. Key and value are copied: what comes in is part of a request,
    /// and would keep all of it in memory.
    pub fn record(&mut self, key: &[u8], past: Past, lease: i64, value: Option<&[u8]>) -> Recorded {
        let cached = value.map(|value| Cached {
            value: Bytes::copy_from_slice(value),
        });
        let cached_bytes = value.map(<[u8]>::len);
        let recorded = match self.place_of(key) {
            Ok((chunk, at)) => self.supersede(chunk, at, past, lease, cached),
            Err((chunk, at)) => {
                let key = Bytes::copy_from_slice(key);
                let entry = Entry {
                    key: key.clone(),
                    newest: past,
                    lease,
                    cached,
                    older: None,
                };
                self.insert(chunk, at, entry);
                Recorded {
                    key,
                    superseded: None,
                }
            }
        };
        if let Some(bytes) = cached_bytes {
            self.cache_bytes += bytes;
            self.cached += 1;
            self.cache_order.push_back((recorded.key.clone(), past.at));
            self.limit_cache();
        }
        recorded
    }

    fn supersede(
        &mut self,
        chunk: usize,
        at: usize,
        past: Past,
        lease: i64,
        cached: Option<Cached>,
    ) -> Recorded {
        let chunk = self.chunks.get_mut(chunk).expect("place_of found it");
        let entry = chunk.entries.get_mut(at).expect("place_of found it");
        chunk.living -= usize::from(entry.is_living());
        chunk.living += usize::from(!past.is_tombstone());
        let old = std::mem::replace(&mut entry.newest, past);
        entry.lease = lease;
        entry.older.get_or_insert_default().push(old);
        if let Some(cached) = std::mem::replace(&mut entry.cached, cached) {
            self.cache_bytes -= cached.value.len();
            self.cached -= 1;
        }
        Recorded {
            key: entry.key.clone(),
            superseded: Some(old),
        }
    }

    fn insert(&mut self, chunk: usize, at: usize, entry: Entry) {
        if self.chunks.is_empty() {
            self.chunks.push(Chunk::default());
        }
        let living = usize::from(entry.is_living());
        let target = self.chunks.get_mut(chunk).expect("place_of names a chunk");
        target.entries.insert(at, entry);
        target.living += living;
        if target.entries.len() > CHUNK_KEYS_MAX {
            // Keys often come in order: a split at the end keeps the chunks before it full.
            let appended = at + 1 == target.entries.len();
            let half = if appended {
                CHUNK_KEYS_MAX
            } else {
                CHUNK_KEYS_MAX / 2
            };
            let entries = target.entries.split_off(half);
            let living = entries.iter().filter(|entry| entry.is_living()).count();
            target.living -= living;
            self.chunks.insert(chunk + 1, Chunk { entries, living });
        }
    }

    fn limit_cache(&mut self) {
        while self.cache_bytes > self.cache_bytes_max {
            let Some((key, at)) = self.cache_order.pop_front() else {
                break;
            };
            let cached = self
                .entry_mut(&key)
                .filter(|entry| entry.newest.at == at)
                .and_then(|entry| entry.cached.take());
            if let Some(cached) = cached {
                self.cache_bytes -= cached.value.len();
                self.cached -= 1;
            }
        }
        // Overwritten values leave void places behind.
        if self.cache_order.len() > 2 * self.cached + CHUNK_KEYS_MAX {
            let mut order = std::mem::take(&mut self.cache_order);
            order.retain(|(key, at)| {
                self.get(key)
                    .is_some_and(|entry| entry.newest.at == *at && entry.cached.is_some())
            });
            self.cache_order = order;
        }
    }

    fn entry_mut(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let (chunk, at) = self.place_of(key).ok()?;
        self.chunks.get_mut(chunk)?.entries.get_mut(at)
    }

    /// Forgets one change of a key, the whole key if it was the last; `None` if it was forgotten before.
    pub fn forget(&mut self, key: &[u8], dead: RevisionAt) -> Option<Past> {
        let (chunk_at, at) = self.place_of(key).ok()?;
        let chunk = self.chunks.get_mut(chunk_at)?;
        let entry = chunk.entries.get_mut(at)?;
        if entry.newest.at != dead {
            let older = entry.older.as_mut()?;
            let place = older.iter().position(|past| past.at == dead)?;
            let past = older.remove(place);
            if older.is_empty() {
                entry.older = None;
            }
            return Some(past);
        }
        // Only a tombstone dies as the newest; what it superseded died before it.
        assert!(
            entry.newest.is_tombstone(),
            "compaction keeps the newest change of a living key"
        );
        let past = entry.newest;
        chunk.entries.remove(at);
        if chunk.entries.is_empty() {
            self.chunks.remove(chunk_at);
        }
        Some(past)
    }

    /// Visits the entries of `from..to` (`None`: to the end) in key order until `visit` says stop (`false`).
    pub fn visit<'a>(&'a self, from: &[u8], to: Option<&[u8]>, mut visit: impl FnMut(&'a Entry) -> bool) {
        for chunk in self.chunks.get(self.chunk_of(from)..).into_iter().flatten() {
            let start = chunk.entries.partition_point(|entry| entry.key.as_ref() < from);
            for entry in chunk.entries.get(start..).into_iter().flatten() {
                if to.is_some_and(|to| entry.key.as_ref() >= to) || !visit(entry) {
                    return;
                }
            }
        }
    }

    /// Living keys of `from..to`, at the newest revision.
    pub fn count(&self, from: &[u8], to: Option<&[u8]>) -> usize {
        let mut count = 0;
        for chunk in self.chunks.get(self.chunk_of(from)..).into_iter().flatten() {
            let (Some(first), Some(last)) = (chunk.entries.first(), chunk.entries.last()) else {
                continue;
            };
            if to.is_some_and(|to| first.key.as_ref() >= to) {
                break;
            }
            let whole = first.key.as_ref() >= from && to.is_none_or(|to| last.key.as_ref() < to);
            if whole {
                count += chunk.living;
                continue;
            }
            let start = chunk.entries.partition_point(|entry| entry.key.as_ref() < from);
            let end = to.map_or(chunk.entries.len(), |to| {
                chunk.entries.partition_point(|entry| entry.key.as_ref() < to)
            });
            let part = chunk.entries.get(start..end).unwrap_or_default();
            count += part.iter().filter(|entry| entry.is_living()).count();
        }
        count
    }
}
