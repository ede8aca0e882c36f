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

mod alone;
mod command;
mod contact;
mod counted;
mod hash;
mod join;
mod lease;
mod lessor;
mod log;
mod machine;
mod members;
mod message;
mod network;
mod peer;
mod probe;
mod propose;
mod proposer;
mod purge;
mod quota_gate;
mod read;
mod renewals;
mod restore;
mod runtime;
mod state_lock;
mod status;
mod tokens;
mod types;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use tokio::sync::{RwLock, mpsc};

pub use alone::force_alone;
pub use join::{Found, FoundMember, ask};
pub use lease::LeaseTtl;
pub use machine::Reached;
pub use members::Change;
pub use message::PeerHash;
pub use network::url_address;
pub use peer::Door;
pub use renewals::Renewal;
pub use restore::{begin_log, fill};
pub use status::{REMOVED, Status};
pub use tokens::simple_token;
pub use types::{Peer, term_in, voters_in};

use crate::base::{Broken, ClusterId, Denied, MemberId, Revision};
use crate::bbolt::Encoder;
use crate::proto::mvccpb;
use crate::runtime::panics::poisoned;
use crate::runtime::{Env, Task, signal};
use crate::state::exchange::Export;
use crate::state::{SharedStore, State};
use crate::storage::wal::Wal;
use crate::storage::{Store, View};
use crate::transport::{self, AddressBook, Identity, Purpose, Way};
use contact::LeaderContact;
use machine::{Core, Followers, Machine};
use message::{PeerRequest, PeerResponse};
use network::Network;
use propose::Proposals;
use read::ReadQueue;
use renewals::RenewalQueue;
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

/// How a member takes part.
#[derive(Clone, Debug)]
pub struct Options {
    pub identity: Identity,
    /// The members of a new cluster; ignored once the log has a membership.
    pub initial_members: BTreeMap<MemberId, Peer>,
    /// Where members are that the log does not name yet.
    pub known_peers: Vec<(MemberId, Vec<String>)>,
    /// For the others, who look for the lowest.
    pub server_version: String,
    pub heartbeat_interval: Duration,
    pub election_timeout: Duration,
    pub request_timeout: Duration,
    pub pre_vote: bool,
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// How long an unused simple token lives.
    pub token_ttl: Duration,
    /// Write down what is left of long leases.
    pub lease_checkpoints: bool,
    /// An apply that takes longer is logged.
    pub slow_apply: Duration,
    /// Bytes that the store may hold; `None`: no bound.
    pub quota: Option<u64>,
    /// How often the others are asked for a sign of life; zero: never.
    pub probe_interval: Duration,
}

/// etcd's file of a moment, part by part.
pub type SnapshotFile = Encoder<Export<Box<dyn View>>>;

/// A handle on the replicated state machine of this member; cheap to clone.
#[derive(Clone)]
pub struct Consensus(Arc<Shared>);

struct Shared {
    env: Env,
    options: Options,
    raft: Raft,
    wal: Wal,
    core: Arc<Core>,
    /// Held shared by entries on their way to raft, and alone while a snapshot takes the place of the log.
    appends: Arc<RwLock<()>>,
    reads: Arc<ReadQueue>,
    renewals: Arc<RenewalQueue>,
    network: Network,
    status: signal::Sender<Status>,
    contact: LeaderContact,
    /// For the hot path, as of the last look of [`Consensus::run_status`].
    term_seen: AtomicU64,
    lagging: AtomicBool,
    /// The first damage that a read met.
    damage: OnceLock<Broken>,
    health: Mutex<members::Health>,
    tasks: Mutex<Vec<Task<()>>>,
}

