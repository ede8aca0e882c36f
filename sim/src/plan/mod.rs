//! A run as data: everything that decides it, apart from the code.
//!
//! ```text
//!   seed ─► Plan::draw ─► Plan ─► JSON file ─► Plan ─► run        the same run, trace for trace
//!                          ▲                    │
//!                          └── shrink ◄─────────┘                 a smaller one that violates the same
//! ```
//!
//! Whatever is drawn is stored as a value, so that a stored plan means the same after the drawing has
//! changed. The seed stays in it for the streams of chance that a run consumes while it goes on (latencies,
//! what a crash tears, the order of tasks).
//!
//! A field that a file lacks has the value of [`Plan::default`]: what was so before the field existed. A
//! field that this version does not know is an error which names it.

mod draw;
pub mod readable;

use std::fmt;
use std::time::Duration;

use quorate::base::Level;
use quorate_jepsen::workload::{MIXED, Retry, ScriptedClient, Shape, User, Watching, Workload, is_default};
use serde::{Deserialize, Serialize};

use crate::nemesis::Schedule;
use crate::sabotage::Sabotage;
use crate::seed::Seed;
use crate::world::{buggify, disk, net};

/// Before the first fault.
pub const CALM: Duration = Duration::from_secs(2);

/// See the module's text.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    pub seed: Seed,
    /// The workload that decided what clients and watchers do. Its decisions stand in `clients`: this is its name.
    pub workload: String,
    pub members: usize,
    pub options: MemberOptions,
    pub network: net::Settings,
    pub disks: disk::Settings,
    pub clients: Clients,
    /// When faults and workload end.
    #[serde(with = "readable")]
    pub chaos_end: Duration,
    /// How long the healed cluster may take to settle.
    #[serde(with = "readable")]
    pub settle_timeout: Duration,
    pub schedule: Schedule,
    /// What is broken on purpose: such a run has to fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sabotage: Option<Sabotage>,
    /// The product's sites of odd behaviour that are on, by name.
    pub buggify: Vec<String>,
    /// Messages between a member's threads take time.
    #[serde(skip_serializing_if = "is_default")]
    pub late_crossings: bool,
}

/// The options that all members of a run are started with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemberOptions {
    #[serde(with = "readable")]
    pub heartbeat_interval: Duration,
    #[serde(with = "readable")]
    pub election_timeout: Duration,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    pub log_segment_bytes: u64,
    /// Small enough to be reached; 0: the default, which is not.
    pub quota_bytes: i64,
    /// Tokens of those who log in are signed and have an end, in place of simple ones: times of day matter.
    pub jwt: bool,
    pub pre_vote: bool,
    /// The leader writes down what is left of long leases.
    pub lease_checkpoints: bool,
    /// Members compare their hashes before they serve clients.
    pub initial_corruption_check: bool,
    /// They do so again and again; zero: never.
    #[serde(with = "readable")]
    pub corruption_check_interval: Duration,
    /// They compare what was compacted last; zero: never.
    #[serde(with = "readable")]
    pub compaction_check_interval: Duration,
    #[serde(with = "readable")]
    pub watch_progress_interval: Duration,
    /// The history that members keep by themselves; zero: all. By time: the mode by revisions looks every five minutes, which
    /// no run lasts.
    #[serde(with = "readable")]
    pub auto_compaction_retention: Duration,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    /// How often a client that says nothing is pinged.
    #[serde(with = "readable")]
    pub keepalive_interval: Duration,
    #[serde(with = "readable")]
    pub auth_token_ttl: Duration,
    /// Below the newest the members are of an earlier release, until they are restarted.
    pub level: Level,
}

