//! What lies between two hosts, in one direction: delay, jitter, bandwidth, and whether it is cut.

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

/// What a fault adds to one direction.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Burden {
    pub delay: Nanos,
    /// Added to each piece's delay: anything from zero to this.
    pub jitter: Nanos,
    /// Nanoseconds more for each kibibyte.
    pub per_kibibyte: Nanos,
}

/// What faults did on a link: a fault that nobody noticed does not count.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Touched {
    /// Pieces that a cut held up or lost.
    pub blocked: u64,
    /// Pieces that took longer.
    pub delayed: u64,
    /// Pieces that waited for the end of a clog.
    pub clogged: u64,
    /// Ends of one direction that a middle box took for those of the connection.
    pub ended: u64,
}

/// One direction between two hosts.
#[derive(Clone, Debug)]
pub struct Link {
    speed: Speed,
    burdens: Burden,
    /// Nothing arrives before this time, and nobody fails for it.
    clogged_until: Nanos,
    /// How many faults cut this link at present.
    cuts: u32,
    /// Something on the way that knows no half-closed connections.
    pub has_middle_box: bool,
    pub touched: Touched,
}

impl Link {
    pub fn new(speed: Speed) -> Self {
        Link {
            speed,
            burdens: Burden::default(),
            clogged_until: 0,
            cuts: 0,
            has_middle_box: false,
            touched: Touched::default(),
        }
    }

    pub fn is_cut(&self) -> bool {
        self.cuts > 0
    }

    /// Whether what is sent now takes longer than usual, or does not arrive.
    pub fn is_disturbed(&self, now: Nanos) -> bool {
        self.is_cut() || self.burdens != Burden::default() || self.clogged_until > now
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

    /// Burdens add up.
    pub fn burden(&mut self, by: Burden) {
        self.burdens.delay += by.delay;
        self.burdens.jitter += by.jitter;
        self.burdens.per_kibibyte += by.per_kibibyte;
    }

    /// Takes a burden away again.
    pub fn unburden(&mut self, by: Burden) {
        self.burdens.delay -= by.delay;
        self.burdens.jitter -= by.jitter;
        self.burdens.per_kibibyte -= by.per_kibibyte;
    }

    /// Lets nothing through before this time.
    pub fn clog(&mut self, until: Nanos) {
        self.clogged_until = self.clogged_until.max(until);
    }

    /// How long a piece of this size takes that is sent now.
    pub fn delay(&mut self, now: Nanos, dice: &mut Dice, bytes: usize) -> Nanos {
        let (speed, burdens) = (self.speed, self.burdens);
        self.touched.delayed += u64::from(burdens != Burden::default());
        let jitter = dice.below(speed.jitter + burdens.jitter + 1);
        let per_kibibyte = speed.per_kibibyte + burdens.per_kibibyte;
        let delay = speed.latency + burdens.delay + jitter + (bytes as u64 * per_kibibyte) / 1024;
        let clogged = self.clogged_until.saturating_sub(now);
        self.touched.clogged += u64::from(clogged > delay);
        delay.max(clogged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn burdens_add_up_and_go_and_a_clog_ends_by_itself() {
        let mut link = Link::new(Speed {
            latency: 1_000,
            jitter: 0,
            per_kibibyte: 1_024,
        });
        let mut dice = Seed(1).dice("test");
        let mut delay = |link: &mut Link, now| link.delay(now, &mut dice, 10);
        assert_eq!(delay(&mut link, 0), 1_010);
        let burden = Burden {
            delay: 500,
            jitter: 0,
            per_kibibyte: 2_048,
        };
        link.burden(burden);
        link.burden(burden);
        assert_eq!(delay(&mut link, 0), 2_050);
        link.unburden(burden);
        link.unburden(burden);
        assert_eq!(delay(&mut link, 0), 1_010);
        link.clog(5_000);
        assert_eq!((delay(&mut link, 100), delay(&mut link, 4_900)), (4_900, 1_010));
        let touched = Touched {
            blocked: 0,
            delayed: 1,
            clogged: 1,
            ended: 0,
        };
        assert_eq!(link.touched, touched);
    }
}
