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
//! Deliberately absent: enforcement against clients that ping too often (hyper does not show pings), the JSON
//! gateway, TLS and membership changes; their methods answer `Unimplemented`.

mod auth;
mod authority_header;
mod boundary;
mod call;
mod cluster;
mod coalesce;
mod compactor;
mod connection;
mod corruption;
mod election;
mod front;
mod gateway;
mod health;
mod health_checks;
mod http;
mod kv;
mod lease;
mod lock;
mod lock_queue;
mod maintenance;
pub mod metrics;
mod path;
mod quota;
mod raft_status_cache;
mod range;
mod rpc;
mod snapshot;
mod spans;
mod status;
mod streams;
mod unread;
mod versions;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use crate::base::figures::{Figures, RequestKind};
use crate::base::{Denied, Revision};
use crate::config::Config;
use crate::consensus::Consensus;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::runtime::tls::Security;
use crate::runtime::{Env, Instant, Listener, Task, signal};
use crate::state::{Answer, State, kind, validate};
pub use auth::Jwt;
use auth::{Caller, Passwords};
use connection::Connections;
pub use corruption::check_initially;
use front::Front;
pub use front::Role;
use metrics::{Metrics, Sample};
use quota::Allowance;
pub use quota::bound as quota_bound;
use raft_status_cache::RaftStatusCache;
use spans::Spans;
use streams::Streams;
pub use versions::check_own as check_own_version;
pub use watch::WatchHub;

/// The version of etcd that this server stands in for. Clients switch features on by it.
pub const VERSION: &str = "3.7.1";
/// Pause between looks whether the member has published itself.
const READY_RETRY: Duration = Duration::from_millis(20);
/// How long clients may take to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(2);
/// How long a stopping server waits for its last spans to be taken.
const LAST_SPANS: Duration = Duration::from_millis(500);

/// Everything a request may use; one per server.
struct Api {
    /// Streams outlive the call that opens them, so they need a hold of their own.
    me: Weak<Api>,
    env: Env,
    options: Config,
    consensus: Consensus,
    hub: Arc<WatchHub>,
    metrics: Arc<Metrics>,
    standing: RaftStatusCache,
    streams: Arc<Streams>,
    allowance: Allowance,
    passwords: Passwords,
    /// Who reads on a copy of the state, has its only place.
    copying: tokio::sync::Semaphore,
    /// With `--auth-token=jwt`; else tokens are simple.
    jwt: Option<Jwt>,
    /// With `--enable-distributed-tracing`.
    spans: Option<Arc<Spans>>,
    stopping: AtomicBool,
}

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
        // Nothing is applied during a look: the hub misses no revision.
        let attached = hub.clone();
        let attach = move |state: &State| attached.attach(state.revision());
        consensus.read(attach).await;
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
            env.spawn(api.hub.clone().run()),
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

    /// What is counted, for the other layers' own figures.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.api.metrics
    }

    /// Accepts no more, ends streams with `etcdserver: server stopped`, lets calls under way finish for a bounded
    /// time, and closes.
    pub async fn stop(&self) {
        self.api.stopping.store(true, Ordering::Relaxed);
        self.accepting.iter().for_each(Task::abort);
        self.api.streams.end_all(Denied::STOPPED);
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

/// A proposal, pending for as long as it lives; counted when it ends, also if its client gives up.
struct Proposal<'a> {
    api: &'a Api,
    kind: Option<RequestKind>,
    begun: Instant,
    end: End,
}

#[derive(PartialEq, Eq)]
enum End {
    /// It was applied, with whatever answer.
    Applied,
    /// There was no room for it, or no member to take it.
    NotMade,
    Failed,
}

impl<'a> Proposal<'a> {
    fn begin(api: &'a Api, request: &Request) -> Self {
        api.metrics.proposals_pending.inc();
        Proposal {
            api,
            kind: kind(request),
            begun: api.env.now(),
            end: End::Failed,
        }
    }
}

impl Drop for Proposal<'_> {
    fn drop(&mut self) {
        self.api.metrics.proposals_pending.dec();
        if self.end == End::Failed {
            self.api.metrics.proposals_failed.inc();
        }
        if let Some(kind) = self.kind.filter(|_| self.end != End::NotMade) {
            self.api.took(kind, self.begun, self.end == End::Applied);
        }
    }
}

