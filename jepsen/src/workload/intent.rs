//! What a client means to do, before it is filled in with what the client knows at that moment.
//!
//! ```text
//!   Generator ─┐                       Knowledge: newest revision, revisions of keys, leases held, numbers given
//!              ├─► Intent ──► Knowledge::request ──► Request ──► call ──► Knowledge::observe
//!   Script ────┘   (data)
//! ```
//!
//! An intent is plain data, so that a client's run can be written down, cut down and done again. "Compare with
//! the revision last seen" stays true then, where a stored request would name a revision that is no longer made.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use serde::{Deserialize, Serialize};

use super::{Extreme, Shape};
use crate::history::{Answer, Outcome, Request};

/// Prefix of the keys whose values are lists that grow.
pub(super) const LISTS: &str = "a/";
/// Prefix of the keys that are objects of Kubernetes, and its end.
pub(super) const OBJECTS: &str = "registry/";
pub(super) const OBJECTS_END: &str = "registry0";
/// Prefix of the keys that are written once in a run.
pub const ONCE: &str = "once/";
/// The key by which kube-apiservers agree on who compacts.
const COMPACT_KEY: &str = "compact_rev_key";

/// Leases of one client that are in use at the same time.
const LEASES_HELD_MAX: usize = 2;

/// A put of a value that is written once in a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Put {
    pub key: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub prev_kv: bool,
}

/// A range; a field that is not written down is the wire's default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    pub key: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub range_end: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub limit: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub sort_order: i32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub keys_only: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub count_only: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub serializable: bool,
    /// At so many revisions before the newest that the client has seen.
    #[serde(default, skip_serializing_if = "is_default")]
    pub back: Option<i64>,
}

/// For fields of stored plans that are left out where they say nothing.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Intent {
    Put(Put),
    /// With a lease that the client holds; without one if it holds none. `held`: which.
    LeasedPut {
        put: Put,
        held: usize,
    },
    Read(Read),
    Delete {
        key: String,
        #[serde(default, skip_serializing_if = "is_default")]
        range_end: String,
        #[serde(default, skip_serializing_if = "is_default")]
        prev_kv: bool,
    },
    /// If the key is as the client saw it last; otherwise it reads it.
    CompareAndPut(Put),
    CompareAndDelete {
        key: String,
    },
    /// If the key does not exist; otherwise nothing.
    Create(Put),
    /// A key that nobody has written or will write again; if guarded, only if it does not exist.
    PutOnce {
        #[serde(default, skip_serializing_if = "is_default")]
        guarded: bool,
    },
    /// The next page of the list of objects that is under way, at the first page's revision; otherwise the first page of a
    /// new one.
    List {
        limit: i64,
    },
    /// The next step of kube-apiserver's compactor: a transaction that one of all compactors succeeds with, and for that one
    /// the compaction of what was newest at the transaction before.
    Compactor,
    /// If all of these keys are as the client saw them last, appends an element to each of the first and reads the
    /// others; otherwise it reads all.
    Append {
        keys: Vec<String>,
        reads: Vec<String>,
    },
    /// Puts of different keys, and a read that must see all of them.
    MultiPut {
        puts: Vec<Put>,
        read: Read,
    },
    /// A put, then if its key was as seen before another put and otherwise a deletion, then a read.
    NestedTxn {
        outer: Put,
        inner: Put,
        read: Read,
    },
    /// If the key is as seen the one read, otherwise the other.
    ReadOnlyTxn {
        key: String,
        then: Read,
        otherwise: Read,
    },
    /// Keeps so many revisions; a read while there are fewer.
    Compact {
        keeps: i64,
        physical: bool,
    },
    LeaseGrant,
    LeaseKeepAlive {
        held: usize,
    },
    LeaseRevoke {
        held: usize,
    },
    /// At a limit, or beyond it.
    Extreme(Extreme),
}

impl Intent {
    /// Whether it is given up or tried again when its compare fails.
    pub(super) fn is_optimistic(&self) -> bool {
        match self {
            Intent::Append { .. } => true,
            Intent::CompareAndPut(Put { key, .. }) | Intent::CompareAndDelete { key } => {
                is_guarded(key.as_bytes())
            }
            _ => false,
        }
    }
}

