//! One run: a seed's plan, carried out and judged.
//!
//! ```text
//!   calm ──► chaos: workload, faults, probes ──► heal ──► settle ──► converge ──► watches end ──► judge
//!                                                  └─ liveness: in bounded simulated time ─┘
//! ```
//!
//! Liveness is a phase, not an assertion: after all faults have ended the cluster has to elect, serve
//! fresh writes and reads through every member, and converge. The first violation ends the run.

use std::any::Any;
use std::future::Future;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, join_all, select};
use quorate::runtime::{Env, Task};
use quorate_jepsen::history::{History, Recorder, WatchEvent};
use quorate_jepsen::lease::LeaseTimes;
use quorate_jepsen::report::JudgeOptions;
use quorate_jepsen::timeline::Timeline;
use quorate_jepsen::workload::{
    ClientOptions, Clock, Consistency, ContenderOptions, Desk, Generator, KEPT_LEASES, KeeperOptions,
    OperatorOptions, Retry, ScriptedClient, Scripts, SettleOptions, Stop, UsersOptions, WatcherOptions,
    found_users, run_administrator, run_client, run_contender, run_keeper, run_limited, run_operator,
    run_script, run_watches, settle,
};
use tracing::Level;

use crate::cluster::Cluster;
use crate::coverage;
use crate::judge::{self, Judged};
use crate::logs::{LineListener, Logs};
use crate::nemesis;
use crate::notebook::Notebook;
use crate::patience;
use crate::plan::{CALM, Plan};
use crate::properties::Observation;
use crate::report::{Report, Violation, add_counters};
use crate::sabotage::Sabotage;
use crate::seed::Seed;
use crate::timeline;
use crate::trace::Trace;
use crate::world::{World, buggify, crossing};

/// Time between two looks at the members.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
/// How long members may take to have the same state once they serve.
const CONVERGE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long watches may take to receive what there is.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a lease may outlive its time: a new leader begins it anew.
const LEASE_GRACE: Duration = Duration::from_secs(15);
/// How long it may take to make the users before the first fault.
const USERS_TIMEOUT: Duration = Duration::from_secs(30);
/// Client numbers besides those of the workload.
pub(crate) const FIRST_WATCHER: u32 = 100;
pub(crate) const ADMINISTRATOR: u32 = 200;
pub(crate) const LIMITED: std::ops::Range<u32> = 201..203;
pub(crate) const OPERATOR: u32 = 300;
pub(crate) const KEEPERS: u32 = 400;
pub(crate) const SETTLING_CLIENT: u32 = 1_000;
pub(crate) const FIRST_STRIKE: u32 = 10_000;

/// What is left of a run, however it ended.
#[derive(Clone, Default)]
struct Remains {
    cluster: Arc<Mutex<Option<Cluster>>>,
    recorder: Recorder,
    scripts: Scripts,
}

/// Carries out a plan. Once per process: hash keys and interned call sites are per thread and process.
pub fn run(plan: Plan, log: Option<Level>) -> Report {
    recorded(plan, log, Notebook::default()).0
}

/// The same; the timeline shows what the notebook, if it is on, holds.
pub fn recorded(plan: Plan, log: Option<Level>, notebook: Notebook) -> (Report, Option<Timeline>) {
    let runtime = madsim::runtime::Runtime::with_seed_and_config(plan.seed.0, madsim::Config::default());
    let remains = Remains::default();
    let kept = remains.clone();
    let planned = plan.clone();
    let ended = panic::catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async { Run::new(planned, kept, log, notebook).carry_out().await });
    }));
    let reported = report(&plan, &remains, ended.err());
    // What is left of the tasks must not run its destructors outside of the simulation.
    std::mem::forget(runtime);
    reported
}

