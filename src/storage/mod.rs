//! What is durable, and the contract of each verb.

pub mod conformance;
pub mod engine;
pub mod fjall;
mod fjall_journal;
mod fjall_log;
pub mod format;
pub mod journal;
mod queue;
pub mod snapshot;
pub mod store;
mod synced;
pub mod wal;

#[cfg(test)]
mod fake_disk;
#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

pub use engine::{Engine, View};
pub use store::{Install, Store};

use crate::base::Broken;

/// Which engine holds the state machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// fjall, a log-structured merge tree on the file system: production.
    Fjall,
    /// An ordered map over a journal on the environment's `Disk`: the simulator.
    Journal,
}

/// Turns an I/O error into what the operator reads.
fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> Broken {
    move |error| Broken::io(doing, path, &error)
}
