//! Draws the next operation of a client from a seed and from what the client has seen so far.
//!
//! One generator per client. Values are `c<client>-<number>`, lease ids carry the client's number, so
//! neither is ever drawn twice in a run. Keys with a lease live under their own prefix: they are the
//! only ones that may vanish by themselves, and a per-key check can leave them out.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::request_op::Request as Op;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::history::{Answer, Outcome, Request};

/// Prefix of the keys that never have a lease.
const KEYS: &str = "k/";
/// Prefix of the keys that may have a lease.
const LEASED_KEYS: &str = "l/";
/// Leases of one client that are in use at the same time.
const LEASES_HELD_MAX: usize = 2;

/// How often each kind of operation is drawn, relative to the others; 0 switches it off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Weights {
    pub put: u32,
    pub get: u32,
    pub serializable_get: u32,
    pub range: u32,
    pub get_at_revision: u32,
    pub delete: u32,
    pub delete_range: u32,
    /// Compare on the modification revision and put or delete, as Kubernetes does.
    pub compare_and_put: u32,
    /// Several puts and a range in one transaction.
    pub multi_put: u32,
    pub nested_txn: u32,
    pub read_only_txn: u32,
    pub compact: u32,
    pub lease_grant: u32,
    pub lease_keep_alive: u32,
    pub lease_revoke: u32,
    pub leased_put: u32,
}

impl Weights {
    pub const DEFAULT: Weights = Weights {
        put: 24,
        get: 20,
        serializable_get: 8,
        range: 8,
        get_at_revision: 4,
        delete: 6,
        delete_range: 2,
        compare_and_put: 14,
        multi_put: 5,
        nested_txn: 2,
        read_only_txn: 2,
        compact: 1,
        lease_grant: 2,
        lease_keep_alive: 2,
        lease_revoke: 1,
        leased_put: 6,
    };

    /// All operations off.
    pub const NONE: Weights = Weights {
        put: 0,
        get: 0,
        serializable_get: 0,
        range: 0,
        get_at_revision: 0,
        delete: 0,
        delete_range: 0,
        compare_and_put: 0,
        multi_put: 0,
        nested_txn: 0,
        read_only_txn: 0,
        compact: 0,
        lease_grant: 0,
        lease_keep_alive: 0,
        lease_revoke: 0,
        leased_put: 0,
    };

    fn table(&self) -> [(u32, Draw); 16] {
        [
            (self.put, Generator::put),
            (self.get, Generator::get),
            (self.serializable_get, Generator::serializable_get),
            (self.range, Generator::range),
            (self.get_at_revision, Generator::get_at_revision),
            (self.delete, Generator::delete),
            (self.delete_range, Generator::delete_range),
            (self.compare_and_put, Generator::compare_and_put),
            (self.multi_put, Generator::multi_put),
            (self.nested_txn, Generator::nested_txn),
            (self.read_only_txn, Generator::read_only_txn),
            (self.compact, Generator::compact),
            (self.lease_grant, Generator::lease_grant),
            (self.lease_keep_alive, Generator::lease_keep_alive),
            (self.lease_revoke, Generator::lease_revoke),
            (self.leased_put, Generator::leased_put),
        ]
    }
}

type Draw = fn(&mut Generator) -> Request;

/// The shape of a workload: itself something to draw from a seed, since one shape finds one sort of bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    pub keys: u32,
    pub leased_keys: u32,
    pub weights: Weights,
    pub lease_ttl_seconds: i64,
    /// A compaction keeps at least this many revisions.
    pub compaction_keeps: i64,
    /// Values are padded to this many bytes; 0: no padding.
    pub value_bytes: usize,
}

impl Default for Weights {
    /// An operation that a stored workload does not name is off.
    fn default() -> Self {
        Weights::NONE
    }
}

impl Default for Shape {
    fn default() -> Self {
        Shape {
            keys: 12,
            leased_keys: 24,
            weights: Weights::DEFAULT,
            lease_ttl_seconds: 3,
            compaction_keeps: 200,
            value_bytes: 0,
        }
    }
}

impl Shape {
    /// A shape drawn from a seed: few or many keys, small or padded values, and about a third of the
    /// kinds of operation switched off (but never all writes or all reads).
    pub fn drawn(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5351_4150_4544_5752);
        let mut weights = Weights::DEFAULT;
        for weight in [
            &mut weights.serializable_get,
            &mut weights.range,
            &mut weights.get_at_revision,
            &mut weights.delete,
            &mut weights.delete_range,
            &mut weights.compare_and_put,
            &mut weights.multi_put,
            &mut weights.nested_txn,
            &mut weights.read_only_txn,
            &mut weights.compact,
            &mut weights.lease_grant,
        ] {
            *weight = if rng.random_ratio(1, 3) {
                0
            } else {
                *weight * rng.random_range(1..=3)
            };
        }
        Shape {
            keys: [1, 3, 12, 60][rng.random_range(0..4)],
            leased_keys: [2, 6][rng.random_range(0..2)],
            weights,
            lease_ttl_seconds: rng.random_range(2..=6),
            compaction_keeps: [0, 20, 200][rng.random_range(0..3)],
            value_bytes: [0, 0, 64, 4096][rng.random_range(0..4)],
        }
    }
}