fn report(
    plan: &Plan,
    remains: &Remains,
    panicked: Option<Box<dyn Any + Send>>,
) -> (Report, Option<Timeline>) {
    let cluster = match remains.cluster.lock() {
        Ok(cluster) => cluster.clone(),
        Err(poisoned) => poisoned.into_inner().clone(),
    };
    let cluster = cluster.expect("the cluster is built before anything can fail");
    let world = cluster.world().clone();
    let mut history = remains.recorder.take();
    if let Some(sabotage) = plan.sabotage {
        sabotage.forge(&mut history);
    }
    let mut violations = cluster.violations();
    let mut counters = cluster.all_counters();
    counters.insert(coverage::of_workload(&plan.workload), 1);
    if plan.clients.retry == Retry::Clientv3 {
        counters.insert(coverage::CLIENTV3.to_owned(), 1);
    }
    let mut judged = Judged::default();
    add_counters(&mut counters, &buggify::counters());
    add_counters(&mut counters, &crossing::counters());
    if let Some(payload) = panicked {
        violations.push(Violation::new("no-panic", panic_text(payload.as_ref())));
    } else if violations.is_empty() {
        judged = judge::judge(&history, &judge_options(plan, &cluster));
        violations = judged.found.iter().map(judge::convert).collect();
        add_counters(&mut counters, &judged.counters);
    }
    trace_history(world.trace(), &history);
    for violation in &violations {
        world.event(
            "verdict",
            format_args!("{}: {}", violation.property, violation.text),
        );
    }
    let acknowledged = |operation: &&quorate_jepsen::history::Operation| operation.outcome.answer().is_some();
    let received =
        |entry: &&quorate_jepsen::history::WatchEntry| matches!(entry.event, WatchEvent::Received(_));
    let entries = history.watches.iter().flat_map(|watch| &watch.entries);
    let revisions = history
        .operations
        .iter()
        .filter_map(|operation| operation.revision());
    let timeline = world
        .notebook()
        .is_on()
        .then(|| timeline::build(plan, &world, &history, &violations, &judged.found));
    let report = Report {
        seed: plan.seed.0,
        members: plan.members,
        simulated_seconds: world.elapsed().as_secs_f64(),
        operations: history.operations.len() as u64,
        acknowledged: history.operations.iter().filter(acknowledged).count() as u64,
        watch_responses: entries.filter(received).count() as u64,
        revision: revisions.max().unwrap_or(0),
        trace_hash: format!("{:016x}", world.trace().hash()),
        trace_lines: world.trace().lines(),
        counters,
        violations,
        script: remains.scripts.take(),
        file: String::new(),
        cpu_seconds: 0.0,
        memory_mebibytes: 0,
    };
    (report, timeline)
}

fn judge_options(plan: &Plan, cluster: &Cluster) -> JudgeOptions {
    let lease_times = LeaseTimes {
        // The longest lease on the fastest clock, and what a message takes.
        clock_tolerance: 500_000_000,
        // Some faults take longer than the plan says: a member is replaced, whatever else strikes meanwhile.
        disturbed_until: cluster.healed().unwrap_or_else(|| cluster.world().now()),
        grace: LEASE_GRACE.as_nanos() as u64,
    };
    JudgeOptions {
        lease_times: Some(lease_times),
        replacements: cluster.replacements(),
        auto_compaction: !plan.options.auto_compaction_retention.is_zero(),
        unknown_writes: plan.clients.contend,
        ..JudgeOptions::default()
    }
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
    format!("nothing panics: {}", text.unwrap_or("a panic without a text"))
}

/// What clients did and saw is part of the trace.
fn trace_history(trace: &Trace, history: &History) {
    for operation in &history.operations {
        let at = Duration::from_nanos(operation.invoked.nanos);
        trace.event(at, "client", format_args!("{operation}"));
    }
    for watch in &history.watches {
        for entry in &watch.entries {
            let at = Duration::from_nanos(entry.at.nanos);
            match &entry.event {
                WatchEvent::Received(response) => {
                    let revision = response.header.as_ref().map_or(0, |header| header.revision);
                    let kvs = response.events.iter().filter_map(|event| event.kv.as_ref());
                    let events: Vec<i64> = kvs.map(|kv| kv.mod_revision).collect();
                    trace.event(
                        at,
                        "watch",
                        format_args!("{} at {revision}: {events:?}", watch.id),
                    );
                }
                other => trace.event(at, "watch", format_args!("{} {other:?}", watch.id)),
            }
        }
    }
}

/// The run while it goes on.
struct Run {
    plan: Plan,
    cluster: Cluster,
    world: World,
    recorder: Recorder,
    scripts: Scripts,
    stop: Stop,
    /// For those without a script.
    unscripted: Stop,
}

