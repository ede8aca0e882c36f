//! The lock of the replicated state: who reads shares it, apply has it alone.
//!
//! Two rules, which the lock itself looks after:
//!
//! * **No thread takes it twice.** A second look within a look would wait for a writer that waits for the first one: a deadlock
//!   that needs a write at the wrong moment to show. So it panics at once, with or without a writer.
//! * **Nobody keeps it for long.** How long it was held, and how much was looked at meanwhile, is a figure
//!   (`quorate_state_held_seconds`, `quorate_state_held_entries`). What is large comes in pieces, and what needs the
//!   disk is read from a view, without the lock.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::base::effort;
use crate::base::figures::HeldFigures;
use crate::runtime::panics::poisoned;
use crate::runtime::{Env, Instant};

thread_local! {
    static HELD: Cell<bool> = const { Cell::new(false) };
}

/// See the module.
pub(super) struct StateLock<T> {
    env: Env,
    inner: RwLock<T>,
}

impl<T> StateLock<T> {
    pub fn new(env: Env, inner: T) -> Self {
        let inner = RwLock::new(inner);
        StateLock { env, inner }
    }

    /// # Panics
    /// This thread holds the lock.
    pub fn read(&self) -> Held<'_, RwLockReadGuard<'_, T>> {
        assert_not_held();
        let guard = self.inner.read().unwrap_or_else(poisoned);
        Held::new(guard, &self.env, &self.env.figures().state.read)
    }

    /// # Panics
    /// This thread holds the lock.
    pub fn write(&self) -> Held<'_, RwLockWriteGuard<'_, T>> {
        assert_not_held();
        let guard = self.inner.write().unwrap_or_else(poisoned);
        Held::new(guard, &self.env, &self.env.figures().state.apply)
    }
}

fn assert_not_held() {
    assert!(!HELD.get(), "a look at the state within a look at the state");
}

/// The lock, while it is held.
pub(super) struct Held<'a, G> {
    guard: G,
    env: &'a Env,
    figures: &'a HeldFigures,
    since: Instant,
    spent: u64,
}

impl<'a, G> Held<'a, G> {
    fn new(guard: G, env: &'a Env, figures: &'a HeldFigures) -> Self {
        HELD.set(true);
        Held {
            guard,
            env,
            figures,
            since: env.now(),
            spent: effort::spent(),
        }
    }
}

impl<G: Deref> Deref for Held<'_, G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Held<'_, G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

impl<G> Drop for Held<'_, G> {
    fn drop(&mut self) {
        HELD.set(false);
        self.figures.seconds.observe(self.env.now() - self.since);
        let spent = effort::spent().wrapping_sub(self.spent);
        self.figures.entries.observe_number(spent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_within_a_look_is_refused_with_or_without_a_writer() {
        let lock = StateLock::new(crate::runtime::tokio::env(), 1);
        let (a, b) = (|| drop(lock.read()), || drop(lock.write()));
        let looks: [&dyn Fn(); 2] = [&a, &b];
        for look in looks {
            let held = lock.read();
            let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
            assert!(again.is_err(), "it was let in");
            drop(held);
            look();
        }
    }

    #[tokio::test]
    async fn what_is_looked_at_meanwhile_is_counted() {
        let (env, figures) = (crate::runtime::tokio::env(), HeldFigures::default());
        effort::spend(1_000);
        let held = Held::new((), &env, &figures);
        effort::spend(3);
        drop(held);
        assert_eq!((figures.entries.count(), figures.entries.sum()), (1, 3.0));
        assert_eq!(figures.seconds.count(), 1);
    }
}
