//! The client-facing server: gRPC and plain HTTP on one port.
//!
//! ```text
//!   listener ─► connection (hyper, HTTP/1.1 or HTTP/2) ─► front ─┬─► http ─► health, metrics, version
//!                                                                └─► tonic's codec ─► call ─► kv, lease, watch, …
//!                                                                                              │
//!                        consensus ◄────────────── propose, read_barrier, read ◄───────────────┘
//! ```
//!
//! Services are plain async functions on the wire's messages, all on one [`Api`]. The server promises etcd's
//! answers, codes and texts; that a client which reads slowly, or sends much, costs bounded memory; and that no
//! request waits for another's large answer. It knows nothing of raft or storage but what
//! [`Consensus`] says, and takes time, tasks and sockets from [`Env`] alone.
//!
//! Deliberately absent: enforcement against clients that ping too often (hyper does not show pings).

mod api;
mod auth;
mod background;
pub mod metrics;
mod services;
mod spans;
mod watch;
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::base::Denied;
use crate::config::Config;
use crate::consensus::Consensus;
use crate::runtime::tls::Security;
use crate::runtime::{Env, Listener, Task, signal};
use crate::state::State;
use api::Api;
pub use auth::Jwt;
use auth::Passwords;
pub use background::corruption::check_initially;
use background::quota::Allowance;
pub use background::quota::bound as quota_bound;
use background::raft_status_cache::RaftStatusCache;
pub use background::versions::check_own as check_own_version;
use background::{compactor, corruption, quota, raft_status_cache, versions};
use metrics::Metrics;
use spans::Spans;
pub use watch::WatchHub;
use wire::connection::Connections;
use wire::front::Front;
pub use wire::front::Role;

/// The version of etcd that this server stands in for. Clients switch features on by it.
pub const VERSION: &str = "3.7.1";
/// Pause between looks whether the member has published itself.
const READY_RETRY: Duration = Duration::from_millis(20);
/// How long clients may take to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a stopping server waits for its last spans to be taken.
const LAST_SPANS: Duration = Duration::from_millis(500);

/// A bound port, how its connections begin, and what it is for.
pub struct Port {
    pub listener: Box<dyn Listener>,
    pub security: Security,
    pub role: Role,
}

/// A running server.
pub struct Server {
    api: Arc<Api>,
    connections: Arc<Connections>,
    ready: signal::Receiver<bool>,
    addresses: Vec<String>,
    accepting: Vec<Task<()>>,
    background: Vec<Task<()>>,
    /// Sends the last spans when all calls are over.
    sending: Mutex<Option<Task<()>>>,
}

