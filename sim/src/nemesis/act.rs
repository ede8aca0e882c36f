//! What a fault does, from its beginning to its end.

use std::future::poll_fn;
use std::task::Context;
use std::time::Duration;

use futures_util::future::{Either, select};
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::cluster_client::ClusterClient;
use quorate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate::runtime::Env;
use quorate_jepsen::workload::{Calls, Connection};

use super::{Class, Fault};
use crate::cluster::{Cluster, name, peer_url};
use crate::seed::Dice;
use crate::world::clock::DRIFT_PPM_MAX;
use crate::world::net::HostId;
use crate::world::{Kill, Nanos, World};

/// How long one member is asked to change the membership.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const ASK_PAUSE: Duration = Duration::from_millis(200);

/// Steps of a replacement.
#[derive(Clone, Copy)]
enum Step {
    Remove,
    Add { as_learner: bool },
    Promote,
}

impl Step {
    /// Whether the step is done: an answer that was lost shows at the next attempt.
    async fn attempt(self, mut client: ClusterClient<Calls>, url: &str) -> Result<bool, tonic::Status> {
        let member = find(&mut client, url).await?;
        match (self, member) {
            (Step::Remove, Some(old)) => {
                let request = pb::MemberRemoveRequest { id: old.id };
                client.member_remove(request).await.map(|_| false)
            }
            (Step::Add { as_learner }, None) => {
                let request = pb::MemberAddRequest {
                    peer_ur_ls: vec![url.to_owned()],
                    is_learner: as_learner,
                };
                client.member_add(request).await.map(|_| true)
            }
            (Step::Promote, Some(new)) if new.is_learner => {
                let request = pb::MemberPromoteRequest { id: new.id };
                client.member_promote(request).await.map(|_| true)
            }
            _ => Ok(true),
        }
    }
}

/// The member with this peer URL, if the cluster has one.
async fn find(client: &mut ClusterClient<Calls>, url: &str) -> Result<Option<pb::Member>, tonic::Status> {
    let request = pb::MemberListRequest { linearizable: true };
    let members = client.member_list(request).await?.into_inner().members;
    Ok(members
        .into_iter()
        .find(|member| member.peer_ur_ls.iter().any(|known| known == url)))
}

/// Strikes, lasts, and undoes. `others` are the hosts of the clients; `env` is one of theirs.
pub async fn strike(cluster: Cluster, env: Env, others: Vec<HostId>, fault: Fault, mut dice: Dice) {
    let world = cluster.world().clone();
    world.event("nemesis", format_args!("{fault}"));
    let blow = Blow {
        cluster: &cluster,
        world: &world,
        env,
        others,
        fault: &fault,
    };
    if blow.land(&mut dice).await {
        cluster.count(&format!("fault/{:?}", fault.class));
    }
    world.event("nemesis", format_args!("end of {fault}"));
}

struct Blow<'a> {
    cluster: &'a Cluster,
    world: &'a World,
    env: Env,
    others: Vec<HostId>,
    fault: &'a Fault,
}

