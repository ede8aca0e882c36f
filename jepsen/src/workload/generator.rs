//! Draws the next operation of a client from a seed and from what the client has seen so far.
//!
//! One generator per client. Values are `c<client>-<number>`, lease ids carry the client's number, so
//! neither is ever drawn twice in a run. Keys with a lease live under their own prefix: they are the
//! only ones that may vanish by themselves, and a per-key check can leave them out.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::extreme::{self, Extreme};
use super::intent::{Intent, Knowledge, LISTS, OBJECTS, Put, Read};
use crate::history::{Answer, Outcome, Request};

/// Prefix of the keys that never have a lease.
const KEYS: &str = "k/";
/// Prefix of the keys that may have a lease.
const LEASED_KEYS: &str = "l/";
/// A list that nobody appends to any more makes room for new ones: a generation of lists grows for so many revisions.
const LISTS_GROW_REVISIONS: i64 = 200;
/// How often an optimistic update is tried again with what its failure showed.
const RETRIES_MAX: u32 = 3;
/// A key that every workload may use.
pub(super) const FIRST_KEY: &str = "k/000";

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
    /// Appends to some lists and reads of others, if all are as seen last; tried again if not.
    pub append: u32,
    /// A range over all lists that grow.
    pub read_lists: u32,
    /// A guarded creation of an object, as kube-apiserver does it.
    pub create: u32,
    /// A guarded update, tried again with what a failure shows; a read while the object was not seen.
    pub update: u32,
    /// A guarded deletion, the same.
    pub remove: u32,
    /// A list of all objects, page by page at one revision.
    pub list: u32,
    /// A put of a key that is never written again.
    pub put_once: u32,
    /// The same, if the key does not exist.
    pub create_once: u32,
    pub compactor: u32,
    pub compact: u32,
    pub lease_grant: u32,
    pub lease_keep_alive: u32,
    pub lease_revoke: u32,
    pub leased_put: u32,
    /// At a limit, or beyond it.
    pub extreme: u32,
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
        ..Weights::NONE
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
        append: 0,
        read_lists: 0,
        create: 0,
        update: 0,
        remove: 0,
        list: 0,
        put_once: 0,
        create_once: 0,
        compactor: 0,
        compact: 0,
        lease_grant: 0,
        lease_keep_alive: 0,
        lease_revoke: 0,
        leased_put: 0,
        extreme: 0,
    };

    fn table(&self) -> [(u32, Draw); 26] {
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
            (self.append, Generator::append),
            (self.read_lists, Generator::read_lists),
            (self.create, Generator::create),
            (self.update, Generator::update),
            (self.remove, Generator::remove),
            (self.list, Generator::list_objects),
            (self.compactor, Generator::compactor),
            (self.extreme, Generator::extreme),
            (self.put_once, Generator::put_once),
            (self.create_once, Generator::create_once),
        ]
    }
}

