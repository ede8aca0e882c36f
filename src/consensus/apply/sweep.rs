//! Sweeps: what compactions left dead is given up by this member, between all else that this thread does.
//!
//! ```text
//!   compaction applied, or found unfinished ─► pieces of the index ─► rows (blocking thread) ─► batches ─► swept ─► discards
//! ```
//!
//! Each piece is a look at the state of its own, and bounded; others have their turn after each. What takes as long as there are keys
//! is done on a thread that may block, from a view. See [`crate::state::Sweep`] for why this may end anywhere, and
//! begin again.

use std::sync::Arc;
use std::time::Duration;

use super::hash::Compacted;
use super::metrics::{self, Stopwatch};
use crate::base::kv::{Batch, Change};
use crate::base::{Broken, Denied, Revision, RevisionAt, limits};
use crate::consensus::Consensus;
use crate::consensus::core::Core;
use crate::runtime::Aside;
use crate::runtime::buggify::{self, Site, pause};
use crate::state::{Pending, Replaced, State, Sweep, Swept};
use crate::storage::{Engine, View};

/// The longest pause before a sweep, in a simulation.
const SWEEP_PAUSE: Duration = Duration::from_secs(2);
/// The longest pause after a piece.
const PIECE_PAUSE: Duration = Duration::from_secs(1);

/// How far compactions have come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacting {
    pub compacted: Revision,
    pub swept: Revision,
}

impl Compacting {
    pub fn of(state: &State) -> Compacting {
        Compacting {
            compacted: state.compact_revision(),
            swept: state.swept_revision(),
        }
    }
}

impl Consensus {
    /// Waits until this member has given up what died up to now.
    pub async fn all_swept(&self) -> Result<(), Denied> {
        let compacted = self.0.compacting.borrow().compacted;
        self.swept(compacted).await
    }

    /// Waits until this member has given up what died up to a revision, which was compacted.
    pub async fn swept(&self, revision: Revision) -> Result<(), Denied> {
        let mut compacting = self.0.compacting.clone();
        let is_swept = |compacting: &Compacting| compacting.swept >= revision;
        let waited = compacting.wait_until(is_swept).await;
        waited.map_err(|_closed| Denied::Stopped)
    }
}

/// An index that is swept, and the store that it belongs to.
struct SweptIndex {
    sweep: Sweep,
    engine: Arc<dyn Engine>,
    view: Box<dyn View>,
}

impl Core {
    pub async fn run_sweeps(self) {
        let machine = self.machine();
        let mut compacting = machine.compacting_signal();
        let is_due = |seen: &Compacting| seen.swept < seen.compacted;
        while compacting.wait_until(is_due).await.is_ok() {
            pause(self.env(), Site::SweepLate, SWEEP_PAUSE).await;
            if let Err(broken) = self.sweep().await {
                self.0.vitals.met_damage(broken);
                return;
            }
            if machine.is_torn() {
                // There would be something to sweep without end.
                return;
            }
            machine.read(|state, _| machine.follow_compactions(state));
        }
    }

    /// One sweep. It ends early if a snapshot takes the place of the state, which is then to be swept itself.
    async fn sweep(&self) -> Result<(), Broken> {
        let (env, machine) = (self.env(), self.machine());
        let begun = env.now();
        let Ok(Some(sweep)) = machine.sweep(|state, _| Ok(state.begin_sweep())) else {
            return Ok(());
        };
        let Ok(SweptIndex { sweep, engine, view }) = self.sweep_index(sweep).await else {
            return Ok(());
        };
        let mut swept = env.run_aside(Aside::Upkeep, move || sweep.finish(&view)).await?;
        // An engine that is replaced meanwhile takes all this, too: it goes when its last user is gone.
        self.write_changes(&*engine, std::mem::take(&mut swept.rows))
            .await?;
        let dead = Arc::new(std::mem::take(&mut swept.dead));
        if self.end_sweep(&swept, &dead)?.is_err() {
            return Ok(());
        }
        self.write_changes(&*engine, swept.outdated).await?;
        self.discard(&*engine, &dead).await;
        metrics::swept(env, env.now() - begun, dead.len());
        Ok(())
    }

    /// Sweeps the index.
    async fn sweep_index(&self, mut sweep: Sweep) -> Result<SweptIndex, Replaced> {
        let metrics = &self.env().metrics().store;
        loop {
            let mut stopwatch = Stopwatch::start(self.env());
            let entries_max = buggify::limit(Site::SweepTinyPieces, limits::SWEEP_PIECE_ENTRIES, 3);
            let store = self.machine().sweep(|state, engine| {
                state.sweep_on(&mut sweep, entries_max)?;
                // Of the same moment: later there may be another store.
                Ok(sweep.is_complete().then(|| (engine.clone(), engine.view())))
            })?;
            let took = stopwatch.lap();
            metrics.index_compaction_pause.observe(took);
            if let Some((engine, view)) = store {
                return Ok(SweptIndex { sweep, engine, view });
            }
            self.after_piece(took).await;
        }
    }

    /// Others have their turn, and this thread for longer than the piece took: nobody waits for a sweep.
    async fn after_piece(&self, took: Duration) {
        pause(self.env(), Site::SweepPieceLate, PIECE_PAUSE).await;
        self.env().sleep(2 * took).await;
    }

    /// Hands one piece of the work to the engine, when it has room.
    async fn give_piece<T>(&self, piece: impl FnOnce() -> T) -> T {
        self.0.vitals.store.room().await;
        let mut stopwatch = Stopwatch::start(self.env());
        let handed = piece();
        let metrics = &self.env().metrics().store;
        let took = stopwatch.lap();
        metrics.compaction_pause.observe(took);
        self.after_piece(took).await;
        handed
    }

    /// Writes changes in some batches.
    async fn write_changes(&self, engine: &dyn Engine, changes: Vec<Change>) -> Result<(), Broken> {
        for some in changes.chunks(limits::SWEEP_BATCH_ROWS) {
            let changes = some.to_vec();
            self.give_piece(|| engine.write(Batch { changes })).await?;
        }
        Ok(())
    }

    /// From here on the store is swept. Has the compaction hashed, while what died of it is still there.
    fn end_sweep(&self, swept: &Swept, dead: &Arc<Vec<RevisionAt>>) -> Result<Result<(), Replaced>, Broken> {
        let ended = self.machine().sweep(|state, engine| {
            state.end_sweep(swept)?;
            let mut pending = Pending::new(&**engine);
            state.seal(&mut pending);
            let written = engine.write(pending.into_batch());
            if written.is_ok() {
                self.machine().compactions.hash(|| Compacted {
                    view: engine.view(),
                    since: swept.since,
                    revision: swept.revision,
                    dead: dead.clone(),
                });
            }
            Ok(written)
        });
        match ended {
            Ok(written) => written.map(Ok),
            Err(replaced) => Ok(Err(replaced)),
        }
    }

    async fn discard(&self, engine: &dyn Engine, dead: &[RevisionAt]) {
        for some in dead.chunks(limits::SWEEP_PIECE_ENTRIES) {
            self.give_piece(|| engine.discard(some.to_vec())).await;
        }
    }
}
