//! Faults of disks.

use super::Blow;
use crate::seed::Dice;
use crate::world::disk::{Counters, Drive};

impl Blow<'_> {
    fn counters(&self, member: usize) -> Counters {
        self.world.drive(self.host(member), |drive| drive.counters)
    }

    /// Sets something on a disk for as long as the fault lasts; whether a counter has grown meanwhile.
    async fn meanwhile(
        &self,
        member: usize,
        set: impl Fn(&mut Drive, bool),
        counter: impl Fn(Counters) -> u64,
    ) -> bool {
        let host = self.host(member);
        let before = counter(self.counters(member));
        self.world.drive(host, |drive| set(drive, true));
        self.wait().await;
        self.world.drive(host, |drive| set(drive, false));
        counter(self.counters(member)) > before
    }

    pub(super) async fn fail_sync(&self, member: usize) -> bool {
        self.cluster.excuse(member);
        self.meanwhile(member, Drive::fail_next_sync, |counters| counters.failed_syncs)
            .await
    }

    pub(super) async fn fail_io(&self, member: usize) -> bool {
        self.cluster.excuse(member);
        self.meanwhile(member, Drive::fail_next_io, |counters| counters.io_errors)
            .await
    }

    pub(super) async fn fill(&self, member: usize) -> bool {
        self.cluster.excuse(member);
        self.meanwhile(member, Drive::set_full, |counters| counters.failed_writes)
            .await
    }

    pub(super) async fn stall(&self, member: usize) -> bool {
        let end = self.end();
        let stall = |drive: &mut Drive, on| drive.stall(Some(end).filter(|_| on));
        self.meanwhile(member, stall, |counters| counters.stalled).await
    }

    pub(super) async fn slow_disk(&self, member: usize, dice: &mut Dice) -> bool {
        let times = *dice.pick(&[10, 50, 200]);
        let slow = |drive: &mut Drive, on| drive.slow_down(if on { times } else { 1 });
        self.meanwhile(member, slow, |counters| counters.syncs).await
    }
}
