//! What can be counted: a counter, a gauge, a histogram. Each observation is one or two relaxed atomics; nothing
//! is ordered by them, so a reader may see the count of an observation before its sum.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often something happened, or how much of it.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn inc(&self) {
        self.add(1);
    }

    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// How much there is of something now.
#[derive(Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    pub fn add(&self, amount: i64) {
        self.0.fetch_add(amount, Relaxed);
    }

    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// One more, for as long as the guard lives.
    pub fn hold(&self) -> Held<'_> {
        self.add(1);
        Held(self)
    }
}

/// See [`Gauge::hold`].
pub struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

/// What a histogram's values are, and in which unit its bounds and its sum are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Unit {
    Seconds,
    Milliseconds,
    /// Plain numbers.
    One,
}

impl Unit {
    /// Values are kept in nanoseconds, but for plain numbers.
    fn ticks(self) -> u64 {
        match self {
            Unit::Seconds => 1_000_000_000,
            Unit::Milliseconds => 1_000_000,
            Unit::One => 1,
        }
    }
}

/// The most buckets that a histogram of etcd's has.
const BUCKETS_MAX: usize = 24;

/// How values are distributed. The bounds are powers of two times the first, as in all of etcd's own histograms.
pub struct Histogram {
    unit: Unit,
    /// The first bound, in ticks.
    first: u64,
    bounds: usize,
    /// Values up to each bound and above the one before; then those above all bounds.
    buckets: [AtomicU64; BUCKETS_MAX + 1],
    /// In ticks.
    sum: AtomicU64,
}

impl Histogram {
    /// Durations that are told in seconds.
    pub fn seconds(first: Duration, bounds: usize) -> Histogram {
        Histogram::new(Unit::Seconds, nanos(first), bounds)
    }

    /// Durations that are told in milliseconds.
    pub fn milliseconds(first: Duration, bounds: usize) -> Histogram {
        Histogram::new(Unit::Milliseconds, nanos(first), bounds)
    }

    /// Plain numbers.
    pub fn numbers(first: u64, bounds: usize) -> Histogram {
        Histogram::new(Unit::One, first, bounds)
    }

    fn new(unit: Unit, first: u64, bounds: usize) -> Histogram {
        assert!(
            first > 0 && bounds <= BUCKETS_MAX,
            "bounds of etcd's histograms fit"
        );
        Histogram {
            unit,
            first,
            bounds,
            buckets: Default::default(),
            sum: AtomicU64::new(0),
        }
    }

    pub fn observe(&self, duration: Duration) {
        self.observe_ticks(nanos(duration));
    }

    pub fn observe_number(&self, number: u64) {
        self.observe_ticks(number);
    }

    fn observe_ticks(&self, ticks: u64) {
        // The first bound that is not below the value: the logarithm, rounded up.
        let multiple = ticks.div_ceil(self.first).max(1);
        let place = (u64::BITS - (multiple - 1).leading_zeros()) as usize;
        if let Some(bucket) = self.buckets.get(place.min(self.bounds)) {
            bucket.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(ticks, Relaxed);
    }

    /// Each bound in its unit, and how many values are not above it.
    pub fn cumulative(&self) -> Vec<(f64, u64)> {
        let mut below = 0;
        let counted = self.buckets.iter().take(self.bounds).enumerate();
        let pair = |(place, bucket): (usize, &AtomicU64)| {
            below += bucket.load(Relaxed);
            let bound = self.first as f64 * (1u64 << place) as f64 / self.unit.ticks() as f64;
            (bound, below)
        };
        counted.map(pair).collect()
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }

    /// The sum of all values, in the unit.
    pub fn sum(&self) -> f64 {
        self.sum.load(Relaxed) as f64 / self.unit.ticks() as f64
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
