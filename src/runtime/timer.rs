//! hyper's timer, on the environment's clock.
//!
//! hyper speaks std's `Instant`, which nobody but the system can make. So one reading of the system's clock is the zero of
//! a scale on which everything else is the environment's time: no decision ever depends on that reading.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use super::{BoxFuture, Env, Instant};

/// hyper's clock: the environment's, on a scale that begins at one reading of the system's.
#[derive(Clone)]
pub struct EnvTimer {
    env: Env,
    zero: std::time::Instant,
    env_zero: Instant,
}

impl EnvTimer {
    // hyper speaks std's Instant, which only the system can make: one reading, of which differences alone count.
    #[allow(clippy::disallowed_methods)]
    pub fn new(env: Env) -> Self {
        EnvTimer {
            zero: std::time::Instant::now(),
            env_zero: env.now(),
            env,
        }
    }
}

impl hyper::rt::Timer for EnvTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(EnvSleep(Mutex::new(self.env.sleep(duration))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> std::time::Instant {
        self.zero + (self.env.now() - self.env_zero)
    }
}

/// hyper wants its sleeps to be `Sync`; nobody ever contends for this lock.
struct EnvSleep(Mutex<BoxFuture<'static, ()>>);

impl Future for EnvSleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .poll(cx)
    }
}

impl hyper::rt::Sleep for EnvSleep {}