impl Run {
    fn new(plan: Plan, remains: Remains, log: Option<Level>, notebook: Notebook) -> Self {
        let trace = Trace::new(log.is_some());
        let world = World::recorded(plan.seed, plan.network, plan.disks, trace, notebook);
        buggify::begin(plan.seed, &plan.buggify);
        crossing::begin(plan.seed, plan.late_crossings, plan.options.election_timeout);
        let cluster = Cluster::new(world.clone(), plan.clone());
        *remains.cluster.lock().expect("nothing has panicked yet") = Some(cluster.clone());
        let run = Run {
            plan,
            cluster,
            world,
            recorder: remains.recorder,
            scripts: remains.scripts,
            stop: Stop::new(),
            unscripted: Stop::new(),
        };
        run.listen_to_votes(log);
        run
    }

    fn listen_to_votes(&self, log: Option<Level>) {
        let cluster = self.cluster.clone();
        let listener = move |name: &str, term, candidate, voter| cluster.voted(name, term, candidate, voter);
        let world = self.world.clone();
        let heard = move |name: &str, level: Level, text: &str| timeline::heard(&world, name, level, text);
        let lines = self
            .world
            .notebook()
            .is_on()
            .then(|| Arc::new(heard) as LineListener);
        Logs::install(log, Arc::new(listener), lines);
    }

    async fn carry_out(self) {
        let mut failed = self.cluster.failed();
        let broken = Box::pin(async { failed.wait_until(|failed| *failed).await.is_ok() });
        let phases = Box::pin(self.phases());
        select(phases, broken).await;
    }

    fn violate(&self, property: &str, text: String) {
        self.cluster.violate(Violation::new(property, text));
    }

    async fn phases(&self) {
        self.world
            .event("world", format_args!("{:?}", self.plan.clients.shape));
        for member in 0..self.plan.members {
            self.cluster.start(member);
        }
        if self.plan.sabotage != Some(Sabotage::LyingSync) {
            self.world.spawn(self.probes());
        }
        let envs = self.start_hosts();
        if self.plan.clients.auth && !self.found_users(&envs[0]).await {
            return;
        }
        let clients = self.start_clients(&envs);
        self.end_unscripted();
        self.start_operator(&envs[0]);
        let watchers = self.start_watchers(&envs);
        if !self.faults(&envs).await {
            return;
        }
        self.world.event("world", format_args!("heal"));
        self.cluster.heal();
        self.phase("heal");
        buggify::calm();
        crossing::calm();
        self.stop.stop_clients();
        self.unscripted.stop_clients();
        // A call that is answered after the members were asked what they hold would look lost.
        self.within(
            self.plan.clients.call_timeout * 2 + Duration::from_secs(5),
            join(clients),
        )
        .await;
        self.phase("settle");
        let Some(revision) = self.settle(&envs[0]).await else {
            return;
        };
        self.phase("converge");
        if !self.converge(CONVERGE_TIMEOUT).await {
            return;
        }
        self.phase("watches end");
        self.stop.stop_watches_at(revision);
        if !self.within(WATCH_TIMEOUT, join(watchers)).await {
            self.stop.stop_watches_now();
        }
        self.world
            .event("world", format_args!("end at revision {revision}"));
    }

    fn phase(&self, name: &str) {
        self.world.notebook().phase(self.world.now(), name);
    }

    /// True if it was done in time.
    async fn within(&self, limit: Duration, work: impl Future<Output = ()>) -> bool {
        matches!(
            select(Box::pin(work), self.world.sleep(limit)).await,
            Either::Left(_)
        )
    }

    fn clock(&self) -> Clock {
        let world = self.world.clone();
        Clock::new(move || world.now())
    }

    /// The clients' machines.
    fn start_hosts(&self) -> Vec<Env> {
        let start = |host| {
            let id = self.world.add_host(&format!("c{}", host + 1));
            self.world.start(id, |_| std::future::pending())
        };
        (0..self.plan.clients.hosts).map(start).collect()
    }

    /// They come after the members'.
    fn client_hosts(&self) -> Range<usize> {
        self.plan.members..self.plan.members + self.plan.clients.hosts
    }

    fn users_options(&self, client: u32, round: &Arc<AtomicU64>) -> UsersOptions {
        UsersOptions {
            seed: self.plan.seed.0,
            client,
            addresses: self.cluster.addresses(),
            call_timeout: self.plan.clients.call_timeout,
            pause: self.plan.clients.pause,
            round: round.clone(),
        }
    }

