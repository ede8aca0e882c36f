//! A node's clock: its own origin, its own rate, never backwards within a life of the process.
//!
//! ```text
//!   world time (madsim)  ──►  monotonic(node) = origin + rate · (world - since)     Env::now
//!                        ──►  wall(node)      = epoch + world + skew                Env::wall_clock
//! ```
//!
//! The monotonic clock starts anywhere at each start of a process, so that code which compares instants
//! of two lives, or of two nodes, goes wrong at once. The rate may change while the process lives (drift);
//! the time of day may jump both ways.

use std::time::Duration;

use super::Nanos;

/// The largest drift, in parts per million: a bad quartz has 100, a virtual machine after migration more.
pub const DRIFT_PPM_MAX: i64 = 50_000;

/// 2026-01-01T00:00:00Z: where the simulated time of day starts.
const EPOCH: Duration = Duration::from_secs(1_767_225_600);

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Clock {
    since: Nanos,
    origin: Nanos,
    rate_ppm: i64,
    skew_ms: i64,
    /// How often it was looked at: the time of day, and the monotonic time.
    pub looks: (u64, u64),
}

impl Clock {
    /// A clock that shows `origin` at world time `now`.
    pub fn new(now: Nanos, origin: Nanos) -> Self {
        Clock {
            since: now,
            origin,
            rate_ppm: 0,
            skew_ms: 0,
            looks: (0, 0),
        }
    }

    /// What the monotonic clock shows.
    pub fn monotonic(&self, now: Nanos) -> Nanos {
        let passed = i128::from(now.saturating_sub(self.since));
        let scaled = passed * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        self.origin + u64::try_from(scaled).expect("drift is bounded: time goes forward")
    }

    /// The world time at which the monotonic clock shows `deadline` (or a little more).
    pub fn world_time_of(&self, deadline: Nanos) -> Nanos {
        let left = i128::from(deadline.saturating_sub(self.origin));
        let rate = i128::from(1_000_000 + self.rate_ppm);
        let scaled = (left * 1_000_000 + rate - 1) / rate;
        self.since
            .saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX))
    }

    /// From now on the clock gains this many microseconds per second.
    pub fn drift(&mut self, now: Nanos, rate_ppm: i64) {
        assert!(rate_ppm.abs() <= DRIFT_PPM_MAX, "a drift beyond the model");
        self.origin = self.monotonic(now);
        self.since = now;
        self.rate_ppm = rate_ppm;
    }

    /// The same machine's next process begins with another origin; the time of day stays wrong if it is.
    pub fn restart(&mut self, now: Nanos, origin: Nanos) {
        (self.since, self.origin, self.rate_ppm) = (now, origin, 0);
    }

    /// Moves the time of day.
    pub fn skew(&mut self, skew_ms: i64) {
        self.skew_ms = skew_ms;
    }

    /// Time of day since the Unix epoch.
    pub fn wall(&self, now: Nanos) -> Duration {
        let time = EPOCH + Duration::from_nanos(now);
        let skew = Duration::from_millis(self.skew_ms.unsigned_abs());
        match self.skew_ms < 0 {
            true => time.saturating_sub(skew),
            false => time + skew,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drifting_clock_never_goes_back_and_deadlines_are_met() {
        let mut clock = Clock::new(1_000, 5_000_000);
        let mut last = clock.monotonic(1_000);
        assert_eq!(last, 5_000_000);
        let mut now = 1_000;
        for rate in [0, 30_000, -50_000, 7, -7, 0] {
            clock.drift(now, rate);
            let deadline = clock.monotonic(now) + 123_456_789;
            let fires = clock.world_time_of(deadline);
            assert!(clock.monotonic(fires) >= deadline && clock.monotonic(fires) < deadline + 10);
            for step in [1, 17, 1_000_003, 400_000_000] {
                now += step;
                assert!(clock.monotonic(now) >= last, "rate {rate}");
                last = clock.monotonic(now);
            }
        }
        assert_eq!(clock.world_time_of(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_time_of_day_jumps_both_ways_without_the_monotonic_clock() {
        let mut clock = Clock::new(0, 0);
        let straight = clock.wall(10);
        clock.skew(-2_000);
        assert_eq!(clock.wall(10), straight - Duration::from_secs(2));
        clock.skew(500);
        assert_eq!(clock.wall(10), straight + Duration::from_millis(500));
        assert_eq!(clock.monotonic(10), 10);
    }
}
