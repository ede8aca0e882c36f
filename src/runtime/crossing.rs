//! Ways of a message from one of a member's threads to another.
//!
//! ```text
//!   io threads ──ToCore──►        ──ToLog──►    log thread
//!                          core
//!   io threads ◄─FromCore─        ◄─FromLog──   log thread      (ToEngine, FromEngine: the same for the engine's threads)
//! ```
//!
//! In production a message is there at once, and is seen when its receiver's thread gets to run, which may be late. The
//! simulator has one thread for all: there whoever receives waits for as long as [`Env::cross`](super::Env::cross) says, so that
//! what two threads do at the same time happens in either order.

/// One of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Crossing {
    /// What clients and other members ask for.
    ToCore,
    /// What they are answered.
    FromCore,
    /// What is to be made durable.
    ToLog,
    /// That it is.
    FromLog,
    /// What was applied, and reads of what is not in memory.
    ToEngine,
    /// What they found.
    FromEngine,
}

impl Crossing {
    /// Every one there is.
    pub const ALL: &'static [Crossing] = &[
        Crossing::ToCore,
        Crossing::FromCore,
        Crossing::ToLog,
        Crossing::FromLog,
        Crossing::ToEngine,
        Crossing::FromEngine,
    ];

    /// What it is counted as.
    pub const fn name(self) -> &'static str {
        match self {
            Crossing::ToCore => "to core",
            Crossing::FromCore => "from core",
            Crossing::ToLog => "to log",
            Crossing::FromLog => "from log",
            Crossing::ToEngine => "to engine",
            Crossing::FromEngine => "from engine",
        }
    }
}