/// What a client knows, and which values and leases it has used up.
pub struct Knowledge {
    client: u32,
    lease_ttl_seconds: i64,
    value_bytes: usize,
    values: u64,
    leases: i64,
    leases_held: Vec<i64>,
    /// The newest revision seen.
    revision: i64,
    /// Modification revisions as last seen, for compares that have a chance to succeed.
    seen: BTreeMap<Bytes, i64>,
    /// Lists as last seen.
    lists: BTreeMap<Bytes, Bytes>,
    page: Option<Page>,
    compactor: Compactor,
}

/// Where a list of objects goes on.
struct Page {
    key: Bytes,
    revision: i64,
}

/// See kube-apiserver's storage/etcd3/compact.go.
#[derive(Default)]
struct Compactor {
    /// The version of its key as last seen.
    version: i64,
    /// What was newest then.
    revision: i64,
    /// Its transaction succeeded: this may go.
    due: Option<i64>,
}

/// True for keys that are only written under a compare with what they were: what any answer shows of them counts.
fn is_guarded(key: &[u8]) -> bool {
    key.starts_with(LISTS.as_bytes()) || key.starts_with(OBJECTS.as_bytes())
}

impl Knowledge {
    pub fn new(client: u32, shape: &Shape) -> Self {
        Knowledge {
            client,
            lease_ttl_seconds: shape.lease_ttl_seconds,
            value_bytes: shape.value_bytes,
            values: 0,
            leases: 0,
            leases_held: Vec::new(),
            revision: 1,
            seen: BTreeMap::new(),
            lists: BTreeMap::new(),
            page: None,
            compactor: Compactor::default(),
        }
    }

    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn leases_held(&self) -> usize {
        self.leases_held.len()
    }

    /// Whether a list has another page.
    pub fn is_listing(&self) -> bool {
        self.page.is_some()
    }

    /// Whether the compactor has to compact next.
    pub fn is_compacting(&self) -> bool {
        self.compactor.due.is_some()
    }

    pub fn has_seen(&self, key: &str) -> bool {
        self.seen.contains_key(key.as_bytes())
    }

    /// Learns from an outcome.
    pub fn observe(&mut self, request: &Request, outcome: &Outcome) {
        if is_page(request) {
            self.turn_page(request, outcome);
        }
        match (request, outcome) {
            (_, Outcome::Ok(answer)) => self.learn(request, answer),
            (Request::LeaseKeepAlive(pb::LeaseKeepAliveRequest { id }), Outcome::Denied { .. })
            | (Request::LeaseRevoke(pb::LeaseRevokeRequest { id }), _) => self.forget_lease(*id),
            (Request::Put(r), Outcome::Denied { .. }) => self.forget_lease(r.lease),
            _ => {}
        }
    }

    fn learn(&mut self, request: &Request, answer: &Answer) {
        self.revision = self.revision.max(answer.revision());
        match (request, answer) {
            (_, Answer::Range(a)) => {
                for kv in a.kvs.iter().filter(|kv| !is_guarded(&kv.key)) {
                    self.seen.insert(kv.key.clone(), kv.mod_revision);
                }
                for kv in &a.kvs {
                    self.see(&kv.key, kv.mod_revision, &kv.value);
                }
            }
            (Request::Txn(r), Answer::Txn(a)) => {
                self.learn_steps(r, a);
                if r.compare.iter().any(|compare| compare.key == COMPACT_KEY) {
                    self.compactor.learn(a);
                }
            }
            (Request::Put(r), Answer::Put(_)) => {
                self.seen.insert(r.key.clone(), answer.revision());
            }
            (Request::Delete(r), Answer::Delete(_)) => {
                self.seen.remove(&r.key);
            }
            (_, Answer::LeaseGrant(a)) => self.leases_held.push(a.id),
            (Request::LeaseRevoke(r), _) => self.forget_lease(r.id),
            (_, Answer::LeaseKeepAlive(a)) if a.ttl <= 0 => self.forget_lease(a.id),
            _ => {}
        }
    }