/// Who works on the cluster, and how.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// Hosts with clients on them, and clients on each.
    pub hosts: usize,
    pub per_host: u32,
    pub watchers: u32,
    /// Which operations the clients draw.
    pub shape: Shape,
    /// What the watchers watch, and how they read.
    #[serde(skip_serializing_if = "is_default")]
    pub watching: Watching,
    /// Everybody has to log in, and there is a user with limited rights.
    pub auth: bool,
    /// Clients contend for locks and elections, instead of working on keys.
    pub contend: bool,
    /// Clients that keep many leases alive over one stream each, beside those that work on keys.
    #[serde(skip_serializing_if = "is_default")]
    pub keepers: u32,
    /// On each member there are clients, too, that set no deadline.
    #[serde(skip_serializing_if = "is_default")]
    pub patient: bool,
    /// Mean time between two calls of a client.
    #[serde(with = "readable")]
    pub pause: Duration,
    #[serde(with = "readable")]
    pub call_timeout: Duration,
    /// Whether the clients send calls again by themselves, as a client library does.
    #[serde(skip_serializing_if = "is_default")]
    pub retry: Retry,
    /// Calls after which a client goes to another member; 0: never by itself.
    pub calls_per_member: u32,
    /// What the clients do, call by call, in place of what they would draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<Vec<ScriptedClient>>,
    /// When those begin for whom there is no script: contenders, keepers of leases, limited users, and clients that draw.
    #[serde(with = "readable")]
    pub unscripted_from: Duration,
    /// When they end, if before the chaos does: what strikes then strikes an idle cluster.
    #[serde(with = "readable::optional", skip_serializing_if = "Option::is_none")]
    pub unscripted_until: Option<Duration>,
}

impl Plan {
    /// Whether it can be carried out: a file may say anything.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(what.to_owned());
        if !(1..=9).contains(&self.members) {
            return wrong("a run has 1 to 9 members");
        }
        Workload::find(&self.workload)?;
        if self.clients.hosts == 0 {
            return wrong("a run has at least one host for clients");
        }
        if self.clients.hosts as u64 * u64::from(self.clients.per_host) > 100 || self.clients.watchers > 100 {
            return wrong("a run has at most 100 clients and 100 watchers");
        }
        if let Some(fault) = self
            .schedule
            .faults
            .iter()
            .find(|fault| fault.member >= self.members)
        {
            return Err(format!("a fault strikes a member that is not there: {fault}"));
        }
        if let Some(name) = self.buggify.iter().find(|name| !buggify::is_known(name)) {
            return Err(format!("there is no site of odd behaviour named \"{name}\""));
        }
        if self.clients.pause.is_zero() || self.options.heartbeat_interval.is_zero() {
            return wrong("clients pause, and heartbeats have an interval");
        }
        Ok(())
    }
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            seed: Seed(0),
            workload: MIXED.to_owned(),
            members: 3,
            options: MemberOptions::default(),
            network: net::Settings::default(),
            disks: disk::Settings::default(),
            clients: Clients::default(),
            chaos_end: Duration::from_secs(20),
            settle_timeout: Duration::from_secs(60),
            schedule: Schedule::default(),
            sabotage: None,
            buggify: Vec::new(),
            late_crossings: false,
        }
    }
}

impl Default for MemberOptions {
    fn default() -> Self {
        MemberOptions {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1_000),
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            log_segment_bytes: 2 << 20,
            quota_bytes: 0,
            jwt: false,
            pre_vote: true,
            lease_checkpoints: false,
            initial_corruption_check: false,
            corruption_check_interval: Duration::ZERO,
            compaction_check_interval: Duration::ZERO,
            watch_progress_interval: Duration::from_secs(5),
            auto_compaction_retention: Duration::ZERO,
            max_txn_ops: 128,
            max_request_bytes: 1_572_864,
            max_concurrent_streams: u32::MAX,
            keepalive_interval: Duration::from_secs(7_200),
            auth_token_ttl: Duration::from_secs(300),
            level: Level::NEWEST,
        }
    }
}

impl Default for Clients {
    fn default() -> Self {
        Clients {
            hosts: 1,
            per_host: 1,
            watchers: 1,
            shape: Shape::default(),
            watching: Watching::default(),
            auth: false,
            contend: false,
            keepers: 0,
            patient: false,
            pause: Duration::from_millis(60),
            call_timeout: Duration::from_millis(3_000),
            retry: Retry::Never,
            calls_per_member: 0,
            script: None,
            unscripted_from: Duration::ZERO,
            unscripted_until: None,
        }
    }
}

impl Plan {
    pub fn user(&self) -> Option<User> {
        self.clients.user()
    }
}

impl Clients {
    /// Who does everything that is not for a limited user.
    pub fn user(&self) -> Option<User> {
        self.auth.then(User::root)
    }
}

impl fmt::Display for Plan {
    /// For people: the plan as it is stored, but a fault a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = Plan {
            schedule: Schedule::default(),
            ..self.clone()
        };
        let json = serde_json::to_string_pretty(&short).map_err(|_| fmt::Error)?;
        write!(f, "{json}\n{}", self.schedule)
    }
}