/// An answer of the state that does not belong to its request: a defect, not the client's fault.
fn mismatch(answer: &Answer) -> ! {
    unreachable!("the state answers each request with its own kind, not {answer:?}")
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

impl Api {
    fn shared(&self) -> Arc<Api> {
        self.me.upgrade().expect("a call runs on an Api that is alive")
    }

    /// Replicates a command: its answer, and the revision after it.
    async fn propose(&self, who: &Caller, request: Request) -> Result<(Answer, Revision), Denied> {
        who.answer().room().await;
        let header = self.identify(who).await?;
        if request.encoded_len() > self.options.max_request_bytes {
            return Err(Denied::REQUEST_TOO_LARGE);
        }
        validate::names(&request)?;
        let mut proposal = Proposal::begin(self, &request);
        let proposed = match header {
            Some(header) => self.consensus.propose_for(header, request).await,
            None => self.consensus.propose(request).await,
        };
        match proposed {
            Ok(mut outcome) => {
                proposal.end = End::Applied;
                range::complete(self, &mut outcome, who).await?;
                outcome.answer.map(|answer| (answer, outcome.revision))
            }
            Err(denied) => {
                if denied == Denied::TOO_MANY_REQUESTS || denied == Denied::STOPPED {
                    proposal.end = End::NotMade;
                }
                Err(denied)
            }
        }
    }

    /// What is counted of this member below the server.
    fn figures(&self) -> &Figures {
        self.env.figures()
    }

    /// Counts a request that has its answer; how long that took.
    fn took(&self, kind: RequestKind, begun: Instant, success: bool) -> Duration {
        let took = self.env.now() - begun;
        self.figures().requests.whole.observe(kind, success, took);
        took
    }

    /// A header with the revision that the caller knows to be right.
    fn header(&self, revision: Revision) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.consensus.cluster_id(),
            member_id: self.consensus.member_id(),
            revision,
            raft_term: self.standing.term(),
        }
    }

    /// A header with the current revision.
    fn header_now(&self) -> pb::ResponseHeader {
        self.header(self.hub.revision())
    }

    /// Adds to a header that carries a revision what only the server knows.
    fn complete(&self, header: &mut Option<pb::ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(if revision == 0 {
            self.hub.revision()
        } else {
            revision
        }));
    }

    /// etcd's limit on a gRPC message.
    fn message_bytes_max(&self) -> usize {
        self.options.max_request_bytes + crate::base::limits::GRPC_OVERHEAD_BYTES
    }

    /// What `/metrics` shows of raft and the store.
    async fn sample(&self) -> Sample {
        let status = self.consensus.status();
        let mut sample = Sample {
            has_leader: status.leader.is_some(),
            is_leader: status.leader == Some(self.consensus.member_id()),
            is_learner: status.is_learner,
            committed: status.committed,
            applied: status.applied,
            quota_bytes: quota::effective(self.options.quota_bytes),
            member: self.consensus.member_id(),
            feature_gates: self.options.feature_gates.clone(),
            ..Sample::default()
        };
        (sample.slow_watchers, sample.pending_events) = self.hub.backlog();
        let look = move |state: &State| {
            sample.keys = i64::try_from(state.count_keys()).unwrap_or(i64::MAX);
            let (all, in_use) = state.logical_bytes();
            sample.db_bytes = i64::try_from(all).unwrap_or(i64::MAX);
            sample.db_bytes_in_use = i64::try_from(in_use).unwrap_or(i64::MAX);
            sample.revision = state.revision();
            sample.compact_revision = state.compact_revision();
            sample.cluster_version = state.cluster_version().map(str::to_owned);
            sample.auth_revision = state.auth().revision();
            let alarm = |alarm: &pb::AlarmMember| (alarm.member_id, alarm.alarm().as_str_name());
            sample.alarms = state.alarms().iter().map(alarm).collect();
            sample.members = state.members().iter().map(|member| member.id).collect();
            sample.removed_members = state.removed_members().collect();
            sample
        };
        self.consensus.read(look).await
    }
}
