//! Agreement: the only folder that names openraft.
//!
//! ```text
//!   server ─► Consensus::propose ─► propose ─► (leader: raft log | follower: forward) ─► machine ─► outcome
//!          ─► Consensus::read_barrier ─► read (ReadIndex rounds)
//!          ─► Consensus::read ─► the local state
//!   peers  ─► peer (votes, heartbeats, entries, snapshots, forwarded batches)
//! ```
//!
//! What the server may ask of it: [`Consensus::propose`], [`Consensus::read_barrier`], [`Consensus::read`],
//! leases that live on the leader's clock, membership and status.

mod lease;
mod lessor;
mod log;
mod machine;
mod message;
mod network;
mod peer;
mod propose;
mod proposer;
mod read;
mod runtime;
mod tokens;
mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::mpsc;

pub use lease::LeaseTtl;
pub use network::url_address;
pub use tokens::simple_token;
pub use types::Peer;

use crate::base::kv::Read;
use crate::base::{Broken, ClusterId, Denied, MemberId, Revision, limits};
use crate::proto::{etcdserverpb as pb, mvccpb};
use crate::runtime::tls::{Security, Tls};
use crate::runtime::{Env, Listener, Task, signal};
use crate::state::State;
use crate::storage::Store;
use crate::storage::wal::Wal;
use crate::transport::{self, Identity, Purpose, RpcClient};
use machine::{Core, Machine};
use message::{PeerRequest, PeerResponse};
use network::Network;
use propose::Proposals;
use read::ReadQueue;
use types::Raft;

/// Told of everything that is applied, in order, while the state is locked: must be quick, must not call
/// back into [`Consensus`].
pub trait Observer: Send + Sync {
    /// One revision was applied; its events in order, without `prev_kv`.
    fn applied(&self, revision: Revision, events: &[mvccpb::Event]);
    /// The state was replaced by a snapshot: history up to here has to be read again.
    fn installed(&self, revision: Revision);
    /// Revisions up to this one are compacted.
    fn compacted(&self, revision: Revision);
}

/// The observer of a member.
pub type SharedObserver = Arc<dyn Observer>;

/// What is known of raft at this moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    pub term: u64,
    pub leader: Option<MemberId>,
    /// Highest committed index that this member knows.
    pub committed: u64,
    pub applied: u64,
    pub is_learner: bool,
    /// Set when raft stopped, or damage was read: the member must not serve any more.
    pub fatal: Option<String>,
}

/// How a member takes part.
#[derive(Clone, Debug)]
pub struct Options {
    pub identity: Identity,
    /// The members of a new cluster; ignored once the log has a membership.
    pub initial_members: BTreeMap<MemberId, Peer>,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub request_timeout: Duration,
    pub pre_vote: bool,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// How long an unused simple token lives.
    pub token_ttl: Duration,
}

/// A handle on the replicated state machine of this member; cheap to clone.
#[derive(Clone)]
pub struct Consensus(Arc<Shared>);

struct Shared {
    env: Env,
    options: Options,
    raft: Raft,
    core: Arc<Core>,
    reads: Arc<ReadQueue>,
    network: Network,
    status: signal::Sender<Status>,
    /// For the hot path, as of the last look of [`Consensus::run_status`].
    term_seen: AtomicU64,
    lagging: AtomicBool,
    /// The first damage that a read met.
    damage: OnceLock<Broken>,
    tasks: Mutex<Vec<Task<()>>>,
}

