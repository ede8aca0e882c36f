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

mod apply;
mod contact;
mod core;
mod lease;
mod membership;
mod peers;
mod propose;
mod raft;
mod read;
mod recovery;
mod snapshot;
mod status;
mod tokens;

use std::collections::BTreeMap;
use std::future::pending;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

pub use apply::machine::Reached;
pub use lease::LeaseTtl;
pub use lease::renewals::Renewal;
pub use membership::Change;
pub use membership::join::{ClusterInfo, MemberInfo, ask};
pub use peers::listener::PeerListener;
pub use peers::message::{Description, PeerHash};
pub use peers::url_address;
pub use raft::format::entry::voters_in;
pub use raft::format::record::term_in;
pub use raft::types::Peer;
pub use recovery::restore::{begin_log, fill};
pub use status::{Status, StopReason};
pub use tokens::simple_token;

use crate::base::{Broken, ClusterId, Denied, Level, MemberId, Revision, limits};
use crate::bbolt::Encoder;
use crate::proto::mvccpb;
use crate::runtime::channel::{self, Answered, Limits, TrySendError, answer};
use crate::runtime::panics::{self, Panic};
use crate::runtime::{Aside, Crossing, Env, Task, signal};
use crate::state::etcd_snapshot::Export;
use crate::state::{SharedStore, State};
use crate::storage::wal::{Recovered, Witness};
use crate::storage::{Store, View};
use crate::transport::{AddressBook, DialOptions, Identity};
use core::{Ask, Core, Parts};
use peers::Peers;
use peers::message::{PeerRequest, PeerResponse};
use status::Vitals;

/// Told of everything that is applied, in order, on the core's thread, where it lives: must be quick.
pub trait Observer {
    /// One revision was applied; its events in order, without `prev_kv`.
    fn applied(&self, revision: Revision, events: &[mvccpb::Event]);
    /// The state was recovered, or replaced by a snapshot: history up to here has to be read again.
    fn installed(&self, revision: Revision);
    /// Revisions up to this one are compacted.
    fn compacted(&self, revision: Revision);
}

/// The observer of a member.
pub type SharedObserver = Rc<dyn Observer>;

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
    /// Up to which this member applies what is in the log.
    pub level: Level,
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
    /// The cluster is this member alone from now on, which is called there: `--force-new-cluster`.
    pub force_new_cluster: Option<Vec<String>>,
    /// How often the others are asked for a sign of life; zero: never.
    pub probe_interval: Duration,
}

/// etcd's file of a moment, part by part.
pub type SnapshotFile = Encoder<Export<Box<dyn View>>>;

/// A handle on the replicated state machine of this member, for every thread; cheap to clone.
#[derive(Clone)]
pub struct Consensus(Arc<Shared>);

struct Shared {
    env: Env,
    options: Arc<Options>,
    vitals: Vitals,
    inbox: channel::Sender<Ask>,
    synced: signal::Receiver<u64>,
    quota_refusals: signal::Receiver<u64>,
    compacting: signal::Receiver<apply::sweep::Compacting>,
    /// Closed when nothing is left of the core.
    ended: signal::Receiver<()>,
    /// What serves the peers' door.
    peer_listener: Vec<Task<()>>,
}

/// What a core that has started hands to the others.
struct Published {
    vitals: Vitals,
    synced: signal::Receiver<u64>,
    quota_refusals: signal::Receiver<u64>,
    compacting: signal::Receiver<apply::sweep::Compacting>,
}

