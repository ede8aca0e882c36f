//! Compaction: logical and at once; the store drops what died when it likes.

use super::State;
use super::write::kind;
use crate::base::{Denied, Revision};

impl State {
    /// From now on nothing below `revision` can be read, and what only such reads would see is dead.
    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Denied> {
        if revision <= self.compact_revision {
            return Err(Denied::COMPACTED);
        }
        if revision > self.revision {
            return Err(Denied::FUTURE_REVISION);
        }
        self.compact_revision = revision;
        self.digest.add(kind::COMPACT, &revision.to_le_bytes());
        self.bury(revision);
        Ok(())
    }

    /// Takes out of the index what a compaction at `revision` makes dead.
    pub(super) fn bury(&mut self, revision: Revision) {
        let later = self.superseded.split_off(&revision.saturating_add(1));
        for (key, at) in std::mem::replace(&mut self.superseded, later)
            .into_values()
            .flatten()
        {
            // A tombstone that was superseded is listed twice.
            let Some(past) = self.index.forget(&key, at) else {
                continue;
            };
            self.record_bytes -= u64::from(past.bytes);
            self.dead.push(at);
        }
    }
}
