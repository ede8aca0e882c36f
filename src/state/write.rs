//! Puts and deletions: the only code that makes changes.

use bytes::Bytes;

use super::digest::Kind;
use super::index::{Entry, Place};
use super::open::past_of;
use super::range::{Picked, header};
use super::record::Record;
use super::unread::Asked;
use super::{Changes, Pending, State};
use crate::base::kv::Space;
use crate::base::{Broken, Denied, RevisionAt};
use crate::proto::etcdserverpb::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse};
use crate::proto::mvccpb::KeyValue;

/// What a stored record costs beside its own bytes.
const RECORD_OVERHEAD_BYTES: u32 = RevisionAt::LEN as u32 + 16;

impl State {
    /// Whether a put can run: its lease exists, and its key if it keeps value or lease.
    pub(super) fn check_put(&self, request: &PutRequest) -> Result<(), Denied> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Denied::LeaseNotFound);
        }
        let keeps = request.ignore_value || request.ignore_lease;
        let exists = || {
            self.index
                .get(&request.key)
                .is_some_and(|entry| entry.is_living())
        };
        if keeps && !exists() {
            Err(Denied::KeyNotFound)
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
        asked: bool,
    ) -> Result<PutResponse, Broken> {
        let at = changes.next();
        let place = self.index.find(&request.key);
        let old = self.index.entry(&place).filter(|entry| entry.is_living());
        let (create, version, old_lease) = old.map_or((at.main, 0, 0), |entry| {
            (entry.newest.create, entry.newest.version, entry.lease)
        });
        let needs_old = (request.prev_kv && asked) || request.ignore_value;
        let prev_kv = match old {
            Some(entry) if needs_old => Some(self.key_value(entry, entry.newest, store)?),
            _ => None,
        };
        // A key that must exist can be gone by now, if the same transaction deleted it through an open-ended
        // range. etcd crashes on that; here nothing is left to keep, so value and lease are empty.
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
        if old_lease != lease {
            self.detach(old_lease, &request.key);
            self.attach(lease, &request.key);
        }
        self.change(at, place, Record { tombstone: false, kv }, changes, store)?;
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
        asked: Option<&mut Asked>,
    ) -> Result<DeleteRangeResponse, Broken> {
        let mut entries = Vec::new();
        self.visit_range(&request.key, &request.range_end, |entry| {
            if entry.is_living() {
                entries.push(entry);
            }
            true
        });
        if let Some(asked) = asked {
            let wanted = entries.iter().filter(|_| request.prev_kv);
            asked.pairs(wanted.map(|entry| Picked::new(entry, entry.newest)).collect());
        }
        let key = |entry: &Entry| Bytes::copy_from_slice(&entry.key);
        let keys: Vec<Bytes> = entries.into_iter().map(key).collect();
        let deleted = keys.len() as i64;
        for key in keys {
            self.delete(key, changes, store)?;
        }
        Ok(DeleteRangeResponse {
            header: header(changes.now()),
            deleted,
            prev_kvs: Vec::new(),
        })
    }

    /// Deletes a living key.
    pub(super) fn delete(
        &mut self,
        key: Bytes,
        changes: &mut Changes,
        store: &mut Pending<'_>,
    ) -> Result<(), Broken> {
        let place = self.index.find(&key);
        let lease = self.index.entry(&place).map_or(0, |entry| entry.lease);
        self.detach(lease, &key);
        let kv = KeyValue {
            key,
            ..KeyValue::default()
        };
        self.change(
            changes.next(),
            place,
            Record { tombstone: true, kv },
            changes,
            store,
        )
    }

    fn attach(&mut self, lease: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            // A copy: a slice of the request would keep its whole entry of the log in memory.
            lease.keys.insert(Bytes::copy_from_slice(key));
        }
    }

    fn detach(&mut self, lease: i64, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&lease) {
            lease.keys.remove(key);
        }
    }

    fn change(
        &mut self,
        at: RevisionAt,
        place: Place,
        record: Record,
        changes: &mut Changes,
        store: &mut Pending<'_>,
    ) -> Result<(), Broken> {
        let encoded = record.encode();
        let kind = if record.tombstone { Kind::Delete } else { Kind::Put };
        self.digest.record(kind, at, &encoded);
        store.put(
            Space::Records,
            Bytes::copy_from_slice(&at.to_bytes()),
            encoded.clone(),
        );
        self.index_record(at, place, &record, encoded)?;
        changes.events.push(record.into_event(at));
        Ok(())
    }

    /// Takes a record into the index: a new one, or one read back from the store.
    pub(super) fn index_record(
        &mut self,
        at: RevisionAt,
        place: Place,
        record: &Record,
        encoded: Bytes,
    ) -> Result<(), Broken> {
        let kv = &record.kv;
        let bytes =
            u32::try_from(encoded.len()).expect("requests are far below 4 GiB") + RECORD_OVERHEAD_BYTES;
        self.record_bytes += u64::from(bytes);
        let past = past_of(at, record, bytes)?;
        let cached = (!record.tombstone).then_some(encoded);
        self.index.record(place, &kv.key, past, kv.lease, cached);
        Ok(())
    }
}