impl Consensus {
    /// Recovers, joins the cluster and starts to serve the peers at the door.
    pub async fn start(
        env: Env,
        options: Options,
        log: Recovered,
        store: Store,
        peer_listener: PeerListener,
        dial: DialOptions,
        observer: impl FnOnce(&Env) -> SharedObserver + Send + 'static,
    ) -> Result<Consensus, Broken> {
        let book = AddressBook::default();
        let initial = options.initial_members.iter();
        for (id, urls) in initial
            .map(|(id, peer)| (id, &peer.peer_urls))
            .chain(options.known_peers.iter().map(|(id, urls)| (id, urls)))
        {
            book.set(*id, peers::addresses(urls));
        }
        let options = Arc::new(options);
        let parts = Parts {
            env: env.clone(),
            options: options.clone(),
            store,
            peers: Peers::new(
                env.clone(),
                options.identity,
                dial,
                peer_listener.reverse(),
                book,
                2 * options.election_timeout,
            ),
        };
        let (inbox, asked) = channel::channel(Limits {
            count: limits::CORE_INBOX_MAX,
            bytes: limits::CORE_INBOX_BYTES_MAX,
        });
        let (started, outcome) = answer();
        let core = move || async move {
            match Core::start(parts, log, observer).await {
                Ok(core) => {
                    let machine = core.machine();
                    started.send(Ok(Published {
                        vitals: core.0.vitals.clone(),
                        synced: machine.synced_signal(),
                        quota_refusals: machine.quota_gate.refusals.subscribe(),
                        compacting: machine.compacting_signal(),
                    }));
                    core.serve(asked).await;
                }
                Err(broken) => started.send(Err(broken)),
            }
        };
        let (alive, ended) = signal::channel(());
        env.start_core(core, move || drop(alive))
            .map_err(|error| Broken::invariant(format!("cannot start the thread of the core: {error}")))?;
        let outcome = outcome.await;
        let outcome = outcome.unwrap_or(Err(Broken::Stopped("the core ended before it had started")));
        if outcome.is_err() {
            // Files are free then.
            let _ = ended.clone().wait_until(|()| false).await;
        }
        let Published {
            vitals,
            synced,
            quota_refusals,
            compacting,
        } = outcome?;
        let (peer_listener, admit) = peer_listener.admit();
        let consensus = Consensus(Arc::new(Shared {
            env,
            options,
            vitals,
            inbox,
            synced,
            quota_refusals,
            compacting,
            ended,
            peer_listener,
        }));
        admit(consensus.clone());
        Ok(consensus)
    }

    /// Stops raft and every task; returns when nothing is left of them.
    pub async fn stop(&self) {
        self.0.peer_listener.iter().for_each(Task::abort);
        let (answer, stopped) = answer();
        if self.0.inbox.send(Ask::Stop(answer), 0).await.is_ok() {
            stopped.await;
        }
        self.0.vitals.peers.close();
        let _ = self.0.ended.clone().wait_until(|()| false).await;
    }

    /// Sees what the log holds, and what of it is durable.
    pub async fn log_witness(&self) -> Witness {
        self.ask(|core| core.wal().witness()).await
    }

    /// Has the core do something that takes no time. Nothing happens if it has ended.
    async fn tell(&self, what: impl FnOnce(&Core) + Send + 'static) {
        let _ = self.0.inbox.send(Ask::Do(Box::new(what)), 0).await;
    }

