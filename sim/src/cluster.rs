//! The members of a run: each is `Node::start` on a host of the world, started again whenever it should.
//!
//! A member that stops by itself is an answer to a disk that failed, and it is started again; without
//! such a fault it is a violation. Probes look at the running members from outside, at one moment.

mod config;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use quorate::base::Level;
use quorate::config::Config;
use quorate::consensus::{term_in, voters_in};
use quorate::node::Node;
use quorate::runtime::{Env, signal};
use quorate::storage::wal::{Seen, Witness};
use quorate_jepsen::timeline::Tone;

use crate::coverage;
use crate::ending::Ending;
use crate::nemesis::{Atlas, Health};
use crate::plan::{MemberOptions, Plan};
use crate::properties::{Added, LeaderSilence, LogLook, Membership, Observation, Properties, Sight, Vote};
use crate::report::Violation;
use crate::sabotage::Sabotage;
use crate::world::net::HostId;
use crate::world::{Kill, Nanos, World};

/// How long a member that stopped by itself stays down.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// How long raft may take to say in which term it woke up.
const RECOVERED_TERM_WAIT: Duration = Duration::from_millis(20);

/// How long a member may take to say what it knows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The port for clients, and the one for peers.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    shared: Arc<Shared>,
}

struct Shared {
    world: World,
    plan: Plan,
    members: Vec<Mutex<Member>>,
    violations: Mutex<Vec<Violation>>,
    counters: Mutex<BTreeMap<String, u64>>,
    /// The member that voted last, and whether it was silenced for it.
    voted: signal::Sender<Option<(usize, bool)>>,
    properties: Mutex<Properties>,
    failed: signal::Sender<bool>,
    /// One change of the members at a time.
    changing: Mutex<bool>,
    /// New members in the place of others.
    replacements: Mutex<u64>,
    /// When the last fault had ended.
    healed: Mutex<Option<Nanos>>,
    atlas: Mutex<Atlas>,
}

struct Member {
    host: HostId,
    /// Its member id, once it was looked at.
    id: Option<u64>,
    life: u64,
    node: Weak<Node>,
    /// Sees the log of the process, of the last one while none runs; and up to where it was looked at.
    log: Option<Witness>,
    log_ticket: u64,
    stop: signal::Sender<bool>,
    /// Its disk has failed it since it was started: it may stop by itself.
    excused: bool,
    /// A fault wants it down: nobody else may start it.
    held_down: u32,
    /// It is cut off at its next vote.
    silenced_at_vote: bool,
    /// It was.
    silenced: bool,
    /// It took another one's place: it joins the cluster, unless its disk says that it has done so.
    joins: bool,
    /// It is being removed: it stops when it hears of that.
    leaving: bool,
    /// How its process ended last, by itself.
    last_end: Option<Ending>,
    /// Options that it was restarted with, besides those of the plan.
    options: Option<MemberOptions>,
}

fn locked<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared
        .lock()
        .expect("a panic ends the run before anybody locks again")
}

/// Where the disks lie, what clients saw has to show it: nothing else ends the run before it is at its end.
fn is_of_the_end(violation: &Violation) -> bool {
    [
        "elects",
        "serves-writes",
        "serves-reads",
        "administers",
        "convergence",
    ]
    .contains(&violation.property.as_str())
}

/// The name of a member, counted from 0.
pub fn name(member: usize) -> String {
    format!("m{}", member + 1)
}

/// Where the others reach a member.
pub fn peer_url(member: usize) -> String {
    format!("http://{}:{PEER_PORT}", name(member))
}

impl Cluster {
    /// Adds a host for each member; starts none.
    pub fn new(world: World, plan: Plan) -> Self {
        let member = |index| {
            Mutex::new(Member {
                host: world.add_host(&name(index)),
                id: None,
                life: 0,
                node: Weak::new(),
                log: None,
                log_ticket: 0,
                stop: signal::channel(false).0,
                excused: false,
                held_down: 0,
                silenced_at_vote: false,
                silenced: false,
                joins: false,
                leaving: false,
                last_end: None,
                options: None,
            })
        };
        let members = (0..plan.members).map(member).collect();
        let atlas = Mutex::new(Atlas::new(plan.members));
        Cluster {
            shared: Arc::new(Shared {
                world,
                plan,
                members,
                violations: Mutex::default(),
                counters: Mutex::default(),
                voted: signal::channel(None).0,
                properties: Mutex::default(),
                failed: signal::channel(false).0,
                changing: Mutex::default(),
                replacements: Mutex::default(),
                healed: Mutex::default(),
                atlas,
            }),
        }
    }