type Draw = fn(&mut Generator) -> Intent;

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
    /// A shape drawn from a seed: few or many keys, small or padded values, and about half of the kinds of
    /// operation switched off (but never all writes or all reads).
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
            &mut weights.lease_keep_alive,
            &mut weights.lease_revoke,
            &mut weights.leased_put,
        ] {
            *weight = if rng.random_ratio(1, 2) {
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

/// Draws what one client does.
pub struct Generator {
    rng: ChaCha8Rng,
    shape: Shape,
    knowledge: Knowledge,
    /// The last call, and how often it had been tried before.
    last: Option<(Intent, u32)>,
    /// It failed because others were faster: it is tried again.
    again: Option<(Intent, u32)>,
}

impl Generator {
    pub fn new(seed: u64, client: u32, shape: Shape) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        // A stream of its own for each client: with one for all they would draw in step.
        rng.set_stream(u64::from(client) + 1);
        Generator {
            rng,
            shape,
            knowledge: Knowledge::new(client, &shape),
            last: None,
            again: None,
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

    /// What the client does next, and the request that does it.
    pub fn next_call(&mut self) -> (Intent, Request) {
        let (intent, tried) = match self.again.take() {
            Some(again) => again,
            None => (self.continued().unwrap_or_else(|| self.next_intent()), 0),
        };
        self.last = Some((intent.clone(), tried));
        let request = self.knowledge.request(&intent);
        (intent, request)
    }

    pub fn next_request(&mut self) -> Request {
        self.next_call().1
    }

    /// What was begun goes on before anything else; of a list most of the time.
    fn continued(&mut self) -> Option<Intent> {
        if self.knowledge.is_compacting() {
            return Some(Intent::Compactor);
        }
        if self.knowledge.is_listing() && self.rng.random_ratio(3, 4) {
            return Some(self.list_objects());
        }
        None
    }

    fn next_intent(&mut self) -> Intent {
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
        self.knowledge.observe(request, outcome);
        let failed = matches!(outcome, Outcome::Ok(Answer::Txn(answer)) if !answer.succeeded);
        let retried =
            |(intent, tried): &(Intent, u32)| failed && *tried < RETRIES_MAX && intent.is_optimistic();
        self.again = self
            .last
            .take()
            .filter(retried)
            .map(|(intent, tried)| (intent, tried + 1));
    }

    fn key(&mut self) -> String {
        let number = self.rng.random_range(0..self.shape.keys.max(1));
        format!("{KEYS}{number:03}")
    }

    fn leased_key(&mut self) -> String {
        let number = self.rng.random_range(0..self.shape.leased_keys.max(1));
        format!("{LEASED_KEYS}{number:03}")
    }

    fn any_key(&mut self) -> String {
        if self.rng.random_ratio(1, 5) {
            return self.leased_key();
        }
        self.key()
    }

    fn put_to(&mut self, key: String) -> Put {
        let prev_kv = self.rng.random();
        Put { key, prev_kv }
    }

    fn put(&mut self) -> Intent {
        let key = self.key();
        Intent::Put(self.put_to(key))
    }

    fn get_one(&mut self) -> Read {
        Read {
            key: self.any_key(),
            ..Read::default()
        }
    }

    fn get(&mut self) -> Intent {
        Intent::Read(self.get_one())
    }

    fn one_or_many(&mut self) -> Read {
        if self.rng.random() {
            self.get_one()
        } else {
            self.get_many()
        }
    }

    fn serializable_get(&mut self) -> Intent {
        Intent::Read(Read {
            serializable: true,
            ..self.one_or_many()
        })
    }

    fn get_many(&mut self) -> Read {
        let (key, range_end) = match self.rng.random_range(0..4) {
            0 => ("\0", "\0"),
            1 => ("l/", "l0"),
            _ => ("k/", "k0"),
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
        Read {
            key: key.to_owned(),
            range_end: range_end.to_owned(),
            limit,
            sort_order,
            keys_only,
            count_only,
            ..Read::default()
        }
    }

    fn range(&mut self) -> Intent {
        Intent::Read(self.get_many())
    }

    fn get_at_revision(&mut self) -> Intent {
        let read = self.one_or_many();
        let back = self.rng.random_range(0..=300);
        Intent::Read(Read {
            back: Some(back),
            serializable: self.rng.random_ratio(1, 3),
            ..read
        })
    }

    fn delete(&mut self) -> Intent {
        let key = self.any_key();
        Intent::Delete {
            key,
            range_end: String::new(),
            prev_kv: self.rng.random(),
        }
    }

    /// A span of up to four neighbouring keys.
    fn delete_range(&mut self) -> Intent {
        let from = self.rng.random_range(0..self.shape.keys.max(1));
        let end = from + self.rng.random_range(1..=4);
        Intent::Delete {
            key: format!("{KEYS}{from:03}"),
            range_end: format!("{KEYS}{end:03}"),
            prev_kv: self.rng.random(),
        }
    }

    fn compare_and_put(&mut self) -> Intent {
        let key = self.key();
        if self.rng.random_ratio(1, 6) {
            return Intent::CompareAndDelete { key };
        }
        Intent::CompareAndPut(self.put_to(key))
    }

    /// A few lists of those that grow now; the first `writes` of them are to be written.
    fn append(&mut self) -> Intent {
        let count = self.rng.random_range(1..=4);
        let mut keys: Vec<String> = (0..count).map(|_| self.list()).collect();
        keys.sort();
        keys.dedup();
        let reads = keys.split_off(self.rng.random_range(1..=keys.len()));
        Intent::Append { keys, reads }
    }

    /// Lists have a generation in their names: it moves on, so that none grows without end.
    fn lists(&self) -> String {
        format!("{LISTS}{:03}", self.knowledge.revision() / LISTS_GROW_REVISIONS)
    }

    fn list(&mut self) -> String {
        let number = self.rng.random_range(0..self.shape.keys.max(1));
        format!("{}/{number:03}", self.lists())
    }

    fn object(&mut self) -> String {
        let number = self.rng.random_range(0..self.shape.keys.max(1));
        format!("{OBJECTS}pods/{number:03}")
    }

    fn create(&mut self) -> Intent {
        let key = self.object();
        Intent::Create(Put { key, prev_kv: false })
    }

    fn update(&mut self) -> Intent {
        let key = self.object();
        match self.knowledge.has_seen(&key) {
            true => Intent::CompareAndPut(Put { key, prev_kv: false }),
            false => get_object(key),
        }
    }

    fn remove(&mut self) -> Intent {
        let key = self.object();
        match self.knowledge.has_seen(&key) {
            true => Intent::CompareAndDelete { key },
            false => get_object(key),
        }
    }

    fn list_objects(&mut self) -> Intent {
        let limit = self.rng.random_range(2..=6);
        Intent::List { limit }
    }

    fn compactor(&mut self) -> Intent {
        Intent::Compactor
    }

    fn put_once(&mut self) -> Intent {
        Intent::PutOnce { guarded: false }
    }

    fn create_once(&mut self) -> Intent {
        Intent::PutOnce { guarded: true }
    }

    fn read_lists(&mut self) -> Intent {
        let lists = self.lists();
        Intent::Read(Read {
            key: format!("{lists}/"),
            range_end: format!("{lists}0"),
            ..Read::default()
        })
    }

    /// Puts of different keys and a range that must see all of them.
    fn multi_put(&mut self) -> Intent {
        let mut keys: Vec<String> = (0..3).map(|_| self.key()).collect();
        keys.sort();
        keys.dedup();
        let puts = keys.into_iter().map(|key| self.put_to(key)).collect();
        let read = self.get_many();
        Intent::MultiPut { puts, read }
    }

    fn nested_txn(&mut self) -> Intent {
        let (outer, inner) = (self.key(), self.leased_key());
        let (inner, outer) = (self.put_to(inner), self.put_to(outer));
        let read = self.get_many();
        Intent::NestedTxn { outer, inner, read }
    }

    fn read_only_txn(&mut self) -> Intent {
        let key = self.key();
        let (then, otherwise) = (self.get_one(), self.get_many());
        Intent::ReadOnlyTxn { key, then, otherwise }
    }

    fn compact(&mut self) -> Intent {
        let keeps = self.shape.compaction_keeps + self.rng.random_range(0..=50);
        if self.knowledge.revision() <= keeps {
            return self.get();
        }
        let physical = self.rng.random_ratio(1, 4);
        Intent::Compact { keeps, physical }
    }

    fn lease_grant(&mut self) -> Intent {
        Intent::LeaseGrant
    }

    /// One of the leases that the client holds.
    fn held_lease(&mut self) -> Option<usize> {
        match self.knowledge.leases_held() {
            0 => None,
            count => Some(self.pick(count)),
        }
    }

    fn lease_keep_alive(&mut self) -> Intent {
        match self.held_lease() {
            Some(held) => Intent::LeaseKeepAlive { held },
            None => Intent::LeaseGrant,
        }
    }

    fn lease_revoke(&mut self) -> Intent {
        match self.held_lease() {
            Some(held) => Intent::LeaseRevoke { held },
            None => Intent::LeaseGrant,
        }
    }

    fn extreme(&mut self) -> Intent {
        let key = self.key();
        let rng = &mut self.rng;
        Intent::Extreme(match rng.random_range(0..16) {
            0..5 => Extreme::Nested {
                levels: one_of(rng, &extreme::LEVELS),
                key,
            },
            5..7 => Extreme::Wide {
                operations: one_of(rng, &extreme::OPERATIONS),
                key,
            },
            7 => {
                // Large ones take their time on a slow network: few of them.
                let most = if rng.random_ratio(1, 5) { 8 } else { 4 };
                Extreme::Large {
                    bytes: one_of(rng, &extreme::VALUE_BYTES[..most]),
                    key,
                }
            }
            8 => Extreme::LongKey {
                bytes: one_of(rng, &extreme::KEY_BYTES),
            },
            9..11 => Extreme::Grant {
                ttl: one_of(rng, &extreme::TTLS),
            },
            11..13 => Extreme::Range {
                limit: one_of(rng, &extreme::NUMBERS),
                revision: one_of(rng, &extreme::NUMBERS),
            },
            13 => Extreme::Compact {
                revision: one_of(rng, &extreme::NUMBERS),
            },
            _ => Extreme::Hollow {
                operation: rng.random(),
            },
        })
    }

    fn leased_put(&mut self) -> Intent {
        let Some(held) = self.held_lease() else {
            return self.put();
        };
        let key = self.leased_key();
        let put = self.put_to(key);
        Intent::LeasedPut { put, held }
    }
}

/// One of some.
fn one_of<T: Copy>(rng: &mut ChaCha8Rng, some: &[T]) -> T {
    some[rng.random_range(0..some.len())]
}

fn get_object(key: String) -> Intent {
    Intent::Read(Read {
        key,
        ..Read::default()
    })
}