    async fn found_users(&self, env: &Env) -> bool {
        let options = self.users_options(ADMINISTRATOR, &Arc::default());
        let clock = self.clock();
        let founding = found_users(env, &clock, &self.recorder, &options, &self.stop).map(drop);
        let founded = self.within(USERS_TIMEOUT, founding).await;
        if !founded {
            let text = "without a fault users are made, and auth is switched on, in bounded time";
            self.violate("serves-writes", text.to_owned());
        }
        founded
    }

    fn start_clients(&self, envs: &[Env]) -> Vec<Task<()>> {
        let mut tasks = Vec::new();
        let clients = self.plan.clients.per_host;
        for (env, host) in envs.iter().zip(0..) {
            for client in host * clients..(host + 1) * clients {
                match (&self.plan.clients.script, self.plan.clients.contend) {
                    (_, true) => tasks.push(self.start_contender(env, client)),
                    (None, false) => tasks.push(self.start_client(env, client, None)),
                    (Some(_), false) => {}
                }
            }
        }
        for script in self.plan.clients.script.iter().flatten() {
            let host = (script.client / clients.max(1)) as usize % envs.len();
            tasks.push(self.start_client(&envs[host], script.client, Some(script)));
        }
        for (number, env) in (0..self.plan.clients.keepers).zip(envs.iter().cycle()) {
            tasks.push(self.start_keeper(env, KEEPERS + number * KEPT_LEASES));
        }
        if self.plan.clients.patient {
            let place = (&envs[0], self.client_hosts().start);
            for patient in patience::clients(&self.cluster, place, &self.unscripted) {
                // Nobody waits for them: what they are owed they say themselves.
                self.spawn_unscripted(&envs[0], patient);
            }
        }
        if self.plan.clients.auth {
            let round = Arc::default();
            let (clock, stop) = (self.clock(), self.unscripted.clone());
            let options = self.users_options(ADMINISTRATOR, &round);
            let administrator =
                run_administrator(envs[0].clone(), clock, self.recorder.clone(), options, stop);
            tasks.push(self.spawn_unscripted(&envs[0], administrator));
            for (client, env) in LIMITED.zip(envs.iter().cycle()) {
                let (clock, stop) = (self.clock(), self.unscripted.clone());
                let options = self.users_options(client, &round);
                let limited = run_limited(env.clone(), clock, self.recorder.clone(), options, stop);
                tasks.push(self.spawn_unscripted(env, limited));
            }
        }
        tasks
    }

    /// A client that no script exists for: the plan says when it begins.
    fn spawn_unscripted(&self, env: &Env, client: impl Future<Output = ()> + Send + 'static) -> Task<()> {
        let (world, from) = (self.world.clone(), self.plan.clients.unscripted_from);
        env.spawn(async move {
            if !from.is_zero() {
                world.sleep_until(from.as_nanos() as u64).await;
            }
            client.await;
        })
    }

    /// The plan may end the unscripted clients early.
    fn end_unscripted(&self) {
        let Some(until) = self.plan.clients.unscripted_until else {
            return;
        };
        let (world, stop) = (self.world.clone(), self.unscripted.clone());
        self.world.spawn(async move {
            world.sleep_until(until.as_nanos() as u64).await;
            stop.stop_clients();
        });
    }

    fn desk(&self, env: &Env) -> Desk {
        Desk {
            env: env.clone(),
            clock: self.clock(),
            recorder: self.recorder.clone(),
            scripts: self.scripts.clone(),
        }
    }

    /// A client that follows its script, if it has one, or draws.
    fn start_client(&self, env: &Env, client: u32, script: Option<&ScriptedClient>) -> Task<()> {
        let plan = &self.plan;
        let options = ClientOptions {
            client,
            user: plan.clients.user(),
            addresses: self.cluster.addresses(),
            call_timeout: plan.clients.call_timeout,
            connect_timeout: Duration::from_secs(1),
            retry: plan.clients.retry,
            pause: plan.clients.pause,
            consistency: Consistency::Linearizable,
            calls_per_member: plan.clients.calls_per_member,
        };
        let stop = script.map_or(&self.unscripted, |_| &self.stop).clone();
        let (desk, shape) = (self.desk(env), plan.clients.shape);
        match script {
            Some(script) => env.spawn(run_script(desk, script.clone(), shape, options, stop)),
            None => {
                let generator = Generator::new(plan.seed.0, client, shape);
                self.spawn_unscripted(env, run_client(desk, generator, options, stop))
            }
        }
    }

