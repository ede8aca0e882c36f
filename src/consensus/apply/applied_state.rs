//! Where the state stands in the log, as the engine notes it with every batch that it is given.

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::Broken;
use crate::base::kv::{Batch, Read, Space};
use crate::consensus::raft::format::record::{AppliedStateRecord, LogIdRecord};
use crate::consensus::raft::types::{LogId, StoredMembership};
use crate::transport::{decode, encode, encode_body};

/// Where it is kept.
const KEY: &[u8] = b"raft";

/// See the module.
#[derive(Clone)]
pub struct AppliedState {
    pub applied: Option<LogId>,
    membership: StoredMembership,
    /// The end of the record, which is the same until the members change.
    members: Bytes,
}

impl Default for AppliedState {
    fn default() -> Self {
        AppliedState::new(None, StoredMembership::default())
    }
}

impl AppliedState {
    pub fn new(applied: Option<LogId>, membership: StoredMembership) -> Self {
        let members = AppliedStateRecord::members(&membership);
        AppliedState {
            applied,
            members: encode_body(&members).into(),
            membership,
        }
    }

    pub fn stored(engine: &dyn Read) -> Result<AppliedState, Broken> {
        let Some(bytes) = engine.get(Space::Meta, KEY)? else {
            return Ok(AppliedState::default());
        };
        let record: AppliedStateRecord =
            decode(&bytes).map_err(|error| Broken::unreadable("engine's raft record", error))?;
        let (applied, membership) = record.into_parts()?;
        Ok(AppliedState::new(applied, membership))
    }

    pub fn membership(&self) -> &StoredMembership {
        &self.membership
    }

    pub fn set_membership(&mut self, membership: StoredMembership) {
        *self = AppliedState::new(self.applied, membership);
    }

    /// Adds to a batch what brings the engine to it.
    pub fn store(&self, batch: &mut Batch) {
        batch.put(Space::Meta, KEY, self.encode());
    }

    /// An [`AppliedStateRecord`]: bincode writes the fields of a structure one behind the other.
    fn encode(&self) -> Bytes {
        let applied = encode(&self.applied.map(LogIdRecord::from));
        let mut encoded = BytesMut::with_capacity(applied.len() + self.members.len());
        encoded.put_slice(&applied);
        encoded.put_slice(&self.members);
        encoded.freeze()
    }
}

#[cfg(test)]
mod tests;
