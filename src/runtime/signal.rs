//! A watched value that wakes its waiters first in, first out.
//!
//! `tokio::sync::watch` wakes in an order that depends on a process-global counter, which differs
//! between two runs of one seed. This one keeps its waiters in a list.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use super::panics::poisoned;

struct Shared<T> {
    inner: Mutex<Inner<T>>,
}

struct Inner<T> {
    value: T,
    version: u64,
    senders: usize,
    /// Who waits, in order of arrival.
    waiters: BTreeMap<u64, Waker>,
    next_waiter: u64,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        self.inner.lock().unwrap_or_else(poisoned)
    }
}

impl<T> Inner<T> {
    fn take_waiters(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.waiters).into_values().collect()
    }
}

/// A watched value and its first receiver.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let inner = Inner {
        value,
        version: 0,
        senders: 1,
        waiters: BTreeMap::new(),
        next_waiter: 0,
    };
    let shared = Arc::new(Shared {
        inner: Mutex::new(inner),
    });
    (
        Sender {
            shared: shared.clone(),
        },
        Receiver { shared, seen: 0 },
    )
}

/// The side that sets the value.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

/// The side that waits for changes; each receiver remembers which value it saw last.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// All senders are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("signal closed")]
pub struct Closed;

/// A look at the value; the lock is held meanwhile, so keep it short and never across an await.
pub struct Ref<'a, T>(MutexGuard<'a, Inner<T>>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> Sender<T> {
    pub fn send(&self, value: T) {
        self.send_if_modified(|current| {
            *current = value;
            true
        });
    }

    /// Changes the value in place; wakes waiters if `modify` says that it changed.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let mut inner = self.shared.lock();
        if !modify(&mut inner.value) {
            return false;
        }
        inner.version += 1;
        let waiters = inner.take_waiters();
        drop(inner);
        waiters.into_iter().for_each(Waker::wake);
        true
    }

    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.lock())
    }

    /// A receiver that has seen the present value.
    pub fn subscribe(&self) -> Receiver<T> {
        let seen = self.shared.lock().version;
        Receiver {
            shared: self.shared.clone(),
            seen,
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Sender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        inner.senders -= 1;
        if inner.senders == 0 {
            let waiters = inner.take_waiters();
            drop(inner);
            waiters.into_iter().for_each(Waker::wake);
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver {
            shared: self.shared.clone(),
            seen: self.seen,
        }
    }
}

impl<T> Receiver<T> {
    pub fn borrow(&self) -> Ref<'_, T> {
        Ref(self.shared.lock())
    }

    /// A look at the value, which counts as seen from now on.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let inner = self.shared.lock();
        self.seen = inner.version;
        Ref(inner)
    }

    /// Waits until the value differs from the one this receiver saw last.
    pub fn changed(&mut self) -> Changed<'_, T> {
        Changed {
            receiver: self,
            waiter: None,
        }
    }

    /// Waits until the value fulfils `condition`, which is checked at once and at each change.
    pub async fn wait_until(&mut self, mut condition: impl FnMut(&T) -> bool) -> Result<(), Closed> {
        loop {
            if condition(&self.borrow_and_update()) {
                return Ok(());
            }
            self.changed().await?;
        }
    }
}

/// See [`Receiver::changed`].
pub struct Changed<'a, T> {
    receiver: &'a mut Receiver<T>,
    waiter: Option<u64>,
}

impl<T> Future for Changed<'_, T> {
    type Output = Result<(), Closed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut inner = this.receiver.shared.lock();
        if let Some(waiter) = this.waiter.take() {
            inner.waiters.remove(&waiter);
        }
        if inner.version != this.receiver.seen {
            this.receiver.seen = inner.version;
            return Poll::Ready(Ok(()));
        }
        if inner.senders == 0 {
            return Poll::Ready(Err(Closed));
        }
        let waiter = inner.next_waiter;
        inner.next_waiter += 1;
        inner.waiters.insert(waiter, cx.waker().clone());
        this.waiter = Some(waiter);
        Poll::Pending
    }
}

impl<T> Drop for Changed<'_, T> {
    fn drop(&mut self) {
        if let Some(waiter) = self.waiter {
            self.receiver.shared.lock().waiters.remove(&waiter);
        }
    }
}

#[cfg(test)]
mod tests;