impl Consensus {
    /// Recovers, joins the cluster and starts to serve peers on `listeners`.
    pub async fn start(
        env: Env,
        options: Options,
        wal: Wal,
        store: Store,
        listeners: Vec<(Box<dyn Listener>, Security)>,
        tls: Option<Tls>,
        observer: SharedObserver,
    ) -> Result<Consensus, Broken> {
        let member = options.identity.member;
        let (proposals, proposer_woken) = Proposals::new(member, env.random_u64());
        let core = Arc::new(Core::open(
            store,
            proposals,
            lessor::Lessor::new(env.clone()),
            tokens::Tokens::new(env.clone(), options.token_ttl),
            observer,
        )?);
        // What a killed process left in the page cache is made durable before raft counts on it.
        core.sync().await?;
        let network = Network::new(env.clone(), options.identity, tls, 2 * options.election_timeout);
        let raft = Raft::new(
            member,
            Arc::new(raft_config(&options)?),
            network.clone(),
            log::LogStore::new(env.clone(), wal),
            Machine(core.clone()),
        )
        .await
        .map_err(|fatal| Broken::new(format!("raft cannot start: {fatal}")))?;
        let (reads, reader_woken) = ReadQueue::new();
        let (status, _) = signal::channel(Status::default());
        let consensus = Consensus(Arc::new(Shared {
            env,
            options,
            raft,
            core,
            reads,
            network,
            status,
            term_seen: AtomicU64::new(0),
            lagging: AtomicBool::new(false),
            damage: OnceLock::new(),
            tasks: Mutex::default(),
        }));
        consensus.bootstrap().await?;
        consensus.run(listeners, proposer_woken, reader_woken);
        Ok(consensus)
    }