impl Blow<'_> {
    /// The whole fault; false if there was nothing to strike.
    async fn land(&self, dice: &mut Dice) -> bool {
        let member = self.fault.member;
        let leader = self.cluster.leader();
        match self.fault.class {
            Class::Isolate => self.cut(self.around(member)).await,
            Class::IsolateLeader => match leader {
                Some(leader) => self.cut(self.around(leader)).await,
                None => false,
            },
            Class::Split => self.cut(self.split(dice)).await,
            Class::OneWay => self.cut(self.one_way(dice)).await,
            Class::Bridge => self.cut(self.bridge(member)).await,
            Class::Swizzle => self.swizzle(dice).await,
            Class::Slow => self.slow(member, dice).await,
            Class::Reset => self.reset(member),
            Class::Kill => self.down(&[member], Kill::Process).await,
            Class::PowerLoss => self.down(&[member], Kill::Power).await,
            Class::PowerLossLeader => match leader {
                Some(leader) => self.down(&[leader], Kill::Power).await,
                None => false,
            },
            Class::PowerLossAll => {
                let all: Vec<usize> = (0..self.cluster.len()).collect();
                self.down(&all, Kill::Power).await
            }
            Class::PowerLossAtSync => self.down_at_sync(member, dice).await,
            Class::PowerLossAtVote => match leader {
                Some(leader) => self.down_at_vote(leader, dice).await,
                None => false,
            },
            Class::Stop => self.stop(member).await,
            Class::Pause => self.pause(member).await,
            Class::PauseLeader => match leader {
                Some(leader) => self.pause(leader).await,
                None => false,
            },
            Class::SyncFailure => self.fail_sync(member).await,
            Class::DiskStall => self.stall(member).await,
            Class::DiskFull => self.fill(member).await,
            Class::MoveLeader => match leader {
                Some(leader) => self.move_leader(leader).await,
                None => false,
            },
            Class::Replace => self.replace(member).await,
            Class::Drift => self.drift(member, dice).await,
            Class::ClockJump => {
                let jump = dice.range(0..120_000) as i64 - 60_000;
                self.world.clock(self.host(member), |clock, _| clock.skew(jump));
                true
            }
        }
    }

    fn host(&self, member: usize) -> HostId {
        self.cluster.host(member)
    }

    fn members(&self) -> Vec<HostId> {
        (0..self.cluster.len()).map(|member| self.host(member)).collect()
    }

    /// Every host, or the members alone: a partition may or may not cut clients off.
    fn affected(&self) -> Vec<HostId> {
        let mut hosts = self.members();
        if self.fault.choice & 1 == 1 {
            hosts.extend(&self.others);
        }
        hosts
    }

    async fn wait(&self) {
        self.world.sleep(self.fault.lasts()).await;
    }

    /// Both directions between one member and all others.
    fn around(&self, member: usize) -> Vec<(HostId, HostId)> {
        let own = self.host(member);
        let others = self.affected().into_iter().filter(|host| *host != own);
        others.flat_map(|other| [(own, other), (other, own)]).collect()
    }

    /// Both directions between two sides.
    fn split(&self, dice: &mut Dice) -> Vec<(HostId, HostId)> {
        let mut members = self.members();
        dice.shuffle(&mut members);
        let (one, other) = members.split_at(1 + dice.index(members.len() - 1));
        let (mut one, mut other) = (one.to_vec(), other.to_vec());
        for host in &self.others {
            match dice.below(3) {
                0 => one.push(*host),
                1 => other.push(*host),
                _ => {}
            }
        }
        let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
        pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
    }

    fn one_way(&self, dice: &mut Dice) -> Vec<(HostId, HostId)> {
        let mut members = self.members();
        dice.shuffle(&mut members);
        let (from, to) = (members[0], members[1]);
        match dice.chance(0.3) {
            // All that goes to one member, or all that comes from it.
            true => {
                let others = members.iter().filter(|host| **host != from);
                let towards = dice.chance(0.5);
                let pair = |other: &HostId| if towards { (*other, from) } else { (from, *other) };
                others.map(pair).collect()
            }
            false => vec![(from, to)],
        }
    }

    /// Two halves that only one member can reach.
    fn bridge(&self, member: usize) -> Vec<(HostId, HostId)> {
        let bridge = self.host(member);
        let rest: Vec<HostId> = self
            .members()
            .into_iter()
            .filter(|host| *host != bridge)
            .collect();
        let (one, other) = rest.split_at(rest.len() / 2);
        let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (*a, *b)));
        pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
    }

    async fn cut(&self, links: Vec<(HostId, HostId)>) -> bool {
        for (from, to) in &links {
            self.world.net(|net, now| net.cut(now, *from, *to));
        }
        self.wait().await;
        for (from, to) in &links {
            self.world.net(|net, now| net.heal(now, *from, *to));
        }
        !links.is_empty()
    }

    /// Links are cut one by one over the first half, and restored in another order over the second.
    async fn swizzle(&self, dice: &mut Dice) -> bool {
        let mut links = self.split(dice);
        let step = self.fault.lasts() / (2 * links.len() as u32);
        for (from, to) in &links {
            self.world.net(|net, now| net.cut(now, *from, *to));
            self.world.sleep(step).await;
        }
        dice.shuffle(&mut links);
        for (from, to) in &links {
            self.world.sleep(step).await;
            self.world.net(|net, now| net.heal(now, *from, *to));
        }
        true
    }

    async fn slow(&self, member: usize, dice: &mut Dice) -> bool {
        let by = Duration::from_millis(*dice.pick(&[20, 100, 400, 1_500]));
        let links = self.around(member);
        for (from, to) in &links {
            self.world.net(|net, _| net.slow(*from, *to, by));
        }
        self.wait().await;
        for (from, to) in &links {
            self.world.net(|net, _| net.slow(*from, *to, Duration::ZERO));
        }
        true
    }

    fn reset(&self, member: usize) -> bool {
        let own = self.host(member);
        let mut broken = 0;
        for other in self.members().into_iter().chain(self.others.clone()) {
            if other != own {
                broken += self.world.net(|net, now| net.reset(now, own, other));
            }
        }
        broken > 0
    }

    async fn down(&self, members: &[usize], kill: Kill) -> bool {
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

    /// Power is lost at some point of the first sync within the fault's time.
    async fn down_at_sync(&self, member: usize, dice: &mut Dice) -> bool {
        let host = self.host(member);
        let end = self.world.now() + self.fault.lasts().as_nanos() as u64;
        let before = self.world.drive(host, |drive| drive.syncs_begun());
        let poll = |cx: &mut Context<'_>| self.world.drive(host, |drive| drive.poll_sync_begun(before, cx));
        let begun = select(poll_fn(poll), self.world.sleep_until(end)).await;
        if let Either::Right(_) = begun {
            return false;
        }
        self.down_shortly(member, end, dice).await
    }

    /// The leader does not run; whoever votes first loses power about when its vote has to be durable.
    async fn down_at_vote(&self, leader: usize, dice: &mut Dice) -> bool {
        let end = self.world.now() + self.fault.lasts().as_nanos() as u64;
        let mut votes = self.cluster.votes();
        if !self.world.pause(self.host(leader)) {
            return false;
        }
        let voted = select(votes.changed(), self.world.sleep_until(end)).await;
        let struck = match voted {
            Either::Left(_) => {
                let voter = *self.cluster.votes().borrow();
                self.down_shortly(voter, end, dice).await
            }
            Either::Right(_) => false,
        };
        self.world.resume(self.host(leader));
        struck
    }

    async fn down_shortly(&self, member: usize, end: Nanos, dice: &mut Dice) -> bool {
        self.world.sleep(Duration::from_micros(dice.below(600))).await;
        let struck = self.cluster.hold_down(member, Kill::Power);
        self.world.sleep_until(end).await;
        self.cluster.release(member);
        struck
    }

    async fn stop(&self, member: usize) -> bool {
        let asked = self.cluster.ask_to_stop(member);
        self.wait().await;
        // It may still be busy with its stop: then it ends like a process that is killed at last.
        if asked {
            self.cluster.hold_down(member, Kill::Process);
            self.cluster.release(member);
        }
        asked
    }

    async fn pause(&self, member: usize) -> bool {
        let paused = self.world.pause(self.host(member));
        if paused {
            self.wait().await;
            self.world.resume(self.host(member));
        }
        paused
    }

    async fn fail_sync(&self, member: usize) -> bool {
        let host = self.host(member);
        if self.world.is_off(host) {
            return false;
        }
        self.cluster.excuse(member);
        let before = self.world.drive(host, |drive| {
            drive.fail_next_sync(true);
            drive.counters.failed_syncs
        });
        self.wait().await;
        self.world.drive(host, |drive| {
            drive.fail_next_sync(false);
            drive.counters.failed_syncs > before
        })
    }

    async fn stall(&self, member: usize) -> bool {
        let until = self.world.now() + self.fault.lasts().as_nanos() as u64;
        self.world
            .drive(self.host(member), |drive| drive.stall(Some(until)));
        self.wait().await;
        true
    }

    async fn fill(&self, member: usize) -> bool {
        let host = self.host(member);
        self.cluster.excuse(member);
        let before = self.world.drive(host, |drive| {
            drive.set_full(true);
            drive.counters.failed_writes
        });
        self.wait().await;
        self.world.drive(host, |drive| {
            drive.set_full(false);
            drive.counters.failed_writes > before
        })
    }

    async fn connect(&self, address: &str, timeout: Duration) -> Option<Connection> {
        let user = self.cluster.plan().user();
        Connection::open(&self.env, address, timeout, user.as_ref()).await
    }

    /// The administrator's call, from a client's host.
    async fn move_leader(&self, leader: usize) -> bool {
        let Some(to) = (1..self.cluster.len())
            .map(|step| (leader + step) % self.cluster.len())
            .nth((self.fault.choice % (self.cluster.len() as u64 - 1)) as usize)
        else {
            return false;
        };
        let Some(target) = self.cluster.probe(to) else {
            return false;
        };
        let address = &self.cluster.addresses()[leader];
        let timeout = Duration::from_secs(3);
        let Some(connection) = self.connect(address, timeout).await else {
            return false;
        };
        let request = pb::MoveLeaderRequest { target_id: target.id };
        let mut client = MaintenanceClient::new(connection.calls());
        let moved = self.env.timeout(timeout, client.move_leader(request)).await;
        let answer = match &moved {
            Ok(Ok(_)) => "done".to_owned(),
            Ok(Err(status)) => status.message().to_owned(),
            Err(elapsed) => elapsed.to_string(),
        };
        self.world
            .event("nemesis", format_args!("leadership to {}: {answer}", name(to)));
        matches!(moved, Ok(Ok(_)))
    }

    /// Removes a member that is gone, and adds a new one in its place: as a learner that is promoted, or as a voter.
    /// Whatever else fails meanwhile, it goes on until that is done.
    async fn replace(&self, member: usize) -> bool {
        if !self.cluster.begin_replacement() {
            return false;
        }
        let as_learner = self.fault.choice & 2 == 2;
        let url = peer_url(member);
        self.cluster.hold_down(member, Kill::Power);
        self.until_done(Step::Remove, &url).await;
        self.until_done(Step::Add { as_learner }, &url).await;
        self.cluster.wipe(member);
        self.cluster.release(member);
        self.until_done(Step::Promote, &url).await;
        // Until it votes, the loss of another member can be the loss of the quorum.
        while !self.cluster.probe(member).is_some_and(|probe| probe.is_voter) {
            self.world.sleep(ASK_PAUSE).await;
        }
        self.cluster.end_replacement();
        true
    }

    /// Asks one member after the other, until the step is done.
    async fn until_done(&self, step: Step, url: &str) {
        let addresses = self.cluster.addresses();
        for address in addresses.iter().cycle() {
            if let Some(connection) = self.connect(address, ASK_TIMEOUT).await {
                let attempt = step.attempt(ClusterClient::new(connection.calls()), url);
                if let Ok(Ok(true)) = self.env.timeout(ASK_TIMEOUT, attempt).await {
                    return;
                }
            }
            self.world.sleep(ASK_PAUSE).await;
        }
    }

    async fn drift(&self, member: usize, dice: &mut Dice) -> bool {
        let host = self.host(member);
        let ppm = dice.range(0..2 * DRIFT_PPM_MAX as u64) as i64 - DRIFT_PPM_MAX;
        self.world.clock(host, |clock, now| clock.drift(now, ppm));
        self.wait().await;
        self.world.clock(host, |clock, now| clock.drift(now, 0));
        true
    }
}
