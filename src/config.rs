//! What a member is told at its start: plain data, for every layer above the ones it names.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::base::{FeatureGate, Level, limits};
pub use crate::client::Pings;
pub use crate::runtime::tls::{ClientOptions, TlsOptions};
pub use crate::storage::EngineKind;

/// Everything a member has to know, after flags and variables were checked. Addresses are "host:port".
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// A separate directory for the log, if wanted.
    pub wal_dir: Option<PathBuf>,
    pub engine: EngineKind,
    pub listen_client: Vec<Listen>,
    /// For HTTP alone; the client ports then serve gRPC alone.
    pub listen_client_http: Vec<Listen>,
    pub listen_peer: Vec<Listen>,
    pub listen_metrics: Vec<Listen>,
    /// TLS for clients, and for metrics.
    pub client_tls: Option<TlsOptions>,
    pub peer_tls: Option<TlsOptions>,
    /// A client's certificate names its user.
    pub client_cert_auth: bool,
    /// URLs told to clients and peers.
    pub advertise_client_urls: Vec<String>,
    pub advertise_peer_urls: Vec<String>,
    /// The address from which other members are called, if the system is not to choose it.
    pub peer_local_address: Option<IpAddr>,
    /// Member names and their peer URLs, as `--initial-cluster` lists them.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    /// Why that is no list for this member; it matters to one without data alone.
    pub initial_cluster_error: Option<String>,
    pub initial_cluster_token: String,
    /// Where the members of a new cluster find one another; `initial_cluster` then lists this one alone.
    pub discovery: Option<DiscoveryOptions>,
    /// The domain that lists the members, in place of `initial_cluster`.
    pub discovery_srv: Option<SrvOptions>,
    /// Members are neither added nor removed if the quorum could be lost.
    pub strict_reconfig: bool,
    pub max_learners: u32,
    pub corruption: CorruptionChecks,
    /// How often the leader looks whether a downgrade is done; zero: never.
    pub downgrade_check_interval: Duration,
    /// `GODEBUG=http2debug`: show what clients call this server.
    pub trace_http2: bool,
    /// The cluster exists already: a member without data joins it.
    pub join: bool,
    /// Unsafe: go on alone, without the members that this one's data name.
    pub force_new_cluster: bool,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub pre_vote: bool,
    /// Applied entries between snapshots.
    pub snapshot_count: u64,
    /// Entries kept for slow followers after a snapshot.
    pub snapshot_catchup_entries: u64,
    /// Logical bytes after which writes are refused; negative: no limit.
    pub quota_bytes: i64,
    pub max_request_bytes: usize,
    pub max_txn_ops: usize,
    pub max_concurrent_streams: u32,
    pub keepalive: Keepalive,
    pub watch_progress_interval: Duration,
    /// Calls and applies that take longer are logged.
    pub slow: Slow,
    /// Measure how long the calls of each method take.
    pub extensive_metrics: bool,
    /// What metrics tell of `--feature-gates`.
    pub feature_gates: Vec<FeatureGate>,
    /// How often the other members are asked for a sign of life, for metrics alone; zero: never.
    pub probe_interval: Duration,
    /// Send spans of calls to a collector.
    pub tracing: Option<TracingOptions>,
    /// The leader writes down what is left of long leases, for the next.
    pub lease_checkpoints: bool,
    pub unsafe_no_fsync: bool,
    /// Compaction without being asked.
    pub auto_compaction: Option<AutoCompaction>,
    /// Serve JSON below `/v3/`.
    pub gateway: bool,
    /// Origins of web pages that may use the HTTP endpoints; `*`: all.
    pub cors: Vec<String>,
    /// Names by which HTTP without TLS may be addressed; `*`: all.
    pub host_whitelist: Vec<String>,
    /// Signed tokens; `None`: simple ones.
    pub auth_jwt: Option<JwtOptions>,
    /// How long an unused simple token lives.
    pub auth_token_ttl: Duration,
    /// Up to which this member applies what is in the log. Below the newest it is a member of an earlier release, as far as
    /// the others can see.
    pub level: Level,
    /// 4 to 31: twice the work for each.
    pub bcrypt_cost: u32,
    /// Size of a segment of the log.
    pub log_segment_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: "default".into(),
            data_dir: "default.etcd".into(),
            wal_dir: None,
            engine: EngineKind::Fjall,
            listen_client: vec!["localhost:2379".into()],
            listen_peer: vec!["localhost:2380".into()],
            listen_client_http: Vec::new(),
            listen_metrics: Vec::new(),
            client_tls: None,
            peer_tls: None,
            client_cert_auth: false,
            advertise_client_urls: vec!["http://localhost:2379".into()],
            advertise_peer_urls: vec!["http://localhost:2380".into()],
            peer_local_address: None,
            initial_cluster: vec![("default".into(), vec!["http://localhost:2380".into()])],
            initial_cluster_error: None,
            initial_cluster_token: "etcd-cluster".into(),
            discovery: None,
            discovery_srv: None,
            strict_reconfig: true,
            max_learners: 1,
            corruption: CorruptionChecks::default(),
            downgrade_check_interval: Duration::from_secs(5),
            trace_http2: false,
            join: false,
            force_new_cluster: false,
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            quota_bytes: 2 << 30,
            max_request_bytes: limits::REQUEST_BYTES_MAX,
            max_txn_ops: limits::TXN_OPS_MAX,
            max_concurrent_streams: u32::MAX,
            keepalive: Keepalive::default(),
            watch_progress_interval: Duration::from_secs(600),
            slow: Slow::default(),
            extensive_metrics: false,
            feature_gates: Vec::new(),
            probe_interval: limits::PEER_PROBE_INTERVAL,
            tracing: None,
            lease_checkpoints: false,
            unsafe_no_fsync: false,
            auto_compaction: None,
            gateway: true,
            cors: vec!["*".into()],
            host_whitelist: vec!["*".into()],
            auth_jwt: None,
            auth_token_ttl: Duration::from_secs(300),
            level: Level::NEWEST,
            bcrypt_cost: 10,
            log_segment_bytes: limits::LOG_SEGMENT_BYTES,
        }
    }
}