    /// Writes the first membership, if there is none: the same on every member, so they agree.
    async fn bootstrap(&self) -> Result<(), Broken> {
        let members = self.0.options.initial_members.clone();
        match self.0.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Broken::new(format!("cannot initialize the cluster: {error}"))),
        }
    }

    fn run(
        &self,
        listeners: Vec<(Box<dyn Listener>, Security)>,
        proposer_woken: mpsc::Receiver<()>,
        reader_woken: mpsc::Receiver<()>,
    ) {
        let env = &self.0.env;
        let mut tasks = vec![
            env.spawn(self.clone().run_proposals(proposer_woken)),
            env.spawn(self.clone().run_reads(reader_woken)),
            env.spawn(self.clone().run_heartbeats()),
            env.spawn(self.clone().run_status()),
            env.spawn(self.clone().run_lease_expiry()),
        ];
        let handler = peer::handler(self.clone());
        for (listener, security) in listeners {
            tasks.push(env.spawn(transport::accept(
                env.clone(),
                self.0.options.identity,
                listener,
                security,
                handler.clone(),
            )));
        }
        self.0
            .tasks
            .lock()
            .expect("no code that panics runs under this lock")
            .extend(tasks);
    }

    /// A leader's heartbeats. Raft would time each out after the interval at which it sends them; here an
    /// answer may take longer than that, as in a cluster whose members are far apart.
    async fn run_heartbeats(self) {
        loop {
            self.env().sleep(self.0.options.heartbeat_interval).await;
            let leads = self.status().leader == Some(self.member_id());
            if leads && self.raft().trigger().heartbeat().await.is_err() {
                return;
            }
        }
    }

    /// Stops raft and every task. The engine is synced, so that the next start replays little.
    pub async fn stop(&self) {
        let tasks = std::mem::take(
            &mut *self
                .0
                .tasks
                .lock()
                .expect("no code that panics runs under this lock"),
        );
        tasks.iter().for_each(Task::abort);
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        self.0.network.close();
        if let Err(error) = self.0.core.sync().await {
            tracing::error!(%error, "cannot sync the engine");
        }
    }

    fn env(&self) -> &Env {
        &self.0.env
    }

    fn raft(&self) -> &Raft {
        &self.0.raft
    }

    fn core(&self) -> &Core {
        &self.0.core
    }

    fn reads(&self) -> &ReadQueue {
        &self.0.reads
    }

    pub fn member_id(&self) -> MemberId {
        self.0.options.identity.member
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.0.options.identity.cluster
    }

    /// Whether clients have to say who they are.
    pub fn is_auth_enabled(&self) -> bool {
        self.0.core.is_auth_enabled()
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.0.options.request_timeout
    }

    pub fn election_timeout(&self) -> Duration {
        self.0.options.election_timeout
    }

    /// Looks at the local state. The lock is held meanwhile: keep it short.
    pub fn read<T>(&self, look: impl FnOnce(&State, &dyn Read) -> T) -> T {
        self.0.core.read(look)
    }

    /// The same for looks into the engine. Damage is not served and ends this member: see [`Status::fatal`].
    pub fn read_store<T>(
        &self,
        look: impl FnOnce(&State, &dyn Read) -> Result<T, Broken>,
    ) -> Result<T, Denied> {
        self.read(look).map_err(|broken| {
            tracing::error!(%broken, "a read met damage");
            let broken = self.0.damage.get_or_init(|| broken);
            self.0.status.send_if_modified(|status| {
                status.fatal = Some(broken.to_string());
                true
            });
            Denied::CORRUPT
        })
    }

    /// What raft says now.
    pub fn status(&self) -> Status {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.state == ServerState::Leader;
        let alone = metrics.membership_config.voter_ids().count() == 1;
        // A leader that has not heard from a quorum for long is one only in its own view (CheckQuorum).
        let acked = metrics.last_quorum_acked.as_ref().is_some_and(|acked| {
            let silence = self.0.env.now() - **acked;
            silence < self.0.options.election_timeout * 3 / 2
        });
        let stopped = metrics.running_state.as_ref().err().map(ToString::to_string);
        Status {
            term: metrics.current_term,
            leader: metrics.current_leader.filter(|_| !leads || alone || acked),
            committed: metrics.local_committed.map_or(0, |committed| committed.index),
            applied: self.0.core.applied().map_or(0, |applied| applied.index),
            is_learner: metrics.state == ServerState::Learner && metrics.membership_config.log_id().is_some(),
            fatal: stopped.or_else(|| self.0.damage.get().map(ToString::to_string)),
        }
    }

    /// The term at the last look: a hint, for the wording of errors.
    fn term_seen(&self) -> u64 {
        self.0.term_seen.load(Ordering::Relaxed)
    }

    /// Whether far more is committed than applied, as of the last look.
    fn is_lagging(&self) -> bool {
        self.0.lagging.load(Ordering::Relaxed)
    }

    /// Watches [`Status`]: leader, term and failure at once, progress now and then.
    pub fn status_signal(&self) -> signal::Receiver<Status> {
        self.0.status.subscribe()
    }

    /// Keeps [`Self::status_signal`] up to date, and the lessor in step with leadership.
    async fn run_status(self) {
        let mut server_metrics = self.0.raft.server_metrics();
        let mut led_term = None;
        loop {
            let status = self.status();
            self.0.term_seen.store(status.term, Ordering::Relaxed);
            let behind = status.committed.saturating_sub(status.applied);
            self.0
                .lagging
                .store(behind > limits::APPLY_LAG_ENTRIES_MAX, Ordering::Relaxed);
            let leads = status.leader == Some(self.member_id());
            if leads && led_term != Some(status.term) {
                self.0.core.lessor.promote(self.0.options.election_timeout);
                led_term = Some(status.term);
            } else if !leads && led_term.take().is_some() {
                self.0.core.lessor.demote();
            }
            let fatal = status.fatal.is_some();
            let changed = self.0.status.send_if_modified(|current| {
                let differs = (current.leader, current.term) != (status.leader, status.term) || fatal;
                *current = status;
                differs
            });
            if changed {
                self.0.core.proposals.wake();
            }
            if fatal {
                return;
            }
            // Whether a leader still hears from a quorum is a matter of time, not of an event.
            let tick = self.0.options.election_timeout / 4;
            let _ = self.0.env.timeout(tick, server_metrics.changed()).await;
        }
    }

    /// Members sorted by id, with the attributes they have published.
    pub fn members(&self) -> Vec<pb::Member> {
        let membership = self.0.core.membership();
        let voters: BTreeSet<MemberId> = membership.voter_ids().collect();
        let mut members: Vec<pb::Member> = self.read(|state, _| {
            let member = |(&id, peer): (&MemberId, &Peer)| {
                let attributes = state.attributes(id);
                pb::Member {
                    id,
                    name: attributes.map(|known| known.name.clone()).unwrap_or_default(),
                    peer_ur_ls: peer.peer_urls.clone(),
                    client_ur_ls: attributes
                        .map(|known| known.client_urls.clone())
                        .unwrap_or_default(),
                    is_learner: !voters.contains(&id),
                }
            };
            membership.nodes().map(member).collect()
        });
        members.sort_by_key(|member| member.id);
        members
    }

    /// Hands leadership to `target` and waits for it; only the leader can.
    pub async fn move_leader(&self, target: MemberId) -> Result<(), Denied> {
        let status = self.status();
        if status.leader != Some(self.member_id()) {
            return Err(Denied::NOT_LEADER);
        }
        if target == self.member_id() {
            return Ok(());
        }
        if !self.0.core.membership().voter_ids().any(|voter| voter == target) {
            return Err(Denied::BAD_LEADER_TRANSFEREE);
        }
        let mut signal = self.status_signal();
        self.0
            .raft
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(|_| Denied::STOPPED)?;
        let moved = signal.wait_until(|status| status.leader == Some(target));
        match self.0.env.timeout(self.0.options.request_timeout, moved).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Denied::STOPPED),
            Err(_) => Err(Denied::TRANSFER_TIMEOUT),
        }
    }

    /// Before a stop: hands leadership to the member that is furthest, if this one leads and has a peer.
    pub async fn hand_over(&self, timeout: Duration) {
        if self.status().leader != Some(self.member_id()) {
            return;
        }
        let heir = {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<MemberId> = metrics.membership_config.voter_ids().collect();
            let replication = metrics.replication.iter().flatten();
            let others = replication.filter(|(id, _)| **id != self.member_id() && voters.contains(id));
            others
                .max_by_key(|(_, matched)| matched.as_ref().map(|log_id| log_id.index))
                .map(|(id, _)| *id)
        };
        let Some(heir) = heir else { return };
        let moved = self.0.env.timeout(timeout, self.move_leader(heir)).await;
        tracing::info!(
            heir = format!("{heir:x}"),
            done = matches!(moved, Ok(Ok(()))),
            "transferred leadership"
        );
    }

    /// Bytes of the engine on disk: allocated and in use.
    pub fn engine_bytes(&self) -> (u64, u64) {
        self.0.core.engine_bytes()
    }

    /// Asks another member.
    async fn ask_peer(
        &self,
        peer: MemberId,
        request: PeerRequest,
        timeout: Duration,
    ) -> std::io::Result<PeerResponse> {
        let client = self.request_client(peer)?;
        let response = client.call(transport::encode(&request), timeout).await?;
        transport::decode(&response)
    }

    fn request_client(&self, peer: MemberId) -> std::io::Result<RpcClient> {
        let metrics = self.0.raft.metrics();
        let addresses = {
            let metrics = metrics.borrow_watched();
            let node = metrics.membership_config.membership().get_node(&peer);
            network::addresses(node.ok_or(std::io::ErrorKind::NotConnected)?)
        };
        Ok(self.0.network.client(peer, addresses, Purpose::Request))
    }
}

