//! What runs on the thread that decides: raft, the state, proposals, reads, leases, membership.
//!
//! ```text
//!   Consensus ── Ask ──► inbox ─► Core ─► tasks of this thread ── Answer ──► whoever asked
//!   (any thread)         bounded  (Rc: the compiler keeps it here)
//! ```
//!
//! Everything here is `!Send`: what happens to it happens in the order in which this thread does it. Others ask by
//! messages, and look at what is published ([`Vitals`], [`Applied`](super::apply::machine::Applied)).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{InitializeError, RaftError};
use tokio::sync::{Semaphore, mpsc};

use super::apply::hash;
use super::apply::machine::{ApplyListeners, StateMachine};
use super::lease::lessor;
use super::lease::renewals::RenewalQueue;
use super::peers::Peers;
use super::propose::queue::{Proposal, Proposals};
use super::raft::cause;
use super::raft::log::LogStore;
use super::raft::machine::Machine;
use super::raft::network::Network;
use super::raft::types::Raft;
use super::read::{ReadQueue, Waiting};
use super::recovery::force_new_cluster::force_new_cluster;
use super::status::{Status, Vitals};
use super::{Options, SharedObserver, contact, membership, raft_config, tokens};
use crate::base::{Broken, MemberId, effort, limits};
use crate::runtime::channel::{Answer, Receiver};
use crate::runtime::{Crossing, Env, Task, let_others_run, signal};
use crate::storage::Store;
use crate::storage::wal::{Recovered, Wal};

/// What is asked of the core.
pub(super) enum Ask {
    Propose(Box<Proposal>),
    /// To be done when a local read is linearizable.
    Read(Waiting),
    /// Anything that takes no time.
    Do(Box<dyn FnOnce(&Core) + Send>),
    /// To be answered when raft and every task have ended.
    Stop(Answer<()>),
}

/// What a core is made of.
pub(super) struct Parts {
    pub env: Env,
    pub options: Arc<Options>,
    pub store: Store,
    pub peers: Peers,
}

/// A handle within the thread.
#[derive(Clone)]
pub(super) struct Core(pub(super) Rc<Inner>);

pub(super) struct Inner {
    parts: Parts,
    wal: Wal,
    raft: Raft,
    machine: Rc<StateMachine>,
    network: Network,
    pub vitals: Vitals,
    /// One permit for each request of entries on its way to raft, all for a snapshot that takes the place of the log.
    pub appends: Arc<Semaphore>,
    pub reads: ReadQueue,
    pub renewals: RenewalQueue,
    /// For the hot path, as of the last look of [`Core::run_status`].
    pub term_seen: Cell<u64>,
    pub lagging: Cell<bool>,
    pub health: RefCell<membership::Health>,
    pub stopping: signal::Sender<bool>,
    tasks: RefCell<Vec<Task<()>>>,
}

/// How much of the state was looked at since others had their turn.
pub(super) struct Turn(u64);

impl Turn {
    pub fn begin() -> Turn {
        Turn(effort::spent())
    }

    pub fn is_long(&self) -> bool {
        effort::spent().wrapping_sub(self.0) > limits::LOOK_ENTRIES_MAX as u64
    }

    /// Lets others have their turn if this one was long.
    pub async fn pause_if_long(&mut self) {
        if self.is_long() {
            let_others_run().await;
            self.0 = effort::spent();
        }
    }
}

impl Core {
    /// Recovers, and begins to take part. `observer` begins who is told of what is applied, on this thread.
    pub async fn start(
        parts: Parts,
        log: Recovered,
        observer: impl FnOnce(&Env) -> SharedObserver,
    ) -> Result<Core, Broken> {
        let wal = log.start();
        let started = Core::open(parts, wal.clone(), observer).await;
        if started.is_err() {
            // It can be started again then.
            wal.close().await;
        }
        started
    }

    async fn open(
        parts: Parts,
        wal: Wal,
        observer: impl FnOnce(&Env) -> SharedObserver,
    ) -> Result<Core, Broken> {
        if let Some(peer_urls) = &parts.options.force_new_cluster {
            let Options { identity, level, .. } = &*parts.options;
            force_new_cluster(&wal, &parts.store, identity.member, peer_urls, *level).await?;
        }
        let (env, options) = (parts.env.clone(), parts.options.clone());
        let member = options.identity.member;
        let (compactions, compacted) = hash::Compactions::new();
        let (proposals, proposer_woken) = Proposals::new(member, env.random_u64());
        let listeners = ApplyListeners {
            proposals,
            lessor: lessor::Lessor::new(env.clone(), options.lease_checkpoints),
            tokens: tokens::Tokens::new(env.clone(), options.token_ttl),
            compactions,
            slow_apply: options.slow_apply,
            quota: options.quota,
            level: options.level,
        };
        let (store, book) = (parts.store.clone(), parts.peers.book().clone());
        let machine = StateMachine::open(env.clone(), store, listeners, member, book, observer(&env))?;
        let machine = Rc::new(machine);
        // What a killed process left in the page cache is made durable before raft counts on it.
        machine.sync().await?;
        let network = Network::new(parts.peers.clone());
        let log = LogStore::new(wal.clone());
        let raft = Raft::new(
            member,
            Arc::new(raft_config(&options)?),
            network.clone(),
            log.clone(),
            Machine(machine.clone()),
        )
        .await
        .map_err(|fatal| log.stopped("raft cannot start: ", &fatal))?;
        let (reads, reader_woken) = ReadQueue::new();
        let (renewals, renewer_woken) = RenewalQueue::new();
        let vitals = Vitals {
            env: env.clone(),
            member,
            election_timeout: options.election_timeout,
            raft: raft.metrics(),
            contact: contact::LeaderContact::new(env.now(), options.election_timeout),
            applied: machine.applied_signal(),
            members: machine.members_signal(),
            peers: parts.peers.clone(),
            store: parts.store.clone(),
            damage: signal::channel(None).0,
            status: signal::channel(Status::default()).0,
        };
        let core = Core(Rc::new(Inner {
            parts,
            wal,
            raft,
            machine,
            network,
            vitals,
            appends: Arc::new(Semaphore::new(limits::APPEND_PERMITS as usize)),
            reads,
            renewals,
            term_seen: Cell::new(0),
            lagging: Cell::new(false),
            health: RefCell::default(),
            stopping: signal::channel(false).0,
            tasks: RefCell::default(),
        }));
        core.bootstrap().await?;
        core.begin(proposer_woken, reader_woken, renewer_woken, compacted);
        Ok(core)
    }

