//! What a fault does, from its beginning to its end.
//!
//! Each group of classes has its file. `land` is true if the fault bit: only then is it counted.

mod admin;
mod clock;
mod disk;
mod network;
mod process;

use quorate::runtime::Env;
use quorate_jepsen::history::Recorder;

use super::{Class, Fault};
use crate::cluster::Cluster;
use crate::seed::Dice;
use crate::world::disk::{Point, Target};
use crate::world::net::HostId;
use crate::world::{Kill, World};

/// What a strike works with.
#[derive(Clone)]
pub struct Tools {
    pub cluster: Cluster,
    /// A client's host, from which administrators call.
    pub env: Env,
    /// The hosts of all clients.
    pub others: Vec<HostId>,
    pub clock: quorate_jepsen::workload::Clock,
    pub recorder: Recorder,
    /// The number of the client that the strike is in the history.
    pub client: u32,
}

/// Strikes, lasts, and undoes.
pub async fn strike(tools: Tools, fault: Fault, mut dice: Dice) {
    let world = tools.cluster.world().clone();
    world.event("nemesis", format_args!("{fault}"));
    world
        .notebook()
        .fault(world.now(), &fault, tools.cluster.leader());
    let blow = Blow {
        cluster: &tools.cluster,
        world: &world,
        env: &tools.env,
        others: &tools.others,
        tools: &tools,
        fault: &fault,
    };
    let bit = blow.land(&mut dice).await;
    if bit {
        tools.cluster.count(&fault.class.counter());
    }
    let effect = if bit { "" } else { ", which nothing noticed" };
    world.event("nemesis", format_args!("end of {fault}{effect}"));
    world.notebook().fault_ended(world.now(), &fault, bit);
}

struct Blow<'a> {
    cluster: &'a Cluster,
    world: &'a World,
    env: &'a Env,
    others: &'a [HostId],
    tools: &'a Tools,
    fault: &'a Fault,
}

impl Blow<'_> {
    /// The whole fault; false if it had no effect.
    async fn land(&self, dice: &mut Dice) -> bool {
        let member = self.fault.member;
        let leader = self.cluster.leader();
        // Without a leader, whoever was drawn is as good as anybody.
        let ruler = leader.unwrap_or(member);
        match self.fault.class {
            Class::Delay => self.delay(dice).await,
            Class::Jitter => self.jitter(member, dice).await,
            Class::Slow => self.slow(member, dice).await,
            Class::OneWay => self.cut(self.one_way(dice)).await,
            Class::TwoWay => self.cut(self.two_way(dice)).await,
            Class::Isolate => self.cut(self.around(member)).await,
            Class::IsolateLeader => self.cut(self.around(ruler)).await,
            Class::Majority => self.cut(self.split(ruler, true, dice)).await,
            Class::Minority => self.cut(self.split(ruler, false, dice)).await,
            Class::Ring => self.cut(self.ring(dice)).await,
            Class::Bridge => self.cut(self.bridge(member)).await,
            Class::Clog => self.clog(member, dice).await,
            Class::Swizzle => self.swizzle(ruler, dice).await,
            Class::Reset => self.reset(member).await,
            Class::HalfOpen => self.halve(member, dice).await,
            Class::MiddleBox => self.put_middle_boxes(member).await,
            Class::Strangers => self.send_strangers(member, dice).await,
            Class::Kill => self.down(&[member], Kill::Process).await,
            Class::PowerLoss => self.down(&[member], Kill::Power).await,
            Class::PowerLossLeader => self.down(&[ruler], Kill::Power).await,
            Class::PowerLossAll => {
                let all: Vec<usize> = (0..self.cluster.len()).collect();
                self.down(&all, Kill::Power).await
            }
            Class::PowerLossInSync => self.down_at_sync(member, dice).await,
            Class::CrashBeforeSync => {
                self.down_at(member, Point::BeforeSync, Kill::Power, self.end())
                    .await
            }
            Class::CrashAfterSync => {
                self.down_at(member, Point::AfterSync, Kill::Power, self.end())
                    .await
            }
            Class::CrashAtVote => match leader {
                Some(leader) => self.down_at_vote(leader).await,
                None => false,
            },
            Class::CrashInSnapshot => self.down_in_snapshot(member, dice).await,
            Class::Stop => self.stop(member).await,
            Class::Pause => self.pause(member).await,
            Class::PauseLeader => self.pause(ruler).await,
            Class::LongPause => {
                self.pause(if self.fault.choice & 2 == 2 { ruler } else { member })
                    .await
            }
            Class::SlowNode => self.starve(member, dice).await,
            Class::RestartStorm => self.storm(member, dice).await,
            Class::LostWrites => self.down_losing(member, Kill::PowerLosing).await,
            Class::TornTail => self.down_losing(member, Kill::PowerTearing).await,
            Class::TornStore => self.down_tearing_store(member, dice).await,
            Class::SyncFailure => self.fail_sync(member).await,
            Class::IoError => self.fail_io(member).await,
            Class::DiskStall => self.stall(member).await,
            Class::SlowDisk => self.slow_disk(member, dice).await,
            Class::DiskFull => self.fill(member).await,
            Class::BitRotInLog => self.rot(member, Target::Log).await,
            Class::BitRotInStore => self.rot(member, Target::Store).await,
            Class::WipedDisk => self.wipe(member).await,
            Class::Skew => self.skew_all(dice).await,
            Class::JumpForward => self.jump(member, false, dice).await,
            Class::JumpBack => self.jump(member, true, dice).await,
            Class::Drift => self.drift(member, dice).await,
            Class::DriftApart => self.drift_apart(ruler, dice).await,
            Class::MoveLeader => match leader {
                Some(leader) => self.move_leader(leader).await,
                None => false,
            },
            Class::HandOverUnheard => match leader {
                Some(leader) => self.hand_over_unheard(leader, dice).await,
                None => false,
            },
            Class::Replace => self.replace(member, false, self.fault.choice & 2 == 2).await,
            Class::RemoveMember => self.replace(member, true, false).await,
            Class::RemoveLeader => match leader {
                Some(leader) => self.replace(leader, true, self.fault.choice & 2 == 2).await,
                None => false,
            },
            Class::PromoteLearner => self.replace(member, true, true).await,
            Class::LeaderLostInChange => self.lose_leader_in_change(member, dice).await,
            Class::Compaction => self.compact(member).await,
            Class::HashAll => self.hash_all(member).await,
            Class::SnapshotAfterPurge => self.purge(member).await,
            Class::AuthOff => self.auth_off().await,
            Class::RollingRestart => self.roll(dice).await,
        }
    }

    fn host(&self, member: usize) -> HostId {
        self.cluster.host(member)
    }

    fn members(&self) -> Vec<HostId> {
        (0..self.cluster.len()).map(|member| self.host(member)).collect()
    }

    async fn wait(&self) {
        self.world.sleep(self.fault.lasts()).await;
    }

    /// The end of the fault, in world time.
    fn end(&self) -> crate::world::Nanos {
        (self.fault.at() + self.fault.lasts()).as_nanos() as u64
    }
}
