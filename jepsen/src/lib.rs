//! Judges what clients of an etcd-compatible cluster observed.
//!
//! ```text
//!  runner (real processes) ─┐                    ┌─ linearizability ─┐
//!                           ├─► history::History ├─ watch            ├─► report::Report ─► text, JSON
//!  simulator ───────────────┘                    ├─ durability       │
//!                                                └─ lease, …        ─┘   edn ─► Jepsen's tools
//!                                                                          timeline ─► a page for people
//! ```
//!
//! The library knows the wire contract (`quorate::proto`) and nothing else of the product: the model
//! shares no line with `quorate::state`, or a bug would be its own witness. It reads no clock, starts
//! no task and depends on no hash order, so a verdict is a function of the history alone and the
//! simulator can call it in mid-run.

pub mod alarm;
pub mod claim;
pub mod compaction;
pub mod durability;
pub mod edn;
#[cfg(test)]
mod forge;
pub mod history;
pub mod identity;
pub mod lease;
pub mod linearizability;
pub mod model;
pub mod once;
pub mod permission;
pub mod property;
pub mod report;
pub mod timeline;
pub mod watch;
pub mod workload;
