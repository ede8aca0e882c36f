//! What holds the state machine: ordered keyspaces with atomic batches.
//!
//! The contract of each verb, which [`conformance`](super::conformance) checks on both engines:
//! * [`Engine::write`] is atomic and visible at once. It may be lost by a crash, but only together with
//!   everything written after it, and never in part.
//! * [`Engine::sync`] makes durable all that was written before the call.
//! * [`Engine::view`] does not change, whatever is written or discarded later.
//! * [`Engine::discard`] names records that nobody reads any more. They may vanish at any time, from the engine,
//!   but not from a view taken earlier. The caller says it again after a restart.

use crate::base::kv::{Batch, Read};
use crate::base::{Broken, RevisionAt};
use crate::runtime::BoxFuture;

/// See the module.
pub trait Engine: Read + Send + Sync {
    fn write(&self, batch: Batch) -> Result<(), Broken>;
    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>>;
    fn view(&self) -> Box<dyn View>;
    fn discard(&self, dead: Vec<RevisionAt>);
    /// Bytes on disk: allocated, and in use.
    fn bytes(&self) -> (u64, u64);
}

/// A consistent view of an engine at one moment.
pub trait View: Read + Send + Sync {}
