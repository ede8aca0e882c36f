//! Randomness: one seed, a separate stream of numbers for each purpose.
//!
//! ```text
//!   seed ──┬── "network"   latencies, retransmissions
//!          ├── "disk m1"   latencies, what a crash tears
//!          ├── "workload"  shape, operations
//!          └── ...
//! ```
//!
//! Separate streams, because a change in one place (an additional message on the network) must not
//! change every decision elsewhere: a failure stays comparable while the code moves. The generator and
//! the derivation are written down here rather than taken from `rand`'s distributions, whose values may
//! change with a release: a seed in the corpus has to mean the same run for as long as possible.

use std::ops::Range;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// The number that decides a whole run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seed(pub u64);

impl Seed {
    /// The stream of this seed for one purpose. The same purpose gives the same stream again.
    pub fn dice(self, purpose: &str) -> Dice {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&self.0.to_le_bytes());
        key[8..16].copy_from_slice(&fnv1a(FNV_OFFSET, purpose.as_bytes()).to_le_bytes());
        key[16..24].copy_from_slice(b"quorate\0");
        Dice(ChaCha8Rng::from_seed(key))
    }
}

pub const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, 64 bits, continued from `hash`. Short, stable, and good enough to compare traces.
pub fn fnv1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A stream of random decisions.
pub struct Dice(ChaCha8Rng);

impl Dice {
    pub fn u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// A number in `0..bound`; 0 if the bound is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a wide product: no division, and a bias below 2^-32 for our bounds.
        let wide = u128::from(self.u64()) * u128::from(bound);
        (wide >> 64) as u64
    }

    /// A number in the range; its start if it is empty.
    pub fn range(&mut self, range: Range<u64>) -> u64 {
        range.start + self.below(range.end.saturating_sub(range.start))
    }

    /// An index into something of this length.
    pub fn index(&mut self, length: usize) -> usize {
        self.below(length as u64) as usize
    }

    /// True with this probability.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// In `0.0..1.0`.
    pub fn unit(&mut self) -> f64 {
        (self.u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn duration(&mut self, range: Range<Duration>) -> Duration {
        Duration::from_nanos(self.range(nanos(range.start)..nanos(range.end)))
    }

    /// A duration with this mean and a long tail, at most ten times the mean.
    pub fn exponential(&mut self, mean: Duration) -> Duration {
        let factor = -(1.0 - self.unit()).ln();
        mean.mul_f64(factor.min(10.0))
    }

    /// One of the choices, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// An index, chosen in proportion to its weight; the weights' sum must not be 0.
    pub fn weighted(&mut self, weights: &[u32]) -> usize {
        let mut left = self.below(weights.iter().map(|weight| u64::from(*weight)).sum());
        for (index, weight) in weights.iter().enumerate() {
            match left.checked_sub(u64::from(*weight)) {
                Some(rest) => left = rest,
                None => return index,
            }
        }
        unreachable!("the number is below the sum of the weights")
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_purpose_only() {
        let first = |seed, purpose| Seed(seed).dice(purpose).u64();
        assert_eq!(first(1, "disk"), first(1, "disk"));
        assert_ne!(first(1, "disk"), first(2, "disk"));
        assert_ne!(first(1, "disk"), first(1, "network"));
    }

    /// A change of these numbers gives every seed of the corpus another meaning.
    #[test]
    fn the_numbers_of_a_stream_are_fixed() {
        let mut dice = Seed(7).dice("workload");
        let drawn: Vec<u64> = (0..4).map(|_| dice.below(1000)).collect();
        assert_eq!(drawn, FIXED);
    }

    const FIXED: [u64; 4] = [579, 718, 278, 914];

    #[test]
    fn draws_stay_in_their_ranges_and_reach_both_ends() {
        let mut dice = Seed(3).dice("test");
        let drawn: Vec<u64> = (0..1000).map(|_| dice.range(5..8)).collect();
        assert_eq!(drawn.iter().min(), Some(&5));
        assert_eq!(drawn.iter().max(), Some(&7));
        assert_eq!(dice.below(0), 0);
        let weighted: Vec<usize> = (0..1000).map(|_| dice.weighted(&[1, 0, 3])).collect();
        assert!(!weighted.contains(&1) && weighted.contains(&0) && weighted.contains(&2));
        let mut items: Vec<u32> = (0..10).collect();
        dice.shuffle(&mut items);
        items.sort_unstable();
        assert_eq!(items, (0..10).collect::<Vec<_>>());
    }
}