impl Consensus {
    /// Recovers, joins the cluster and starts to serve the peers at the door.
    pub async fn start(
        env: Env,
        options: Options,
        wal: Wal,
        store: Store,
        door: Door,
        way: Way,
        observer: SharedObserver,
    ) -> Result<Consensus, Broken> {
        let member = options.identity.member;
        let book = AddressBook::default();
        let initial = options.initial_members.iter();
        for (id, urls) in initial
            .map(|(id, peer)| (id, &peer.peer_urls))
            .chain(options.known_peers.iter().map(|(id, urls)| (id, urls)))
        {
            book.set(*id, network::addresses(urls));
        }
        let (compactions, compacted) = hash::Compactions::new();
        let (proposals, proposer_woken) = Proposals::new(member, env.random_u64());
        let followers = Followers {
            proposals,
            lessor: lessor::Lessor::new(env.clone(), options.lease_checkpoints),
            tokens: tokens::Tokens::new(env.clone(), options.token_ttl),
            compactions,
            slow_apply: options.slow_apply,
            quota: options.quota,
        };
        let core = Arc::new(Core::open(
            env.clone(),
            store,
            followers,
            member,
            book.clone(),
            observer,
        )?);
        // What a killed process left in the page cache is made durable before raft counts on it.
        core.sync().await?;
        let network = Network::new(
            env.clone(),
            options.identity,
            way,
            door.way_back(),
            book,
            2 * options.election_timeout,
        );
        let raft = Raft::new(
            member,
            Arc::new(raft_config(&options)?),
            network.clone(),
            log::LogStore::new(env.clone(), wal.clone()),
            Machine(core.clone()),
        )
        .await
        .map_err(|fatal| Broken::new(format!("raft cannot start: {fatal}")))?;
        let (reads, reader_woken) = ReadQueue::new();
        let (renewals, renewer_woken) = RenewalQueue::new();
        let (status, _) = signal::channel(Status::default());
        let contact = LeaderContact::new(env.now(), options.election_timeout);
        let consensus = Consensus(Arc::new(Shared {
            env,
            options,
            raft,
            wal,
            core,
            appends: Arc::default(),
            reads,
            renewals,
            network,
            status,
            contact,
            term_seen: AtomicU64::new(0),
            lagging: AtomicBool::new(false),
            damage: OnceLock::new(),
            health: Mutex::default(),
            tasks: Mutex::default(),
        }));
        consensus.bootstrap().await?;
        consensus.run(door, proposer_woken, reader_woken, renewer_woken, compacted);
        Ok(consensus)
    }

