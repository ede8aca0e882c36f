//! The compaction filter: dead revisions go when their table is rewritten.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use fjall::LsmError;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};

use crate::base::RevisionAt;
use crate::runtime::panics::poisoned;

/// Which revisions are dead, shared with the compaction filter.
#[derive(Default)]
pub struct Graveyard {
    graves: Mutex<Graves>,
    /// The engine is being closed: compactions end.
    pub closing: AtomicBool,
}

#[derive(Default)]
pub struct Graves {
    /// Dead in the state that is visible, but perhaps not in the one that a crash would leave.
    pub awaiting_sync: Vec<RevisionAt>,
    pub dead: BTreeSet<RevisionAt>,
}

impl Graveyard {
    pub fn lock(&self) -> MutexGuard<'_, Graves> {
        self.graves.lock().unwrap_or_else(poisoned)
    }
}

/// Makes the filter of each compaction.
pub struct FilterFactory(pub Arc<Graveyard>);

impl Factory for FilterFactory {
    fn name(&self) -> &str {
        "dead revisions"
    }

    fn make_filter(&self, _context: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter(self.0.clone()))
    }
}

struct Filter(Arc<Graveyard>);

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _context: &Context) -> CompactionFilterResult {
        if self.0.closing.load(Ordering::Relaxed) {
            // There is no other way to end a compaction early; nothing of it takes effect.
            return Err(LsmError::Io(std::io::ErrorKind::Interrupted.into()));
        }
        let dead = RevisionAt::from_bytes(item.key()).is_some_and(|at| self.0.lock().dead.remove(&at));
        // A revision is written once, so no older version can come to light: no tombstone is needed.
        Ok(if dead { Verdict::Destroy } else { Verdict::Keep })
    }
}
