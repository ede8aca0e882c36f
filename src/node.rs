//! The composition root: [`Node::start`] builds a member from an [`Env`] and a [`Config`].
//!
//! The production binary and the simulator both call it; there is no second way to build a server.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::limits;
use crate::runtime::Env;
use crate::storage::EngineKind;

/// Everything a member has to know, after flags and variables were checked. Addresses are "host:port".
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// A separate directory for the log, if wanted.
    pub wal_dir: Option<PathBuf>,
    pub engine: EngineKind,
    pub listen_client: Vec<String>,
    pub listen_peer: Vec<String>,
    pub listen_metrics: Vec<String>,
    /// URLs told to clients and peers.
    pub advertise_client_urls: Vec<String>,
    pub advertise_peer_urls: Vec<String>,
    /// Member names and their peer URLs, as `--initial-cluster` lists them.
    pub initial_cluster: Vec<(String, Vec<String>)>,
    pub initial_cluster_token: String,
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
    pub watch_progress_interval: Duration,
    pub unsafe_no_fsync: bool,
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
            listen_metrics: Vec::new(),
            advertise_client_urls: vec!["http://localhost:2379".into()],
            advertise_peer_urls: vec!["http://localhost:2380".into()],
            initial_cluster: vec![("default".into(), vec!["http://localhost:2380".into()])],
            initial_cluster_token: "etcd-cluster".into(),
            heartbeat_interval: Duration::from_millis(100),
            election_timeout: Duration::from_millis(1000),
            pre_vote: true,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            quota_bytes: 2 << 30,
            max_request_bytes: limits::REQUEST_BYTES_MAX,
            max_txn_ops: limits::TXN_OPS_MAX,
            max_concurrent_streams: u32::MAX,
            watch_progress_interval: Duration::from_secs(600),
            unsafe_no_fsync: false,
        }
    }
}

impl Config {
    /// etcd's longest time for a request: 5 s and two election time-outs.
    pub fn request_timeout(&self) -> Duration {
        limits::REQUEST_TIMEOUT_BASE + 2 * self.election_timeout
    }
}

/// Why a member did not start, or stopped.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct NodeError(pub String);

/// A running member.
pub struct Node {}

impl Node {
    /// Opens the data directory, recovers, joins its cluster and serves. Returns when every listener is
    /// bound and recovery is done; clients are served once the member has published itself through raft.
    pub async fn start(env: Env, config: Config) -> Result<Node, NodeError> {
        let _ = (env, config);
        todo!("composition")
    }

    /// Resolves when the member can serve clients ("ready to serve client requests").
    pub async fn ready(&self) -> Result<(), NodeError> {
        todo!("composition")
    }

    /// Resolves when the member has stopped by itself, with the reason.
    pub async fn failed(&self) -> NodeError {
        todo!("composition")
    }

    /// Graceful stop: hands leadership over, drains, closes.
    pub async fn stop(self) {
        todo!("composition")
    }
}
