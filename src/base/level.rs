//! Levels: what a log entry needs of the release that applies it.
//!
//! Members of two releases run side by side while a cluster is upgraded, and all of them have to apply the same entries in
//! the same way. So each command carries the lowest level that can apply it, members tell each other up to which level they
//! know, and nothing above the *cluster's level*, the lowest of all members', is proposed. That level is decided in
//! the log and never sinks: until it rises, every member may go back to the release before. A member that meets an entry
//! above its own level stops before it applies any of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Level(pub u16);

impl Level {
    /// What every release knows, and a cluster begins with.
    pub const FIRST: Level = Level(1);
    /// Commands of a batch are applied once: see `state::once`.
    pub const APPLIED_ONCE: Level = Level(2);
    /// A question for a read's place in the log counts as a confirmation: see `consensus::read`.
    pub const VOUCHED_READS: Level = Level(3);
    /// Up to which this release knows.
    pub const NEWEST: Level = Level::VOUCHED_READS;
}

impl Default for Level {
    fn default() -> Self {
        Level::FIRST
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
