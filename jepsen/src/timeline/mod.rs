//! A run as one page for people: who led, what broke, what clients asked and were told, and where the
//! first violation shows.
//!
//! ```text
//!   simulator's recorder ─┐ nodes, faults, cuts
//!                         ├─► Timeline (data) ─► thin ─► page ─► one HTML file, no other resource
//!   history, verdict ─────┘ clients, operations, watches, violations
//! ```
//!
//! [`Timeline`] is plain data that reads back from the page it was written into. Simulator and black-box
//! runner fill what they know of the nodes; everything that clients saw is taken from the [`History`]
//! (`of_history`). This module draws no conclusion: verdicts come in as [`Violation`]s, and what it adds
//! (`involved`) is only which other operations touched what a violation names.
//!
//! [`History`]: crate::history::History

mod data;
mod describe;
mod excerpt;
mod involved;
mod of_history;
mod page;
mod sources;
#[cfg(test)]
mod tests;
mod thin;

pub use data::{
    Client, Cut, Ended, Entry, Fact, Fault, Involved, Life, Mark, Micros, Node, Operation, Outcome, Phase,
    Role, State, Timeline, Tone, Violation, Watch,
};
pub use page::{PAGE_BYTES_MAX, render};
pub use sources::{promise, source};