    /// The same for something that has a result. A core that has ended answers nobody, as a process that has.
    async fn ask<T: Send + 'static>(&self, what: impl FnOnce(&Core) -> T + Send + 'static) -> T {
        let (answer, answered) = answer();
        let ask = move |core: &Core| {
            if !answer.is_closed() {
                answer.send(what(core));
            }
        };
        self.tell(ask).await;
        self.result(answered).await
    }

    /// The same for something that takes time. It goes on when nobody waits for it any more.
    async fn run<T, F>(&self, what: impl FnOnce(Core) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (answer, answered) = answer();
        self.tell(|core| {
            let running = what(core.clone());
            core.env().spawn_local(async move { answer.send(running.await) });
        })
        .await;
        self.result(answered).await
    }

    /// The same for a question: it ends when nobody waits for it any more.
    async fn run_while_wanted<T, F>(&self, what: impl FnOnce(Core) -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        let (mut answer, answered) = answer();
        self.tell(|core| {
            let running = what(core.clone());
            core.env().spawn_local(async move {
                let result = match select(Box::pin(running), pin!(answer.closed())).await {
                    Either::Left((result, _)) => result,
                    Either::Right(_) => return,
                };
                answer.send(result);
            });
        })
        .await;
        self.result(answered).await
    }

    /// Sends the core what is refused at once if it cannot be taken in, and waits for its end.
    async fn submit<T>(
        &self,
        ask: Ask,
        bytes: usize,
        answered: Answered<Result<T, Denied>>,
    ) -> Result<T, Denied> {
        match self.0.inbox.try_send(ask, bytes) {
            Ok(()) => self.receive(answered).await.unwrap_or(Err(Denied::Stopped)),
            Err(TrySendError::Full(_)) => Err(Denied::TooManyRequests),
            Err(TrySendError::Closed(_)) => Err(Denied::Stopped),
        }
    }

    /// The core's answer. One that has ended gives none.
    async fn result<T>(&self, answered: Answered<T>) -> T {
        match self.receive(answered).await {
            Some(result) => result,
            None => pending().await,
        }
    }

    /// The core's answer; `None`: it has ended.
    async fn receive<T>(&self, answered: Answered<T>) -> Option<T> {
        let answer = answered.await;
        if let Some(late) = self.env().cross(Crossing::FromCore) {
            late.await;
        }
        answer
    }

    fn env(&self) -> &Env {
        &self.0.env
    }

    fn options(&self) -> &Options {
        &self.0.options
    }

    pub fn member_id(&self) -> MemberId {
        self.options().identity.member
    }

    pub fn cluster_id(&self) -> ClusterId {
        self.options().identity.cluster
    }

    /// Up to which index the engine is durable.
    pub fn synced(&self) -> u64 {
        *self.0.synced.borrow()
    }

    /// Whether clients have to say who they are.
    pub fn is_auth_enabled(&self) -> bool {
        self.0.vitals.applied.borrow().auth_enabled
    }

    /// Whether this member is one without a vote, as of the last entry.
    pub fn is_learner(&self) -> bool {
        self.0.vitals.members.borrow().is_learner
    }

    /// Whether a member was removed for good, and raft does without it already.
    fn has_left(&self, member: MemberId) -> bool {
        self.0.vitals.members.borrow().left.contains(&member)
    }

    /// The revision up to which reads see everything.
    pub fn revision(&self) -> Revision {
        self.reached().revision
    }

    /// Where the state stood when entries were last applied, without a look at it.
    pub fn reached(&self) -> Reached {
        self.0.vitals.applied.borrow().reached
    }

    /// Commands that came to be applied a second time, since this member has started.
    pub fn duplicates(&self) -> u64 {
        self.env().metrics().agreement.duplicates.get()
    }

    /// How long a request may take.
    pub fn request_timeout(&self) -> Duration {
        self.options().request_timeout
    }

    pub fn election_timeout(&self) -> Duration {
        self.options().election_timeout
    }

    /// Looks at the local state. Nothing else is decided meanwhile: keep it short. A look owns what it uses and hands back
    /// what it found.
    pub async fn read<T: Send + 'static>(&self, look: impl FnOnce(&State) -> T + Send + 'static) -> T {
        self.look(|state, _| look(state)).await
    }

    /// A look that may keep the store as it is at this moment, to be read when it is over.
    ///
    /// A look that panics costs whoever asked, and nobody else: it cannot have changed anything.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> T {
        let look = contained(look);
        let looked = self.ask(move |core| core.machine().look(look)).await;
        looked.unwrap_or_else(|panic| panic.resume())
    }

    /// What was read from a store that was kept. Damage is not served and ends this member: see [`Status::fatal`].
    pub fn checked<T>(&self, read: Result<T, Broken>) -> Result<T, Denied> {
        read.map_err(|broken| self.met_damage(broken))
    }

    /// Damage is not served and ends this member: see [`Status::fatal`]. What clients hear.
    pub fn met_damage(&self, broken: Broken) -> Denied {
        self.0.vitals.met_damage(broken)
    }

    /// The store as it is now, as rows of etcd's file.
    pub async fn export(&self) -> Result<Export<Box<dyn View>>, Broken> {
        let view = self.0.vitals.store.engine().view();
        self.env()
            .run_aside(Aside::Background, || Export::new(view))
            .await
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
        let asked = self.0.vitals.peers.ask(peer, request, self.request_timeout());
        match asked.await {
            Ok(PeerResponse::HashKv(hash)) => Some(hash),
            _ => None,
        }
    }

    /// What another member says of itself; `None` if it cannot be asked.
    pub async fn describe_peer(&self, peer: MemberId) -> Option<Description> {
        let peers = &self.0.vitals.peers;
        let asked = peers.ask(peer, PeerRequest::Describe, self.election_timeout());
        match asked.await {
            Ok(PeerResponse::Describe(description)) => Some(description),
            _ => None,
        }
    }
}

/// A look for the core, contained there if who asks is.
fn contained<T>(
    look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T,
) -> impl FnOnce(&State, &dyn Fn() -> SharedStore) -> Result<T, Panic> {
    let for_request = panics::is_contained();
    move |state, store| {
        let look = || look(state, store);
        match for_request {
            true => panics::contain(look),
            false => Ok(look()),
        }
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
        .map_err(|error| Broken::invariant(format!("raft configuration: {error}")))
}

/// Tells nobody.
impl Observer for () {
    fn applied(&self, _revision: Revision, _events: &[mvccpb::Event]) {}
    fn installed(&self, _revision: Revision) {}
    fn compacted(&self, _revision: Revision) {}
}