    fn turn_page(&mut self, request: &Request, outcome: &Outcome) {
        let (Request::Range(r), Outcome::Ok(Answer::Range(a))) = (request, outcome) else {
            // Compacted, or lost: the next list begins at its beginning.
            self.page = None;
            return;
        };
        let (revision, next) = page_end(r, a);
        self.page = next.map(|key| Page { key, revision });
    }

    /// What a transaction shows of guarded keys.
    fn learn_steps(&mut self, r: &pb::TxnRequest, a: &pb::TxnResponse) {
        let revision = a.header.as_ref().map_or(0, |header| header.revision);
        let branch = if a.succeeded { &r.success } else { &r.failure };
        for (op, response) in branch.iter().zip(&a.responses) {
            match (&op.request, &response.response) {
                (Some(Op::RequestPut(r)), _) => self.see(&r.key, revision, &r.value),
                (Some(Op::RequestDeleteRange(r)), _) => self.see_nothing(&r.key),
                (Some(Op::RequestRange(r)), Some(Re::ResponseRange(a))) => {
                    if a.kvs.is_empty() {
                        self.see_nothing(&r.key);
                    }
                    for kv in &a.kvs {
                        self.see(&kv.key, kv.mod_revision, &kv.value);
                    }
                }
                _ => {}
            }
        }
    }

    /// A guarded key was like that at this revision. An answer about the past may come after one about the present.
    fn see(&mut self, key: &Bytes, mod_revision: i64, value: &Bytes) {
        if !is_guarded(key) || self.seen.get(key).is_some_and(|seen| *seen > mod_revision) {
            return;
        }
        self.seen.insert(key.clone(), mod_revision);
        if key.starts_with(LISTS.as_bytes()) && !value.is_empty() {
            self.lists.insert(key.clone(), value.clone());
        }
    }

    fn see_nothing(&mut self, key: &Bytes) {
        if is_guarded(key) {
            self.seen.remove(key);
            self.lists.remove(key);
        }
    }

    fn forget_lease(&mut self, id: i64) {
        self.leases_held.retain(|held| *held != id);
    }

    /// The request that carries an intent out now.
    pub fn request(&mut self, intent: &Intent) -> Request {
        match intent {
            Intent::Put(put) => self.put(put).into(),
            Intent::LeasedPut { put, held } => {
                let lease = self.held(*held).unwrap_or(0);
                pb::PutRequest {
                    lease,
                    ..self.put(put)
                }
                .into()
            }
            Intent::Read(read) => self.read(read).into(),
            Intent::Delete {
                key,
                range_end,
                prev_kv,
            } => pb::DeleteRangeRequest {
                key: key.clone().into(),
                range_end: range_end.clone().into(),
                prev_kv: *prev_kv,
            }
            .into(),
            Intent::CompareAndPut(put) => {
                let change = Op::RequestPut(self.put(put));
                self.compare_and(&put.key, change).into()
            }
            Intent::CompareAndDelete { key } => self.compare_and(key, delete(key)).into(),
            Intent::Create(put) => pb::TxnRequest {
                compare: vec![compare_revision(&put.key, 0)],
                success: ops([Op::RequestPut(self.put(put))]),
                failure: Vec::new(),
            }
            .into(),
            Intent::PutOnce { guarded } => self.put_once(*guarded),
            Intent::List { limit } => self.next_page(*limit).into(),
            Intent::Compactor => self.compactor_step(),
            Intent::Append { keys, reads } => self.append(keys, reads).into(),
            Intent::MultiPut { puts, read } => {
                let mut steps: Vec<Op> = puts.iter().map(|put| Op::RequestPut(self.put(put))).collect();
                steps.push(Op::RequestRange(self.read(read)));
                without_compare(steps).into()
            }
            Intent::NestedTxn { outer, inner, read } => self.nested(outer, inner, read).into(),
            Intent::ReadOnlyTxn { key, then, otherwise } => pb::TxnRequest {
                compare: vec![self.as_seen(key)],
                success: ops([Op::RequestRange(self.read(then))]),
                failure: ops([Op::RequestRange(self.read(otherwise))]),
            }
            .into(),
            Intent::Compact { keeps, physical } => self.compact(*keeps, *physical),
            Intent::LeaseGrant => self.grant(),
            Intent::LeaseKeepAlive { held } => match self.held(*held) {
                Some(id) => pb::LeaseKeepAliveRequest { id }.into(),
                None => self.grant(),
            },
            Intent::LeaseRevoke { held } => match self.held(*held) {
                Some(id) => pb::LeaseRevokeRequest { id }.into(),
                None => self.grant(),
            },
            Intent::Extreme(extreme) => {
                let value = self.element().into();
                extreme.request(value, self.lease_id())
            }
        }
    }

