//! Faults of disks.

use std::time::Duration;

use super::Blow;
use crate::cluster::name;
use crate::report::Violation;
use crate::seed::Dice;
use crate::world::Kill;
use crate::world::disk::{Counters, Drive, Target};

/// How often it is looked whether a member has met with its damage.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// A member without data asks the others for a second, by its own clock. Within that it refuses, or has not been told.
const REFUSAL_WAIT: Duration = Duration::from_millis(900);

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

    /// A bit goes bad while the member runs. At the latest its next start reads it: then it stops, says what is damaged, and
    /// is replaced, or nothing needed that bit.
    pub(super) async fn rot(&self, member: usize, target: Target) -> bool {
        if !self.cluster.atlas(|atlas| atlas.damage(member)) {
            return false;
        }
        let host = self.host(member);
        let before = self.counters(member).rot_read;
        let Some(place) = self.world.drive(host, |drive| drive.rot(target)) else {
            self.cluster.atlas(|atlas| atlas.unharmed(member));
            return false;
        };
        self.world
            .event(&name(member), format_args!("a bit of {place} goes bad"));
        self.wait().await;
        self.cluster.hold_down(member, Kill::Process);
        self.cluster.release(member);
        loop {
            self.world.sleep(LOOK_EVERY).await;
            let is_damaged = self
                .cluster
                .last_end(member)
                .is_some_and(|end| end.is_damage() || end.is_incomplete());
            if is_damaged {
                self.cluster.hold_down(member, Kill::Process);
                self.replace_held(member).await;
                break true;
            }
            // It has read all that it needs.
            if self.cluster.probe(member).is_some() {
                self.cluster.atlas(|atlas| atlas.unharmed(member));
                break self.counters(member).rot_read > before;
            }
        }
    }

    /// What a disk holds is gone, and nobody but the cluster knows that it was there. Judged only if the others can tell:
    /// without an answer a member may take itself for new, as etcd's do, so it is not given the time for that.
    pub(super) async fn wipe(&self, member: usize) -> bool {
        if !self.is_known(member).await || !self.cluster.atlas(|atlas| atlas.damage(member)) {
            return false;
        }
        let host = self.host(member);
        self.cluster.hold_down(member, Kill::Power);
        self.wait().await;
        self.world.drive(host, |drive| drive.wipe());
        while !self.is_known(member).await {
            self.world.sleep(LOOK_EVERY).await;
        }
        self.cluster.release(member);
        let end = self.world.now() + REFUSAL_WAIT.as_nanos() as u64;
        let mut refused = false;
        while self.world.now() < end && !refused {
            self.world.sleep(LOOK_EVERY).await;
            refused = self
                .cluster
                .last_end(member)
                .is_some_and(|end| end.is_lost_data());
            if self.cluster.probe(member).is_some() {
                let text = format!(
                    "a member that has lost its data does not start as if it had none before: {}",
                    name(member)
                );
                self.cluster.violate(Violation::new("refuses-lost-data", text));
                return true;
            }
        }
        self.cluster.hold_down(member, Kill::Process);
        self.replace_held(member).await;
        refused
    }

    /// Somebody runs whom this member can ask, and whoever does knows that it has started. (Seed 287: a member may lose its data
    /// before it has announced itself, and is new to all others.)
    async fn is_known(&self, member: usize) -> bool {
        let own = self.host(member);
        let is_cut = |other: usize| {
            let host = self.host(other);
            self.world
                .net(|net, _| net.is_cut(own, host) || net.is_cut(host, own))
        };
        let others = (0..self.cluster.len()).filter(|other| *other != member && !is_cut(*other));
        let mut told = false;
        for other in others {
            match self.cluster.has_seen_start(other, member).await {
                Some(true) => told = true,
                Some(false) => return false,
                None => {}
            }
        }
        told
    }
}