    pub fn world(&self) -> &World {
        &self.shared.world
    }

    pub fn len(&self) -> usize {
        self.shared.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn plan(&self) -> &Plan {
        &self.shared.plan
    }

    /// Where clients connect to, by member.
    pub fn addresses(&self) -> Vec<String> {
        let address = |member| format!("{}:{CLIENT_PORT}", name(member));
        (0..self.len()).map(address).collect()
    }

    pub fn host(&self, member: usize) -> HostId {
        locked(&self.shared.members[member]).host
    }

    pub fn count(&self, what: &str) {
        *locked(&self.shared.counters).entry(what.to_owned()).or_default() += 1;
    }

    /// What was counted here, by the network and by the disks.
    pub fn all_counters(&self) -> BTreeMap<String, u64> {
        let mut counters = locked(&self.shared.counters).clone();
        let mut add = |name: &str, count: u64| *counters.entry(name.to_owned()).or_default() += count;
        let (resets, timeouts) = self.world().net(|net, _| (net.resets, net.timeouts));
        add("connections reset", resets);
        add("connections timed out", timeouts);
        for member in 0..self.len() {
            let disk = self.world().drive(self.host(member), |drive| drive.counters);
            add("syncs", disk.syncs);
            add("syncs failed", disk.failed_syncs);
            add("writes refused", disk.failed_writes);
            add("unsynced writes kept", disk.crash.kept);
            add("unsynced writes lost", disk.crash.lost);
            add("unsynced writes torn", disk.crash.torn);
            add("unsynced names lost", disk.names_lost);
        }
        counters
    }

    pub fn violate(&self, violation: Violation) {
        if self.plan().sabotage == Some(Sabotage::LyingSync) && !is_of_the_end(&violation) {
            return;
        }
        self.world().event(
            "verdict",
            format_args!("{}: {}", violation.property, violation.text),
        );
        self.world().notebook().violated(self.world().now());
        locked(&self.shared.violations).push(violation);
        self.shared.failed.send(true);
    }

    /// Becomes true at the first violation.
    pub fn failed(&self) -> signal::Receiver<bool> {
        self.shared.failed.subscribe()
    }

    /// A vote left a member.
    pub fn voted(&self, name_of_voter: &str, term: u64, candidate: u64, voter: u64) {
        self.world().event(
            name_of_voter,
            format_args!("votes in term {term} for {candidate:x}"),
        );
        let told = self.world().notebook();
        told.voted(self.world().now(), name_of_voter, term, candidate);
        self.count("votes granted");
        let Some(place) = (0..self.len()).find(|member| name(*member) == name_of_voter) else {
            return;
        };
        let vote = Vote {
            place,
            voter,
            term,
            candidate,
        };
        let voter_end = locked(&self.shared.properties).durable_end(voter);
        self.look();
        let judged = locked(&self.shared.properties).voted(vote, voter_end);
        if let Err(violation) = judged {
            self.violate(violation);
        }
        let mut voting = locked(&self.shared.members[place]);
        let silenced = std::mem::take(&mut voting.silenced_at_vote);
        voting.silenced |= silenced;
        let host = voting.host;
        drop(voting);
        if silenced {
            self.world().net(|net, now| {
                (0..net.hosts()).for_each(|to| net.cut(now, host, to));
            });
        }
        self.shared.voted.send(Some((place, silenced)));
    }

    /// From now on whoever votes says nothing any more to anybody, its answer to begin with: the nemesis, who
    /// [sees it](Self::votes), has to end it and to [let it speak](Self::unsilence) again.
    pub fn silence_at_vote(&self, members: &[usize]) {
        for member in members {
            locked(&self.shared.members[*member]).silenced_at_vote = true;
        }
    }

    /// Nobody is silenced any more.
    pub fn unsilence(&self) {
        for member in &self.shared.members {
            let mut member = locked(member);
            member.silenced_at_vote = false;
            let (silenced, host) = (std::mem::take(&mut member.silenced), member.host);
            drop(member);
            if silenced {
                self.world().net(|net, now| {
                    (0..net.hosts()).for_each(|to| net.heal(now, host, to));
                });
            }
        }
        self.shared.voted.send(None);
    }

    /// Watches which member voted last.
    pub fn votes(&self) -> signal::Receiver<Option<(usize, bool)>> {
        self.shared.voted.subscribe()
    }

    pub fn violations(&self) -> Vec<Violation> {
        locked(&self.shared.violations).clone()
    }

    /// Starts a member, unless it runs or a fault holds it down.
    pub fn start(&self, index: usize) {
        let mut member = locked(&self.shared.members[index]);
        if member.held_down > 0 || !self.world().is_off(member.host) {
            return;
        }
        let (stop, stop_wanted) = signal::channel(false);
        member.stop = stop;
        member.life += 1;
        member.node = Weak::new();
        member.last_end = None;
        (member.log, member.log_ticket) = (None, 0);
        // A fault of the disk that is under way may meet this life, too.
        member.excused = self.world().drive(member.host, |drive| drive.may_fail());
        let (host, life) = (member.host, member.life);
        drop(member);
        locked(&self.shared.properties).begin_life(index);
        let config = self.config(index);
        let cluster = self.clone();
        self.world().start(host, move |env| {
            cluster.run(index, life, env, config, stop_wanted)
        });
    }

    /// The main task of a member's process.
    async fn run(self, index: usize, life: u64, env: Env, config: Config, mut stop: signal::Receiver<bool>) {
        let ended = match Node::start(env, config).await {
            Err(error) => Ending::NotStarted(error),
            Ok(node) => {
                let node = Arc::new(node);
                let log = node.log_witness().await;
                {
                    let mut member = locked(&self.shared.members[index]);
                    member.node = Arc::downgrade(&node);
                    member.log = Some(log);
                }
                self.check_recovered_term(index).await;
                let failure = {
                    let asked = Box::pin(async { stop.wait_until(|stop| *stop).await.is_ok() });
                    // As the binary does: it takes what either of the two says for the member's reason.
                    let life = async {
                        match node.ready().await {
                            Ok(()) => node.failed().await,
                            Err(error) => error,
                        }
                    };
                    match select(asked, life.boxed()).await {
                        Either::Left(_) => None,
                        Either::Right((error, _)) => Some(error),
                    }
                };
                match failure {
                    Some(error) => Ending::Failed(error),
                    None => {
                        let node = Arc::into_inner(node).expect("probes hold a node only while they look");
                        node.stop().await;
                        Ending::AsAsked
                    }
                }
            }
        };
        self.ended(index, life, ended);
    }

    /// What a member has promised by its votes it must still know when it is back.
    async fn check_recovered_term(&self, index: usize) {
        let deadline = self.world().now() + RECOVERED_TERM_WAIT.as_nanos() as u64;
        while self.world().now() < deadline {
            let term = self.probe(index).map_or(0, |probe| probe.term);
            if term > 0 {
                let recovered = locked(&self.shared.properties).recovered(index, term);
                if let Err(violation) = recovered {
                    self.violate(violation);
                }
                return;
            }
            self.world().sleep(Duration::from_micros(50)).await;
        }
    }

    /// A member's process is at its end by itself.
    fn ended(&self, index: usize, life: u64, how: Ending) {
        self.look();
        let mut member = locked(&self.shared.members[index]);
        if member.life != life {
            return;
        }
        self.world().event(&name(index), format_args!("{how}"));
        let tone = match how {
            Ending::AsAsked => Tone::Remark,
            Ending::NotStarted(_) | Ending::Failed(_) => Tone::Warning,
        };
        let text = how.to_string();
        let notebook = self.world().notebook();
        notebook.mark(self.world().now(), &name(index), tone, &text);
        let asked = *member.stop.borrow();
        // Who joins needs the others, and they may be out of reach, or not know of it yet.
        let cannot_join = member.joins && how.is_failed_join();
        let has_left = member.leaving && how.is_removal();
        // Stopping is right for who has met with damage, and says so: an operator has to know what to do.
        let says_damage = how.is_damage() || how.is_lost_data();
        let is_damaged = says_damage && locked(&self.shared.atlas).health(index) != Health::Whole;
        member.last_end = Some(how);
        if !asked && !member.excused && !cannot_join && !has_left && !is_damaged {
            let text = format!(
                "a member whose disk works does not stop by itself: {} {text}",
                name(index)
            );
            self.violate(Violation::new("stays-up", text));
        }
        member.node = Weak::new();
        drop(member);
        let cluster = self.clone();
        // The process cannot end itself from within one of its own tasks.
        self.world()
            .spawn(async move { cluster.bury(index, life, asked).await });
    }

    async fn bury(self, index: usize, life: u64, asked: bool) {
        let host = self.host(index);
        if locked(&self.shared.members[index]).life == life {
            self.world().kill(host, Kill::Process);
        }
        if !asked {
            self.world().sleep(RESTART_DELAY).await;
            self.start(index);
        }
    }

    /// Its disk fails it now: stopping by itself is right.
    pub fn excuse(&self, index: usize) {
        locked(&self.shared.members[index]).excused = true;
    }

    /// Ends a member's process and keeps it down until [`release`](Self::release).
    pub fn hold_down(&self, index: usize, kill: Kill) -> bool {
        // What it held until now is evidence of what may be committed.
        self.look();
        let mut member = locked(&self.shared.members[index]);
        member.held_down += 1;
        member.node = Weak::new();
        let host = member.host;
        drop(member);
        self.world().kill(host, kill)
    }

    /// False: the members are being changed already.
    pub fn begin_change(&self) -> bool {
        !std::mem::replace(&mut *locked(&self.shared.changing), true)
    }

    pub fn end_change(&self) {
        *locked(&self.shared.changing) = false;
    }

    /// The last fault has ended.
    pub fn heal(&self) {
        *locked(&self.shared.healed) = Some(self.world().now());
    }

    /// When that was; `None`: it has not.
    pub fn healed(&self) -> Option<Nanos> {
        *locked(&self.shared.healed)
    }

    /// New members that took the place of others.
    pub fn replacements(&self) -> u64 {
        *locked(&self.shared.replacements)
    }

    /// Which disks may be damaged.
    pub fn atlas<T>(&self, look: impl FnOnce(&mut Atlas) -> T) -> T {
        look(&mut locked(&self.shared.atlas))
    }

    /// How a member's process ended by itself since it was started last.
    pub fn last_end(&self, index: usize) -> Option<Ending> {
        locked(&self.shared.members[index]).last_end.clone()
    }

    /// It is about to be removed: stopping for that is right from now on.
    pub fn leaves(&self, index: usize) {
        locked(&self.shared.members[index]).leaving = true;
    }

    /// Whether a member is of an earlier release.
    pub fn is_older(&self, index: usize) -> bool {
        let options = &locked(&self.shared.members[index]).options;
        options.as_ref().unwrap_or(&self.shared.plan.options).level < Level::NEWEST
    }

    /// From its next start on a member has these options.
    pub fn set_options(&self, index: usize, options: MemberOptions) {
        locked(&self.shared.members[index]).options = Some(options);
    }

    /// A member that is down gets an empty disk, and is another one from now on: it has promised nothing.
    pub fn wipe(&self, index: usize) {
        self.world().drive(self.host(index), |drive| drive.wipe());
        let mut member = locked(&self.shared.members[index]);
        (member.joins, member.leaving) = (true, false);
        (member.id, member.log) = (None, None);
        drop(member);
        *locked(&self.shared.replacements) += 1;
        locked(&self.shared.properties).forget(index);
    }

    /// Ends one fault that held a member down; starts it if that was the last.
    pub fn release(&self, index: usize) {
        locked(&self.shared.members[index]).held_down -= 1;
        self.start(index);
    }

    /// Asks a member to stop in good order. False if it does not run.
    pub fn ask_to_stop(&self, index: usize) -> bool {
        let member = locked(&self.shared.members[index]);
        let running = member.node.strong_count() > 0 && self.world().is_running(member.host);
        if running {
            member.stop.send(true);
        }
        running
    }

    /// A look at one member; `None` if it does not run.
    pub fn probe(&self, index: usize) -> Option<Observation> {
        let mut member = locked(&self.shared.members[index]);
        if self.world().is_off(member.host) {
            return None;
        }
        let node = member.node.upgrade()?;
        let probe = node.probe();
        member.id = Some(probe.member);
        if probe.level > self.shared.plan.options.level {
            locked(&self.shared.counters).insert(coverage::LEVEL_RAISED.to_owned(), 1);
        }
        Some(Observation {
            member: index,
            life: member.life,
            id: probe.member,
            is_voter: probe.status.is_voter,
            is_settled: probe.status.is_settled,
            membership: probe.status.membership.map(|from| (from.term, from.index)),
            term: probe.status.term,
            leader: probe.status.leader,
            committed: probe.status.committed,
            applied: probe.status.applied,
            snapshot: probe.status.snapshot,
            synced: probe.synced,
            digest_index: probe.digest_index,
            digest: probe.digest,
            duplicates: probe.duplicates,
        })
    }

    /// Whether a member knows that another one has started; `None` if it does not run, or ends before it answers.
    pub async fn has_seen_start(&self, index: usize, other: usize) -> Option<bool> {
        let node = {
            let member = locked(&self.shared.members[index]);
            let runs = !self.world().is_off(member.host);
            member.node.upgrade().filter(|_| runs)?
        };
        let name = name(other);
        // The core of a member that was killed answers nobody.
        let (seen, late) = (
            pin!(node.has_seen_start(&name)),
            pin!(self.world().sleep(ANSWER_TIMEOUT)),
        );
        match select(seen, late).await {
            Either::Left((seen, _)) => Some(seen),
            Either::Right(_) => None,
        }
    }

    /// Looks at all members at this moment and judges what is seen; their observations.
    pub fn look(&self) -> Vec<Option<Observation>> {
        self.look_through(|_| {})
    }

    /// The same, where `falsify` may change what is seen.
    pub fn look_through(&self, mut falsify: impl FnMut(&mut Observation)) -> Vec<Option<Observation>> {
        let mut observations: Vec<_> = (0..self.len()).map(|index| self.probe(index)).collect();
        observations.iter_mut().flatten().for_each(&mut falsify);
        let silence = |now: &Observation| self.leader_silence(now);
        let silences: Vec<_> = observations.iter().map(|now| silence(now.as_ref()?)).collect();
        let sight = |(index, observation): (usize, &Option<Observation>)| {
            let mut member = locked(&self.shared.members[index]);
            let look = member.log.as_ref().map(|log| log.look(member.log_ticket));
            if let Some(look) = &look {
                member.log_ticket = look.ticket;
            }
            let log = look.map(|look| LogLook {
                start: look.start,
                end: look.end,
                durable_end: look.durable_end,
                term: look.vote.as_deref().map_or(0, term_in),
                committed: look.committed.map(|committed| (committed.term, committed.index)),
                added: look.added.into_iter().map(added).collect(),
            });
            Sight {
                member: index,
                life: member.life,
                observation: observation.clone(),
                leader_silence: silences[index],
                log,
            }
        };
        let sights = observations.iter().enumerate().map(sight).collect();
        let judged = locked(&self.shared.properties).look(sights);
        // The first is the one to be told of: what follows it may be nothing but its consequence.
        if let Err(violation) = judged
            && locked(&self.shared.violations).is_empty()
        {
            self.violate(violation);
        }
        observations
    }

    /// `None` as well if the leader that it names has never been looked at, or the member stands still.
    fn leader_silence(&self, now: &Observation) -> Option<LeaderSilence> {
        let leader = now.leader.filter(|leader| *leader != now.id)?;
        let is_leader = |member: &Mutex<Member>| locked(member).id == Some(leader);
        let leader = self.shared.members.iter().position(is_leader)?;
        let (own, from) = (self.host(now.member), self.host(leader));
        let running_since = self.world().running_since(own)?;
        let (heard, at) = self.world().net(|net, at| (net.heard(own, from), at));
        Some(LeaderSilence {
            lasted: Duration::from_nanos(at - heard.max(running_since)),
            election_timeout: self.plan().options.election_timeout,
        })
    }

    /// The member that leads in the highest term that anybody knows.
    pub fn leader(&self) -> Option<usize> {
        let probes: Vec<Observation> = (0..self.len()).filter_map(|member| self.probe(member)).collect();
        let newest = probes
            .iter()
            .filter(|probe| probe.leader.is_some())
            .max_by_key(|probe| probe.term)?;
        let led_by = |probe: &&Observation| Some(probe.id) == newest.leader;
        probes.iter().find(led_by).map(|probe| probe.member)
    }
}

fn added(seen: Seen) -> Added {
    Added {
        index: seen.id.index,
        term: seen.id.term,
        checksum: seen.checksum,
        membership: match seen.payload.as_deref().map(voters_in) {
            None => Membership::Unseen,
            Some(None) => Membership::Unchanged,
            Some(Some(voters)) => Membership::Changed(Arc::new(voters)),
        },
    }
}
