//! Sweeps: what a compaction left dead is given up, in pieces.
//!
//! ```text
//!   begin_sweep ─► sweep_on ─► sweep_on ─► … ─► finish ─► rows ─► end_sweep ─► outdated rows, dead records
//!   (state)        (state, each bounded)       (a view)   (store) (state)      (store)
//! ```
//!
//! A sweep is no command: each member makes it when it has time, and no read, digest or hash tells how far it has
//! come. The index forgets dead changes piece by piece. The store learns nothing of it until
//! the end, so that whoever opens it in between (after a crash, or from a snapshot for a follower) finds it as it was before
//! the sweep, and begins again: the rows of what is kept (`retained_revisions`) are written under the sweep's own revision, which nobody looks
//! at; then one batch says that the store is swept up to there; and only behind it may anything go.
//!
//! A compaction that comes meanwhile is swept for afterwards.

use bytes::Bytes;

use super::index::Compacted;
use super::{State, retained_revisions};
use crate::base::kv::{Change, Read};
use crate::base::{Broken, Revision, RevisionAt};

/// A sweep under way. See the module.
pub struct Sweep {
    since: Revision,
    revision: Revision,
    /// The key to go on with.
    next: Option<Bytes>,
    /// Of each piece: put together elsewhere, since moving it would take long.
    found: Vec<Compacted>,
}

/// What a sweep came to.
pub struct Swept {
    /// The store was swept up to here before.
    pub since: Revision,
    pub revision: Revision,
    /// To be written, in any number of batches, before [`State::end_sweep`].
    pub rows: Vec<Change>,
    /// To be written afterwards.
    pub outdated: Vec<Change>,
    /// To be discarded afterwards, in order.
    pub dead: Vec<RevisionAt>,
}

/// The state is not the one in which the sweep began: a snapshot has taken its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Replaced;

impl State {
    /// Begins to sweep up to the last compaction; `None`: there is nothing to sweep.
    ///
    /// # Panics
    /// Another sweep of this state is not ended. What it found would be lost.
    pub fn begin_sweep(&mut self) -> Option<Sweep> {
        assert_eq!(self.sweeping, None, "one sweep at a time");
        if self.swept_revision == self.compact_revision {
            return None;
        }
        self.sweeping = Some(self.compact_revision);
        Some(Sweep {
            since: self.swept_revision,
            revision: self.compact_revision,
            next: Some(Bytes::new()),
            found: Vec::new(),
        })
    }

    /// One piece: looks at up to `effort_max` entries of the index and changes that it forgets.
    pub fn sweep_on(&mut self, sweep: &mut Sweep, effort_max: usize) -> Result<(), Replaced> {
        self.check_sweep(sweep.revision)?;
        let Some(from) = sweep.next.take() else {
            return Ok(());
        };
        let (found, next) = self
            .index
            .compact_some(&from, sweep.since, sweep.revision, effort_max);
        self.record_bytes -= found.dead_bytes;
        sweep.next = next.map(Bytes::from);
        sweep.found.push(found);
        Ok(())
    }

    /// From the next [`seal`](Self::seal) on the store is swept. Its rows have to be in the store before.
    pub fn end_sweep(&mut self, swept: &Swept) -> Result<(), Replaced> {
        self.check_sweep(swept.revision)?;
        self.sweeping = None;
        self.swept_revision = swept.revision;
        Ok(())
    }

    fn check_sweep(&self, revision: Revision) -> Result<(), Replaced> {
        match self.sweeping {
            Some(sweeping) if sweeping == revision => Ok(()),
            _ => Err(Replaced),
        }
    }
}

impl Sweep {
    /// Whether the whole index has been swept.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// Puts together what is to be written, without the state: it takes as long as there are keys. `store`: as it was at any
    /// time since the sweep began.
    ///
    /// # Errors
    /// What was written down as kept is not what the index had.
    ///
    /// # Panics
    /// The index is not swept.
    pub fn finish(self, store: &dyn Read) -> Result<Swept, Broken> {
        assert!(self.is_complete(), "what is kept of other keys would be lost");
        let Sweep {
            since,
            revision,
            found,
            ..
        } = self;
        let mut dead: Vec<RevisionAt> = found.iter().flat_map(|found| &found.dead).copied().collect();
        dead.sort_unstable();
        let mut kept = retained_revisions::load(since, store)?;
        let before = kept.len();
        kept.retain(|at| dead.binary_search(at).is_err());
        let died = dead.partition_point(|at| at.main <= since);
        if kept.len() + died != before {
            return Err(Broken::contradiction(format!(
                "records that were kept at revision {since} are not those that there were"
            )));
        }
        kept.extend(found.iter().flat_map(|found| &found.kept));
        kept.sort_unstable();
        Ok(Swept {
            since,
            revision,
            rows: retained_revisions::rows(revision, &kept),
            outdated: retained_revisions::without_others(revision, store)?,
            dead,
        })
    }
}
