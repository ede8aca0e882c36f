//! What a member counts and measures below the server: plain numbers, which the server shows under etcd's names.
//!
//! ```text
//!   Node::start ─► Env ─► log, engine, transport, consensus ── count ─► MemberMetrics ◄─ read ── server ─► /metrics
//! ```
//!
//! Every layer finds the metrics of its member in its [`Env`](crate::runtime::Env), and knows neither names nor
//! formats. Nothing here is ever read to decide something: a member does the same with and without it, in the
//! simulator too. Durations are taken from the member's clock by whoever observes.
//!
//! Buckets are etcd's (its `metrics.go` files): powers of two times a first bound.

mod kind;
mod meter;
mod peers;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub use kind::RequestKind;
pub use meter::{Counter, Gauge, Held, Histogram};
pub use peers::{PeerMetrics, Peers, Transfers};

fn millis(first: u64, bounds: usize) -> Histogram {
    Histogram::seconds(Duration::from_millis(first), bounds)
}

/// Everything below the server that is counted of one member, since its start.
#[derive(Default)]
pub struct MemberMetrics {
    pub log: LogMetrics,
    pub engine: EngineMetrics,
    pub snapshots: SnapshotMetrics,
    pub state: StateMetrics,
    pub store: StoreMetrics,
    pub leases: LeaseMetrics,
    pub agreement: AgreementMetrics,
    pub peers: Peers,
    pub requests: RequestMetrics,
}

/// The write-ahead log.
pub struct LogMetrics {
    /// The sync of a group.
    pub sync: Histogram,
    /// The write of a group, before its sync.
    pub write: Histogram,
    pub written_bytes: Counter,
}

impl Default for LogMetrics {
    fn default() -> Self {
        LogMetrics {
            sync: millis(1, 14),
            write: millis(1, 14),
            written_bytes: Counter::default(),
        }
    }
}

/// The store under the state.
pub struct EngineMetrics {
    /// A batch of applied entries that the engine takes in, and each sync of all it took in before.
    pub commit: Histogram,
    /// The former alone.
    pub write: Histogram,
    /// Views of a moment that somebody looks at.
    pub views: Gauge,
}

impl Default for EngineMetrics {
    fn default() -> Self {
        EngineMetrics {
            commit: millis(1, 14),
            write: millis(1, 14),
            views: Gauge::default(),
        }
    }
}

/// How long one look at the state takes, or one turn of applying.
#[derive(Default)]
pub struct StateMetrics {
    pub read: HeldMetrics,
    pub apply: HeldMetrics,
}

/// One side of the lock.
pub struct HeldMetrics {
    pub seconds: Histogram,
    /// Entries of the index and records of the store that were looked at meanwhile.
    pub entries: Histogram,
}

impl Default for HeldMetrics {
    fn default() -> Self {
        HeldMetrics {
            seconds: Histogram::seconds(Duration::from_micros(10), 20),
            entries: Histogram::numbers(1, 24),
        }
    }
}

/// Snapshots of the whole store.
pub struct SnapshotMetrics {
    /// Making the point behind which the log may be purged: naming it, the sync, and both.
    pub naming: Histogram,
    pub sync: Histogram,
    pub save: Histogram,
    /// Taking in another member's: making it durable, and all of it.
    pub install_sync: Histogram,
    pub install: Histogram,
    /// Snapshots that take the place of the state at this moment.
    pub installing: Gauge,
    /// Reading out the whole store, for a client or a member.
    pub read_out: Histogram,
}

impl Default for SnapshotMetrics {
    fn default() -> Self {
        SnapshotMetrics {
            naming: millis(1, 14),
            sync: millis(1, 14),
            save: millis(1, 14),
            install_sync: millis(1, 14),
            install: millis(100, 10),
            installing: Gauge::default(),
            read_out: millis(10, 17),
        }
    }
}

