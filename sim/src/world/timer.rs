//! Timers on madsim's clock, exact to the nanosecond and cheap to poll.
//!
//! madsim's own `Sleep` waits at least a millisecond and registers another timer at each poll; a request's
//! time-out that is polled at every step of the request would pile them up. Here a sleep registers once,
//! and a sleep that is dropped wakes nobody.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use madsim::time::TimeHandle;

use super::Nanos;

/// The world's clock, as timers need it.
#[derive(Clone)]
pub struct Time {
    handle: TimeHandle,
    start: madsim::time::Instant,
}

impl Time {
    /// The clock of the madsim runtime that runs this code.
    pub fn current() -> Self {
        let handle = TimeHandle::current();
        let start = handle.now_instant() - handle.elapsed();
        Time { handle, start }
    }

    pub fn now(&self) -> Nanos {
        u64::try_from(self.handle.elapsed().as_nanos()).expect("a run lasts less than 584 years")
    }

    /// Wakes somebody at a time; cannot be taken back.
    pub fn wake_at(&self, at: Nanos, waker: &Waker) {
        let mut sleep = self.handle.sleep(Duration::ZERO);
        // A reset, because `sleep` itself rounds up to a millisecond.
        Pin::new(&mut sleep).reset(self.start + Duration::from_nanos(at));
        if Pin::new(&mut sleep)
            .poll(&mut Context::from_waker(waker))
            .is_ready()
        {
            waker.wake_by_ref();
        }
    }

    pub fn sleep_until(&self, at: Nanos) -> Sleep {
        Sleep {
            time: self.clone(),
            at,
            alarm: None,
        }
    }

    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now().saturating_add(super::net::nanos(duration)))
    }
}

/// Ready at a point of world time.
pub struct Sleep {
    time: Time,
    at: Nanos,
    alarm: Option<Arc<Alarm>>,
}

#[derive(Default)]
struct Alarm {
    waiting: Mutex<Option<Waker>>,
}

impl Alarm {
    fn set(&self, waker: Option<Waker>) -> Option<Waker> {
        let mut waiting = self.waiting.lock().expect("nothing panics under this lock");
        std::mem::replace(&mut *waiting, waker)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.set(None).into_iter().for_each(Waker::wake);
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.time.now() >= self.at {
            return Poll::Ready(());
        }
        if let Some(alarm) = &self.alarm {
            alarm.set(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let alarm = Arc::new(Alarm::default());
        alarm.set(Some(cx.waker().clone()));
        self.time.wake_at(self.at, &Waker::from(alarm.clone()));
        self.alarm = Some(alarm);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(alarm) = &self.alarm {
            alarm.set(None);
        }
    }
}
