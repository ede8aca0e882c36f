//! Compaction: logical and at once; the store drops what died when it likes.

use super::digest::Kind;
use super::{Pending, State, kept};
use crate::base::{Broken, Denied, Revision, RevisionAt};

impl State {
    /// From now on nothing below `revision` can be read, and what only such reads would see is dead.
    pub(super) fn compact(
        &mut self,
        revision: Revision,
        store: &mut Pending<'_>,
    ) -> Result<Result<(), Denied>, Broken> {
        if revision <= self.compact_revision {
            return Ok(Err(Denied::COMPACTED));
        }
        if revision > self.revision {
            return Ok(Err(Denied::FUTURE_REVISION));
        }
        let since = std::mem::replace(&mut self.compact_revision, revision);
        self.digest.add(Kind::Compact, &revision.to_le_bytes());
        let compacted = self.index.compact(since, revision);
        let freed: u64 = compacted.dead.iter().map(|past| u64::from(past.bytes)).sum();
        self.record_bytes -= freed;
        let mut dead: Vec<RevisionAt> = compacted.dead.iter().map(|past| past.at()).collect();
        dead.sort_unstable();
        kept::store(since, compacted.kept, &dead, store)?;
        self.dead.extend(dead);
        Ok(Ok(()))
    }
}
