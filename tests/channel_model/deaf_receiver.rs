//! The queue, but nobody wakes the receiver.

mod sync {
    use std::task::Waker;

    pub use crate::looms::*;

    pub fn wake_receiver(_: Waker) {}

    pub fn wake_sender(waker: Waker) {
        waker.wake();
    }
}

#[path = "../../src/runtime/channel/queue.rs"]
#[allow(dead_code, reason = "the scenarios do not need all of it")]
mod queue;
#[path = "scenarios.rs"]
pub mod scenarios;
