//! One black-box run: start, load, faults, quiet end, verdict.
//!
//! ```text
//! |-- load ------------------------------------------------|-- settle --|-- judge --
//! |-- faults ------------------------------|-- healed -----|
//! ```

mod binary;
mod cluster;
mod lives;
mod nemesis;
mod page;
mod probes;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quorate::runtime::{Env, Task};
use quorate_jepsen::edn;
use quorate_jepsen::history::{History, Nanos, Recorder};
use quorate_jepsen::lease::LeaseTimes;
use quorate_jepsen::property::Violation;
use quorate_jepsen::report::{JudgeOptions, Report, Verdict, judge};
use quorate_jepsen::timeline::Node;
use quorate_jepsen::workload::{
    ClientOptions, Clock, Consistency, ContenderOptions, Desk, Generator, KEPT_LEASES, KeeperOptions, Load,
    Retry, Scripts, SettleOptions, Stop, User, UsersOptions, WatcherOptions, Workload, found_users,
    run_administrator, run_client, run_contender, run_keeper, run_limited, run_watches, settle,
};

use cluster::Cluster;
pub use nemesis::Fault;
use probes::Probes;

const CALL_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const START_TIMEOUT: Duration = Duration::from_secs(60);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(120);
/// What all keys of a long run may take.
const SETTLE_CALL_TIMEOUT: Duration = Duration::from_secs(30);
const WATCHES_TIMEOUT: Duration = Duration::from_secs(20);
/// Client numbers from here on are watchers; the one below settles.
const FIRST_WATCHER: u32 = 1_000;
/// Client numbers of those who work with users, if there are any.
const ADMINISTRATOR: u32 = 2_000;
const LIMITED: std::ops::Range<u32> = 2_001..2_003;
const KEEPERS: u32 = 3_000;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub seconds: u64,
    pub nodes: u32,
    pub binary: Option<PathBuf>,
    pub clients: u32,
    /// `None`: all kinds of operation on keys.
    pub workload: Option<Workload>,
    pub faults: Vec<Fault>,
    pub consistency: Consistency,
    pub retry: Retry,
    pub seed: u64,
    pub out: PathBuf,
    pub pause_ms: u64,
    pub keep_data: bool,
}

/// What clients and watchers do.
fn load(options: &RunOptions) -> Result<Load, String> {
    let load = options.workload.map(|workload| workload.load(options.seed));
    let load = load.unwrap_or_default();
    if load.membership {
        return Err(
            "changes of the members are made by the simulator alone: cargo sim run --workload".into(),
        );
    }
    Ok(load)
}

/// Runs and judges. An error means that there is nothing to judge.
pub fn run(options: &RunOptions) -> Result<Report, String> {
    let load = load(options)?;
    let binary = binary::find(options.binary.as_deref())?;
    fs::create_dir_all(&options.out).map_err(|error| at(&options.out, &error))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    let (history, judge_options, seen) = runtime.block_on(async {
        let env = quorate::runtime::tokio::env();
        Run::start(env, options, load, &binary).await?.finish().await
    })?;
    eprintln!("judging {} operations …", history.operations.len());
    let report = judge(&history, &judge_options);
    write_results(options, &history, &report, seen)?;
    Ok(report)
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

fn write_results(
    options: &RunOptions,
    history: &History,
    report: &Report,
    seen: page::Seen,
) -> Result<(), String> {
    let files = [
        ("report.txt", report.to_text()),
        ("report.json", report.to_json()),
        ("timeline.html", page::write(options, history, report, seen)),
    ];
    for (name, text) in files {
        let path = options.out.join(name);
        fs::write(&path, text).map_err(|error| at(&path, &error))?;
    }
    let path = options.out.join("history.edn");
    let written = fs::File::create(&path)
        .map(io::BufWriter::new)
        .and_then(|mut file| {
            edn::write(history, &mut file)?;
            file.flush()
        });
    written.map_err(|error| at(&path, &error))?;
    let data = options.out.join("data");
    if report.verdict == Verdict::Passed && !options.keep_data && data.exists() {
        fs::remove_dir_all(&data).map_err(|error| at(&data, &error))?;
    }
    Ok(())
}

/// A run under way.
struct Run<'a> {
    env: Env,
    clock: Clock,
    recorder: Recorder,
    options: &'a RunOptions,
    load: Load,
    cluster: Cluster,
    stop: Stop,
    clients: Vec<Task<()>>,
    watchers: Vec<Task<()>>,
    probes: Probes,
}

