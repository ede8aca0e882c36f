//! The simulated world: hosts with a network, a disk and a clock each.
//!
//! `net`, `disk` and `clock` are plain state: they are told the time and draw from their own stream of
//! the seed, and are tested without an executor. `timer`, `env` and `hosts` join them to madsim.

pub mod buggify;
pub mod clock;
pub mod crossing;
pub mod disk;
#[cfg(madsim)]
mod env;
#[cfg(madsim)]
mod hosts;
pub mod net;
#[cfg(all(test, madsim))]
mod tests;
#[cfg(madsim)]
mod timer;

#[cfg(madsim)]
pub use self::hosts::{Kill, World, current_name};

/// World time: nanoseconds since the run began.
pub type Nanos = u64;
