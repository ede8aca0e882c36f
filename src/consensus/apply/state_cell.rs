//! The replicated state in its cell: who reads shares it, apply has it alone.
//!
//! Two rules, which the cell itself looks after:
//!
//! * **No look within a look.** It panics, with or without a writer.
//! * **Nobody keeps it for long.** Nothing else happens on this thread meanwhile. How long it was held, and how much was
//!   looked at meanwhile, is a figure (`quorate_state_held_seconds`, `quorate_state_held_entries`). What is large comes in
//!   pieces, and what needs the disk is read from a view, elsewhere.

use std::cell::{RefCell, RefMut};
use std::ops::{Deref, DerefMut};

use crate::base::effort;
use crate::base::metrics::HeldMetrics;
use crate::runtime::{Env, Instant};

/// See the module.
pub struct StateCell<T> {
    env: Env,
    inner: RefCell<T>,
}

impl<T> StateCell<T> {
    pub fn new(env: Env, inner: T) -> Self {
        let inner = RefCell::new(inner);
        StateCell { env, inner }
    }

    /// # Panics
    /// Within another look.
    pub fn read(&self) -> Held<'_, T> {
        self.held(&self.env.metrics().state.read)
    }

    /// # Panics
    /// Within another look.
    pub fn write(&self) -> Held<'_, T> {
        self.held(&self.env.metrics().state.apply)
    }

    fn held<'a>(&'a self, metrics: &'a HeldMetrics) -> Held<'a, T> {
        let inner = self.inner.try_borrow_mut();
        let guard = inner.expect("a look at the state within a look at the state");
        Held::new(guard, &self.env, metrics)
    }
}

/// The state, while somebody looks at it.
pub struct Held<'a, T> {
    guard: RefMut<'a, T>,
    env: &'a Env,
    metrics: &'a HeldMetrics,
    since: Instant,
    spent: u64,
}

impl<'a, T> Held<'a, T> {
    fn new(guard: RefMut<'a, T>, env: &'a Env, metrics: &'a HeldMetrics) -> Self {
        Held {
            guard,
            env,
            metrics,
            since: env.now(),
            spent: effort::spent(),
        }
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.metrics.seconds.observe(self.env.now() - self.since);
        let spent = effort::spent().wrapping_sub(self.spent);
        self.metrics.entries.observe_number(spent);
    }
}

#[cfg(test)]
mod tests;