impl<'a> Run<'a> {
    async fn start(env: Env, options: &'a RunOptions, load: Load, binary: &Path) -> Result<Run<'a>, String> {
        let clock = Clock::from_now(&env);
        let prepared = Cluster::prepare(&env, clock.clone(), binary, options.nodes, &options.out);
        let mut cluster = prepared.await?;
        cluster.start_all()?;
        cluster.wait_until_serving(&env, START_TIMEOUT).await?;
        eprintln!(
            "{} members of {} serve on {}",
            options.nodes,
            binary.display(),
            cluster.addresses().join(", ")
        );
        let mut run = Run {
            env,
            clock,
            recorder: Recorder::new(),
            options,
            load,
            cluster,
            stop: Stop::new(),
            clients: Vec::new(),
            watchers: Vec::new(),
            probes: Probes::default(),
        };
        run.spawn_probes();
        if run.load.auth {
            run.found_users().await?;
        }
        run.spawn_clients();
        run.spawn_watchers();
        Ok(run)
    }

    /// Who does everything that is not for a limited user.
    fn user(&self) -> Option<User> {
        self.load.auth.then(User::root)
    }

    fn users_options(&self, client: u32, round: &Arc<AtomicU64>) -> UsersOptions {
        UsersOptions {
            seed: self.options.seed,
            client,
            addresses: self.cluster.addresses(),
            call_timeout: CALL_TIMEOUT,
            pause: Duration::from_millis(self.options.pause_ms),
            round: round.clone(),
        }
    }

    async fn found_users(&self) -> Result<(), String> {
        let options = self.users_options(ADMINISTRATOR, &Arc::default());
        let founding = found_users(&self.env, &self.clock, &self.recorder, &options, &self.stop);
        match self.env.timeout(START_TIMEOUT, founding).await {
            Ok(true) => Ok(()),
            _ => Err(format!("users could not be made within {START_TIMEOUT:?}")),
        }
    }

    fn spawn_clients(&mut self) {
        for client in 0..self.options.clients {
            match self.load.contend {
                true => self.spawn_contender(client),
                false => self.spawn_client(client),
            }
        }
        for number in 0..self.load.keepers {
            self.spawn_keeper(KEEPERS + number * KEPT_LEASES);
        }
        if !self.load.auth {
            return;
        }
        let round = Arc::default();
        for client in std::iter::once(ADMINISTRATOR).chain(LIMITED) {
            let options = self.users_options(client, &round);
            let (env, clock) = (self.env.clone(), self.clock.clone());
            let (recorder, stop) = (self.recorder.clone(), self.stop.clone());
            self.clients.push(match client {
                ADMINISTRATOR => self
                    .env
                    .spawn(run_administrator(env, clock, recorder, options, stop)),
                _ => self.env.spawn(run_limited(env, clock, recorder, options, stop)),
            });
        }
    }

    fn spawn_contender(&mut self, client: u32) {
        let options = ContenderOptions {
            seed: self.options.seed,
            client,
            user: self.user(),
            addresses: self.cluster.addresses(),
            call_timeout: CALL_TIMEOUT,
            pause: Duration::from_millis(self.options.pause_ms),
            lease_ttl_seconds: self.load.shape.lease_ttl_seconds,
        };
        let (env, clock) = (self.env.clone(), self.clock.clone());
        let (recorder, stop) = (self.recorder.clone(), self.stop.clone());
        let contender = run_contender(env, clock, recorder, options, stop);
        self.clients.push(self.env.spawn(contender));
    }

    fn spawn_keeper(&mut self, client: u32) {
        let options = KeeperOptions {
            seed: self.options.seed,
            client,
            user: self.user(),
            addresses: self.cluster.addresses(),
            call_timeout: CALL_TIMEOUT,
            lease_ttl_seconds: self.load.shape.lease_ttl_seconds,
        };
        let (env, clock) = (self.env.clone(), self.clock.clone());
        let (recorder, stop) = (self.recorder.clone(), self.stop.clone());
        let keeper = run_keeper(env, clock, recorder, options, stop);
        self.clients.push(self.env.spawn(keeper));
    }

    fn spawn_client(&mut self, client: u32) {
        let generator = Generator::new(self.options.seed, client, self.load.shape);
        let options = ClientOptions {
            client,
            user: self.user(),
            addresses: self.cluster.addresses(),
            call_timeout: CALL_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            retry: self.options.retry,
            pause: Duration::from_millis(self.options.pause_ms),
            consistency: self.options.consistency,
            calls_per_member: 200,
        };
        let desk = Desk {
            env: self.env.clone(),
            clock: self.clock.clone(),
            recorder: self.recorder.clone(),
            scripts: Scripts::default(),
        };
        let client = run_client(desk, generator, options, self.stop.clone());
        self.clients.push(self.env.spawn(client));
    }

    fn spawn_probes(&self) {
        for (member, address) in self.cluster.addresses().into_iter().enumerate() {
            let (env, clock) = (self.env.clone(), self.clock.clone());
            let probing = self.probes.clone().run(env, clock, member, address);
            self.env.spawn_detached(probing);
        }
    }

    fn spawn_watchers(&mut self) {
        let watching = &self.load.watching;
        let millis = Duration::from_millis;
        for member in 0..self.options.nodes {
            let options = WatcherOptions {
                client: FIRST_WATCHER + member,
                user: self.user(),
                addresses: self.cluster.addresses(),
                member: member as usize,
                connect_timeout: CONNECT_TIMEOUT,
                progress_interval: millis(watching.progress_interval_ms),
                silence_timeout: Duration::from_secs(6),
                // Not all at the same moment.
                stream_lifetime: millis(watching.stream_lifetime_ms) * (4 + member) / 4,
                reads: millis(watching.reads_ms),
                rests: watching.rests_of(member),
            };
            let (env, clock) = (self.env.clone(), self.clock.clone());
            let (recorder, stop) = (self.recorder.clone(), self.stop.clone());
            let watcher = run_watches(env, clock, recorder, watching.watches.clone(), options, stop);
            self.watchers.push(self.env.spawn(watcher));
        }
    }

    async fn finish(mut self) -> Result<(History, JudgeOptions, page::Seen), String> {
        let end = self.env.now() + Duration::from_secs(self.options.seconds);
        // The last part of the load runs without faults, so that leases and watches show what they do then.
        let healed = self.env.now() + Duration::from_secs(self.options.seconds * 8 / 10);
        let faults = nemesis::run(
            &self.env,
            &self.clock,
            &self.recorder,
            &mut self.cluster,
            &self.options.faults,
            self.options.seed,
            healed,
        )
        .await?;
        let disturbed_until = self.clock.now();
        self.env.sleep_until(end).await;
        self.stop.stop_clients();
        for client in std::mem::take(&mut self.clients) {
            client.await.ok_or("a client task panicked")?;
        }
        eprintln!("{faults} faults injected; settling …");
        let settled = self.clock.now();
        let liveness_failure = self.settle().await;
        self.cluster.notice_deaths();
        let times = LeaseTimes {
            clock_tolerance: 0,
            disturbed_until,
            grace: Duration::from_secs(15).as_nanos() as Nanos,
        };
        let options = JudgeOptions {
            lease_times: Some(times),
            liveness_failure,
            crashes: self.cluster.deaths().to_vec(),
            skip_per_key: false,
            replacements: 0,
            auto_compaction: false,
            unknown_writes: self.load.contend,
        };
        let seen = page::Seen {
            nodes: self.nodes(),
            healed: disturbed_until,
            settled,
        };
        Ok((self.recorder.take(), options, seen))
    }

    /// The members' lives, and what they said of themselves.
    fn nodes(&self) -> Vec<Node> {
        let mut nodes = self.cluster.lives().nodes(self.clock.now() / 1_000);
        for (node, states) in nodes.iter_mut().zip(self.probes.states(self.cluster.len())) {
            node.states = states;
        }
        nodes
    }

    /// The quiet end; what could not be reached in time.
    async fn settle(&mut self) -> Option<Violation> {
        let options = SettleOptions {
            client: FIRST_WATCHER - 1,
            user: self.user(),
            addresses: self.cluster.addresses(),
            timeout: SETTLE_TIMEOUT,
            call_timeout: SETTLE_CALL_TIMEOUT,
        };
        let settled = settle(&self.env, &self.clock, &self.recorder, &options).await;
        match &settled {
            Ok(revision) => self.stop.stop_watches_at(*revision),
            Err(_) => self.stop.stop_watches_now(),
        }
        let deadline = self.env.now() + WATCHES_TIMEOUT;
        for watcher in std::mem::take(&mut self.watchers) {
            let mut watcher = watcher;
            if self.env.timeout_at(deadline, &mut watcher).await.is_err() {
                self.stop.stop_watches_now();
                watcher.await;
            }
        }
        settled.err().map(|unsettled| *unsettled)
    }
}
