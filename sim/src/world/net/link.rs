//! What lies between two hosts, in one direction: delay, jitter, bandwidth, and whether it is cut.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Nanos;
use crate::plan::readable;
use crate::seed::Dice;

/// How fast an undisturbed network is.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Speed {
    #[serde(with = "readable::nanos")]
    pub latency: Nanos,
    /// Added to the latency: anything from zero to this.
    #[serde(with = "readable::nanos")]
    pub jitter: Nanos,
    /// How long a kibibyte occupies the link.
    #[serde(with = "readable::nanos")]
    pub per_kibibyte: Nanos,
}

impl Default for Speed {
    /// A quiet local network.
    fn default() -> Self {
        Speed {
            latency: 500_000,
            jitter: 0,
            per_kibibyte: 8_000,
        }
    }
}

impl Speed {
    /// Within one machine.
    pub const LOOPBACK: Speed = Speed {
        latency: 15_000,
        jitter: 10_000,
        per_kibibyte: 100,
    };
}

/// One direction between two hosts.
#[derive(Clone, Debug)]
pub struct Link {
    speed: Speed,
    /// What a fault adds to the latency.
    slowed: Nanos,
    /// How many faults cut this link at present.
    cuts: u32,
}

impl Link {
    pub fn new(speed: Speed) -> Self {
        Link {
            speed,
            slowed: 0,
            cuts: 0,
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cuts > 0
    }

    /// True if this was the first cut.
    pub fn cut(&mut self) -> bool {
        self.cuts += 1;
        self.cuts == 1
    }

    /// True if this was the last cut.
    pub fn heal(&mut self) -> bool {
        assert!(self.cuts > 0, "a link is healed as often as it was cut");
        self.cuts -= 1;
        self.cuts == 0
    }

    /// Adds a delay to everything on this link; zero ends it.
    pub fn slow(&mut self, by: Duration) {
        self.slowed = super::nanos(by);
    }

    /// How long a piece of this size takes.
    pub fn delay(&self, dice: &mut Dice, bytes: usize) -> Nanos {
        let Speed {
            latency,
            jitter,
            per_kibibyte,
        } = self.speed;
        let jitter = dice.below(jitter + 1 + self.slowed / 2);
        latency + self.slowed + jitter + (bytes as u64 * per_kibibyte) / 1024
    }
}
