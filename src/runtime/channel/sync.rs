//! What the queue takes from its surroundings: here the standard library's; in `tests/channel_model` loom's.
//!
//! Waking has a function for each side, so that the model check can leave one out and show that it would notice.

use std::task::Waker;

pub(super) use std::sync::{Arc, Mutex, MutexGuard};

pub(super) use crate::runtime::panics::poisoned;

pub(super) fn wake_receiver(waker: Waker) {
    waker.wake();
}

pub(super) fn wake_sender(waker: Waker) {
    waker.wake();
}