    fn start_contender(&self, env: &Env, client: u32) -> Task<()> {
        let plan = &self.plan;
        let options = ContenderOptions {
            seed: plan.seed.0,
            client,
            user: plan.clients.user(),
            addresses: self.cluster.addresses(),
            call_timeout: plan.clients.call_timeout,
            pause: plan.clients.pause,
            lease_ttl_seconds: plan.clients.shape.lease_ttl_seconds,
        };
        let (recorder, stop) = (self.recorder.clone(), self.unscripted.clone());
        let contender = run_contender(env.clone(), self.clock(), recorder, options, stop);
        self.spawn_unscripted(env, contender)
    }

    fn start_keeper(&self, env: &Env, client: u32) -> Task<()> {
        let plan = &self.plan;
        let options = KeeperOptions {
            seed: plan.seed.0,
            client,
            user: plan.clients.user(),
            addresses: self.cluster.addresses(),
            call_timeout: plan.clients.call_timeout,
            lease_ttl_seconds: plan.clients.shape.lease_ttl_seconds,
        };
        let (recorder, stop) = (self.recorder.clone(), self.unscripted.clone());
        let keeper = run_keeper(env.clone(), self.clock(), recorder, options, stop);
        self.spawn_unscripted(env, keeper)
    }

    /// Somebody has to make space where that can run out. Works to the end of the run.
    fn start_operator(&self, env: &Env) {
        if self.plan.options.quota_bytes == 0 {
            return;
        }
        let options = OperatorOptions {
            seed: self.plan.seed.0,
            client: OPERATOR,
            user: self.plan.clients.user(),
            addresses: self.cluster.addresses(),
            call_timeout: self.plan.clients.call_timeout,
        };
        let (recorder, stop) = (self.recorder.clone(), self.stop.clone());
        env.spawn_detached(run_operator(env.clone(), self.clock(), recorder, options, stop));
    }

    fn start_watchers(&self, envs: &[Env]) -> Vec<Task<()>> {
        let start = |number: u32| {
            let env = envs[number as usize % envs.len()].clone();
            let watching = &self.plan.clients.watching;
            let millis = Duration::from_millis;
            let options = WatcherOptions {
                client: FIRST_WATCHER + number,
                user: self.plan.clients.user(),
                addresses: self.cluster.addresses(),
                member: number as usize,
                connect_timeout: Duration::from_secs(1),
                progress_interval: millis(watching.progress_interval_ms),
                silence_timeout: Duration::from_secs(6),
                stream_lifetime: millis(watching.stream_lifetime_ms),
                reads: millis(watching.reads_ms),
                rests: watching.rests_of(number),
            };
            let (recorder, stop) = (self.recorder.clone(), self.stop.clone());
            let watches = watching.watches.clone();
            let user = run_watches(env.clone(), self.clock(), recorder, watches, options, stop);
            env.spawn(user)
        };
        (0..self.plan.clients.watchers).map(start).collect()
    }

    /// Carries out the schedule. When its time is over all members run, and what a replacement still needs has to come
    /// about under load.
    async fn faults(&self, envs: &[Env]) -> bool {
        let hosts: Vec<usize> = self.client_hosts().collect();
        let mut under_way = Vec::new();
        for (fault, client) in self.plan.schedule.faults.iter().zip(FIRST_STRIKE..) {
            self.world.sleep_until(fault.at().as_nanos() as u64).await;
            // Its own chance, not its place among the others: they may be taken away.
            let dice = Seed(fault.choice).dice("fault");
            let tools = nemesis::Tools {
                cluster: self.cluster.clone(),
                env: envs[0].clone(),
                others: hosts.clone(),
                clock: self.clock(),
                recorder: self.recorder.clone(),
                client,
            };
            let strike = nemesis::strike(tools, fault.clone(), dice);
            under_way.push(self.world.spawn(strike));
        }
        self.world
            .sleep_until(self.plan.chaos_end.as_nanos() as u64)
            .await;
        for member in 0..self.plan.members {
            self.cluster.start(member);
        }
        let ended = self
            .within(self.plan.settle_timeout, join_all(under_way).map(drop))
            .await;
        if !ended {
            let text = "when all is healed a replacement comes to its end, also under load".to_owned();
            self.violate("administers", text);
        }
        ended
    }

