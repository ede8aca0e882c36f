//! Leases as the log knows them: granted, attached to keys, revoked. When one ends is not decided here.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::digest::Kind;
use super::{Answer, Changes, Pending, State};
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Denied, LeaseId, limits};
use crate::proto::command;
use crate::proto::etcdserverpb::{LeaseCheckpointRequest, LeaseGrantRequest};

/// A lease that exists.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lease {
    /// Seconds granted.
    pub ttl: i64,
    /// Seconds left at the last checkpoint; 0 without one.
    pub remaining_ttl: i64,
    /// Keys that go with it.
    pub keys: BTreeSet<Bytes>,
}

impl State {
    pub(super) fn grant(
        &mut self,
        request: &LeaseGrantRequest,
        store: &mut Pending<'_>,
    ) -> Result<Answer, Denied> {
        if request.ttl > limits::LEASE_TTL_SECONDS_MAX {
            return Err(Denied::LeaseTtlTooLarge);
        }
        if request.id == 0 {
            // No lease has this id; the proposer chooses another.
            return Err(Denied::LeaseNotFound);
        }
        if self.leases.contains_key(&request.id) {
            return Err(Denied::LeaseExists);
        }
        let lease = Lease {
            ttl: request.ttl,
            ..Lease::default()
        };
        self.store_lease(request.id, &lease, store);
        self.leases.insert(request.id, lease);
        Ok(Answer::LeaseGrant {
            id: request.id,
            ttl: request.ttl,
        })
    }

    /// Ends a lease: its keys are deleted in one revision, in key order.
    pub(super) fn revoke(
        &mut self,
        id: LeaseId,
        changes: &mut Changes,
        store: &mut Pending<'_>,
    ) -> Result<Result<Answer, Denied>, Broken> {
        let Some(lease) = self.leases.remove(&id) else {
            return Ok(Err(Denied::LeaseNotFound));
        };
        for key in lease.keys {
            self.delete(key, changes, store)?;
        }
        self.digest.add(Kind::Revoke, &id.to_le_bytes());
        store.delete(Space::Leases, Bytes::copy_from_slice(&id.to_be_bytes()));
        Ok(Ok(Answer::LeaseRevoke))
    }

    pub(super) fn checkpoint(&mut self, request: &LeaseCheckpointRequest, store: &mut Pending<'_>) -> Answer {
        for checkpoint in &request.checkpoints {
            let Some(lease) = self.leases.get_mut(&checkpoint.id) else {
                continue;
            };
            lease.remaining_ttl = checkpoint.remaining_ttl;
            let stored = Lease {
                keys: BTreeSet::new(),
                ..*lease
            };
            self.store_lease(checkpoint.id, &stored, store);
        }
        Answer::Empty
    }

    fn store_lease(&mut self, id: LeaseId, lease: &Lease, store: &mut Pending<'_>) {
        let message = command::Lease {
            ttl: lease.ttl,
            remaining_ttl: lease.remaining_ttl,
        };
        let mut bytes = BytesMut::new();
        bytes.put_i64_le(id);
        bytes.put_slice(&message.encode_to_vec());
        self.digest.add(Kind::Lease, &bytes);
        store.put(
            Space::Leases,
            Bytes::copy_from_slice(&id.to_be_bytes()),
            message.encode_to_vec(),
        );
    }

    /// Reads the leases back; their keys follow from the index.
    pub(super) fn load_leases(&mut self, store: &dyn Read) -> Result<(), Broken> {
        let mut damaged = None;
        store.scan(Space::Leases, &[], None, &mut |key, value| match (
            key.try_into().map(i64::from_be_bytes),
            command::Lease::decode(value),
        ) {
            (Ok(id), Ok(lease)) => {
                let lease = Lease {
                    ttl: lease.ttl,
                    remaining_ttl: lease.remaining_ttl,
                    ..Lease::default()
                };
                self.leases.insert(id, lease);
                Visit::Continue
            }
            _ => {
                damaged = Some(Broken::malformed(format!("stored lease {key:?}")));
                Visit::Stop
            }
        })?;
        if let Some(damaged) = damaged {
            return Err(damaged);
        }
        let leases = &mut self.leases;
        let mut missing = None;
        self.index.visit(&[], None, |entry| {
            if !entry.is_living() || entry.lease == 0 {
                return true;
            }
            match leases.get_mut(&entry.lease) {
                Some(lease) => drop(lease.keys.insert(Bytes::copy_from_slice(&entry.key))),
                None => missing = Some(entry.lease),
            }
            missing.is_none()
        });
        match missing {
            Some(id) => Err(Broken::contradiction(format!(
                "lease {id:x} has keys, but does not exist"
            ))),
            None => Ok(()),
        }
    }
}
