//! A run of keys in order, with sums over it, so that most questions need not look at every key.
//!
//! ```text
//!   first:   /registry/pods/default/a…           for the search among chunks
//!   prefix:  /registry/pods/default/             what all keys here begin with
//!   heads:   [ 8 bytes ][ 8 bytes ][ 8 bytes ]   what comes behind it, side by side in memory
//!   entries: [ key … ] [ key … ] [ key … ]
//! ```
//!
//! The keys themselves lie scattered over memory. A search that compared them would wait for it at each step, which
//! once was two thirds of the cost of a put; the heads decide nearly every step.

use super::{Entry, KeyVersion};
use crate::base::{Revision, RevisionAt};

/// Keys at which a chunk is split.
pub const CHUNK_KEYS_MAX: usize = 128;

/// See the module. Never empty.
pub struct Chunk {
    pub first: Box<[u8]>,
    pub entries: Vec<Entry>,
    heads: Vec<u64>,
    prefix_len: usize,
    pub living: usize,
    pub past: usize,
    pub cached_bytes: usize,
    /// No change here is newer; no cached record is older.
    pub latest: Revision,
    pub cached_oldest: Revision,
}

/// The first eight bytes as a number that orders as they do; zero stands for what is not there.
fn head_of(rest: &[u8]) -> u64 {
    match rest.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            u64::from_be_bytes(bytes)
        }
    }
}

impl Chunk {
    pub fn new(entries: Vec<Entry>) -> Chunk {
        let mut chunk = Chunk {
            first: Box::default(),
            entries,
            heads: Vec::new(),
            prefix_len: 0,
            living: 0,
            past: 0,
            cached_bytes: 0,
            latest: 0,
            cached_oldest: Revision::MAX,
        };
        chunk.sum_up();
        chunk
    }

    /// Computes everything that follows from the entries.
    pub fn sum_up(&mut self) {
        self.living = self.entries.iter().filter(|entry| entry.is_living()).count();
        self.past = self.entries.iter().map(Entry::past).sum();
        self.cached_bytes = self.entries.iter().map(Entry::cached_bytes).sum();
        self.latest = self
            .entries
            .iter()
            .map(|entry| entry.newest.main())
            .max()
            .unwrap_or(0);
        let cached = self.entries.iter().filter(|entry| entry.cached.is_some());
        self.cached_oldest = cached
            .map(|entry| entry.newest.main())
            .min()
            .unwrap_or(Revision::MAX);
        self.take_heads();
    }

    fn take_heads(&mut self) {
        self.first = self
            .entries
            .first()
            .map(|entry| entry.key.clone())
            .unwrap_or_default();
        self.prefix_len = self.shared_len();
        let heads = self
            .entries
            .iter()
            .map(|entry| head_of(entry.key.get(self.prefix_len..).unwrap_or_default()));
        self.heads = heads.collect();
    }

    /// How many bytes all keys share: as many as the first and the last.
    fn shared_len(&self) -> usize {
        let last: &[u8] = self.entries.last().map_or(&[], |entry| &entry.key);
        self.first.iter().zip(last).take_while(|(a, b)| a == b).count()
    }

    /// Takes a new change into the sums.
    pub fn count_in(&mut self, past: &KeyVersion, cached_bytes: usize) {
        self.living += usize::from(!past.is_tombstone());
        self.past += usize::from(past.is_tombstone());
        self.latest = self.latest.max(past.main());
        if cached_bytes > 0 {
            self.cached_bytes += cached_bytes;
            self.cached_oldest = self.cached_oldest.min(past.main());
        }
    }

    /// Where `key` is or belongs.
    pub fn find(&self, key: &[u8]) -> Result<usize, usize> {
        let prefix = self.first.get(..self.prefix_len).unwrap_or_default();
        let Some(rest) = key.strip_prefix(prefix) else {
            // What does not share the prefix is before all keys or behind them.
            return Err(if key < prefix { 0 } else { self.entries.len() });
        };
        let head = head_of(rest);
        let begin = self.heads.partition_point(|&other| other < head);
        let alike = self
            .heads
            .get(begin..)
            .unwrap_or_default()
            .partition_point(|&other| other == head);
        let entries = self.entries.get(begin..begin + alike).unwrap_or_default();
        match entries.binary_search_by(|entry| entry.key.as_ref().cmp(key)) {
            Ok(at) => Ok(begin + at),
            Err(at) => Err(begin + at),
        }
    }

    /// Inserts an entry where [`find`](Self::find) said; there is room.
    pub fn insert(&mut self, at: usize, entry: Entry) {
        self.count_in(&entry.newest, entry.cached_bytes());
        make_room(&mut self.entries);
        let inside = at > 0 && at < self.entries.len();
        if inside {
            // Between two keys that share the prefix, so it shares it too.
            make_room(&mut self.heads);
            self.heads
                .insert(at, head_of(entry.key.get(self.prefix_len..).unwrap_or_default()));
            self.entries.insert(at, entry);
        } else {
            self.entries.insert(at, entry);
            self.insert_head_at_edge(at);
        }
    }

    fn insert_head_at_edge(&mut self, at: usize) {
        if at == 0 {
            self.take_heads();
            return;
        }
        let shared = self.shared_len();
        if shared < self.prefix_len || self.heads.len() == 1 {
            self.take_heads();
            return;
        }
        let last: &[u8] = self.entries.last().map_or(&[], |entry| &entry.key);
        let head = head_of(last.get(self.prefix_len..).unwrap_or_default());
        make_room(&mut self.heads);
        self.heads.push(head);
    }

    /// Splits off the upper half.
    pub fn split(&mut self) -> Chunk {
        let half = self.entries.len() / 2;
        let upper = Chunk::new(self.entries.split_off(half));
        self.entries.shrink_to(half + half / 4);
        self.sum_up();
        upper
    }

    #[cfg(test)]
    pub fn assert_consistent(&self) {
        assert!((1..=CHUNK_KEYS_MAX).contains(&self.entries.len()));
        let fresh = |sum: fn(&Entry) -> usize| self.entries.iter().map(sum).sum::<usize>();
        assert_eq!(self.first, self.entries[0].key);
        assert_eq!(self.living, fresh(|entry| usize::from(entry.is_living())));
        assert_eq!(
            (self.past, self.cached_bytes),
            (fresh(Entry::past), fresh(Entry::cached_bytes))
        );
        assert_eq!(self.heads.len(), self.entries.len());
        assert!(self.prefix_len <= self.shared_len());
        for (at, entry) in self.entries.iter().enumerate() {
            assert_eq!(self.find(&entry.key), Ok(at));
            assert_eq!(self.heads[at], head_of(&entry.key[self.prefix_len..]));
            assert!(entry.newest.main() <= self.latest);
            assert!(entry.cached.is_none() || entry.newest.main() >= self.cached_oldest);
            assert!(entry.older().is_none_or(|older| !older.is_empty()));
        }
    }
}

pub fn count_living(entries: &[Entry], before: RevisionAt) -> usize {
    entries
        .iter()
        .filter(|entry| entry.living(before).is_some())
        .count()
}

/// Doubling would leave a third of the memory of a million keys unused.
fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).max(4));
    }
}
