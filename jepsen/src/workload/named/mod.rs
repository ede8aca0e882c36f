//! Workloads by name: each decides what clients and watchers of a run do, and is aimed at some of the properties.
//!
//! ```text
//!   name ─► Workload ── draw(seed) ─► Load: the shape of what clients draw, what watchers watch, who else works
//!                                      └─► data: the simulator's plan stores it
//! ```
//!
//! A workload is a file here and a line of [`WORKLOADS`]. A [`Load`] is all that it decides, so that a stored run stays
//! the same run after the workload's code has changed. Every workload is judged by every property: those that it
//! names are the ones that it gives the most to see of.
//!
//! Deliberately absent: a checker for each workload. The sequential model knows what every answer has to be; and
//! Jepsen's `set`, which is `append` with other words.

mod append;
mod auth;
mod compaction;
mod extremes;
mod kubernetes;
mod lease_flood;
mod leases;
mod locks;
mod membership;
mod mixed;
mod once;
mod register;
#[cfg(test)]
mod tests;
mod transactions;
mod watch;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Shape, Watching};
use crate::property::Property;

/// The name of the workload that draws all kinds of operations.
pub const MIXED: &str = mixed::WORKLOAD.name;

/// All workloads.
pub const WORKLOADS: [Workload; 14] = [
    mixed::WORKLOAD,
    register::WORKLOAD,
    transactions::WORKLOAD,
    append::WORKLOAD,
    watch::WORKLOAD,
    leases::WORKLOAD,
    lease_flood::WORKLOAD,
    locks::WORKLOAD,
    auth::WORKLOAD,
    compaction::WORKLOAD,
    membership::WORKLOAD,
    kubernetes::WORKLOAD,
    extremes::WORKLOAD,
    once::WORKLOAD,
];

/// See the module's text.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    /// What it exercises, in a line.
    pub about: &'static str,
    /// The properties that it is aimed at.
    pub aims: &'static [Property],
    /// Who tested with it before, or whose way of working it is.
    pub source: &'static str,
    load: fn(u64) -> Load,
}

/// What a workload decides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// What clients draw.
    pub shape: Shape,
    pub watching: Watching,
    /// Everybody has to log in, an administrator gives and takes permissions, and limited users try what they may.
    pub auth: bool,
    /// Clients contend for locks and elections, instead of working on keys.
    pub contend: bool,
    /// Clients that keep many leases alive, beside those that work on keys.
    pub keepers: u32,
    /// Members are removed and added while clients work: whoever runs the cluster has to do that.
    pub membership: bool,
}

impl Workload {
    /// What it decides for a seed.
    pub fn load(&self, seed: u64) -> Load {
        (self.load)(seed)
    }

    /// # Errors
    /// Nobody has this name; the error says who there is.
    pub fn find(name: &str) -> Result<Workload, String> {
        let found = WORKLOADS.into_iter().find(|workload| workload.name == name);
        found.ok_or_else(|| {
            let names = WORKLOADS.map(|workload| workload.name).join(", ");
            format!("there is no workload named \"{name}\", but {names}")
        })
    }
}

/// All workloads, a line each.
pub fn table() -> String {
    let line = |workload: Workload| format!("{:<14} {}\n", workload.name, workload.about);
    WORKLOADS.map(line).concat()
}

/// What a workload draws from.
fn rng(seed: u64) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(seed ^ 0x574f_524b_4c4f_4144)
}
