//! The sequential model of etcd's key-value store: one request at a time, no concurrency, no failure.
//!
//! Written from etcd's documented behaviour (revisions, ranges, transactions, compaction, leases),
//! for clarity and not for speed, and sharing no code with the product. It keeps every version of
//! every key, so it can answer "what was there at revision r", and can take back its newest revision,
//! which is what a search for an explanation of a history needs.
//!
//! Leases have two modes. The *strict* model knows which leases exist; the *assuming* one believes
//! that a lease exists until it has seen it end, because granting a lease has no revision and so no
//! place in an order of revisions. Time is not modelled: an expiry is a revocation that nobody asked
//! for, and whether it came too early is the business of [`crate::lease`].

mod range;
#[cfg(test)]
mod tests;
mod txn;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::{Event, KeyValue, event::EventType};
use tonic::Code;

pub use range::{covers, same_range_answer};

use crate::history::{Answer, Request};

/// A definite refusal, in etcd's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: Code,
    pub text: &'static str,
}

impl Refusal {
    pub const EMPTY_KEY: Refusal = refusal(Code::InvalidArgument, "etcdserver: key is not provided");
    pub const KEY_NOT_FOUND: Refusal = refusal(Code::InvalidArgument, "etcdserver: key not found");
    pub const VALUE_PROVIDED: Refusal = refusal(Code::InvalidArgument, "etcdserver: value is provided");
    pub const LEASE_PROVIDED: Refusal = refusal(Code::InvalidArgument, "etcdserver: lease is provided");
    pub const TOO_MANY_OPS: Refusal = refusal(
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
    );
    pub const DUPLICATE_KEY: Refusal = refusal(
        Code::InvalidArgument,
        "etcdserver: duplicate key given in txn request",
    );
    pub const INVALID_SORT: Refusal = refusal(Code::InvalidArgument, "etcdserver: invalid sort option");
    pub const COMPACTED: Refusal = refusal(
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
    );
    pub const FUTURE_REVISION: Refusal = refusal(
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
    );
    pub const LEASE_NOT_FOUND: Refusal = refusal(Code::NotFound, "etcdserver: requested lease not found");
    pub const LEASE_EXISTS: Refusal = refusal(Code::FailedPrecondition, "etcdserver: lease already exists");
    pub const LEASE_TTL_TOO_LARGE: Refusal = refusal(Code::OutOfRange, "etcdserver: too large lease TTL");
}

const fn refusal(code: Code, text: &'static str) -> Refusal {
    Refusal { code, text }
}

/// Longest lease, in seconds.
const LEASE_TTL_SECONDS_MAX: i64 = 9_000_000_000;

/// A key at and after one revision: a pair, or a tombstone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Version {
    main: i64,
    kv: Option<KeyValue>,
}

/// What the model believes about leases.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Leases {
    /// Exactly these exist.
    Strict(BTreeSet<i64>),
    /// All exist but these, which have ended.
    Assumed { ended: BTreeSet<i64> },
}

/// The store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Model {
    revision: i64,
    compact_revision: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    leases: Leases,
}

/// What a request did.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    pub result: Result<Answer, Refusal>,
    /// The new revision's changes in order, as a watch with `prev_kv` shows them; empty if the
    /// revision did not move.
    pub events: Vec<Event>,
    /// A lease that ended.
    pub ended: Option<i64>,
}

/// What was there after a revision.
fn at(versions: &[Version], revision: i64) -> Option<&KeyValue> {
    let after = versions.partition_point(|version| version.main <= revision);
    versions.get(after.checked_sub(1)?)?.kv.as_ref()
}

impl Model {
    /// A new store that knows its leases.
    pub fn strict() -> Self {
        Self::with(Leases::Strict(BTreeSet::new()))
    }

    /// A new store that takes each lease for granted until it has seen it end.
    pub fn assuming_leases() -> Self {
        Self::with(Leases::Assumed {
            ended: BTreeSet::new(),
        })
    }