    /// Writes the first membership, if there is none: the same on every member, so they agree.
    async fn bootstrap(&self) -> Result<(), Broken> {
        let members = self.0.options.initial_members.clone();
        if members.is_empty() {
            // It joins: the others know it, and send what it needs.
            return Ok(());
        }
        match self.0.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(Broken::new(format!("cannot initialize the cluster: {error}"))),
        }
    }

    fn run(
        &self,
        door: Door,
        proposer_woken: mpsc::Receiver<()>,
        reader_woken: mpsc::Receiver<()>,
        renewer_woken: mpsc::Receiver<()>,
        compacted: mpsc::Receiver<hash::Compacted>,
    ) {
        let env = &self.0.env;
        let mut tasks = vec![
            env.spawn(self.clone().run_proposals(proposer_woken)),
            env.spawn(self.clone().run_reads(reader_woken)),
            env.spawn(self.clone().run_renewals(renewer_woken)),
            env.spawn(self.clone().run_heartbeats()),
            env.spawn(self.clone().run_status()),
            env.spawn(self.clone().run_purge()),
            env.spawn(self.clone().run_lease_expiry()),
            env.spawn(self.clone().run_membership()),
            env.spawn(self.clone().run_compaction_hashes(compacted)),
        ];
        let interval = self.0.options.probe_interval;
        if !interval.is_zero() {
            tasks.push(env.spawn(self.clone().run_probes(interval)));
        }
        tasks.extend(door.admit(self.clone()));
        self.0.tasks.lock().unwrap_or_else(poisoned).extend(tasks);
    }

    /// Stops raft and every task. The engine is synced, so that the next start replays little.
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(poisoned));
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

    /// Up to which index the engine is durable.
    pub fn synced(&self) -> u64 {
        self.0.core.synced()
    }

    /// Whether clients have to say who they are.
    pub fn is_auth_enabled(&self) -> bool {
        self.0.core.is_auth_enabled()
    }

    /// Whether this member is one without a vote, as of the last entry.
    pub fn is_learner(&self) -> bool {
        self.0.core.is_learner()
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.0.options.request_timeout
    }

    pub fn election_timeout(&self) -> Duration {
        self.0.options.election_timeout
    }

    /// Looks at the local state. Nothing is applied meanwhile: keep it short. A look owns what it uses and hands back what
    /// it found, so that it can be made on another thread.
    pub async fn read<T: Send + 'static>(&self, look: impl FnOnce(&State) -> T + Send + 'static) -> T {
        self.0.core.read(|state, _| look(state))
    }

    /// A look that may keep the store as it is at this moment, to be read when the state is free again.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> T {
        self.0.core.look(look)
    }

    /// Where the state stood when entries were last applied, without a look at it.
    pub fn reached(&self) -> Reached {
        self.0.core.reached()
    }

    /// What was read from a store that was kept: see [`met_damage`](Self::met_damage).
    pub fn checked<T>(&self, read: Result<T, Broken>) -> Result<T, Denied> {
        read.map_err(|broken| self.met_damage(broken))
    }

    /// Damage is not served and ends this member: see [`Status::fatal`]. What clients hear.
    pub fn met_damage(&self, broken: Broken) -> Denied {
        tracing::error!(%broken, "a read met damage");
        let broken = self.0.damage.get_or_init(|| broken);
        self.0.status.send_if_modified(|status| {
            status.fatal = Some(broken.to_string());
            true
        });
        Denied::CORRUPT
    }

    /// Bytes of the engine on disk: allocated and in use.
    pub async fn engine_bytes(&self) -> (u64, u64) {
        self.0.core.engine_bytes()
    }

    /// The store as it is now, as rows of etcd's file. Reads the engine, off the tasks that serve others.
    pub async fn export(&self) -> Result<Export<Box<dyn View>>, Broken> {
        let view = self.0.core.view();
        self.env().run_blocking(move || Export::new(view)).await
    }

    /// Another member's [`hash_now`](Self::hash_now); `None` if it cannot be asked.
    pub async fn peer_hash(&self, peer: MemberId, revision: Revision) -> Option<PeerHash> {
        self.ask_hash(peer, PeerRequest::HashKv(revision)).await
    }

    /// Another member's [`hash_of_compaction`](Self::hash_of_compaction); `None` if it cannot be asked.
    pub async fn peer_compaction_hash(&self, peer: MemberId, revision: Revision) -> Option<PeerHash> {
        self.ask_hash(peer, PeerRequest::CompactionHash(revision)).await
    }

    async fn ask_hash(&self, peer: MemberId, request: PeerRequest) -> Option<PeerHash> {
        match self.ask_peer(peer, request, self.request_timeout()).await {
            Ok(PeerResponse::HashKv(hash)) => Some(hash),
            _ => None,
        }
    }

    /// What release another member runs; `None` if it cannot be asked.
    pub async fn peer_version(&self, peer: MemberId) -> Option<String> {
        match self
            .ask_peer(peer, PeerRequest::Describe, self.election_timeout())
            .await
        {
            Ok(PeerResponse::Describe(description)) => Some(description.server_version),
            _ => None,
        }
    }

    /// Asks another member.
    async fn ask_peer(
        &self,
        peer: MemberId,
        request: PeerRequest,
        timeout: Duration,
    ) -> std::io::Result<PeerResponse> {
        let client = self.0.network.client(peer, Purpose::Request);
        let response = client.call(transport::encode(&request), timeout).await?;
        transport::decode(&response)
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
        // See `purge`.
        max_in_snapshot_log_to_keep: u64::MAX,
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
