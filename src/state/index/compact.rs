//! Compaction of the index, in pieces: each key forgets what no read from the compact revision on can see.
//!
//! Of a key stay all changes from the compact revision on (a watch may start there, so a tombstone at that very
//! revision too) and, unless there is one at that revision, the newest before it if it is a put.
//!
//! A key may have more to forget than one piece may take: it then forgets its oldest changes first, and the next piece
//! goes on with the same key. Whatever has been forgotten so far, reads from the compact revision on see the same.

use super::chunk::Chunk;
use super::{Entry, Index, KeyVersion};
use crate::base::{Revision, RevisionAt, effort, limits};

/// What a piece of a compaction did.
#[derive(Default)]
pub struct Compacted {
    /// Changes that nothing can read any more.
    pub dead: Vec<RevisionAt>,
    /// What their records weigh.
    pub dead_bytes: u64,
    /// Changes after the compaction before this one, up to this one, that stay.
    pub kept: Vec<RevisionAt>,
}

/// A piece of work.
struct Piece {
    /// The compaction before was swept up to here.
    since: Revision,
    revision: Revision,
    /// Entries, and changes to be forgotten, that may still be looked at.
    effort_left: usize,
    compacted: Compacted,
}

impl Index {
    /// Compacts keys from `from` on at `revision`, all of which were compacted at `since`, until `effort_max` entries and
    /// forgotten changes were looked at: what that did, and the key to go on with.
    pub fn compact_some(
        &mut self,
        from: &[u8],
        since: Revision,
        revision: Revision,
        effort_max: usize,
    ) -> (Compacted, Option<Box<[u8]>>) {
        let mut piece = Piece {
            since,
            revision,
            effort_left: effort_max,
            compacted: Compacted::default(),
        };
        let begin = self.chunk_of(from);
        let (mut end, mut next) = (begin, None);
        for chunk in self.chunks.iter_mut().skip(begin) {
            if next.is_some() {
                break;
            }
            next = chunk.compact(from, &mut piece);
            end += 1;
        }
        self.chunks
            .extract_if(begin..end, |chunk| chunk.entries.is_empty())
            .for_each(drop);
        effort::spend(effort_max - piece.effort_left);
        (piece.compacted, next)
    }
}

impl Chunk {
    /// Returns the key to go on with, unless all are compacted.
    fn compact(&mut self, from: &[u8], piece: &mut Piece) -> Option<Box<[u8]>> {
        if piece.effort_left == 0 {
            // Behind `from`, or the piece could do nothing at all.
            return Some(self.first.clone());
        }
        if self.past == 0 && self.latest <= piece.since {
            piece.effort_left -= 1;
            return None;
        }
        let before = self.entries.len();
        let mut next = None;
        self.entries.retain_mut(|entry| {
            if next.is_some() || entry.key.as_ref() < from {
                return true;
            }
            let stays = entry.compact(piece);
            if stays.is_none() {
                next = Some(entry.key.clone());
            }
            stays.unwrap_or(true)
        });
        if self.entries.len() == before {
            self.past = self.entries.iter().map(Entry::past).sum();
        } else {
            self.sum_up();
        }
        next
    }
}

impl Entry {
    /// Returns whether anything is left of the key; `None` if the piece is too small for it, and the next has to go on here.
    fn compact(&mut self, piece: &mut Piece) -> Option<bool> {
        let revision = piece.revision;
        let dead = self.dead_older(revision);
        let some = dead.min(piece.effort_left);
        piece.effort_left -= some;
        if let Some(older) = &mut self.older {
            older.drain(..some).for_each(|past| piece.compacted.bury(past));
        }
        if some < dead {
            return None;
        }
        self.shrink();
        piece.effort_left = piece.effort_left.checked_sub(1)?;
        let at_most = |past: &&KeyVersion| past.main <= revision;
        let older = self.older.iter().flat_map(|older| older.iter());
        let stay = older
            .take_while(at_most)
            .chain(Some(&self.newest).filter(at_most));
        let stay = stay.filter(|past| past.main > piece.since);
        let stay = stay.filter(|past| !(past.is_tombstone() && past.main < revision));
        piece.compacted.kept.extend(stay.map(KeyVersion::at));
        let gone = self.newest.is_tombstone() && self.newest.main < revision;
        if gone {
            piece.compacted.bury(self.newest);
        }
        Some(!gone)
    }

    /// How many of the older changes die, the oldest.
    fn dead_older(&self, revision: Revision) -> usize {
        let Some(older) = self.older() else { return 0 };
        let below = older.partition_point(|past| past.main < revision);
        let next = older.get(below).unwrap_or(&self.newest);
        let replaced = next.main <= revision;
        // The newest change below the revision is still visible at it, unless it is a tombstone or replaced there.
        let last = below.checked_sub(1).and_then(|last| older.get(last));
        let visible = !replaced && last.is_some_and(|past| !past.is_tombstone());
        below - usize::from(visible)
    }

    /// Gives back the memory of what was forgotten. A long list stays where it is: it would be moved, and its key is written
    /// often, so the room is wanted again.
    fn shrink(&mut self) {
        let Some(older) = &mut self.older else { return };
        if older.is_empty() {
            self.older = None;
        } else if older.len() <= limits::SWEEP_PIECE_ENTRIES {
            older.shrink_to_fit();
        }
    }
}

impl Compacted {
    fn bury(&mut self, past: KeyVersion) {
        self.dead.push(past.at());
        self.dead_bytes += u64::from(past.bytes);
    }
}
