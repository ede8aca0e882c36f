//! HashKV: etcd's checksum over the records, bit for bit, so that members, and tools of etcd, can compare.

use std::collections::BTreeSet;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::State;
use super::exchange::revision_key;
use super::record::Record;
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Denied, Revision, RevisionAt};

/// An answer of HashKV.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KvHash {
    pub hash: u32,
    pub compact_revision: Revision,
    pub hash_revision: Revision,
}

impl State {
    /// CRC-32C over the bucket's name `key`, then the stored key and the marshalled KeyValue of every record up to
    /// `revision` (0: the current), except what is below the compact revision and a compaction at `revision` would
    /// remove. So the hash does not depend on how far a compaction has come.
    pub fn hash_kv(&self, revision: Revision, store: &dyn Read) -> Result<Result<KvHash, Denied>, Broken> {
        let revision = if revision == 0 { self.revision } else { revision };
        if revision > self.revision {
            return Ok(Err(Denied::FUTURE_REVISION));
        }
        // As etcd: a negative revision is not refused, and hashes nothing.
        if revision > 0 && revision < self.compact_revision {
            return Ok(Err(Denied::COMPACTED));
        }
        let mut kept = self.kept_at(revision);
        if kept.is_empty() {
            // etcd then leaves nothing out that is still stored.
            kept = self.kept_at(self.compact_revision);
        }
        let mut hash = crc32c::crc32c(b"key");
        let mut damaged = None;
        let end = RevisionAt::new(revision.saturating_add(1), 0).to_bytes();
        store.scan(Space::Records, &[], Some(&end), &mut |key, value| {
            let Some(at) = RevisionAt::from_bytes(key) else {
                return Visit::Continue;
            };
            if at.main <= self.compact_revision && !kept.contains(&at) {
                return Visit::Continue;
            }
            match Record::decode(at, value) {
                Ok(record) => {
                    hash = crc32c::crc32c_append(hash, &revision_key(at, record.tombstone));
                    hash = crc32c::crc32c_append(hash, &record.kv.encode_to_vec());
                    Visit::Continue
                }
                Err(broken) => {
                    damaged = Some(broken);
                    Visit::Stop
                }
            }
        })?;
        match damaged {
            Some(broken) => Err(broken),
            None => Ok(Ok(KvHash {
                hash,
                compact_revision: self.compact_revision,
                hash_revision: revision,
            })),
        }
    }

    /// What a compaction at `revision` would keep of the past, as etcd counts it here: of each living key the newest
    /// change. Not the tombstone at that very revision, though compaction itself keeps it for watches.
    fn kept_at(&self, revision: Revision) -> BTreeSet<RevisionAt> {
        let mut kept = BTreeSet::new();
        self.index.visit(&[], None, |entry| {
            kept.extend(entry.living_at(revision).map(|past| past.at()));
            true
        });
        kept
    }
}