/// Keys: operations that were carried out here, compactions, hashes.
pub struct StoreMetrics {
    pub ranges: Counter,
    pub puts: Counter,
    pub deletes: Counter,
    /// Of more than one operation.
    pub txns: Counter,
    /// Keys and values.
    pub put_bytes: Counter,
    /// How long the index was busy with a compaction.
    pub index_compaction_pause: Histogram,
    /// How long nothing else was applied because of it.
    pub compaction_pause: Histogram,
    /// From its application until what died was handed to the engine, which is rid of it when it likes.
    pub compaction: Histogram,
    pub compacted_records: Counter,
    /// When one was applied last: Unix time in seconds; 0: never.
    pub last_compaction: Gauge,
    pub hash: Histogram,
    pub hash_at_revision: Histogram,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        StoreMetrics {
            ranges: Counter::default(),
            puts: Counter::default(),
            deletes: Counter::default(),
            txns: Counter::default(),
            put_bytes: Counter::default(),
            index_compaction_pause: Histogram::milliseconds(Duration::from_micros(500), 14),
            compaction_pause: Histogram::milliseconds(Duration::from_millis(1), 13),
            compaction: Histogram::milliseconds(Duration::from_millis(100), 14),
            compacted_records: Counter::default(),
            last_compaction: Gauge::default(),
            hash: millis(10, 15),
            hash_at_revision: millis(10, 15),
        }
    }
}

pub struct LeaseMetrics {
    pub granted: Counter,
    pub revoked: Counter,
    /// By this member as the leader.
    pub renewed: Counter,
    /// By this member as the leader.
    pub expired: Counter,
    /// Seconds that were granted.
    pub ttl: Histogram,
}

impl Default for LeaseMetrics {
    fn default() -> Self {
        LeaseMetrics {
            granted: Counter::default(),
            revoked: Counter::default(),
            renewed: Counter::default(),
            expired: Counter::default(),
            ttl: Histogram::numbers(1, 24),
        }
    }
}

/// Raft and what is near it.
#[derive(Default)]
pub struct AgreementMetrics {
    pub slow_applies: Counter,
    /// Commands that came to be applied a second time, and were not.
    pub duplicates: Counter,
    pub slow_read_indexes: Counter,
    pub failed_read_indexes: Counter,
    /// Heartbeats that this leader sent late, one for each follower.
    pub late_heartbeats: Counter,
    /// By this member as the leader.
    pub promotions: Counter,
    pub refused_promotions: Reasons,
}

/// How often for each reason. The reasons are few, and rare.
#[derive(Default)]
pub struct Reasons(Mutex<BTreeMap<&'static str, u64>>);

impl Reasons {
    pub fn count(&self, reason: &'static str) {
        let mut reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *reasons.entry(reason).or_default() += 1;
    }

    pub fn all(&self) -> Vec<(&'static str, u64)> {
        let reasons = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        reasons.iter().map(|(reason, count)| (*reason, *count)).collect()
    }
}

/// How long requests take.
pub struct RequestMetrics {
    /// Applying a command, by its kind.
    pub apply: ByKind,
    /// From its arrival at this member to its answer, by kind.
    pub whole: ByKind,
    /// Reading a range from the local state.
    pub range: ByOutcome,
    /// Requests that panicked.
    pub panics: Counter,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        let fine = || Histogram::seconds(Duration::from_micros(100), 20);
        RequestMetrics {
            apply: ByKind::new(fine),
            whole: ByKind::new(|| millis(1, 14)),
            range: ByOutcome::new(fine),
            panics: Counter::default(),
        }
    }
}

/// Durations of what fails and of what does not.
pub struct ByOutcome([Histogram; 2]);

impl ByOutcome {
    fn new(histogram: impl Fn() -> Histogram) -> Self {
        ByOutcome([histogram(), histogram()])
    }

    pub fn observe(&self, success: bool, took: Duration) {
        self.get(success).observe(took);
    }

    pub fn get(&self, success: bool) -> &Histogram {
        let [failure, done] = &self.0;
        if success { done } else { failure }
    }
}

/// Durations of each kind of request.
pub struct ByKind(Vec<ByOutcome>);

impl ByKind {
    fn new(histogram: impl Fn() -> Histogram) -> Self {
        let one = |_: &RequestKind| ByOutcome::new(&histogram);
        ByKind(RequestKind::ALL.iter().map(one).collect())
    }

    pub fn observe(&self, kind: RequestKind, success: bool, took: Duration) {
        self.get(kind).observe(success, took);
    }

    pub fn get(&self, kind: RequestKind) -> &ByOutcome {
        self.0.get(kind as usize).expect("one for each kind")
    }
}
