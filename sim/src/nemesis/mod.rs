//! The nemesis: which fault strikes whom, when and for how long: data, drawn before the run begins.
//!
//! ```text
//!   seed ─► classes that are on (about half) ─► Schedule [at, lasts, what] ─► act (under madsim)
//! ```
//!
//! A schedule is data so that it can be printed, kept, cut down and replayed after the code has moved on.
//! "The leader" is decided when the fault strikes. Every fault ends before the schedule does, so that the
//! run's quiet end begins on a cluster that can heal; but for middle boxes, behind which it has to.
//!
//! What stays survivable: any number of members may crash, all at once too; they come back with everything they
//! acknowledged. What was synced is damaged on a minority of disks alone, of which [`Atlas`] keeps the count.

#[cfg(madsim)]
mod act;
mod atlas;
mod class;
mod schedule;

#[cfg(madsim)]
pub use self::act::{Tools, strike};
pub use self::atlas::{Atlas, Health};
pub use self::class::{Class, Group};
pub use self::schedule::{Fault, Schedule};
