//! What administrators do at a bad moment.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join;
use quorate::base::Level;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::auth_client::AuthClient;
use quorate::proto::etcdserverpb::cluster_client::ClusterClient;
use quorate::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use quorate_jepsen::history::{Outcome, Request};
use quorate_jepsen::workload::{Calls, Connection, call};

use super::Blow;
use crate::cluster::{name, peer_url};
use crate::coverage::LEVEL_LEFT;
use crate::nemesis::Health;
use crate::plan::MemberOptions;
use crate::seed::Dice;
use crate::world::Kill;

/// How long one member is asked to change the membership.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// Between two hashes of a whole store.
const HASH_PAUSE: Duration = Duration::from_millis(20);
/// So soon after it was told to hand over a leader hears nothing any more, in milliseconds.
const DEAF_MS: u64 = 30;
/// Between two looks whether a membership is decided: a moment is drawn from those at which it is not.
const CHANGE_LOOK: Duration = Duration::from_millis(1);
/// How long a new member may wait for its first start after it was added, in milliseconds: the machine is still to be set up.
const SET_UP_MS_MAX: u64 = 4_000;
/// How long a rolling restart waits for one member before it goes on to the next.
const ROLL_PATIENCE: Duration = Duration::from_secs(5);

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

impl Blow<'_> {
    async fn connect(&self, address: &str, timeout: Duration) -> Option<Connection> {
        let user = self.cluster.plan().user();
        Connection::open(self.env, address, timeout, user.as_ref()).await
    }

    /// The administrator's call, from a client's host.
    pub(super) async fn move_leader(&self, leader: usize) -> bool {
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

    /// The leader is told to hand over, and soon hears nothing from the others: not that somebody else leads.
    pub(super) async fn hand_over_unheard(&self, leader: usize, dice: &mut Dice) -> bool {
        let own = self.host(leader);
        let others = self.members().into_iter().filter(|host| *host != own);
        let unheard = others.map(|other| (other, own)).collect();
        let deafen = async {
            self.world.sleep(Duration::from_millis(dice.below(DEAF_MS))).await;
            self.cut(unheard).await
        };
        join(self.move_leader(leader), deafen).await.1
    }

    /// Removes a member, which is gone already or is well, and adds a new one in its place: as a learner that is promoted, or
    /// as a voter. Whatever else fails meanwhile, it goes on until that is done. False if that cannot be afforded, or
    /// the members are being changed already.
    pub(super) async fn replace(&self, member: usize, well: bool, as_learner: bool) -> bool {
        if !self.cluster.begin_change() {
            return false;
        }
        // Who meets with damage is replaced by the fault that did it.
        let may = self
            .cluster
            .atlas(|atlas| atlas.health(member) == Health::Whole && atlas.depart(member));
        if !may {
            self.cluster.end_change();
            return false;
        }
        let url = peer_url(member);
        if well {
            self.cluster.leaves(member);
            self.until_done(Step::Remove, &url).await;
            // It hears of its end by itself, if it can be told.
            self.wait().await;
            self.cluster.hold_down(member, Kill::Process);
        } else {
            self.cluster.hold_down(member, Kill::Power);
            self.until_done(Step::Remove, &url).await;
        }
        self.install(member, as_learner).await;
        true
    }

    /// Replaces a member that is well; while a change of the membership is not decided, whoever leads loses power, or all its links.
    pub(super) async fn lose_leader_in_change(&self, member: usize, dice: &mut Dice) -> bool {
        let (as_learner, by_power) = (dice.chance(0.5), dice.chance(0.5));
        let is_over = AtomicBool::new(false);
        let change = async {
            self.replace(member, true, as_learner).await;
            is_over.store(true, Ordering::Relaxed);
        };
        let is_undecided = |leader: &usize| {
            let probe = self.cluster.probe(*leader);
            probe.is_some_and(|probe| !probe.is_settled)
        };
        let strike = async {
            while !is_over.load(Ordering::Relaxed) {
                self.world.sleep(CHANGE_LOOK).await;
                let Some(leader) = self.cluster.leader().filter(is_undecided) else {
                    continue;
                };
                match (dice.chance(0.2), by_power) {
                    (false, _) => {}
                    (true, true) => return self.down(&[leader], Kill::Power).await,
                    (true, false) => return self.cut(self.around(leader)).await,
                }
            }
            false
        };
        let ((), struck) = join(change, strike).await;
        struck
    }

    /// Replaces a member that is held down, whatever is left of its disk.
    pub(super) async fn replace_held(&self, member: usize) {
        while !self.cluster.begin_change() {
            self.world.sleep(ASK_PAUSE).await;
        }
        assert!(
            self.cluster.atlas(|atlas| atlas.depart(member)),
            "what is damaged may go"
        );
        self.until_done(Step::Remove, &peer_url(member)).await;
        self.install(member, self.fault.choice & 2 == 2).await;
    }

    /// Adds a new member in the place of one that was removed and is held down.
    async fn install(&self, member: usize, as_learner: bool) {
        let url = peer_url(member);
        self.until_done(Step::Add { as_learner }, &url).await;
        self.cluster.wipe(member);
        if self.fault.choice & 4 == 4 {
            let set_up = (self.fault.choice >> 8) % SET_UP_MS_MAX;
            self.world.sleep(Duration::from_millis(set_up)).await;
        }
        self.cluster.release(member);
        self.until_done(Step::Promote, &url).await;
        self.until_it_counts(member).await;
        self.cluster.atlas(|atlas| atlas.caught_up(member));
        self.cluster.end_change();
    }

    /// Until it votes, the loss of another member can be the loss of the quorum; and until the membership in which it
    /// votes is decided, the quorum of the one before is needed as well.
    async fn until_it_counts(&self, member: usize) {
        let counts = || {
            let probe = self.cluster.probe(member);
            probe.is_some_and(|probe| probe.is_voter && probe.is_settled)
        };
        while !counts() {
            self.world.sleep(ASK_PAUSE).await;
        }
    }

    /// Forgets all history up to now.
    pub(super) async fn compact(&self, member: usize) -> bool {
        let address = &self.cluster.addresses()[member];
        let Some(connection) = self.connect(address, ASK_TIMEOUT).await else {
            return false;
        };
        let newest = pb::RangeRequest {
            key: b"k".as_slice().into(),
            ..Default::default()
        };
        let Some(revision) = self.record(&connection, member, newest.into()).await else {
            return false;
        };
        let physical = self.fault.choice & 2 == 2;
        let compaction = pb::CompactionRequest { revision, physical };
        self.record(&connection, member, compaction.into())
            .await
            .is_some()
    }

    /// Has a member hash all that it holds, without a pause: clients' calls have to go on meanwhile.
    pub(super) async fn hash_all(&self, member: usize) -> bool {
        let address = &self.cluster.addresses()[member];
        let Some(connection) = self.connect(address, ASK_TIMEOUT).await else {
            return false;
        };
        let mut client = MaintenanceClient::new(connection.calls());
        let mut answered = false;
        while self.world.now() < self.end() {
            let hashing = client.hash(pb::HashRequest {});
            answered |= matches!(self.env.timeout(ASK_TIMEOUT, hashing).await, Ok(Ok(_)));
            self.world.sleep(HASH_PAUSE).await;
        }
        answered
    }

    /// A call that is part of the history; the revision of its answer.
    async fn record(&self, connection: &Connection, member: usize, request: Request) -> Option<i64> {
        let tools = self.tools;
        let now = tools.clock.now();
        let id = tools
            .recorder
            .invoke(tools.client, member as u32, now, request.clone());
        let outcome = call(self.env, connection, &request, ASK_TIMEOUT).await;
        tools.recorder.complete(id, tools.clock.now(), outcome.clone());
        match outcome {
            Outcome::Ok(answer) => Some(answer.revision()),
            _ => None,
        }
    }

    /// Auth is off for a while: everybody may do everything, and tokens mean nothing.
    pub(super) async fn auth_off(&self) -> bool {
        if self.cluster.plan().user().is_none() || !self.cluster.begin_change() {
            return false;
        }
        let number = self.tools.recorder.auth_off(self.tools.clock.now());
        self.auth_until_done(false).await;
        self.wait().await;
        self.auth_until_done(true).await;
        self.tools.recorder.auth_on(number, self.tools.clock.now());
        self.cluster.end_change();
        true
    }

    /// Switches auth on or off. An attempt of unknown outcome may still be carried out for a while: that is waited for.
    async fn auth_until_done(&self, on: bool) {
        let addresses = self.cluster.addresses();
        let root = self.cluster.plan().user();
        let mut unsure = false;
        for address in addresses.iter().cycle() {
            self.world.sleep(ASK_PAUSE).await;
            // Who logs in is told if there is nothing to log in to.
            let logged_in = Connection::open(self.env, address, ASK_TIMEOUT, root.as_ref()).await;
            let is_on = logged_in.is_some();
            let connection = match logged_in {
                Some(connection) => Some(connection),
                None => Connection::open(self.env, address, ASK_TIMEOUT, None).await,
            };
            let Some(connection) = connection else {
                continue;
            };
            let mut auth = AuthClient::new(connection.calls());
            let outcome = match (on, is_on) {
                (true, _) => {
                    let asked = auth.auth_enable(pb::AuthEnableRequest {});
                    self.env
                        .timeout(ASK_TIMEOUT, asked)
                        .await
                        .map(|answer| answer.map(drop))
                }
                (false, _) => {
                    let asked = auth.auth_disable(pb::AuthDisableRequest {});
                    self.env
                        .timeout(ASK_TIMEOUT, asked)
                        .await
                        .map(|answer| answer.map(drop))
                }
            };
            match outcome {
                Ok(Ok(())) => break,
                _ => unsure = true,
            }
        }
        if unsure {
            self.world
                .sleep(Duration::from_nanos(quorate_jepsen::history::ABANDONED_CALL_MAX))
                .await;
        }
    }

    /// Restarts one member after another, each with other options, and of the next release. Some go back first, as long as
    /// another one is of the release before: until then the cluster may not count on the next one.
    pub(super) async fn roll(&self, dice: &mut Dice) -> bool {
        if !self.cluster.begin_change() {
            return false;
        }
        let mut options = self.cluster.plan().options.clone();
        options.snapshot_count = *dice.pick(&[5, 30, 150, 10_000]);
        options.snapshot_catchup_entries = *dice.pick(&[0, 5, 40, 5_000]);
        options.log_segment_bytes = *dice.pick(&[64 << 10, 256 << 10, 2 << 20]);
        options.heartbeat_interval = options.election_timeout / *dice.pick(&[5, 10, 20]);
        let (older, members) = (options.level, self.cluster.len());
        let mut restarted = 0;
        let mut waiting: VecDeque<usize> = (0..members)
            .map(|step| (self.fault.member + step) % members)
            .collect();
        while let Some(member) = waiting.pop_front() {
            let may_go_back =
                self.cluster.is_older(member) && waiting.iter().any(|other| self.cluster.is_older(*other));
            options.level = Level::NEWEST;
            restarted += usize::from(self.restart(member, &options).await);
            if may_go_back && dice.chance(0.3) {
                options.level = older;
                if self.restart(member, &options).await {
                    self.cluster.count(LEVEL_LEFT);
                }
                waiting.push_back(member);
            }
        }
        self.cluster.end_change();
        restarted >= members
    }

    /// Restarts a member and waits for it; whether it was asked to stop, which it may have been doing already.
    async fn restart(&self, member: usize, options: &MemberOptions) -> bool {
        self.cluster.set_options(member, options.clone());
        let asked = self.cluster.ask_to_stop(member);
        self.world.sleep(self.fault.lasts()).await;
        // Also if it was not done with its stop.
        self.cluster.hold_down(member, Kill::Process);
        self.cluster.release(member);
        let patience = self.world.now() + ROLL_PATIENCE.as_nanos() as u64;
        let serves = || {
            let probe = self.cluster.probe(member);
            probe.is_some_and(|probe| probe.leader.is_some())
        };
        while !serves() && self.world.now() < patience {
            self.world.sleep(ASK_PAUSE).await;
        }
        asked
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
}
