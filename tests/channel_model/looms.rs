//! What scenarios and queue take from loom, apart from waking: see `src/runtime/channel/sync.rs`.
//!
//! loom's are the locks, the queue's and that of the bell which a thread waits for: whatever can order anything. References are
//! counted by std, of which nothing has to be shown.

use std::future::Future;
use std::mem;
use std::pin::pin;
use std::sync::PoisonError;
use std::task::{Context, Poll, Wake, Waker};

use loom::sync::Condvar;

pub use loom::sync::{Mutex, MutexGuard};
pub use std::sync::Arc;

pub fn poisoned<T>(_: PoisonError<T>) -> T {
    panic!("a panic while the lock was held");
}

/// What a thread waits for. Not loom's own `Notify`: that also rings by itself, which makes ten times as many orders.
#[derive(Default)]
struct Bell {
    has_rung: Mutex<bool>,
    rings: Condvar,
}

impl Bell {
    fn wait(&self) {
        let mut has_rung = self.has_rung.lock().unwrap_or_else(poisoned);
        while !mem::take(&mut *has_rung) {
            has_rung = self.rings.wait(has_rung).unwrap_or_else(poisoned);
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        *self.has_rung.lock().unwrap_or_else(poisoned) = true;
        self.rings.notify_one();
    }
}

/// Runs a future on this thread, which waits while the future does.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(bell.clone());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        bell.wait();
    }
}
