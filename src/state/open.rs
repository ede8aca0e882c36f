//! Opening: the state of a store, after a start or from a received snapshot.
//!
//! ```text
//!   Meta ─► revisions, digest …      Meta "kept" ─┐
//!   Records, oldest first ────────────────────────┴─► up to where it is swept: what is kept; above: everything ─► index
//!   Leases ─► leases; their keys follow from the index
//! ```
//!
//! A store that contradicts itself is [`Broken`]: a record is missing, stands where none can be, or names a lease that
//! does not exist. Dead records may be there or not.
//!
//! What a compaction left dead and no sweep has given up yet is there and comes back into the index: the sweep begins again.

use bytes::Bytes;

use super::index::{KeyVersion, Place};
use super::record::Record;
use super::{State, retained_revisions};
use crate::base::broken::BadRecord;
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, RevisionAt, limits};

impl State {
    /// Rebuilds the state from a store.
    ///
    /// # Errors
    /// The store is damaged: rebuild it from a snapshot.
    pub fn open(store: &dyn Read) -> Result<State, Broken> {
        State::open_with_cache(store, limits::VALUE_CACHE_BYTES)
    }

    /// [`open`](Self::open), where the newest records may take `cache_bytes_max` of memory.
    pub fn open_with_cache(store: &dyn Read, cache_bytes_max: usize) -> Result<State, Broken> {
        let mut state = State::empty(cache_bytes_max);
        let stored = state.load_meta(store)?;
        if !stored {
            require_empty(store)?;
            return Ok(state);
        }
        state.load_records(store)?;
        state.load_leases(store)?;
        state.load_auth(store)?;
        state.load_sessions(store)?;
        Ok(state)
    }

    fn load_records(&mut self, store: &dyn Read) -> Result<(), Broken> {
        let mut expected = Expected::new(self, store)?;
        let mut damaged = None;
        store.scan(Space::Records, &[], None, &mut |key, value| {
            let loaded = RevisionAt::from_bytes(key)
                .ok_or_else(|| Broken::malformed(format!("stored revision {key:?}")))
                .and_then(|at| Ok((at, expected.lives(at)?)))
                .and_then(|(at, lives)| {
                    if !lives {
                        self.dead.push(at);
                        return Ok(());
                    }
                    self.load_record(at, Record::decode(at, value.clone())?, value)
                });
            match loaded {
                Ok(()) => Visit::Continue,
                Err(broken) => {
                    damaged = Some(broken);
                    Visit::Stop
                }
            }
        })?;
        damaged.map_or(Ok(()), Err)?;
        expected.end()
    }

    fn load_record(&mut self, at: RevisionAt, record: Record, encoded: Bytes) -> Result<(), Broken> {
        let place = self.index.find(&record.kv.key);
        if !belongs(at, &record) || !self.continues(at, &record, &place) {
            return Err(Broken::record(at, BadRecord::Misplaced));
        }
        self.index_record(at, place, &record, encoded)
    }

    /// Whether a change follows from the one before it of the same key, as far as that is still there.
    fn continues(&self, at: RevisionAt, record: &Record, place: &Place) -> bool {
        if at.main <= self.swept_revision {
            return true;
        }
        let kv = &record.kv;
        let before = self.index.entry(place).filter(|entry| entry.is_living());
        match before.map(|entry| entry.newest) {
            Some(_) if record.tombstone => true,
            Some(before) => kv.version == before.version + 1 && kv.create_revision == before.create,
            None => !record.tombstone && kv.version == 1 && kv.create_revision == at.main,
        }
    }
}

/// Whether a record can be what is written at `at`.
fn belongs(at: RevisionAt, record: &Record) -> bool {
    let kv = &record.kv;
    let whole = if record.tombstone {
        kv.version == 0
    } else {
        kv.version > 0 && kv.mod_revision == at.main && (2..=at.main).contains(&kv.create_revision)
    };
    whole && !kv.key.is_empty()
}

/// Which record comes next, as far as that is known.
struct Expected {
    /// What is kept up to the swept revision, newest first.
    kept: Vec<RevisionAt>,
    swept_revision: i64,
    /// The last record above the swept revision, or where that begins.
    last: RevisionAt,
    revision: i64,
}

impl Expected {
    fn new(state: &State, store: &dyn Read) -> Result<Expected, Broken> {
        let mut kept = retained_revisions::load(state.swept_revision, store)?;
        kept.reverse();
        Ok(Expected {
            kept,
            swept_revision: state.swept_revision,
            // Nothing was ever written at revision 1: an empty store has it.
            last: RevisionAt::new(state.swept_revision.max(1), i64::MAX),
            revision: state.revision,
        })
    }

    /// Whether the record that was found at `at` lives.
    fn lives(&mut self, at: RevisionAt) -> Result<bool, Broken> {
        let missing = |next: RevisionAt| Err(Broken::record(next, BadRecord::Missing));
        if at.main <= self.swept_revision {
            return match self.kept.last() {
                Some(&next) if next < at => missing(next),
                Some(&next) if next == at => {
                    self.kept.pop();
                    Ok(true)
                }
                _ => Ok(false),
            };
        }
        self.all_kept_found()?;
        // Above, nothing was given up, so there is no gap.
        let follows = RevisionAt::new(self.last.main, self.last.sub.saturating_add(1));
        let begins = RevisionAt::new(self.last.main + 1, 0);
        if at.main > self.revision {
            return Err(Broken::record(at, BadRecord::Beyond(self.revision)));
        }
        if at != follows && at != begins {
            return missing(begins);
        }
        self.last = at;
        Ok(true)
    }

    fn all_kept_found(&self) -> Result<(), Broken> {
        match self.kept.last() {
            Some(next) => Err(Broken::record(*next, BadRecord::Missing)),
            None => Ok(()),
        }
    }

    fn end(&self) -> Result<(), Broken> {
        self.all_kept_found()?;
        if self.last.main < self.revision {
            let next = RevisionAt::new(self.last.main + 1, 0);
            return Err(Broken::record(next, BadRecord::Missing));
        }
        Ok(())
    }
}

/// A store without a state must have nothing else either.
fn require_empty(store: &dyn Read) -> Result<(), Broken> {
    let mut found = None;
    for space in [Space::Records, Space::Leases] {
        store.scan(space, &[], None, &mut |_, _| {
            found = Some(space);
            Visit::Stop
        })?;
    }
    match found {
        Some(space) => Err(Broken::contradiction(format!(
            "the store has {space:?}, but no state they belong to"
        ))),
        None => Ok(()),
    }
}

/// A record as the index knows it.
pub(super) fn past_of(at: RevisionAt, record: &Record, bytes: u32) -> Result<KeyVersion, Broken> {
    let kv = &record.kv;
    KeyVersion::new(at, kv.create_revision, kv.version, bytes)
        .ok_or_else(|| Broken::record(at, BadRecord::Impossible))
}