    fn with(leases: Leases) -> Self {
        Model {
            revision: 1,
            compact_revision: -1,
            keys: BTreeMap::new(),
            leases,
        }
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The pair of `key` after revision `revision`.
    pub fn get_at(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        at(self.keys.get(key)?, revision)
    }

    pub fn get(&self, key: &[u8]) -> Option<&KeyValue> {
        self.keys.get(key)?.last()?.kv.as_ref()
    }

    /// All pairs after `revision`, in key order.
    pub fn pairs_at(&self, revision: i64) -> impl Iterator<Item = &KeyValue> {
        self.keys
            .values()
            .filter_map(move |versions| at(versions, revision))
    }

    /// Runs one request. `seen` is the answer that a client got, if it did: it settles what the store
    /// may choose freely (the id of a lease).
    pub fn apply(&mut self, request: &Request, seen: Option<&Answer>) -> Applied {
        let before = self.revision;
        let mut change = Change::new(before);
        let mut ended = None;
        let result = match request {
            Request::Range(r) => self.range(r, self.revision).map(Answer::Range),
            Request::Put(r) => self.run_put(r, &mut change).map(Answer::Put),
            Request::Delete(r) => self.run_delete(r, &mut change).map(Answer::Delete),
            Request::Txn(r) => self.txn(r, &mut change).map(Answer::Txn),
            Request::Compact(r) => self.compact(r.revision).map(Answer::Compact),
            Request::LeaseGrant(r) => self.grant(r, seen).map(Answer::LeaseGrant),
            Request::LeaseRevoke(r) => {
                let revoked = self.revoke(r.id, &mut change);
                ended = revoked.is_ok().then_some(r.id);
                revoked.map(Answer::LeaseRevoke)
            }
            Request::LeaseKeepAlive(r) => Ok(Answer::LeaseKeepAlive(self.keep_alive(r.id, seen))),
            Request::LeaseTimeToLive(r) => Ok(Answer::LeaseTimeToLive(self.time_to_live(r, seen))),
        };
        if !change.events.is_empty() {
            self.revision = before + 1;
        }
        let events = change.events;
        Applied {
            result,
            events,
            ended,
        }
    }

    /// Takes back the newest revision, whose changes were `applied`.
    pub fn undo(&mut self, applied: &Applied) {
        self.take_back(&applied.events, applied.ended);
    }

    /// The same, by the changes themselves and the lease that ended.
    pub fn take_back(&mut self, events: &[Event], ended: Option<i64>) {
        assert!(
            !events.is_empty(),
            "only a revision that changed something can be undone"
        );
        let newest = self.revision;
        for event in events {
            let key = &event.kv.as_ref().expect("model events have a pair").key;
            let versions = self.keys.get_mut(key).expect("an event's key has versions");
            while versions.last().is_some_and(|version| version.main == newest) {
                versions.pop();
            }
        }
        self.forget_ended(ended);
        self.revision -= 1;
    }

    /// Takes back the end of a lease that changed no key.
    pub fn forget_ended(&mut self, lease: Option<i64>) {
        if let (Some(lease), Leases::Assumed { ended }) = (lease, &mut self.leases) {
            ended.remove(&lease);
        }
    }

    fn lease_exists(&self, id: i64) -> bool {
        match &self.leases {
            Leases::Strict(known) => known.contains(&id),
            Leases::Assumed { ended } => !ended.contains(&id),
        }
    }

    fn check_put(&self, r: &pb::PutRequest) -> Result<(), Refusal> {
        if r.lease != 0 && !self.lease_exists(r.lease) {
            return Err(Refusal::LEASE_NOT_FOUND);
        }
        if (r.ignore_value || r.ignore_lease) && self.get(&r.key).is_none() {
            return Err(Refusal::KEY_NOT_FOUND);
        }
        Ok(())
    }

    fn run_put(&mut self, r: &pb::PutRequest, change: &mut Change) -> Result<pb::PutResponse, Refusal> {
        txn::check_put_shape(r)?;
        self.check_put(r)?;
        let mut response = self.put(r, change);
        response.header = header(change.revision());
        Ok(response)
    }

    fn run_delete(
        &mut self,
        r: &pb::DeleteRangeRequest,
        change: &mut Change,
    ) -> Result<pb::DeleteRangeResponse, Refusal> {
        if r.key.is_empty() {
            return Err(Refusal::EMPTY_KEY);
        }
        Ok(self.delete(r, change))
    }

    /// Writes a pair; the request was checked.
    fn put(&mut self, r: &pb::PutRequest, change: &mut Change) -> pb::PutResponse {
        let main = change.before + 1;
        let old = self.get(&r.key).cloned();
        let kept = |ignore: bool, old_value: Option<&KeyValue>| old_value.filter(|_| ignore).cloned();
        let value = kept(r.ignore_value, old.as_ref()).map_or(r.value.clone(), |kv| kv.value);
        let lease = kept(r.ignore_lease, old.as_ref()).map_or(r.lease, |kv| kv.lease);
        let kv = KeyValue {
            key: r.key.clone(),
            create_revision: old.as_ref().map_or(main, |kv| kv.create_revision),
            mod_revision: main,
            version: old.as_ref().map_or(1, |kv| kv.version + 1),
            value,
            lease,
        };
        self.push(&r.key, main, Some(kv.clone()));
        change.record(EventType::Put, kv, old.clone());
        pb::PutResponse {
            header: header(change.revision()),
            prev_kv: old.filter(|_| r.prev_kv),
        }
    }

    fn delete(&mut self, r: &pb::DeleteRangeRequest, change: &mut Change) -> pb::DeleteRangeResponse {
        let gone: Vec<KeyValue> = self
            .live(&r.key, &r.range_end, i64::MAX)
            .into_iter()
            .cloned()
            .collect();
        for old in &gone {
            self.remove(old.clone(), change);
        }
        pb::DeleteRangeResponse {
            header: header(change.revision()),
            deleted: gone.len() as i64,
            prev_kvs: if r.prev_kv { gone } else { Vec::new() },
        }
    }

    fn remove(&mut self, old: KeyValue, change: &mut Change) {
        let main = change.before + 1;
        self.push(&old.key, main, None);
        let tombstone = KeyValue {
            key: old.key.clone(),
            mod_revision: main,
            ..Default::default()
        };
        change.record(EventType::Delete, tombstone, Some(old));
    }

    fn push(&mut self, key: &Bytes, main: i64, kv: Option<KeyValue>) {
        let versions = self.keys.entry(key.clone()).or_default();
        if versions.is_empty() {
            // Most keys of a long history are written once: room for more would be most of the model.
            versions.reserve_exact(1);
        }
        versions.push(Version { main, kv });
    }

    fn compact(&mut self, revision: i64) -> Result<pb::CompactionResponse, Refusal> {
        if revision <= self.compact_revision {
            return Err(Refusal::COMPACTED);
        }
        if revision > self.revision {
            return Err(Refusal::FUTURE_REVISION);
        }
        self.compact_revision = revision;
        Ok(pb::CompactionResponse {
            header: header(self.revision),
        })
    }

    fn grant(
        &mut self,
        r: &pb::LeaseGrantRequest,
        seen: Option<&Answer>,
    ) -> Result<pb::LeaseGrantResponse, Refusal> {
        if r.ttl > LEASE_TTL_SECONDS_MAX {
            return Err(Refusal::LEASE_TTL_TOO_LARGE);
        }
        let (chosen, ttl) = match seen {
            Some(Answer::LeaseGrant(answer)) => (answer.id, answer.ttl),
            _ => (r.id, r.ttl),
        };
        let id = if r.id == 0 { chosen } else { r.id };
        if let Leases::Strict(known) = &mut self.leases
            && !known.insert(id)
        {
            return Err(Refusal::LEASE_EXISTS);
        }
        Ok(pb::LeaseGrantResponse {
            header: header(self.revision),
            id,
            ttl: ttl.max(r.ttl),
            error: String::new(),
        })
    }

    fn revoke(&mut self, id: i64, change: &mut Change) -> Result<pb::LeaseRevokeResponse, Refusal> {
        let known = match &mut self.leases {
            Leases::Strict(known) => known.remove(&id),
            Leases::Assumed { ended } => ended.insert(id),
        };
        if !known {
            return Err(Refusal::LEASE_NOT_FOUND);
        }
        let attached: Vec<KeyValue> = self
            .pairs_at(self.revision)
            .filter(|kv| kv.lease == id)
            .cloned()
            .collect();
        for old in attached {
            self.remove(old, change);
        }
        Ok(pb::LeaseRevokeResponse {
            header: header(change.revision()),
        })
    }

    fn keep_alive(&self, id: i64, seen: Option<&Answer>) -> pb::LeaseKeepAliveResponse {
        let ttl = match seen {
            Some(Answer::LeaseKeepAlive(answer)) => answer.ttl.max(1),
            _ => 1,
        };
        pb::LeaseKeepAliveResponse {
            header: header(self.revision),
            id,
            ttl: if self.lease_exists(id) { ttl } else { 0 },
        }
    }

    fn time_to_live(
        &self,
        r: &pb::LeaseTimeToLiveRequest,
        seen: Option<&Answer>,
    ) -> pb::LeaseTimeToLiveResponse {
        let exists = self.lease_exists(r.id);
        let (ttl, granted_ttl) = match seen {
            Some(Answer::LeaseTimeToLive(answer)) if exists => (answer.ttl.max(0), answer.granted_ttl),
            _ => (-1, 0),
        };
        let attached = self.pairs_at(self.revision).filter(|kv| kv.lease == r.id);
        let keys = match r.keys && exists {
            true => attached.map(|kv| kv.key.clone()).collect(),
            false => Vec::new(),
        };
        pb::LeaseTimeToLiveResponse {
            header: header(self.revision),
            id: r.id,
            ttl,
            granted_ttl,
            keys,
        }
    }
}

/// The changes of one revision while it is made.
struct Change {
    /// The revision before.
    before: i64,
    events: Vec<Event>,
}

impl Change {
    fn new(before: i64) -> Self {
        Change {
            before,
            events: Vec::new(),
        }
    }

