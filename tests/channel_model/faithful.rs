//! The queue as it is.

mod sync {
    use std::task::Waker;

    pub use crate::looms::*;

    pub fn wake_receiver(waker: Waker) {
        waker.wake();
    }

    pub fn wake_sender(waker: Waker) {
        waker.wake();
    }
}

#[path = "../../src/runtime/channel/queue.rs"]
#[allow(dead_code, reason = "the scenarios do not need all of it")]
mod queue;
#[path = "scenarios.rs"]
pub mod scenarios;
