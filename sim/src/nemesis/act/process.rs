//! Faults of processes and machines.

use std::future::poll_fn;
use std::task::Context;
use std::time::Duration;

use futures_util::future::{Either, select};

use super::Blow;
use super::network::SNAPSHOT_WAIT;
use crate::seed::Dice;
use crate::world::disk::{Damage, Point};
use crate::world::{Kill, Nanos};

/// How long a process that starts again and again lives in between, in milliseconds.
const STORM_LIFE_MS: std::ops::Range<u64> = 20..900;
/// A slow node runs for so long, and then does not for several times as long; in milliseconds.
const SLICE_MS: std::ops::Range<u64> = 2..20;

impl Blow<'_> {
    pub(super) async fn down(&self, members: &[usize], kill: Kill) -> bool {
        let mut struck = false;
        for member in members {
            struck |= self.cluster.hold_down(*member, kill);
        }
        self.wait().await;
        for member in members {
            self.cluster.release(*member);
        }
        struck
    }

    /// The machine loses power as soon as its process reaches the point, if that is before the end.
    pub(super) async fn down_at(&self, member: usize, point: Point, kill: Kill, end: Nanos) -> bool {
        let host = self.host(member);
        self.world.drive(host, |drive| drive.set_trap(Some(point)));
        let poll = |cx: &mut Context<'_>| self.world.drive(host, |drive| drive.poll_trapped(cx));
        select(poll_fn(poll), self.world.sleep_until(end)).await;
        let is_trapped = self.world.drive(host, |drive| drive.is_trapped());
        let struck = is_trapped && self.cluster.hold_down(member, kill);
        self.world.drive(host, |drive| drive.set_trap(None));
        if is_trapped {
            self.world.sleep_until(end).await;
            self.cluster.release(member);
        }
        struck
    }

    /// Power is lost at a sync, and what was not synced is lost, or torn.
    pub(super) async fn down_losing(&self, member: usize, kill: Kill) -> bool {
        let host = self.host(member);
        let damage = || {
            let crash = self.world.drive(host, |drive| drive.counters.crash);
            if kill == Kill::PowerTearing {
                crash.torn
            } else {
                crash.lost
            }
        };
        let before = damage();
        self.down_at(member, Point::BeforeSync, kill, self.end()).await && damage() > before
    }

    /// Power is lost as soon as the store's journal has something that was not synced: its beginning is torn, or any part of it
    /// lost.
    pub(super) async fn down_tearing_store(&self, member: usize, dice: &mut Dice) -> bool {
        let host = self.host(member);
        let damage = || {
            let Damage { lost, torn, .. } = self.world.drive(host, |drive| drive.counters.store_crash);
            lost + torn
        };
        while !self.world.drive(host, |drive| drive.is_store_dirty()) {
            if self.world.now() >= self.end() {
                return false;
            }
            self.world.sleep(Duration::from_millis(1)).await;
        }
        let before = damage();
        let kill = *dice.pick(&[Kill::Power, Kill::PowerTearing]);
        let struck = self.cluster.hold_down(member, kill);
        self.world.sleep_until(self.end()).await;
        self.cluster.release(member);
        struck && damage() > before
    }

    /// Power is lost at some point of the first sync within the fault's time.
    pub(super) async fn down_at_sync(&self, member: usize, dice: &mut Dice) -> bool {
        let host = self.host(member);
        let before = self.world.drive(host, |drive| drive.syncs_begun());
        let poll = |cx: &mut Context<'_>| self.world.drive(host, |drive| drive.poll_sync_begun(before, cx));
        let begun = select(poll_fn(poll), self.world.sleep_until(self.end())).await;
        if let Either::Right(_) = begun {
            return false;
        }
        self.world.sleep(Duration::from_micros(dice.below(600))).await;
        let struck = self.cluster.hold_down(member, Kill::Power);
        self.world.sleep_until(self.end()).await;
        self.cluster.release(member);
        struck
    }

    /// The leader does not run; whoever votes first loses power when its vote is durable and its answer has not left.
    pub(super) async fn down_at_vote(&self, leader: usize) -> bool {
        let mut votes = self.cluster.votes();
        if !self.world.pause(self.host(leader)) {
            return false;
        }
        let others: Vec<usize> = (0..self.cluster.len()).filter(|other| *other != leader).collect();
        self.cluster.silence_at_vote(&others);
        let mut voter = None;
        let silenced = Box::pin(votes.wait_until(|voted| voted.is_some_and(|(_, silenced)| silenced)));
        if let Either::Left(_) = select(silenced, self.world.sleep_until(self.end())).await {
            voter = self.cluster.votes().borrow().map(|(voter, _)| voter);
        }
        let mut struck = false;
        if let Some(voter) = voter {
            struck = self.cluster.hold_down(voter, Kill::Power);
        }
        self.cluster.unsilence();
        if let Some(voter) = voter {
            self.world.sleep_until(self.end()).await;
            self.cluster.release(voter);
        }
        self.world.resume(self.host(leader));
        struck
    }

    /// A member that lagged loses power while it installs a snapshot, or whoever leads does.
    pub(super) async fn down_in_snapshot(&self, member: usize, dice: &mut Dice) -> bool {
        let host = self.host(member);
        let begun = || self.world.drive(host, |drive| drive.counters.generations);
        let before = begun();
        self.cut(self.around(member)).await;
        let end = self.world.now() + SNAPSHOT_WAIT.as_nanos() as u64;
        if dice.chance(0.7) {
            return self.down_at(member, Point::InSnapshot, Kill::Power, end).await && begun() > before;
        }
        while begun() == before && self.world.now() < end {
            self.world.sleep(Duration::from_millis(1)).await;
        }
        let Some(leader) = self
            .cluster
            .leader()
            .filter(|leader| *leader != member && begun() > before)
        else {
            return false;
        };
        self.down(&[leader], Kill::Power).await
    }

    pub(super) async fn stop(&self, member: usize) -> bool {
        let asked = self.cluster.ask_to_stop(member);
        self.wait().await;
        // It may still be busy with its stop: then it ends like a process that is killed at last.
        if asked {
            self.cluster.hold_down(member, Kill::Process);
            self.cluster.release(member);
        }
        asked
    }

    pub(super) async fn pause(&self, member: usize) -> bool {
        let paused = self.world.pause(self.host(member));
        if paused {
            self.wait().await;
            self.world.resume(self.host(member));
        }
        paused
    }

    /// The process gets a small share of its processor.
    pub(super) async fn starve(&self, member: usize, dice: &mut Dice) -> bool {
        let host = self.host(member);
        let mut struck = false;
        while self.world.now() < self.end() {
            let slice = dice.range(SLICE_MS);
            let paused = self.world.pause_briefly(host, true);
            self.world.sleep(Duration::from_millis(slice * 5)).await;
            if paused {
                self.world.pause_briefly(host, false);
            }
            struck |= paused;
            self.world.sleep(Duration::from_millis(slice)).await;
        }
        struck
    }

    /// It starts and dies again and again.
    pub(super) async fn storm(&self, member: usize, dice: &mut Dice) -> bool {
        let mut deaths = 0;
        while self.world.now() < self.end() {
            let kill = *dice.pick(&[Kill::Process, Kill::Process, Kill::Power]);
            deaths += u64::from(self.cluster.hold_down(member, kill));
            self.world.sleep(Duration::from_millis(dice.below(60))).await;
            self.cluster.release(member);
            self.world
                .sleep(Duration::from_millis(dice.range(STORM_LIFE_MS)))
                .await;
        }
        deaths > 1
    }
}