    /// What nobody else writes.
    fn element(&mut self) -> String {
        self.values += 1;
        format!("c{}-{}", self.client, self.values)
    }

    fn value(&mut self) -> Bytes {
        let mut value = self.element();
        while value.len() < self.value_bytes {
            value.push('.');
        }
        Bytes::from(value)
    }

    fn put(&mut self, put: &Put) -> pb::PutRequest {
        pb::PutRequest {
            key: put.key.clone().into(),
            value: self.value(),
            prev_kv: put.prev_kv,
            ..Default::default()
        }
    }

    fn put_once(&mut self, guarded: bool) -> Request {
        let value = self.value();
        let key = format!("{ONCE}{}-{}", self.client, self.values);
        let put = pb::PutRequest {
            key: key.clone().into(),
            value,
            ..Default::default()
        };
        match guarded {
            false => put.into(),
            true => pb::TxnRequest {
                compare: vec![compare_version(&key, 0)],
                success: ops([Op::RequestPut(put)]),
                failure: ops([read_one(&key)]),
            }
            .into(),
        }
    }

    fn read(&self, read: &Read) -> pb::RangeRequest {
        pb::RangeRequest {
            key: read.key.clone().into(),
            range_end: read.range_end.clone().into(),
            limit: read.limit,
            sort_order: read.sort_order,
            keys_only: read.keys_only,
            count_only: read.count_only,
            serializable: read.serializable,
            revision: read.back.map_or(0, |back| (self.revision - back).max(1)),
            ..Default::default()
        }
    }

    fn next_page(&self, limit: i64) -> pb::RangeRequest {
        let page = self.page.as_ref();
        pb::RangeRequest {
            key: page.map_or(OBJECTS.into(), |page| page.key.clone()),
            range_end: OBJECTS_END.into(),
            revision: page.map_or(0, |page| page.revision),
            limit,
            ..Default::default()
        }
    }

    fn compactor_step(&mut self) -> Request {
        if let Some(revision) = self.compactor.due.take() {
            let physical = false;
            return pb::CompactionRequest { revision, physical }.into();
        }
        let put = pb::PutRequest {
            key: COMPACT_KEY.into(),
            value: self.value(),
            ..Default::default()
        };
        pb::TxnRequest {
            compare: vec![compare_version(COMPACT_KEY, self.compactor.version)],
            success: ops([Op::RequestPut(put)]),
            failure: ops([read_one(COMPACT_KEY)]),
        }
        .into()
    }

    /// Compares a key with what the client saw of it last.
    fn as_seen(&self, key: &str) -> pb::Compare {
        compare_revision(key, self.seen.get(key.as_bytes()).copied().unwrap_or(0))
    }

    fn compare_and(&self, key: &str, change: Op) -> pb::TxnRequest {
        pb::TxnRequest {
            compare: vec![self.as_seen(key)],
            success: ops([change]),
            failure: ops([read_one(key)]),
        }
    }

    fn append(&mut self, keys: &[String], reads: &[String]) -> pb::TxnRequest {
        let all: BTreeSet<&String> = keys.iter().chain(reads).collect();
        let puts = keys.iter().map(|key| Op::RequestPut(self.longer(key)));
        let puts: Vec<Op> = puts.collect();
        pb::TxnRequest {
            compare: all.iter().map(|key| self.as_seen(key)).collect(),
            success: ops(puts.into_iter().chain(reads.iter().map(|key| read_one(key)))),
            failure: ops(all.iter().map(|key| read_one(key))),
        }
    }

