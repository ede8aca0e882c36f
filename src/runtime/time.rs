//! Monotonic time as a number, so that each simulated node can have its own clock.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

/// A point on a node's monotonic clock: nanoseconds since the environment's start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    pub const fn from_nanos(nanos: u64) -> Self {
        Instant(nanos)
    }

    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn saturating_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates: "never" stays never.
    fn add(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_add(nanos(duration)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;

    fn sub(self, duration: Duration) -> Instant {
        Instant(self.0.saturating_sub(nanos(duration)))
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, duration: Duration) {
        *self = *self - duration;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_since(earlier)
    }
}

/// How long nothing has been heard of somebody, as far as this process was there to listen: from one look to the next no
/// more than a step counts. While a process is stopped, or gets no processor, what others send waits unread, and time
/// goes on; etcd counts ticks for the same reason, of which a pause brings one.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    lasted: Duration,
    looked: Instant,
    step_max: Duration,
}

impl Silence {
    pub fn begin(now: Instant, step_max: Duration) -> Self {
        Silence {
            lasted: Duration::ZERO,
            looked: now,
            step_max,
        }
    }

    pub fn lasted(&self, now: Instant) -> Duration {
        self.lasted + (now - self.looked).min(self.step_max)
    }

    pub fn look(&mut self, now: Instant) {
        self.lasted = self.lasted(now);
        self.looked = now;
    }

    /// Something was heard.
    pub fn end(&mut self, now: Instant) {
        *self = Silence::begin(now, self.step_max);
    }
}
