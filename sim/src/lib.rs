//! The deterministic simulator: the same node on a seeded network, disk and clock.
//!
//! ```text
//!   seed ─► config ─► world (hosts, SimNet, SimDisk, clocks) ─► Node::start × 1, 3 or 5
//!              │                 ▲            │
//!              ├─► workload ─────┤            └─► probes ─► invariants ─┐
//!              └─► nemesis ──────┘                                      ├─► verdict
//!                                   history ─► quorate-jepsen's checks ─┘
//! ```
//!
//! A run is a function of its seed: the executor (madsim), the network, the disks, the clocks, the faults
//! and the clients draw from streams of that seed and from nothing else. Whatever a run does that depends
//! on something else is a defect, and the trace hash shows it.
//!
//! The executor exists only under `--cfg madsim` (`cargo sim …` sets it); everything that needs none
//! compiles and is tested always.

pub mod campaign;
pub mod canary;
#[cfg(madsim)]
pub mod cluster;
pub mod corpus;
pub mod coverage;
pub mod ending;
pub mod judge;
#[cfg(madsim)]
pub mod logs;
pub mod mutants;
pub mod nemesis;
pub mod notebook;
#[cfg(madsim)]
pub mod patience;
pub mod plan;
pub mod properties;
pub mod report;
#[cfg(madsim)]
pub mod run;
pub mod sabotage;
pub mod scenario;
pub mod seed;
pub mod shrink;
#[cfg(madsim)]
pub mod timeline;
pub mod trace;
pub mod world;
