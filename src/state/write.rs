//! Puts and deletions: the only code that makes changes.

use bytes::Bytes;

use super::index::Past;
use super::range::header;
use super::record::Record;
use super::{Changes, Pending, State};
use crate::base::kv::Space;
use crate::base::{Broken, Denied, RevisionAt};
use crate::proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse};
use crate::proto::mvccpb::KeyValue;

/// What a stored record costs beside its own bytes.
const RECORD_OVERHEAD_BYTES: u32 = RevisionAt::LEN as u32 + 16;

/// What tells the digest one kind of change from another.
pub(super) mod kind {
    pub const PUT: u8 = 1;
    pub const DELETE: u8 = 2;
    pub const LEASE: u8 = 3;
    pub const REVOKE: u8 = 4;
    pub const COMPACT: u8 = 5;
    pub const ALARMS: u8 = 6;
    pub const MEMBER: u8 = 7;
    pub const VERSION: u8 = 8;
}

impl State {
    /// Whether a put can run: its lease exists, and its key if it keeps value or lease.
    pub(super) fn check_put(&self, request: &PutRequest) -> Result<(), Denied> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Denied::LEASE_NOT_FOUND);
        }
        let keeps = request.ignore_value || request.ignore_lease;
        let exists = || {
            self.index
                .get(&request.key)
                .is_some_and(|entry| entry.is_living())
        };
        if keeps && !exists() {
            Err(Denied::KEY_NOT_FOUND)
        } else {
            Ok(())
        }
    }

    /// Puts a key; [`check_put`](Self::check_put) has passed.
    pub(super) fn put(
        &mut self,
        request: &PutRequest,
        changes: &mut Changes,
        store: &mut Pending<'_>,
    ) -> Result<PutResponse, Broken> {
        let at = changes.next();
        let old = self.index.get(&request.key).filter(|entry| entry.is_living());
        let (create, version, old_lease) = old.map_or((at.main, 0, 0), |entry| {
            (entry.newest.create, entry.newest.version, entry.lease)
        });
        let needs_old = request.prev_kv || request.ignore_value;
        let prev_kv = match old {
            Some(entry) if needs_old => Some(self.key_value(entry, entry.newest, store)?),
            _ => None,
        };
        let value = match &prev_kv {
            Some(prev) if request.ignore_value => prev.value.clone(),
            _ => request.value.clone(),
        };
        let lease = if request.ignore_lease {
            old_lease
        } else {
            request.lease
        };
        let kv = KeyValue {
            key: request.key.clone(),
            create_revision: create,
            mod_revision: at.main,
            version: version + 1,
            value,
            lease,
        };
        self.detach(old_lease, &request.key);
        if let Some(lease) = self.leases.get_mut(&lease) {
            // A copy: the request's key would keep all of the request in memory.
            lease.keys.insert(Bytes::copy_from_slice(&request.key));
        }
        self.change(at, Record { tombstone: false, kv }, changes, store);
        Ok(PutResponse {
            header: header(changes.now()),
            prev_kv: prev_kv.filter(|_| request.prev_kv),
        })
    }

    pub(super) fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        changes: &mut Changes,
        store: &mut Pending<'_>,
    ) -> Result<DeleteRangeResponse, Broken> {
        let mut entries = Vec::new();
        self.visit_range(&request.key, &request.range_end, |entry| {
            if entry.is_living() {
                entries.push(entry);
            }
            true
        });
        let prev_kvs = if request.prev_kv {
            let pairs = entries
                .iter()
                .map(|entry| self.key_value(entry, entry.newest, store));
            pairs.collect::<Result<Vec<_>, _>>()?
        } else {
            Vec::new()
        };
        let keys: Vec<Bytes> = entries.into_iter().map(|entry| entry.key.clone()).collect();
        let deleted = keys.len() as i64;
        for key in keys {
            self.delete(key, changes, store);
        }
        Ok(DeleteRangeResponse {
            header: header(changes.now()),
            deleted,
            prev_kvs,
        })
    }

    /// Deletes a living key.
    pub(super) fn delete(&mut self, key: Bytes, changes: &mut Changes, store: &mut Pending<'_>) {
        let lease = self.index.get(&key).map_or(0, |entry| entry.lease);
        self.detach(lease, &key);
        let kv = KeyValue {
            key,
            ..KeyValue::default()
        };
        self.change(changes.next(), Record { tombstone: true, kv }, changes, store);
    }

    fn detach(&mut self, lease: i64, key: &Bytes) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    fn change(&mut self, at: RevisionAt, record: Record, changes: &mut Changes, store: &mut Pending<'_>) {
        let encoded = record.encode();
        self.digest
            .add(if record.tombstone { kind::DELETE } else { kind::PUT }, &encoded);
        self.index_record(at, &record, encoded.len());
        store.put(Space::Records, Bytes::copy_from_slice(&at.to_bytes()), encoded);
        changes.events.push(record.into_event(at));
    }

    /// Takes a record into the index: a new one, or one read back from the store.
    pub(super) fn index_record(&mut self, at: RevisionAt, record: &Record, encoded_len: usize) {
        let kv = &record.kv;
        let bytes = u32::try_from(encoded_len).expect("requests are far below 4 GiB") + RECORD_OVERHEAD_BYTES;
        self.record_bytes += u64::from(bytes);
        let past = Past {
            at,
            create: kv.create_revision,
            version: kv.version,
            bytes,
        };
        let value = (!record.tombstone).then_some(kv.value.as_ref());
        let recorded = self.index.record(&kv.key, past, kv.lease, value);
        if let Some(old) = recorded.superseded {
            let line = self.superseded.entry(at.main).or_default();
            line.push((recorded.key.clone(), old.at));
        }
        if record.tombstone {
            // A tombstone at the compact revision itself stays, for a watch that starts there.
            self.superseded
                .entry(at.main + 1)
                .or_default()
                .push((recorded.key, at));
        }
    }
}
