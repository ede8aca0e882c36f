//! How much a thread has looked at: entries of the index and records of the store.
//!
//! Work, not time, so that a test can bound what is done in one look at the state on any machine.

use std::cell::Cell;

thread_local! {
    static EFFORT: Cell<u64> = const { Cell::new(0) };
}

/// This thread has looked at `items` more.
pub fn spend(items: usize) {
    EFFORT.with(|effort| effort.set(effort.get().wrapping_add(items as u64)));
}

/// All that this thread has looked at; differences are what counts.
pub fn spent() -> u64 {
    EFFORT.with(Cell::get)
}
