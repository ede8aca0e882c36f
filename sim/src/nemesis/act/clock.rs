//! Faults of clocks.

use super::Blow;
use crate::seed::Dice;
use crate::world::clock::DRIFT_PPM_MAX;

impl Blow<'_> {
    pub(super) fn jump(&self, member: usize, dice: &mut Dice) -> bool {
        let jump = dice.range(0..120_000) as i64 - 60_000;
        self.world.clock(self.host(member), |clock, _| clock.skew(jump));
        true
    }

    pub(super) async fn drift(&self, member: usize, dice: &mut Dice) -> bool {
        let host = self.host(member);
        let ppm = dice.range(0..2 * DRIFT_PPM_MAX as u64) as i64 - DRIFT_PPM_MAX;
        self.world.clock(host, |clock, now| clock.drift(now, ppm));
        self.wait().await;
        self.world.clock(host, |clock, now| clock.drift(now, 0));
        true
    }
}