impl Server {
    /// Serves metrics and health checks at once, and clients from the moment the member is ready; until then
    /// their connections wait in the kernel, and those beyond `clients_max` at any time.
    pub async fn start(
        env: Env,
        config: &Config,
        consensus: Consensus,
        hub: Arc<WatchHub>,
        jwt: Option<Jwt>,
        ports: Vec<Port>,
        clients_max: usize,
    ) -> Server {
        let (spans, sending) = config
            .tracing
            .clone()
            .map(|options| Spans::new(env.clone(), options))
            .unzip();
        let sending = sending.map(|sending| env.spawn(sending));
        let api = Arc::new_cyclic(|me| Api {
            me: me.clone(),
            env: env.clone(),
            options: config.clone(),
            consensus,
            metrics: hub.metrics().clone(),
            hub,
            standing: RaftStatusCache::default(),
            streams: Arc::default(),
            allowance: Allowance::default(),
            passwords: Passwords::new(env.clone(), config.bcrypt_cost),
            copying: tokio::sync::Semaphore::new(1),
            jwt,
            spans,
            stopping: AtomicBool::new(false),
        });
        api.standing.set(&api.consensus.status());
        if config.extensive_metrics {
            api.metrics.measure_calls();
        }
        let (ready_sender, ready) = signal::channel(false);
        let mut background = vec![
            env.spawn(raft_status_cache::follow(api.clone())),
            env.spawn(become_ready(api.clone(), ready_sender)),
            env.spawn(versions::run(api.clone())),
            env.spawn(quota::watch(api.clone())),
        ];
        if let Some(mode) = config.auto_compaction {
            background.push(env.spawn(compactor::run(api.clone(), mode)));
        }
        if !config.downgrade_check_interval.is_zero() {
            let interval = config.downgrade_check_interval;
            background.push(env.spawn(versions::run_downgrades(api.clone(), interval)));
        }
        let checks = config.corruption;
        if !checks.interval.is_zero() {
            background.push(env.spawn(corruption::run_periodic(api.clone(), checks.interval)));
        }
        if !checks.compaction_interval.is_zero() {
            let interval = checks.compaction_interval;
            background.push(env.spawn(corruption::run_after_compactions(api.clone(), interval)));
        }
        let connections = Connections::new(
            env.clone(),
            clients_max,
            api.options.max_concurrent_streams,
            api.options.keepalive,
        );
        let addresses = ports.iter().map(|port| port.listener.local_address()).collect();
        let mut accepting = Vec::new();
        for Port {
            listener,
            security,
            role,
        } in ports
        {
            let front = Front::new(api.clone(), role);
            let (connections, mut ready) = (connections.clone(), ready.clone());
            accepting.push(env.spawn(async move {
                if role == Role::MetricsOnly || ready.wait_until(|ready| *ready).await.is_ok() {
                    log_serving(&*listener, &security, role);
                    connections.accept(listener, security, front).await;
                }
            }));
        }
        Server {
            api,
            connections,
            ready,
            addresses,
            accepting,
            background,
            sending: Mutex::new(sending),
        }
    }

    /// Resolves when clients are served; an error if that will never be.
    pub async fn ready(&self) -> Result<(), signal::Closed> {
        self.ready.clone().wait_until(|ready| *ready).await
    }

    /// Where it listens, in the order of its ports: "host:port", with the numbers that were picked.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What is counted, for the other layers' own metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.api.metrics
    }

    /// Accepts no more, ends streams with `etcdserver: server stopped`, lets calls under way finish for a bounded
    /// time, and closes.
    pub async fn stop(&self) {
        self.api.stopping.store(true, Ordering::Relaxed);
        self.accepting.iter().for_each(Task::abort);
        self.api.streams.end_all(Denied::Stopped);
        self.connections.stop(DRAIN).await;
        self.background.iter().for_each(Task::abort);
        if let Some(spans) = &self.api.spans {
            spans.close();
        }
        let sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(sending) = sending {
            // A collector that is away must not hold up the stop.
            let _ = self.api.env.timeout(LAST_SPANS, sending).await;
        }
    }
}

/// In etcd's words, which scripts wait for.
fn log_serving(listener: &dyn Listener, security: &Security, role: Role) {
    let address = listener.local_address();
    if role == Role::MetricsOnly {
        tracing::info!(address, "serving metrics");
        return;
    }
    if security.plain {
        tracing::info!(
            traffic = role.traffic(),
            address,
            "serving client traffic insecurely; this is strongly discouraged!"
        );
    }
    if security.tls.is_some() {
        tracing::info!(
            traffic = role.traffic(),
            address,
            "serving client traffic securely"
        );
    }
}

/// A member is ready when it can read what is committed and finds itself published there. Before, a client
/// could meet a state that lags behind an earlier life of this very member.
async fn become_ready(api: Arc<Api>, ready: signal::Sender<bool>) {
    let member = api.consensus.member_id();
    while api.consensus.status().fatal.is_none() {
        let current = api.consensus.read_barrier().await.is_ok();
        let is_known =
            move |state: &State| state.attributes(member).is_some() && state.cluster_version().is_some();
        if current && api.consensus.read(is_known).await {
            ready.send(true);
            return;
        }
        api.env.sleep(READY_RETRY).await;
    }
}