    /// Looks at all members again and again.
    fn probes(&self) -> impl Future<Output = ()> + Send + use<> {
        let cluster = self.cluster.clone();
        async move {
            let world = cluster.world().clone();
            let mut last: Vec<Option<Observation>> = vec![None; cluster.len()];
            let mut looks = 0_u64;
            loop {
                let looked = cluster.look_through(|now| {
                    looks += 1;
                    let falsify = looks.is_multiple_of(2) && world.elapsed() > CALM;
                    if falsify && cluster.plan().sabotage == Some(Sabotage::SecondLeader) {
                        now.leader = now.leader.map(|leader| leader ^ 1);
                    }
                });
                for (now, last) in looked.into_iter().zip(&mut last) {
                    if let Some(now) = now
                        && last.as_ref() != Some(&now)
                    {
                        if last.as_ref().is_some_and(|last| misses_leader(last, &now)) {
                            cluster.count(coverage::LEADER_MISSED);
                        }
                        trace_observation(&world, &now);
                        let place = crate::cluster::name(now.member);
                        world.notebook().observe(world.now(), &place, &now);
                        *last = Some(now);
                    }
                }
                world.sleep(PROBE_INTERVAL).await;
            }
        }
    }

    /// Somebody leads, in bounded time.
    async fn elects(&self) -> bool {
        let elected = self.within(self.plan.settle_timeout, async {
            while self.cluster.leader().is_none() {
                self.world.sleep(PROBE_INTERVAL).await;
            }
        });
        let elected = elected.await;
        if !elected {
            let text = format!("nobody leads {:?} after all was healed", self.plan.settle_timeout);
            self.violate("elects", text);
        }
        elected
    }

    /// A leader, equal states, fresh writes and reads through every member; the revision at the end.
    async fn settle(&self, env: &Env) -> Option<i64> {
        // Who lags catches up by itself: nothing new is written for it.
        if !self.elects().await || !self.converge(self.plan.settle_timeout).await {
            return None;
        }
        let options = SettleOptions {
            client: SETTLING_CLIENT,
            user: self.plan.clients.user(),
            addresses: self.cluster.addresses(),
            timeout: self.plan.settle_timeout,
            call_timeout: Duration::from_secs(5),
        };
        match settle(env, &self.clock(), &self.recorder, &options).await {
            Ok(revision) => Some(revision),
            Err(unsettled) => {
                self.violate(unsettled.property.name(), unsettled.message);
                None
            }
        }
    }

    /// Waits until all members have the same state at the same index.
    async fn converge(&self, limit: Duration) -> bool {
        let deadline = self.world.now() + limit.as_nanos() as u64;
        loop {
            let members = 0..self.cluster.len();
            let probes: Vec<_> = members.map(|member| self.cluster.probe(member)).collect();
            let state =
                |probe: &Option<Observation>| probe.as_ref().map(|probe| (probe.digest_index, probe.digest));
            let first = state(&probes[0]);
            if first.is_some() && probes.iter().all(|probe| state(probe) == first) {
                return true;
            }
            if self.world.now() > deadline {
                let text = format!("when all is healed the members' states become equal: {probes:?}");
                self.violate("convergence", text);
                return false;
            }
            self.world.sleep(PROBE_INTERVAL).await;
        }
    }
}

/// A follower has given its leader up.
fn misses_leader(last: &Observation, now: &Observation) -> bool {
    let followed = last.leader.is_some_and(|leader| leader != last.id);
    followed && now.leader.is_none() && (last.life, last.term) == (now.life, now.term)
}

fn trace_observation(world: &World, now: &Observation) {
    let place = crate::cluster::name(now.member);
    let leader = now.leader.unwrap_or(0);
    world.event(
        &place,
        format_args!(
            "term {} leader {leader:x} committed {} applied {} digest {}:{:016x}",
            now.term, now.committed, now.applied, now.digest_index, now.digest
        ),
    );
}

async fn join(tasks: Vec<Task<()>>) {
    join_all(tasks).map(drop).await;
}
