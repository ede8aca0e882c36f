//! Faults on real processes: SIGKILL with restart, SIGSTOP with SIGCONT, leaders that hand over.
//!
//! One, a majority or all members at a time: a kill loses no page cache, so every acknowledged write
//! has to survive all of them. Each fault is noted in the history; at the end all is healed.

use std::time::Duration;

use quorate::client::Channel;
use quorate::proto::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};
use quorate::runtime::{Env, Instant};
use quorate_jepsen::history::Recorder;
use quorate_jepsen::workload::Clock;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::cluster::Cluster;

const MOVE_EVERY: Duration = Duration::from_millis(250);
/// A member that is dead or stopped does not answer.
const MOVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A class of faults.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL, and a restart on the same data.
    Kill,
    /// SIGSTOP, and SIGCONT.
    Pause,
    /// The leader hands over to another member, four times a second, beside whatever else happens.
    Move,
    None,
}

struct Nemesis<'a> {
    env: &'a Env,
    clock: &'a Clock,
    recorder: &'a Recorder,
    cluster: &'a mut Cluster,
    rng: ChaCha8Rng,
}

/// Injects faults until `end`, then heals everything. Returns how many there were.
pub async fn run(
    env: &Env,
    clock: &Clock,
    recorder: &Recorder,
    cluster: &mut Cluster,
    faults: &[Fault],
    seed: u64,
    end: Instant,
) -> Result<u32, String> {
    let moving = faults.contains(&Fault::Move).then(|| {
        let (clock, recorder) = (clock.clone(), recorder.clone());
        env.spawn(move_leaders(
            env.clone(),
            clock,
            recorder,
            cluster.addresses(),
            end,
        ))
    });
    let faults: Vec<Fault> = faults
        .iter()
        .copied()
        .filter(|fault| !matches!(fault, Fault::None | Fault::Move))
        .collect();
    let mut nemesis = Nemesis {
        env,
        clock,
        recorder,
        cluster,
        rng: ChaCha8Rng::seed_from_u64(seed),
    };
    let mut injected = 0;
    while !faults.is_empty() && env.now() < end {
        nemesis.wait(500..3_000, end).await;
        let fault = faults[nemesis.rng.random_range(0..faults.len())];
        let victims = nemesis.victims();
        for victim in &victims {
            nemesis.inject(fault, *victim)?;
            injected += 1;
        }
        nemesis.wait(200..4_000, end).await;
        nemesis.heal()?;
    }
    env.sleep_until(end).await;
    match moving {
        Some(moving) => Ok(injected + moving.await.ok_or("the task that moves leaders panicked")?),
        None => Ok(injected),
    }
}

/// Tells whoever leads to hand over to the next member, until `end`; how often it did.
async fn move_leaders(
    env: Env,
    clock: Clock,
    recorder: Recorder,
    addresses: Vec<String>,
    end: Instant,
) -> u32 {
    let mut moved = 0;
    let mut members = vec![None; addresses.len()];
    while env.now() < end {
        env.sleep(MOVE_EVERY).await;
        for (member, address) in members.iter_mut().zip(&addresses) {
            if member.is_none() {
                *member = Channel::connect(&env, address, MOVE_TIMEOUT).await.ok();
            }
        }
        let turn = env.timeout(MOVE_TIMEOUT, move_leader(&mut members));
        if matches!(turn.await, Ok(true)) {
            moved += 1;
        }
    }
    recorder.note(clock.now(), format!("the leader handed over {moved} times"));
    eprintln!("  the leader handed over {moved} times");
    moved
}

/// Whether the leader handed over. Connections that are of no use are forgotten.
async fn move_leader(members: &mut [Option<Channel>]) -> bool {
    let mut ids = Vec::new();
    for member in members.iter_mut() {
        let Some(channel) = member else { continue };
        match MaintenanceClient::new(channel.clone())
            .status(pb::StatusRequest {})
            .await
        {
            Ok(status) => {
                let status = status.into_inner();
                ids.push((
                    status.header.unwrap_or_default().member_id,
                    status.leader,
                    channel.clone(),
                ));
            }
            Err(_) => *member = None,
        }
    }
    let Some(at) = ids.iter().position(|(id, leader, _)| id == leader) else {
        return false;
    };
    let target_id = ids[(at + 1) % ids.len()].0;
    let mut leader = MaintenanceClient::new(ids[at].2.clone());
    leader
        .move_leader(pb::MoveLeaderRequest { target_id })
        .await
        .is_ok()
}

impl Nemesis<'_> {
    async fn wait(&mut self, millis: std::ops::Range<u64>, end: Instant) {
        let pause = Duration::from_millis(self.rng.random_range(millis));
        let until = (self.env.now() + pause).min(end);
        self.env.sleep_until(until).await;
    }

    fn note(&self, text: String) {
        eprintln!("  {text}");
        self.recorder.note(self.clock.now(), text);
    }

    /// Mostly one member; now and then a majority, or all.
    fn victims(&mut self) -> Vec<usize> {
        let all = self.cluster.len();
        let mut members: Vec<usize> = (0..all).collect();
        members.shuffle(&mut self.rng);
        let count = match self.rng.random_range(0..10) {
            0 => all,
            1 => all / 2 + 1,
            _ => 1,
        };
        members.truncate(count);
        members
    }

    fn inject(&mut self, fault: Fault, victim: usize) -> Result<(), String> {
        match fault {
            Fault::Kill => {
                self.note(format!("kill member {victim}"));
                self.cluster.kill(victim)
            }
            Fault::Pause => {
                self.note(format!("pause member {victim}"));
                self.cluster.pause(victim)
            }
            Fault::Move | Fault::None => Ok(()),
        }
    }

    fn heal(&mut self) -> Result<(), String> {
        // A member that ended by itself is started again, and the run refused for it in the end.
        self.cluster.notice_deaths();
        for member in 0..self.cluster.len() {
            if self.cluster.is_paused(member) {
                self.note(format!("resume member {member}"));
                self.cluster.resume(member)?;
            } else if !self.cluster.is_up(member) {
                self.note(format!("start member {member}"));
                self.cluster.start(member)?;
            }
        }
        Ok(())
    }
}