    /// Writes the first membership, if there is none: the same on every member, so they agree.
    async fn bootstrap(&self) -> Result<(), Broken> {
        let members = self.options().initial_members.clone();
        if members.is_empty() {
            // It joins: the others know it, and send what it needs.
            return Ok(());
        }
        match self.raft().initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::Fatal(fatal)) => Err(cause::stopped("cannot initialize the cluster: ", &fatal)),
            Err(RaftError::APIError(error)) => Err(Broken::invariant(format!(
                "cannot initialize the cluster: {error}"
            ))),
        }
    }

    fn begin(
        &self,
        proposer_woken: mpsc::Receiver<()>,
        reader_woken: mpsc::Receiver<()>,
        renewer_woken: mpsc::Receiver<()>,
        compacted: mpsc::Receiver<hash::Compacted>,
    ) {
        let env = self.env();
        let mut tasks = vec![
            env.spawn_local(self.clone().run_proposals(proposer_woken)),
            env.spawn_local(self.clone().run_deadlines()),
            env.spawn_local(self.clone().run_reads(reader_woken)),
            env.spawn_local(self.clone().run_renewals(renewer_woken)),
            env.spawn_local(self.clone().run_heartbeats()),
            env.spawn_local(self.clone().run_status()),
            env.spawn_local(self.clone().run_purge()),
            env.spawn_local(self.clone().run_lease_expiry()),
            env.spawn_local(self.clone().run_membership()),
            env.spawn_local(self.clone().run_sweeps()),
            env.spawn_local(self.clone().run_compaction_hashes(compacted)),
        ];
        let interval = self.options().probe_interval;
        if !interval.is_zero() {
            tasks.push(env.spawn_local(self.clone().run_probes(interval)));
        }
        self.0.tasks.borrow_mut().extend(tasks);
    }

    /// Does what is asked, until it is to stop or nobody is left who could ask.
    pub async fn serve(self, mut inbox: Receiver<Ask>) {
        let mut asked = Vec::new();
        while inbox.recv_many(&mut asked, limits::CORE_TURN_ASKS_MAX).await > 0 {
            if let Some(late) = self.env().cross(Crossing::ToCore) {
                late.await;
            }
            let mut turn = Turn::begin();
            for ask in asked.drain(..) {
                match ask {
                    Ask::Propose(proposal) => self.take_proposal(*proposal),
                    Ask::Read(read) => self.take_read(read),
                    Ask::Do(what) => what(&self),
                    Ask::Stop(answer) => {
                        self.stop().await;
                        return answer.send(());
                    }
                }
                turn.pause_if_long().await;
            }
            // Raft and the others have their turn.
            let_others_run().await;
        }
        self.stop().await;
    }

    /// Stops raft and every task, and closes the log. The engine is synced, so that the next start replays little.
    async fn stop(&self) {
        self.0.tasks.borrow().iter().for_each(Task::abort);
        self.0.stopping.send(true);
        if let Err(error) = self.raft().shutdown().await {
            tracing::warn!(%error, "raft did not stop cleanly");
        }
        if let Err(error) = self.machine().sync().await {
            tracing::error!(%error, "cannot sync the engine");
        }
        self.wal().close().await;
    }

    pub fn env(&self) -> &Env {
        &self.0.parts.env
    }

    pub fn options(&self) -> &Options {
        &self.0.parts.options
    }

    pub fn raft(&self) -> &Raft {
        &self.0.raft
    }

    pub fn wal(&self) -> &Wal {
        &self.0.wal
    }

    pub fn machine(&self) -> &StateMachine {
        &self.0.machine
    }

    pub fn network(&self) -> &Network {
        &self.0.network
    }

    pub fn peers(&self) -> &Peers {
        &self.0.parts.peers
    }

    pub fn member_id(&self) -> MemberId {
        self.options().identity.member
    }

    pub fn request_timeout(&self) -> Duration {
        self.options().request_timeout
    }

    pub fn election_timeout(&self) -> Duration {
        self.options().election_timeout
    }

    pub fn status(&self) -> Status {
        self.0.vitals.status()
    }

    pub fn status_signal(&self) -> signal::Receiver<Status> {
        self.0.vitals.status.subscribe()
    }
}
