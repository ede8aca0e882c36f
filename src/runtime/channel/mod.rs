//! Messages between threads: the place where a lock decides what happens first.
//!
//! ```text
//!   Sender ─┐
//!   Sender ─┼─► queue, bounded by count and bytes ─► Receiver
//!   Sender ─┘                                           │
//!   Answered ◄─────────────────────────────────────── Answer     (which came in the message)
//! ```
//!
//! What decides runs on one thread, and the others reach it by messages alone. So whatever can go wrong between threads goes
//! wrong here, and this is small enough to be tried out in all orders: `tests/channel_model` compiles `queue.rs` again, against
//! loom's lock in place of the one in `sync.rs`, and executes a dozen scenarios once for each order in which threads can take
//! it. The way back, [`answer`], is tokio's, which its authors check in the same way.
//!
//! A channel does not know what time it is: where the simulator wants a message to take long, whoever receives waits,
//! with [`Env::cross`](super::Env::cross).

mod answer;
mod queue;
mod sync;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Answered, answer};
pub use queue::{Closed, Limits, Receiver, Sender, TryRecvError, TrySendError, channel};
