//! Compaction of the index: each key forgets what no read from the compact revision on can see.
//!
//! Of a key stay all changes from the compact revision on (a watch may start there, so a tombstone at that very
//! revision too) and, unless there is one at that revision, the newest before it if it is a put.

use super::chunk::Chunk;
use super::{Entry, Index, Past};
use crate::base::{Revision, RevisionAt};

/// What a compaction did.
#[derive(Default)]
pub struct Compacted {
    /// Changes that nothing can read any more.
    pub dead: Vec<Past>,
    /// Changes after the compaction before this one, up to this one, that stay.
    pub kept: Vec<RevisionAt>,
}

impl Index {
    /// Compacts every key at `revision`; the compaction before was at `since`.
    pub fn compact(&mut self, since: Revision, revision: Revision) -> Compacted {
        let mut compacted = Compacted::default();
        for chunk in &mut self.chunks {
            if chunk.past == 0 && chunk.latest <= since {
                continue;
            }
            let before = chunk.entries.len();
            chunk
                .entries
                .retain_mut(|entry| entry.compact(since, revision, &mut compacted));
            if chunk.entries.len() == before {
                chunk.past = chunk.entries.iter().map(Entry::past).sum();
            } else {
                chunk.sum_up();
            }
        }
        self.chunks.retain(|chunk: &Chunk| !chunk.entries.is_empty());
        compacted
    }
}

impl Entry {
    /// Returns whether anything is left of the key.
    fn compact(&mut self, since: Revision, revision: Revision, compacted: &mut Compacted) -> bool {
        let Compacted { dead, kept } = compacted;
        let mut older = self.older.take().map_or_else(Vec::new, |older| *older);
        let below = older.partition_point(|past| past.main < revision);
        let next = older.get(below).unwrap_or(&self.newest);
        let replaced = next.main <= revision;
        // The newest change below the revision is still visible at it, unless it is a tombstone or replaced there.
        let visible = below
            .checked_sub(1)
            .filter(|&last| !replaced && older.get(last).is_some_and(|past| !past.is_tombstone()));
        dead.extend(older.drain(..visible.unwrap_or(below)));
        let stay = older.iter().chain([&self.newest]);
        kept.extend(
            stay.filter(|past| past.main > since && past.main <= revision)
                .filter(|past| !(past.is_tombstone() && past.main < revision))
                .map(Past::at),
        );
        if !older.is_empty() {
            older.shrink_to_fit();
            self.older = Some(Box::new(older));
        }
        let gone = self.newest.is_tombstone() && self.newest.main < revision;
        if gone {
            dead.push(self.newest);
        }
        !gone
    }
}
