//! Faults of clocks. A clock that nobody looked at meanwhile does not count.

use super::Blow;
use crate::seed::Dice;
use crate::world::clock::DRIFT_PPM_MAX;

/// The largest jump of a time of day.
const JUMP_MS_MAX: u64 = 120_000;

impl Blow<'_> {
    fn looks(&self, members: &[usize]) -> (u64, u64) {
        let looks = members
            .iter()
            .map(|member| self.world.clock(self.host(*member), |clock, _| clock.looks));
        looks.fold((0, 0), |sum, looks| (sum.0 + looks.0, sum.1 + looks.1))
    }

    /// Times of day are wrong for a while.
    pub(super) async fn skew(&self, skews: &[(usize, i64)]) -> bool {
        let members: Vec<usize> = skews.iter().map(|(member, _)| *member).collect();
        let before = self.looks(&members).0;
        for (member, skew_ms) in skews {
            self.world
                .clock(self.host(*member), |clock, _| clock.skew(*skew_ms));
        }
        self.wait().await;
        for member in &members {
            self.world.clock(self.host(*member), |clock, _| clock.skew(0));
        }
        self.looks(&members).0 > before
    }

    pub(super) async fn skew_all(&self, dice: &mut Dice) -> bool {
        let skew = |member| {
            let skew_ms = dice.range(0..JUMP_MS_MAX) as i64 - JUMP_MS_MAX as i64 / 2;
            (member, skew_ms)
        };
        let skews: Vec<(usize, i64)> = (0..self.cluster.len()).map(skew).collect();
        self.skew(&skews).await
    }

    pub(super) async fn jump(&self, member: usize, back: bool, dice: &mut Dice) -> bool {
        let jump_ms = dice.range(1_000..JUMP_MS_MAX) as i64;
        self.skew(&[(member, if back { -jump_ms } else { jump_ms })])
            .await
    }

    /// Rates of monotonic clocks differ for a while. A process that starts meanwhile has a good one.
    async fn drift_at(&self, rates: &[(usize, i64)]) -> bool {
        let members: Vec<usize> = rates.iter().map(|(member, _)| *member).collect();
        let before = self.looks(&members).1;
        for (member, ppm) in rates {
            self.world
                .clock(self.host(*member), |clock, now| clock.drift(now, *ppm));
        }
        self.wait().await;
        for member in &members {
            self.world
                .clock(self.host(*member), |clock, now| clock.drift(now, 0));
        }
        self.looks(&members).1 > before
    }

    pub(super) async fn drift(&self, member: usize, dice: &mut Dice) -> bool {
        let ppm = dice.range(0..2 * DRIFT_PPM_MAX as u64) as i64 - DRIFT_PPM_MAX;
        self.drift_at(&[(member, ppm)]).await
    }

    /// As far apart as clocks get: leases that one holds and another judges.
    pub(super) async fn drift_apart(&self, leader: usize, dice: &mut Dice) -> bool {
        let ppm = if dice.chance(0.5) {
            DRIFT_PPM_MAX
        } else {
            -DRIFT_PPM_MAX
        };
        let rate = |member| (member, if member == leader { ppm } else { -ppm });
        let rates: Vec<(usize, i64)> = (0..self.cluster.len()).map(rate).collect();
        self.drift_at(&rates).await
    }
}
