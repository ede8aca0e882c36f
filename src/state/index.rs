//! The key index: which changes of each key exist, and the newest records as long as there is room.
//!
//! ```text
//!   chunks:  [ a.. ] [ f.. ] [ m.. ] ...      sorted runs of keys, each with sums over its entries
//!              |
//!              key -> newest change (inline), its record while it is cached, older changes
//! ```
//!
//! A lookup is two binary searches. Counting a range adds up the chunks' sums, so counts and limited lists visit
//! only the chunks at the edges (and, for a revision in the past, those that changed since).
//!
//! Keys are copied: a slice of a request would keep the raft entry that brought it in memory.
//!
//! It does not know what a lease or a transaction is, and reads nothing from the store.

mod cache;
mod chunk;
mod compact;

use std::collections::VecDeque;

use bytes::Bytes;

use crate::base::{Revision, RevisionAt, effort};
use chunk::{CHUNK_KEYS_MAX, Chunk, count_living};
pub use compact::Compacted;

/// One change of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KeyVersion {
    main: Revision,
    /// When this life of the key began; for a tombstone, 0.
    pub create: Revision,
    /// Puts in this life; 0 marks a tombstone.
    pub version: i64,
    sub: u32,
    /// What its record weighs in the store.
    pub bytes: u32,
}

impl KeyVersion {
    /// `None` if `at` is no place that a change can have.
    pub fn new(at: RevisionAt, create: Revision, version: i64, bytes: u32) -> Option<KeyVersion> {
        Some(KeyVersion {
            main: at.main,
            create,
            version,
            sub: u32::try_from(at.sub).ok()?,
            bytes,
        })
    }

    pub fn at(&self) -> RevisionAt {
        RevisionAt::new(self.main, i64::from(self.sub))
    }

    /// The revision of the change: the pair's `mod_revision`.
    pub fn main(&self) -> Revision {
        self.main
    }

    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// The position behind all changes of a revision.
pub fn behind(revision: Revision) -> RevisionAt {
    RevisionAt::new(revision.saturating_add(1), 0)
}

/// Everything known of one key.
#[derive(Debug)]
pub struct Entry {
    pub key: Box<[u8]>,
    pub newest: KeyVersion,
    /// The lease of the newest change.
    pub lease: i64,
    /// The record of the newest change, if it is in memory.
    pub cached: Option<Bytes>,
    /// Oldest first. Boxed, since most keys have no past; a queue, so that forgetting the oldest moves nothing.
    #[allow(clippy::box_collection)]
    older: Option<Box<VecDeque<KeyVersion>>>,
}

impl Entry {
    /// The newest change before a position, unless the key is deleted there.
    pub fn living(&self, before: RevisionAt) -> Option<KeyVersion> {
        let past = if self.newest.at() < before {
            self.newest
        } else {
            let older = self.older()?;
            let later = older.partition_point(|past| past.at() < before);
            older.get(later.checked_sub(1)?).copied()?
        };
        Some(past).filter(|past| !past.is_tombstone())
    }

    /// The newest change with `main` at most `revision`, unless the key is deleted there.
    pub fn living_at(&self, revision: Revision) -> Option<KeyVersion> {
        self.living(behind(revision))
    }

    pub fn is_living(&self) -> bool {
        !self.newest.is_tombstone()
    }

    fn older(&self) -> Option<&VecDeque<KeyVersion>> {
        self.older.as_deref()
    }

    /// Changes that a compaction may drop one day.
    fn past(&self) -> usize {
        self.older().map_or(0, VecDeque::len) + usize::from(self.newest.is_tombstone())
    }

    fn cached_bytes(&self) -> usize {
        self.cached.as_ref().map_or(0, cache::weight)
    }
}

/// Where a key is, or belongs; good until the index changes.
pub struct Place {
    chunk: usize,
    entry: Result<usize, usize>,
}

/// See the module.
pub struct Index {
    chunks: Vec<Chunk>,
    cache: cache::Sweep,
}

impl Index {
    /// `cache_bytes_max` bounds the records kept in memory, and what keeping them costs.
    pub fn new(cache_bytes_max: usize) -> Self {
        Index {
            chunks: Vec::new(),
            cache: cache::Sweep::new(cache_bytes_max),
        }
    }

    /// The chunk in which `key` is or belongs.
    fn chunk_of(&self, key: &[u8]) -> usize {
        let after = self.chunks.partition_point(|chunk| chunk.first.as_ref() <= key);
        after.saturating_sub(1)
    }

    pub fn find(&self, key: &[u8]) -> Place {
        let chunk = self.chunk_of(key);
        let entry = self.chunks.get(chunk).map_or(Err(0), |chunk| chunk.find(key));
        Place { chunk, entry }
    }

    /// The entry at a place, if the key is known.
    pub fn entry(&self, place: &Place) -> Option<&Entry> {
        self.chunks.get(place.chunk)?.entries.get(place.entry.ok()?)
    }

    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        self.entry(&self.find(key))
    }

