//! How tasks of one thread wake those of another.
//!
//! ```text
//!   core ── wakes ──► mailbox ──► io
//!   io   ── wakes ──► kept until an io thread has nothing else to do, or for KEPT_FOR and a poll ──► core
//! ```
//!
//! To switch threads costs as much as what most messages ask for, so one switch should serve many, and none be for nothing.
//! Whoever wakes the core loses its processor to it, where they are few, and has to wake it again for the next message. So
//! a thread that serves many clients goes on for a while first.
//!
//! Only when a task is woken is decided here, never whether; threads may be late anyway.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::Instant;

use super::mailbox;
use crate::runtime::panics::poisoned;

/// How long the wake-up of a core's task may be kept by threads that have other things to do: whichever ends a poll
/// after that wakes it.
const KEPT_FOR: Duration = Duration::from_micros(100);
/// Polls in one go of a thread that serves more than one client: a lone client's call takes about four.
const BUSY_POLLS: u32 = 10;

/// What io threads know of each other.
struct IoThreads {
    count: AtomicUsize,
    /// Those that have nothing to do.
    idle: AtomicUsize,
    is_any_kept: AtomicBool,
    kept: Mutex<Kept>,
}

/// Tasks of cores that will be woken.
struct Kept {
    tasks: Vec<Waker>,
    /// Since when the first of them waits for that.
    since: Option<Instant>,
}

static IO: IoThreads = IoThreads {
    count: AtomicUsize::new(0),
    idle: AtomicUsize::new(0),
    is_any_kept: AtomicBool::new(false),
    kept: Mutex::new(Kept {
        tasks: Vec::new(),
        since: None,
    }),
};

impl IoThreads {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(poisoned)
    }

    fn keep(&self, task: Waker) {
        let mut kept = self.lock();
        kept.since.get_or_insert_with(Instant::now);
        kept.tasks.push(task);
        self.is_any_kept.store(true, Ordering::SeqCst);
    }

    /// Wakes those that were kept, if the first was for so long.
    fn wake_kept(&self, at_least: Duration) {
        if !self.is_any_kept.load(Ordering::SeqCst) {
            return;
        }
        let mut kept = self.lock();
        if kept.since.is_some_and(|since| since.elapsed() < at_least) {
            return;
        }
        kept.since = None;
        let tasks = std::mem::take(&mut kept.tasks);
        self.is_any_kept.store(false, Ordering::SeqCst);
        drop(kept);
        tasks.into_iter().for_each(Waker::wake);
    }
}

/// Whether an io thread hears what the driver of sockets says, or soon will: one of them does if all have nothing to do.
/// While some are busy, the others sleep without it, and the busy ones may be so for long; if all are, each looks now and then.
pub(super) fn is_driver_heard() -> bool {
    let (count, idle) = (IO.count.load(Ordering::SeqCst), IO.idle.load(Ordering::SeqCst));
    idle == 0 || idle >= count
}

thread_local! {
    static THIS: IoThread = const {
        IoThread {
            says_when_idle: Cell::new(false),
            polls: Cell::new(false),
            polled: Cell::new(0),
            polled_before: Cell::new(0),
        }
    };
}

/// What a thread knows of itself.
struct IoThread {
    /// It is one of the io threads.
    says_when_idle: Cell<bool>,
    /// It polls a task.
    polls: Cell<bool>,
    /// How often it has polled one since it had nothing to do.
    polled: Cell<u32>,
    /// How often in the time before.
    polled_before: Cell<u32>,
}

impl IoThread {
    /// Whether it keeps whom it should wake: it says when it has nothing to do, and that is not about to be.
    fn keeps(&self) -> bool {
        let is_busy = |polled: &Cell<u32>| polled.get() >= BUSY_POLLS;
        self.polls.get()
            && self.says_when_idle.get()
            && (is_busy(&self.polled) || is_busy(&self.polled_before))
    }

    fn poll<T>(&self, poll: impl FnOnce() -> T) -> T {
        let polls = self.polls.replace(true);
        let polled = poll();
        self.polls.set(polls);
        self.polled.set(self.polled.get().saturating_add(1));
        IO.wake_kept(KEPT_FOR);
        polled
    }

    /// It has nothing to do.
    fn idle(&self) {
        if !self.says_when_idle.replace(true) {
            IO.count.fetch_add(1, Ordering::SeqCst);
        }
        IO.idle.fetch_add(1, Ordering::SeqCst);
        IO.wake_kept(Duration::ZERO);
        self.polled_before.set(self.polled.take());
    }

    fn busy(&self) {
        IO.idle.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        if self.says_when_idle.get() {
            IO.count.fetch_sub(1, Ordering::SeqCst);
            IO.wake_kept(Duration::ZERO);
        }
    }
}

/// Has the threads of a runtime say when they have nothing to do.
pub(super) fn prepare(io: &mut Builder) {
    io.on_thread_park(|| THIS.with(IoThread::idle));
    io.on_thread_unpark(|| THIS.with(IoThread::busy));
}

/// Which threads run a task.
#[derive(Clone, Copy)]
enum Home {
    Io,
    Core,
}

/// How a task is woken.
struct Route {
    home: Home,
    task: Waker,
}

impl Wake for Route {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match self.home {
            Home::Io => mailbox::wake(&self.task),
            // A thread that ends keeps nothing.
            Home::Core if THIS.try_with(IoThread::keeps) == Ok(true) => IO.keep(self.task.clone()),
            Home::Core => self.task.wake_by_ref(),
        }
    }
}

/// A task that is woken in the way of its home.
pub(super) struct Routed<F> {
    future: F,
    home: Home,
    /// Of the last poll.
    route: Option<(Arc<Route>, Waker)>,
}

impl<F> Routed<F> {
    pub(super) fn on_io(future: F) -> Self {
        Self::new(Home::Io, future)
    }

    pub(super) fn on_core(future: F) -> Self {
        Self::new(Home::Core, future)
    }

    fn new(home: Home, future: F) -> Self {
        Routed {
            future,
            home,
            route: None,
        }
    }
}

impl<F: Future + Unpin> Future for Routed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Routed { future, home, route } = &mut *self;
        let earlier = route.take().filter(|(route, _)| route.task.will_wake(cx.waker()));
        let (_, waker) = route.insert(earlier.unwrap_or_else(|| {
            let (home, task) = (*home, cx.waker().clone());
            let route = Arc::new(Route { home, task });
            (route.clone(), Waker::from(route))
        }));
        THIS.with(|thread| thread.poll(|| Pin::new(future).poll(&mut Context::from_waker(waker))))
    }
}

#[cfg(test)]
mod tests;