    /// The revision as this transaction sees it: one more once something has changed.
    fn revision(&self) -> i64 {
        self.before + i64::from(!self.events.is_empty())
    }

    /// `old` is the pair just before the change. A watch shows the one before the revision, however often the key
    /// changes within it, and none with a pair that is new.
    fn record(&mut self, kind: EventType, kv: KeyValue, old: Option<KeyValue>) {
        let is_same = |event: &&Event| event.kv.as_ref().is_some_and(|changed| changed.key == kv.key);
        let before = match self.events.iter().find(is_same) {
            Some(first) => first.prev_kv.clone(),
            None => old,
        };
        let is_new = kind == EventType::Put && kv.create_revision == kv.mod_revision;
        let prev_kv = before.filter(|_| !is_new);
        if self.events.is_empty() {
            // As with versions: most revisions change one key.
            self.events.reserve_exact(1);
        }
        self.events.push(Event {
            r#type: kind as i32,
            kv: Some(kv),
            prev_kv,
        });
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}

/// True if `actual` is what a store may answer where the model answers `expected`. The ids and the
/// term in the header are not the model's business; a header that etcd fills in after the fact may
/// show a later revision.
pub fn same_answer(request: &Request, expected: &Answer, actual: &Answer) -> bool {
    let exact = expected.revision() == actual.revision();
    let not_before = expected.revision() <= actual.revision();
    match (request, expected, actual) {
        (Request::Range(r), Answer::Range(e), Answer::Range(a)) => exact && same_range_answer(r, e, a),
        (_, Answer::Put(e), Answer::Put(a)) => exact && e.prev_kv == a.prev_kv,
        (_, Answer::Delete(e), Answer::Delete(a)) => {
            exact && e.deleted == a.deleted && e.prev_kvs == a.prev_kvs
        }
        (Request::Txn(r), Answer::Txn(e), Answer::Txn(a)) => exact && txn::same_txn_answer(r, e, a),
        (_, Answer::LeaseGrant(e), Answer::LeaseGrant(a)) => not_before && e.id == a.id && e.ttl <= a.ttl,
        (_, Answer::LeaseKeepAlive(e), Answer::LeaseKeepAlive(a)) => e.id == a.id && e.ttl == a.ttl,
        (_, Answer::LeaseTimeToLive(e), Answer::LeaseTimeToLive(a)) => {
            let sorted = |keys: &[Bytes]| keys.iter().cloned().collect::<BTreeSet<_>>();
            not_before && e.ttl == a.ttl && sorted(&e.keys) == sorted(&a.keys)
        }
        (_, Answer::Compact(_), Answer::Compact(_)) | (_, Answer::LeaseRevoke(_), Answer::LeaseRevoke(_)) => {
            not_before
        }
        _ => false,
    }
}