/// Draws requests for one client.
pub struct Generator {
    rng: ChaCha8Rng,
    client: u32,
    shape: Shape,
    values_drawn: u64,
    leases_drawn: i64,
    leases_held: Vec<i64>,
    /// The newest revision seen.
    revision: i64,
    /// Modification revisions as last seen, for compares that have a chance to succeed.
    seen: BTreeMap<Bytes, i64>,
}

impl Generator {
    pub fn new(seed: u64, client: u32, shape: Shape) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // A stream of its own for each client: with one for all they would draw in step.
        rng.set_stream(u64::from(client) + 1);
        Generator {
            rng,
            client,
            shape,
            values_drawn: 0,
            leases_drawn: 0,
            leases_held: Vec::new(),
            revision: 1,
            seen: BTreeMap::new(),
        }
    }

    /// A number below `count`.
    pub fn pick(&mut self, count: usize) -> usize {
        self.rng.random_range(0..count)
    }

    /// A pause with the given mean.
    pub fn pause(&mut self, mean: Duration) -> Duration {
        let nanos = mean.as_nanos() as u64;
        Duration::from_nanos(self.rng.random_range(0..=2 * nanos))
    }

    pub fn next_request(&mut self) -> Request {
        let table = self.shape.weights.table();
        let total: u32 = table.iter().map(|(weight, _)| weight).sum();
        let mut drawn = self.rng.random_range(0..total.max(1));
        for (weight, draw) in table {
            if drawn < weight {
                return draw(self);
            }
            drawn -= weight;
        }
        self.get()
    }

    /// Learns from an outcome.
    pub fn observe(&mut self, request: &Request, outcome: &Outcome) {
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
                for kv in &a.kvs {
                    self.seen.insert(kv.key.clone(), kv.mod_revision);
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

    fn forget_lease(&mut self, id: i64) {
        self.leases_held.retain(|held| *held != id);
    }

    fn key(&mut self) -> Bytes {
        let number = self.rng.random_range(0..self.shape.keys.max(1));
        Bytes::from(format!("{KEYS}{number:03}"))
    }

    fn leased_key(&mut self) -> Bytes {
        let number = self.rng.random_range(0..self.shape.leased_keys.max(1));
        Bytes::from(format!("{LEASED_KEYS}{number:03}"))
    }

    /// A span of up to four neighbouring keys.
    fn span(&mut self) -> (Bytes, Bytes) {
        let from = self.rng.random_range(0..self.shape.keys.max(1));
        let end = from + self.rng.random_range(1..=4);
        (
            Bytes::from(format!("{KEYS}{from:03}")),
            Bytes::from(format!("{KEYS}{end:03}")),
        )
    }

    fn value(&mut self) -> Bytes {
        self.values_drawn += 1;
        let mut value = format!("c{}-{}", self.client, self.values_drawn);
        while value.len() < self.shape.value_bytes {
            value.push('.');
        }
        Bytes::from(value)
    }

    fn put_request(&mut self, key: Bytes) -> pb::PutRequest {
        let value = self.value();
        let prev_kv = self.rng.random();
        pb::PutRequest {
            key,
            value,
            prev_kv,
            ..Default::default()
        }
    }

    fn put(&mut self) -> Request {
        let key = self.key();
        self.put_request(key).into()
    }

    fn any_key(&mut self) -> Bytes {
        if self.rng.random_ratio(1, 5) {
            return self.leased_key();
        }
        self.key()
    }

    fn get_request(&mut self) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.any_key(),
            ..Default::default()
        }
    }

    fn get(&mut self) -> Request {
        self.get_request().into()
    }

    fn serializable_get(&mut self) -> Request {
        let mut request = if self.rng.random() {
            self.get_request()
        } else {
            self.range_request()
        };
        request.serializable = true;
        request.into()
    }

    fn range_request(&mut self) -> pb::RangeRequest {
        let (key, range_end) = match self.rng.random_range(0..4) {
            0 => (Bytes::from_static(b"\0"), Bytes::from_static(b"\0")),
            1 => (Bytes::from_static(b"l/"), Bytes::from_static(b"l0")),
            _ => (Bytes::from_static(b"k/"), Bytes::from_static(b"k0")),
        };
        let limit = if self.rng.random() {
            0
        } else {
            self.rng.random_range(1..=5)
        };
        let sort_order = self.rng.random_range(0..3);
        let (keys_only, count_only) = match self.rng.random_range(0..8) {
            0 => (true, false),
            1 => (false, true),
            _ => (false, false),
        };
        pb::RangeRequest {
            key,
            range_end,
            limit,
            sort_order,
            keys_only,
            count_only,
            ..Default::default()
        }
    }

    fn range(&mut self) -> Request {
        self.range_request().into()
    }

    fn get_at_revision(&mut self) -> Request {
        let mut request = if self.rng.random() {
            self.get_request()
        } else {
            self.range_request()
        };
        let back = self.rng.random_range(0..=300);
        request.revision = (self.revision - back).max(1);
        request.serializable = self.rng.random_ratio(1, 3);
        request.into()
    }

    fn delete(&mut self) -> Request {
        let key = self.any_key();
        let prev_kv = self.rng.random();
        pb::DeleteRangeRequest {
            key,
            prev_kv,
            ..Default::default()
        }
        .into()
    }

    fn delete_range(&mut self) -> Request {
        let (key, range_end) = self.span();
        let prev_kv = self.rng.random();
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv,
        }
        .into()
    }

    fn compare_mod(&self, key: &Bytes) -> pb::Compare {
        let seen = self.seen.get(key).copied().unwrap_or(0);
        pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(seen)),
            ..Default::default()
        }
    }

    fn compare_and_put(&mut self) -> Request {
        let key = self.key();
        let compare = vec![self.compare_mod(&key)];
        let change = if self.rng.random_ratio(1, 6) {
            let key = key.clone();
            let prev_kv = true;
            Op::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                prev_kv,
                ..Default::default()
            })
        } else {
            Op::RequestPut(self.put_request(key.clone()))
        };
        let read = Op::RequestRange(pb::RangeRequest {
            key,
            ..Default::default()
        });
        pb::TxnRequest {
            compare,
            success: ops([change]),
            failure: ops([read]),
        }
        .into()
    }

    /// Puts of different keys and a range that must see all of them.
    fn multi_put(&mut self) -> Request {
        let mut keys: Vec<Bytes> = (0..3).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let mut steps: Vec<Op> = keys
            .into_iter()
            .map(|key| Op::RequestPut(self.put_request(key)))
            .collect();
        steps.push(Op::RequestRange(self.range_request()));
        pb::TxnRequest {
            success: ops(steps),
            ..Default::default()
        }
        .into()
    }

    fn nested_txn(&mut self) -> Request {
        let (outer, inner) = (self.key(), self.leased_key());
        let nested = pb::TxnRequest {
            compare: vec![self.compare_mod(&outer)],
            success: ops([Op::RequestPut(self.put_request(inner.clone()))]),
            failure: ops([Op::RequestDeleteRange(pb::DeleteRangeRequest {
                key: inner,
                prev_kv: true,
                ..Default::default()
            })]),
        };
        let steps = [
            Op::RequestPut(self.put_request(outer)),
            Op::RequestTxn(nested),
            Op::RequestRange(self.range_request()),
        ];
        pb::TxnRequest {
            success: ops(steps),
            ..Default::default()
        }
        .into()
    }

    fn read_only_txn(&mut self) -> Request {
        let key = self.key();
        let compare = vec![self.compare_mod(&key)];
        pb::TxnRequest {
            compare,
            success: ops([Op::RequestRange(self.get_request())]),
            failure: ops([Op::RequestRange(self.range_request())]),
        }
        .into()
    }

    fn compact(&mut self) -> Request {
        let keep = self.shape.compaction_keeps + self.rng.random_range(0..=50);
        let revision = self.revision - keep;
        if revision < 1 {
            return self.get();
        }
        pb::CompactionRequest {
            revision,
            physical: self.rng.random_ratio(1, 4),
        }
        .into()
    }

    fn lease_grant(&mut self) -> Request {
        if self.leases_held.len() >= LEASES_HELD_MAX {
            // Abandoned: it will run out, and take its keys along.
            self.leases_held.remove(0);
        }
        self.leases_drawn += 1;
        pb::LeaseGrantRequest {
            ttl: self.shape.lease_ttl_seconds,
            id: (i64::from(self.client) + 1) * 1_000_000 + self.leases_drawn,
        }
        .into()
    }

    fn held_lease(&mut self) -> Option<i64> {
        if self.leases_held.is_empty() {
            return None;
        }
        let index = self.pick(self.leases_held.len());
        self.leases_held.get(index).copied()
    }

    fn lease_keep_alive(&mut self) -> Request {
        match self.held_lease() {
            Some(id) => pb::LeaseKeepAliveRequest { id }.into(),
            None => self.lease_grant(),
        }
    }

    fn lease_revoke(&mut self) -> Request {
        match self.held_lease() {
            Some(id) => pb::LeaseRevokeRequest { id }.into(),
            None => self.lease_grant(),
        }
    }

    fn leased_put(&mut self) -> Request {
        let Some(lease) = self.held_lease() else {
            return self.put();
        };
        let key = self.leased_key();
        pb::PutRequest {
            lease,
            ..self.put_request(key)
        }
        .into()
    }
}

fn ops(steps: impl IntoIterator<Item = Op>) -> Vec<pb::RequestOp> {
    let wrap = |request| pb::RequestOp {
        request: Some(request),
    };
    steps.into_iter().map(wrap).collect()
}
