//! The store under the state machine, in terms of what it promises.
//!
//! ```text
//!   apply --- write(batch) ---> visible at once     sync() ---> durable: everything written before
//!   compaction --- discard(revisions) ---> physically gone, some time after they are durably dead
//!   snapshot, slow watch --- view() ---> as it was at this moment, however long it is looked at
//! ```
//!
//! A crash loses a suffix of the batches since the last completed [`sync`](Engine::sync), never a part of
//! one: the raft log replays them, and may therefore be purged only up to what a `sync` covers.

use futures_util::future::BoxFuture;

use crate::base::kv::{Batch, Read};
use crate::base::{Broken, RevisionAt};

/// The state machine's store. Two implementations, one [conformance suite](super::conformance).
pub trait Engine: Read + Send + Sync {
    /// Changes everything in the batch, or nothing. Visible when it returns, not durable. May wait for a
    /// sync under way, but starts none.
    ///
    /// # Errors
    /// The store cannot be written any more: the node has to stop.
    fn write(&self, batch: Batch) -> Result<(), Broken>;

    /// These keys of [`Space::Records`](crate::base::kv::Space) will never be read or written again. To be called
    /// after the batch that made them dead was written. They may be removed at any time after the next completed [`sync`](Self::sync), but views taken before this call
    /// keep them. Not durable: to be called again after a restart for what is still there.
    fn discard(&self, dead: Vec<RevisionAt>);

    /// Makes every earlier write durable.
    ///
    /// # Errors
    /// The writes may be lost at a crash, and nothing can be written any more: the node has to stop.
    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>>;

    /// The store as it is now.
    fn view(&self) -> Box<dyn View>;
}

/// A consistent view of an [`Engine`] at one moment.
pub trait View: Read + Send + Sync {}
