//! What a panic costs.
//!
//! ```text
//!   panic ─► hook ─┬─ while a request is served ([`contain`]) ─► that request fails; logged and counted
//!                  └─ anywhere else ────────────────────────────► the process ends with its reason
//! ```
//!
//! Work for a client runs inside [`contain`], which marks the thread for as long as it runs; the process's panic hook
//! asks [`note`] whether the mark is set. What decides (raft, apply, the proposer, every task of the member's own) runs
//! outside, so a panic there ends the member: it has lost an invariant and must not serve on.
//!
//! A contained panic must not leave shared state half changed. What one call owns is dropped, never polled again. What is
//! shared stands behind locks, and whoever finds one [`poisoned`] ends the process: a lock was held by the code
//! that panicked, so what it guards is unknown.
//!
//! In the simulator nothing is contained: every panic ends the run.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::Pin;
use std::sync::PoisonError;
use std::task::{Context, Poll};

use super::Env;

thread_local! {
    /// Whether this thread runs work that may panic.
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
    /// What the hook knows of the panic that is being contained.
    static NOTED: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// A panic that was contained.
#[derive(Debug, PartialEq, Eq)]
pub struct Panic {
    pub message: String,
    /// File and line; empty if no hook of ours was there to look.
    pub place: String,
    pub stack: String,
}

impl Panic {
    fn of(payload: Box<dyn std::any::Any + Send>) -> Panic {
        let payload = match payload.downcast::<Panic>() {
            Ok(carried) => return *carried,
            Err(payload) => payload,
        };
        if let Some(noted) = NOTED.take() {
            return noted;
        }
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
        Panic {
            message: text.unwrap_or("the panic has no message").to_owned(),
            place: String::new(),
            stack: String::new(),
        }
    }

    /// Goes on with the panic where its output was waited for, on another thread perhaps.
    pub fn resume(self) -> ! {
        std::panic::resume_unwind(Box::new(self))
    }
}

/// Whether a panic would be contained just now.
pub fn is_contained() -> bool {
    CONTAINED.get()
}

/// Whether a panic is on its way through this code.
pub fn is_unwinding() -> bool {
    std::thread::panicking()
}

/// Runs work for a client. After an error, whatever `work` borrowed may only be dropped, by [`contain`] again.
pub fn contain<T>(work: impl FnOnce() -> T) -> Result<T, Panic> {
    if cfg!(madsim) {
        return Ok(work());
    }
    let before = CONTAINED.replace(true);
    // Unwind safe: see the module's header.
    let done = catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(before);
    done.map_err(Panic::of)
}

/// For the process's hook: true if the panic is contained, and remembers what is known of it.
pub fn note(panic: &PanicHookInfo<'_>) -> bool {
    if !is_contained() {
        return false;
    }
    let place = panic.location();
    NOTED.set(Some(Panic {
        message: panic
            .payload_as_str()
            .unwrap_or("the panic has no message")
            .to_owned(),
        place: place
            .map(|place| format!("{}:{}", place.file(), place.line()))
            .unwrap_or_default(),
        stack: std::backtrace::Backtrace::force_capture().to_string(),
    }));
    true
}

/// A lock was held by code that panicked: the process ends, whoever asks.
#[track_caller]
pub fn poisoned<T>(_: PoisonError<T>) -> T {
    CONTAINED.set(false);
    panic!("a panic has left what this lock guards half changed");
}

/// A client's task: a panic ends it alone. It is polled, and dropped, inside [`contain`].
pub struct Contained<F> {
    env: Env,
    what: &'static str,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future<Output = ()>> Contained<F> {
    /// `what` ends if it panics.
    pub fn new(env: &Env, what: &'static str, future: F) -> Self {
        Contained {
            env: env.clone(),
            what,
            future: Some(Box::pin(future)),
        }
    }
}

impl<F> Contained<F> {
    fn release(&mut self) {
        if let Err(panic) = contain(|| self.future = None) {
            self.env.panicked(&self.what, &panic);
        }
    }
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(future) = &mut this.future else {
            return Poll::Ready(());
        };
        match contain(|| future.as_mut().poll(cx)) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(())) => {}
            Err(panic) => this.env.panicked(&this.what, &panic),
        }
        this.release();
        Poll::Ready(())
    }
}

impl<F> Drop for Contained<F> {
    fn drop(&mut self) {
        self.release();
    }
}
