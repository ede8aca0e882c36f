//! HashKV: etcd's checksum over the records, bit for bit, so that members, and tools of etcd, can compare.

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::etcd_snapshot::revision_key;
use super::record::Record;
use super::{Overtaken, State, retained_revisions};
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Denied, Revision, RevisionAt};

/// An answer of HashKV.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KvHash {
    pub hash: u32,
    pub compact_revision: Revision,
    pub hash_revision: Revision,
}

/// What to leave out of a hash, so that the records can be read without holding the state.
pub struct HashPlan {
    revision: Revision,
    compact_revision: Revision,
    kept: Kept,
}

/// Which of the records at or below the compact revision count.
enum Kept {
    /// In order.
    These(Vec<RevisionAt>),
    /// Those that the store has written down when it was swept up to the revision.
    WrittenDown,
}

impl HashPlan {
    /// The hash that etcd takes while it compacts at `revision`: of all that was there since the compaction at `since`. For
    /// a view of the store that has just been swept up to `revision`, from `since` on, and discards nothing yet; `dead`: what that
    /// left dead, in order. It follows from history and the two revisions alone, whenever and how often a member began to sweep.
    pub fn of_compaction(
        since: Revision,
        revision: Revision,
        dead: &[RevisionAt],
        store: &dyn Read,
    ) -> Result<HashPlan, Broken> {
        let kept = match retained_revisions::is_empty(revision, store)? {
            // etcd then leaves nothing out that is still stored.
            true => Kept::These(dead.to_vec()),
            false => Kept::WrittenDown,
        };
        Ok(HashPlan {
            revision,
            compact_revision: since,
            kept,
        })
    }

    /// CRC-32C over the bucket's name `key`, then the stored key and the marshalled KeyValue of every record up to
    /// the revision, except what is below the compact revision and a compaction at the revision would
    /// remove. So the hash does not depend on how far a compaction has come.
    pub fn run(&self, store: &dyn Read) -> Result<KvHash, Broken> {
        let mut hash = crc32c::crc32c(b"key");
        let mut written_down = retained_revisions::Lookup::new(self.revision, store);
        let mut damaged = None;
        // Stored revisions are not negative, and neither may be the end of a scan.
        let end = RevisionAt::new(self.revision.saturating_add(1).max(0), 0).to_bytes();
        let mut take = |at: RevisionAt, value| {
            let past = at.main <= self.compact_revision;
            let counts = match &self.kept {
                _ if !past => true,
                Kept::These(kept) => kept.binary_search(&at).is_ok(),
                Kept::WrittenDown => written_down.is_kept(at)?,
            };
            if !counts {
                return Ok(());
            }
            let record = Record::decode(at, value)?;
            // The tombstone that a compaction keeps for watches: older releases of etcd do not keep it.
            if !(record.tombstone && at.main == self.compact_revision) {
                hash = crc32c::crc32c_append(hash, &revision_key(at, record.tombstone));
                hash = crc32c::crc32c_append(hash, &record.kv.encode_to_vec());
            }
            Ok(())
        };
        store.scan(Space::Records, &[], Some(&end), &mut |key, value| {
            let taken = RevisionAt::from_bytes(key).map_or(Ok(()), |at| take(at, value));
            match taken {
                Ok(()) => Visit::Continue,
                Err(broken) => {
                    damaged = Some(broken);
                    Visit::Stop
                }
            }
        })?;
        match damaged {
            Some(broken) => Err(broken),
            None => Ok(KvHash {
                hash,
                compact_revision: self.compact_revision,
                hash_revision: self.revision,
            }),
        }
    }
}

/// A plan in the making: the state is looked at in bounded pieces.
pub struct HashPlanner {
    revision: Revision,
    compact_revision: Revision,
    /// What a compaction at the revision would keep of the past, as etcd counts it here: of each living key the newest
    /// change. Not the tombstone at that very revision, though compaction itself keeps it for watches.
    kept: Vec<RevisionAt>,
    /// What counts if no key lives at the revision.
    kept_before: Vec<RevisionAt>,
    is_any_living: bool,
    next: Option<Bytes>,
}

impl HashPlanner {
    /// Whether all keys have been looked at.
    pub fn is_complete(&self) -> bool {
        self.next.is_none()
    }

    /// The plan. Sorts what it may leave out, which can be as much as there are keys.
    ///
    /// # Panics
    /// Not all keys have been looked at.
    pub fn finish(self) -> HashPlan {
        assert!(self.is_complete(), "a hash would miss keys");
        let mut kept = if self.is_any_living {
            self.kept
        } else {
            self.kept_before
        };
        kept.sort_unstable();
        HashPlan {
            revision: self.revision,
            compact_revision: self.compact_revision,
            kept: Kept::These(kept),
        }
    }
}

impl State {
    /// Begins to plan how to hash all records up to `revision` (0: the current).
    pub fn plan_hash(&self, revision: Revision) -> Result<HashPlanner, Denied> {
        let revision = if revision == 0 { self.revision } else { revision };
        if revision > self.revision {
            return Err(Denied::FutureRevision);
        }
        // As etcd: a negative revision is not refused, and hashes nothing.
        if revision > 0 && revision < self.compact_revision {
            return Err(Denied::Compacted);
        }
        Ok(HashPlanner {
            revision,
            compact_revision: self.compact_revision,
            kept: Vec::new(),
            kept_before: Vec::new(),
            is_any_living: false,
            next: Some(Bytes::new()),
        })
    }

    /// One look at up to `entries_max` keys.
    pub fn plan_on(&self, planner: &mut HashPlanner, entries_max: usize) -> Result<(), Overtaken> {
        if planner.compact_revision != self.compact_revision {
            return Err(Overtaken);
        }
        let Some(from) = planner.next.take() else {
            return Ok(());
        };
        let mut entries = 0;
        self.index.visit(&from, None, |entry| {
            if entries == entries_max {
                planner.next = Some(Bytes::copy_from_slice(&entry.key));
                return false;
            }
            entries += 1;
            // What a sweep has yet to remove is not asked for: from the compact revision on, all entries say the same
            // before and after it. So the plan does not depend on how far this member has swept.
            let living = |revision| entry.living_at(revision).map(|past| past.at());
            let past = |at: &RevisionAt| at.main <= planner.compact_revision;
            let newest = living(planner.revision);
            planner.is_any_living |= newest.is_some();
            planner.kept.extend(newest.filter(past));
            if !planner.is_any_living {
                planner.kept_before.extend(living(planner.compact_revision));
            }
            true
        });
        Ok(())
    }

    /// The hash of all records up to `revision`, at once.
    pub fn hash_kv(&self, revision: Revision, store: &dyn Read) -> Result<Result<KvHash, Denied>, Broken> {
        let mut planner = match self.plan_hash(revision) {
            Ok(planner) => planner,
            Err(denied) => return Ok(Err(denied)),
        };
        let planned = self.plan_on(&mut planner, usize::MAX);
        planned.expect("nothing is compacted within a look");
        planner.finish().run(store).map(Ok)
    }
}
