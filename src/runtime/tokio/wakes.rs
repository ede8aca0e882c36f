//! How tasks of one thread wake those of another.
//!
//! ```text
//!   core ── wakes ──► mailbox ──► io
//!   io   ── wakes ──► kept until the thread has nothing else to do, or for KEPT_FOR ──► core
//! ```
//!
//! To switch threads costs as much as what most messages ask for, so one switch should serve many, and none be for nothing.
//! Whoever wakes the core loses its processor to it, where they are few, and has to wake it again for the next message. So
//! a thread that serves many clients goes on for a while first.
//!
//! Only when a task is woken is decided here, never whether; threads may be late anyway.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::Instant;

use super::mailbox;

/// How long the wake-up of a core's task may be kept by a thread that has other things to do.
const KEPT_FOR: Duration = Duration::from_micros(100);
/// Polls in one go of a thread that serves more than one client: a call takes four.
const BUSY_POLLS: u32 = 10;

thread_local! {
    static THIS: IoThread = const {
        IoThread {
            says_when_idle: Cell::new(false),
            polled: Cell::new(0),
            polled_before: Cell::new(0),
            kept: RefCell::new(Vec::new()),
            since: Cell::new(None),
        }
    };
}

/// What an io thread knows of itself. On other threads, nothing.
struct IoThread {
    says_when_idle: Cell<bool>,
    /// How often it has polled a task since it had nothing to do.
    polled: Cell<u32>,
    /// How often in the time before.
    polled_before: Cell<u32>,
    /// Those that it will wake.
    kept: RefCell<Vec<Waker>>,
    /// Since when the first of them waits for that.
    since: Cell<Option<Instant>>,
}

impl IoThread {
    /// Whether it keeps whom it should wake: it says when it has nothing to do, and that is not about to be.
    fn keeps(&self) -> bool {
        let is_busy = |polled: &Cell<u32>| polled.get() >= BUSY_POLLS;
        self.says_when_idle.get() && (is_busy(&self.polled) || is_busy(&self.polled_before))
    }

    fn keep(&self, task: Waker) {
        if self.since.get().is_none() {
            self.since.set(Some(Instant::now()));
        }
        self.kept.borrow_mut().push(task);
    }

    fn wake_kept(&self) {
        self.since.set(None);
        let kept = self.kept.take();
        kept.into_iter().for_each(Waker::wake);
    }

    fn polled(&self) {
        self.polled.set(self.polled.get().saturating_add(1));
        if self.since.get().is_some_and(|since| since.elapsed() >= KEPT_FOR) {
            self.wake_kept();
        }
    }

    fn idle(&self) {
        self.wake_kept();
        self.polled_before.set(self.polled.take());
    }
}

impl Drop for IoThread {
    fn drop(&mut self) {
        self.wake_kept();
    }
}

/// Has the threads of a runtime say when they have nothing to do.
pub(super) fn prepare(io: &mut Builder) {
    io.on_thread_start(|| THIS.with(|thread| thread.says_when_idle.set(true)));
    io.on_thread_park(|| THIS.with(IoThread::idle));
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
            Home::Io => mailbox::wake(self.task.clone()),
            Home::Core => {
                // A thread that ends wakes at once.
                let kept = THIS.try_with(|thread| {
                    let keeps = thread.keeps();
                    if keeps {
                        thread.keep(self.task.clone());
                    }
                    keeps
                });
                if kept != Ok(true) {
                    self.task.wake_by_ref();
                }
            }
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
        let polled = Pin::new(future).poll(&mut Context::from_waker(waker));
        THIS.with(IoThread::polled);
        polled
    }
}

#[cfg(test)]
mod tests;