    /// Takes in a change of `key`, newer than all before. `record` is what to remember of it; nothing for a
    /// tombstone.
    pub fn record(
        &mut self,
        place: Place,
        key: &[u8],
        newest: KeyVersion,
        lease: i64,
        record: Option<Bytes>,
    ) {
        let record = record.filter(|record| self.cache.admits(record));
        let cached_bytes = record.as_ref().map_or(0, cache::weight);
        self.cache.add(cached_bytes, newest.main);
        match place.entry {
            Ok(at) => {
                let chunk = self.chunks.get_mut(place.chunk).expect("find names a chunk");
                let entry = chunk.entries.get_mut(at).expect("find names an entry");
                self.cache.remove(entry.cached_bytes());
                chunk.cached_bytes -= entry.cached_bytes();
                chunk.living -= usize::from(entry.is_living());
                // The old newest was counted if it was a tombstone; now it is counted as an older change.
                chunk.past += usize::from(entry.is_living());
                let old = std::mem::replace(&mut entry.newest, newest);
                let older = entry
                    .older
                    .get_or_insert_with(|| Box::new(VecDeque::with_capacity(1)));
                older.push_back(old);
                entry.lease = lease;
                entry.cached = record;
                chunk.count_in(&newest, cached_bytes);
            }
            Err(at) => {
                let entry = Entry {
                    key: key.into(),
                    newest,
                    lease,
                    cached: record,
                    older: None,
                };
                self.insert(place.chunk, at, entry);
            }
        }
        self.cache.evict(&mut self.chunks);
    }

    fn insert(&mut self, mut chunk_at: usize, mut at: usize, entry: Entry) {
        let Some(chunk) = self.chunks.get_mut(chunk_at) else {
            self.chunks.push(Chunk::new(vec![entry]));
            return;
        };
        if chunk.entries.len() == CHUNK_KEYS_MAX {
            if at == CHUNK_KEYS_MAX {
                // Keys often come in order: so the chunks before stay full.
                self.chunks.insert(chunk_at + 1, Chunk::new(vec![entry]));
                return;
            }
            let upper = chunk.split();
            let half = chunk.entries.len();
            self.chunks.insert(chunk_at + 1, upper);
            if at > half {
                (chunk_at, at) = (chunk_at + 1, at - half);
            }
        }
        let chunk = self.chunks.get_mut(chunk_at);
        chunk.expect("it was there, or was just made").insert(at, entry);
    }

    /// The chunks that `from..to` touches (`None`: to the end), each with its entries of the range.
    fn spans<'a>(&'a self, from: &[u8], to: Option<&[u8]>) -> impl Iterator<Item = (&'a Chunk, &'a [Entry])> {
        let begin = self.chunk_of(from);
        let end = to.map_or(self.chunks.len(), |to| {
            self.chunks.partition_point(|chunk| chunk.first.as_ref() < to)
        });
        let chunks = self.chunks.get(begin..end).unwrap_or_default();
        let last = chunks.len().saturating_sub(1);
        let below = |chunk: &Chunk, key: &[u8]| chunk.find(key).unwrap_or_else(|at| at);
        // Only the chunks at the edges are searched.
        let first_from = chunks.first().map_or(0, |chunk| below(chunk, from));
        let last_to = chunks.last().zip(to).map(|(chunk, to)| below(chunk, to));
        chunks.iter().enumerate().map(move |(n, chunk)| {
            let start = if n == 0 { first_from } else { 0 };
            let end = last_to.filter(|_| n == last).unwrap_or(chunk.entries.len());
            (chunk, chunk.entries.get(start..end).unwrap_or_default())
        })
    }

    /// Visits the entries of `from..to` in key order until `visit` says stop (`false`).
    pub fn visit<'a>(&'a self, from: &[u8], to: Option<&[u8]>, mut visit: impl FnMut(&'a Entry) -> bool) {
        let mut visited = 0;
        self.spans(from, to).all(|(_, entries)| {
            entries.iter().all(|entry| {
                visited += 1;
                visit(entry)
            })
        });
        effort::spend(visited);
    }

    /// Keys of `from..to` that live at `revision`.
    pub fn count(&self, from: &[u8], to: Option<&[u8]>, revision: Revision) -> usize {
        let (count, rest) = self.count_some(from, to, behind(revision), usize::MAX);
        debug_assert!(rest.is_none(), "no count is that long");
        count
    }

    /// Keys of `from..to` that live before a position, until about `effort_max` chunks and entries were looked at: how many,
    /// and the key to go on with.
    pub fn count_some(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        before: RevisionAt,
        effort_max: usize,
    ) -> (usize, Option<&[u8]>) {
        let (mut count, mut spent) = (0, 0);
        let mut rest = None;
        for (chunk, entries) in self.spans(from, to) {
            if spent >= effort_max {
                rest = entries.first().map(|entry| entry.key.as_ref());
                break;
            }
            let summed = entries.len() == chunk.entries.len() && chunk.latest < before.main;
            count += if summed {
                chunk.living
            } else {
                count_living(entries, before)
            };
            spent += if summed { 1 } else { entries.len().max(1) };
        }
        effort::spend(spent);
        (count, rest)
    }

    /// Bytes of the records that are in memory.
    #[cfg(test)]
    pub fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Checks every sum against the entries.
    #[cfg(test)]
    pub fn assert_consistent(&self) {
        let keys: Vec<&[u8]> = self
            .chunks
            .iter()
            .flat_map(|c| &c.entries)
            .map(|e| e.key.as_ref())
            .collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "keys are in order");
        self.chunks.iter().for_each(Chunk::assert_consistent);
        let cached: usize = self.chunks.iter().map(|chunk| chunk.cached_bytes).sum();
        assert_eq!(cached, self.cache.bytes());
    }
}
