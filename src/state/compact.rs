//! Compaction: logical and at once. What died of it is given up later, by each member for itself: [`sweep`](super::sweep).

use super::State;
use super::digest::Kind;
use crate::base::{Denied, Revision};

impl State {
    /// From now on nothing below `revision` can be read, and what only such reads would see is dead.
    pub(super) fn compact(&mut self, revision: Revision) -> Result<(), Denied> {
        if revision <= self.compact_revision {
            return Err(Denied::Compacted);
        }
        if revision > self.revision {
            return Err(Denied::FutureRevision);
        }
        self.compact_revision = revision;
        self.digest.add(Kind::Compact, &revision.to_le_bytes());
        Ok(())
    }
}