impl Config {
    /// etcd's longest time for a request: 5 s and two election time-outs.
    pub fn request_timeout(&self) -> Duration {
        limits::REQUEST_TIMEOUT_BASE + 2 * self.election_timeout
    }
}

/// Where to listen, and for what: plain connections, TLS, or both on one port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listen {
    /// "host:port", or "unix:" and a path.
    pub address: String,
    pub plain: bool,
    pub tls: bool,
}

impl<A: Into<String>> From<A> for Listen {
    fn from(address: A) -> Self {
        Listen {
            address: address.into(),
            plain: true,
            tls: false,
        }
    }
}

/// From when on something is slow; zero: everything is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slow {
    pub call: Duration,
    pub apply: Duration,
}

impl Default for Slow {
    fn default() -> Self {
        Slow {
            call: Duration::from_millis(300),
            apply: Duration::from_millis(100),
        }
    }
}

/// `--auto-compaction-mode` and `--auto-compaction-retention`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoCompaction {
    /// Keep the history of this time.
    Periodic(Duration),
    /// Keep this many revisions.
    Revision(i64),
}

/// Which checks are made, and how often.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CorruptionChecks {
    /// Before clients are served.
    pub initial: bool,
    /// By the leader, so often; zero: never.
    pub interval: Duration,
    /// By the leader, of the revision that was compacted last, so often; zero: never.
    pub compaction_interval: Duration,
}

/// When an idle client is pinged, and how long it may take to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// etcd's, which are gRPC's.
    fn default() -> Self {
        Keepalive {
            interval: Duration::from_secs(2 * 3600),
            timeout: Duration::from_secs(20),
        }
    }
}

/// What `--auth-token` says, with the contents of the files it names.
#[derive(Clone, Debug, Default)]
pub struct JwtOptions {
    /// As JWT names it: RS256, ES384, HS512, EdDSA …
    pub sign_method: String,
    /// PEM.
    pub public_key: Vec<u8>,
    /// PEM; with HMAC the secret itself.
    pub private_key: Vec<u8>,
    pub ttl: Duration,
}

/// Where spans go, and which.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TracingOptions {
    /// Of the collector, "host:port".
    pub address: String,
    pub service_name: String,
    /// Empty: none.
    pub instance_id: String,
    /// Of a million calls without a traced parent; at most that.
    pub sampled_per_million: u32,
}

/// Where a discovery service is, and how it is spoken to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveryOptions {
    /// Of the cluster that is looked for.
    pub token: String,
    /// URLs, or "host:port".
    pub endpoints: Vec<String>,
    pub dial_timeout: Duration,
    pub request_timeout: Duration,
    pub pings: Option<Pings>,
    /// For endpoints that do not say themselves whether they are spoken to with TLS; `None`: they are not.
    pub tls: Option<ClientOptions>,
    pub credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Which records list the members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SrvOptions {
    pub domain: String,
    /// Behind the service's name, after a dash, if not empty.
    pub name: String,
}
