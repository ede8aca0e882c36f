//! The bounded cache of newest records: what was written longest ago goes first, roughly.
//!
//! The records sit in the entries themselves. When they weigh too much, a hand sweeps over the chunks and drops
//! those older than a floor; after each round the floor rises. That needs no queue beside the index, and no order but
//! the keys' and the revisions': what is cached follows from the commands alone.
//!
//! What is cached decides how fast an answer is, never what it is.

use bytes::Bytes;

use super::chunk::Chunk;
use crate::base::Revision;

/// What a cached record costs beside its bytes: allocation and shared reference count.
const OVERHEAD_BYTES: usize = 64;

pub(super) fn weight(record: &Bytes) -> usize {
    record.len() + OVERHEAD_BYTES
}

/// See the module.
pub(super) struct Sweep {
    bytes: usize,
    bytes_max: usize,
    /// The next chunk to look at.
    hand: usize,
    /// Records of older revisions are dropped.
    floor: Revision,
    /// The oldest record seen in this round that stays.
    oldest_seen: Revision,
    latest: Revision,
}

impl Sweep {
    pub(super) fn new(bytes_max: usize) -> Sweep {
        Sweep {
            bytes: 0,
            bytes_max,
            hand: 0,
            floor: 0,
            oldest_seen: Revision::MAX,
            latest: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a record can be kept at all.
    pub(super) fn admits(&self, record: &Bytes) -> bool {
        weight(record) <= self.bytes_max
    }

    pub(super) fn add(&mut self, bytes: usize, main: Revision) {
        self.bytes += bytes;
        self.latest = self.latest.max(main);
    }

    pub(super) fn remove(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }

    /// Drops old records until the rest fits.
    pub(super) fn evict(&mut self, chunks: &mut [Chunk]) {
        while self.bytes > self.bytes_max {
            let Some(chunk) = chunks.get_mut(self.hand) else {
                self.next_round();
                continue;
            };
            self.hand += 1;
            if chunk.cached_oldest < self.floor {
                let before = chunk.cached_bytes;
                chunk.drop_cached(self.floor);
                self.bytes -= before - chunk.cached_bytes;
            }
            self.oldest_seen = self.oldest_seen.min(chunk.cached_oldest);
        }
    }

    /// Raises the floor by a quarter of what is left, and at least above the oldest record there is: rounds that
    /// drop nothing do not follow each other.
    fn next_round(&mut self) {
        let above = self.latest + 1;
        let quarter = self.floor + (above - self.floor) / 4;
        // A round that saw nothing was a part of one: the hand began in the middle.
        let seen = Some(self.oldest_seen).filter(|&oldest| oldest != Revision::MAX);
        self.floor = seen.map_or(quarter, |oldest| quarter.max(oldest + 1)).min(above);
        self.oldest_seen = Revision::MAX;
        self.hand = 0;
    }
}

impl Chunk {
    fn drop_cached(&mut self, floor: Revision) {
        let mut oldest = Revision::MAX;
        for entry in &mut self.entries {
            if entry.cached.is_none() {
                continue;
            }
            if entry.newest.main < floor {
                self.cached_bytes -= entry.cached_bytes();
                entry.cached = None;
            } else {
                oldest = oldest.min(entry.newest.main);
            }
        }
        self.cached_oldest = oldest;
    }
}