    /// A put of a list as it was seen, with one element more.
    fn longer(&mut self, key: &str) -> pb::PutRequest {
        let element = self.element();
        let value = match self.lists.get(key.as_bytes()) {
            Some(list) => [list, b" ".as_slice(), element.as_bytes()].concat(),
            None => element.into_bytes(),
        };
        pb::PutRequest {
            key: key.to_owned().into(),
            value: value.into(),
            ..Default::default()
        }
    }

    fn nested(&mut self, outer: &Put, inner: &Put, read: &Read) -> pb::TxnRequest {
        let nested = pb::TxnRequest {
            compare: vec![self.as_seen(&outer.key)],
            success: ops([Op::RequestPut(self.put(inner))]),
            failure: ops([delete(&inner.key)]),
        };
        without_compare([
            Op::RequestPut(self.put(outer)),
            Op::RequestTxn(nested),
            Op::RequestRange(self.read(read)),
        ])
    }

    fn compact(&self, keeps: i64, physical: bool) -> Request {
        let revision = self.revision - keeps;
        if revision < 1 {
            let newest = Read {
                key: super::generator::FIRST_KEY.to_owned(),
                ..Read::default()
            };
            return self.read(&newest).into();
        }
        pb::CompactionRequest { revision, physical }.into()
    }

    fn grant(&mut self) -> Request {
        if self.leases_held.len() >= LEASES_HELD_MAX {
            // Abandoned: it will run out, and take its keys along.
            self.leases_held.remove(0);
        }
        pb::LeaseGrantRequest {
            ttl: self.lease_ttl_seconds,
            id: self.lease_id(),
        }
        .into()
    }

    /// One that nobody else grants.
    fn lease_id(&mut self) -> i64 {
        self.leases += 1;
        (i64::from(self.client) + 1) * 1_000_000 + self.leases
    }

    fn held(&self, which: usize) -> Option<i64> {
        let count = self.leases_held.len();
        self.leases_held.get(which.checked_rem(count)?).copied()
    }
}

impl Compactor {
    fn learn(&mut self, answer: &pb::TxnResponse) {
        let before = std::mem::replace(
            &mut self.revision,
            answer.header.as_ref().map_or(0, |header| header.revision),
        );
        if answer.succeeded {
            self.version += 1;
            self.due = Some(before).filter(|revision| *revision > 0);
            return;
        }
        let response = answer.responses.first().and_then(|op| op.response.as_ref());
        if let Some(Re::ResponseRange(a)) = response {
            self.version = a.kvs.first().map_or(0, |kv| kv.version);
        }
    }
}

/// Whether a range is a page of a list of objects.
fn is_page(request: &Request) -> bool {
    matches!(request, Request::Range(r) if r.limit > 0 && r.range_end == OBJECTS_END)
}

/// The revision of the list that a page belongs to, and where the next page begins, if there is one.
pub(super) fn page_end(page: &pb::RangeRequest, answer: &pb::RangeResponse) -> (i64, Option<Bytes>) {
    let revision = match page.revision {
        0 => answer.header.as_ref().map_or(0, |header| header.revision),
        fixed => fixed,
    };
    let last = answer.kvs.last().filter(|_| answer.more);
    let behind = |key: &Bytes| [key, b"\0".as_slice()].concat().into();
    (revision, last.map(|last| behind(&last.key)))
}

fn compare_version(key: &str, version: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Version(version)),
        ..Default::default()
    }
}

fn compare_revision(key: &str, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Mod as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::ModRevision(revision)),
        ..Default::default()
    }
}

fn read_one(key: &str) -> Op {
    Op::RequestRange(pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    })
}

fn delete(key: &str) -> Op {
    Op::RequestDeleteRange(pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        prev_kv: true,
        ..Default::default()
    })
}

fn without_compare(steps: impl IntoIterator<Item = Op>) -> pb::TxnRequest {
    pb::TxnRequest {
        success: ops(steps),
        ..Default::default()
    }
}

pub(super) fn ops(steps: impl IntoIterator<Item = Op>) -> Vec<pb::RequestOp> {
    let wrap = |request| pb::RequestOp {
        request: Some(request),
    };
    steps.into_iter().map(wrap).collect()
}
