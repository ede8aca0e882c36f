//! Hashes of the store: at a revision, and the last that compactions took, which members compare.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::base::{Broken, Denied, Revision, RevisionAt, limits};
use crate::consensus::Consensus;
use crate::consensus::core::Core;
use crate::runtime::Aside;
use crate::runtime::buggify::{self, Site, pause};
use crate::state::{HashPlan, HashPlanner, KvHash, Overtaken, SharedStore, State};
use crate::storage::View;

/// Hashes of compactions that are remembered, the newest: as many as etcd's.
const REMEMBERED: usize = 10;
/// How often a hash is planned anew behind a compaction.
const PLANS_MAX: usize = 3;
/// The longest pause before a hash is taken, in a simulation.
const HASH_PAUSE: Duration = Duration::from_secs(2);

/// A compaction that was just swept.
pub struct Compacted {
    /// The store, swept, before it discards what died.
    pub view: Box<dyn View>,
    /// It was swept up to here before.
    pub since: Revision,
    pub revision: Revision,
    /// What died, in order.
    pub dead: Arc<Vec<RevisionAt>>,
}

/// What compactions hashed. A compaction that comes while another is being hashed has no hash.
pub struct Compactions {
    hashes: RefCell<Vec<KvHash>>,
    taken: mpsc::Sender<Compacted>,
}

impl Compactions {
    pub fn new() -> (Compactions, mpsc::Receiver<Compacted>) {
        let (taken, receiver) = mpsc::channel(1);
        let hashes = RefCell::default();
        (Compactions { hashes, taken }, receiver)
    }

    /// Has a compaction hashed in the background. `compacted` is called if there is time for it.
    pub fn hash(&self, compacted: impl FnOnce() -> Compacted) {
        if let Ok(place) = self.taken.try_reserve() {
            place.send(compacted());
        }
    }

    fn remember(&self, hash: KvHash) {
        let mut hashes = self.hashes.borrow_mut();
        hashes.push(hash);
        let excess = hashes
            .len()
            .saturating_sub(buggify::limit(Site::HashForgotten, REMEMBERED, 1));
        hashes.drain(..excess);
    }

    fn find(&self, revision: Revision) -> Option<KvHash> {
        let hashes = self.hashes.borrow();
        hashes.iter().find(|hash| hash.hash_revision == revision).copied()
    }

    /// Another store has taken the place of the one that was hashed.
    pub fn forget_all(&self) {
        let mut hashes = self.hashes.borrow_mut();
        hashes.clear();
    }
}

impl Consensus {
    /// The hash of all records up to a revision (0: the current). What the compaction at that revision hashed is
    /// answered even when it can be read no more.
    pub async fn hash_kv(&self, revision: Revision) -> Result<KvHash, Denied> {
        match self.hash_of_compaction(revision).await {
            Some(hash) => Ok(hash),
            None => self.hash_now(revision).await,
        }
    }

    /// What the compaction at a revision hashed, if that is remembered. To be compared with its like alone: etcd counts the
    /// records differently here.
    pub async fn hash_of_compaction(&self, revision: Revision) -> Option<KvHash> {
        self.ask(move |core| core.machine().compactions.find(revision))
            .await
    }

    /// The hash of what can be read, up to a revision (0: the current). All of history is read from a view, off the tasks that
    /// serve others: nobody waits.
    pub async fn hash_now(&self, revision: Revision) -> Result<KvHash, Denied> {
        let begun = self.env().now();
        let (planner, view) = self.plan_hash(revision).await?;
        pause(self.env(), Site::HashedLate, HASH_PAUSE).await;
        let run = move || planner.finish().run(&*view);
        let hash = self.env().run_aside(Aside::Background, run).await;
        let took = self.env().now() - begun;
        self.env().metrics().store.hash_at_revision.observe(took);
        self.checked(hash)
    }

    /// All that a hash of the records up to a revision leaves out, and the store as it was then. Looks at all keys, in bounded
    /// looks. A compaction in between is rare, and begins the plan anew; whoever compacts without a pause has it made on a copy
    /// of the state.
    async fn plan_hash(&self, revision: Revision) -> Result<(HashPlanner, SharedStore), Denied> {
        for _ in 0..PLANS_MAX {
            let begin = move |state: &State, view: &dyn Fn() -> SharedStore| {
                let planner = state.plan_hash(revision);
                planner.map(|planner| (planner, view()))
            };
            let (planner, view) = self.look(begin).await?;
            if let Ok(planner) = self.plan_on(planner).await {
                return Ok((planner, view));
            }
        }
        let view = self.look(|_, view| view()).await;
        let plan = move || -> Result<_, Broken> {
            let state = State::open_with_cache(&*view, 0)?;
            let planned = state.plan_hash(revision).map(|mut planner| {
                let planned = state.plan_on(&mut planner, usize::MAX);
                planned.expect("a copy is not compacted");
                (planner, view)
            });
            Ok(planned)
        };
        let planned = self.env().run_aside(Aside::Background, plan).await;
        self.checked(planned)?
    }

    async fn plan_on(&self, mut planner: HashPlanner) -> Result<HashPlanner, Overtaken> {
        while !planner.is_complete() {
            let entries = buggify::limit(Site::HashTinyLooks, limits::LOOK_ENTRIES_MAX, 3);
            let look = move |state: &State| state.plan_on(&mut planner, entries).map(|()| planner);
            let begun = self.env().now();
            planner = self.read(look).await?;
            self.env().give_way(begun).await;
        }
        Ok(planner)
    }
}

impl Core {
    pub async fn run_compaction_hashes(self, mut compactions: mpsc::Receiver<Compacted>) {
        while let Some(compacted) = compactions.recv().await {
            pause(self.env(), Site::CompactionHashedLate, HASH_PAUSE).await;
            let look = move || -> Result<KvHash, Broken> {
                let Compacted {
                    view,
                    since,
                    revision,
                    dead,
                } = compacted;
                HashPlan::of_compaction(since, revision, &dead, &*view)?.run(&*view)
            };
            match self.env().run_aside(Aside::Upkeep, look).await {
                Ok(hash) => {
                    let KvHash {
                        hash: value,
                        hash_revision,
                        compact_revision,
                    } = hash;
                    tracing::info!(
                        hash = value,
                        revision = hash_revision,
                        "compact-revision" = compact_revision,
                        "storing new hash"
                    );
                    self.machine().compactions.remember(hash);
                }
                Err(broken) => {
                    self.0.vitals.met_damage(broken);
                }
            }
        }
    }
}