/// etcd's timing in openraft's terms. A follower campaigns when its leader's lease (`election_timeout_max`)
/// and then a random time between min and max have passed: in all 1.0 to 1.4 election time-outs.
fn raft_config(options: &Options) -> Result<openraft::Config, Broken> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let election = millis(options.election_timeout);
    let config = openraft::Config {
        cluster_name: format!("{:x}", options.identity.cluster),
        // How long a heartbeat's answer may take, and five times what raft's clock ticks in;
        // see `run_heartbeats`.
        heartbeat_interval: election / 4,
        enable_heartbeat: false,
        election_timeout_min: election * 3 / 10,
        election_timeout_max: election * 7 / 10,
        install_snapshot_timeout: millis(options.request_timeout),
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(options.snapshot_count),
        max_in_snapshot_log_to_keep: options.snapshot_catchup_entries,
        replication_lag_threshold: options.snapshot_catchup_entries.max(1),
        purge_batch_size: 1,
        enable_pre_vote: Some(options.pre_vote),
        backoff: "50ms 100ms 200ms ..500ms".into(),
        // A leader counts a quorum without waiting for its own disk, so after a loss of power its log may
        // lack committed entries: it has to stand for election like everybody else, or it would write
        // other entries over them in the same term.
        enable_leader_restore: Some(false),
        ..openraft::Config::default()
    };
    config
        .validate()
        .map_err(|error| Broken::new(format!("raft configuration: {error}")))
}

/// Tells nobody.
impl Observer for () {
    fn applied(&self, _revision: Revision, _events: &[mvccpb::Event]) {}
    fn installed(&self, _revision: Revision) {}
    fn compacted(&self, _revision: Revision) {}
}
