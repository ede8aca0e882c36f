//! What must hold, by name. A violation names its property, so that a seeded bug counts as found only
//! if the property that should find it did.

use crate::history::{Nanos, OpId, WatchId};

macro_rules! properties {
    ($($variant:ident $name:literal $guarantee:literal $source:literal;)*) => {
        /// A property that a history is judged by.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Property {
            $(#[doc = $guarantee] $variant,)*
        }

        impl Property {
            pub const ALL: &'static [Property] = &[$(Property::$variant,)*];

            /// The name in reports and tables.
            pub fn name(self) -> &'static str {
                match self { $(Property::$variant => $name,)* }
            }

            /// Where the promise is written, or who taught it.
            pub fn source(self) -> &'static str {
                match self { $(Property::$variant => $source,)* }
            }

            /// What is promised.
            pub fn guarantee(self) -> &'static str {
                match self { $(Property::$variant => $guarantee,)* }
            }
        }
    };
}

properties! {
    Linearizable "linearizable"
        "Operations take effect one at a time, each between its invocation and its return, in the order of revisions; answers show exactly the state at their revision."
        "etcd API guarantees: strict serializability; Jepsen's etcd 3.4.3 report; etcd robustness tests: porcupine";
    SerializableRead "serializable-read"
        "A serializable read shows exactly the state at its header's revision, which is not in the future."
        "etcd API reference: RangeRequest.serializable";
    ExactlyOnce "exactly-once"
        "Each revision is made by one write, and each write makes at most one revision."
        "etcd API guarantees: durability, atomicity; jetcd 0.8.2 (Jepsen)";
    RefusedNoEffect "refused-no-effect"
        "A write that was refused with a definite error never takes effect."
        "Jepsen: a definite failure never took place; etcd's rpctypes";
    PerKey "per-key-linearizable"
        "The operations on each key by itself are linearizable, whatever their revisions say."
        "Horn and Kroening, P-compositionality (2015); porcupine";
    Compaction "compaction"
        "Revisions below the compact revision are refused, others are not; a compaction is acknowledged once."
        "etcd API reference: Compact; etcd's rpctypes: ErrCompacted, ErrFutureRev";
    TermMonotonic "term-monotonic"
        "The raft term that a member shows never goes back."
        "Raft, figure 2; etcd API reference: ResponseHeader.raft_term";
    OneCluster "one-cluster"
        "All answers come from one cluster, and a member keeps its id."
        "etcd API reference: ResponseHeader.cluster_id, member_id";
    WatchOrdered "watch-ordered"
        "Ordered: events are ordered by revision; an event will never appear on a watch if it precedes an event in time that has already been posted."
        "etcd API guarantees, watch; robustness tests: validateOrdered";
    WatchUnique "watch-unique"
        "Unique: an event will never appear on a watch twice."
        "etcd API guarantees, watch; robustness tests: validateUnique";
    WatchReliable "watch-reliable"
        "Reliable: a sequence of events will never drop any subsequence of events within the available history window."
        "etcd API guarantees, watch; robustness tests: validateReliable";
    WatchAtomic "watch-atomic"
        "Atomic: a list of events is guaranteed to encompass complete revisions; updates in the same revision over multiple keys will not be split over several lists of events."
        "etcd API guarantees, watch; robustness tests: validateAtomic";
    WatchResumable "watch-resumable"
        "Resumable: a broken watch can be resumed by establishing a new watch starting after the last revision received in a watch event before the break, so long as the revision is in the history window."
        "etcd API guarantees, watch; robustness tests: validateResumable";
    WatchBookmarkable "watch-bookmarkable"
        "Bookmarkable: progress notification events guarantee that all events up to a revision have been already delivered."
        "etcd API guarantees, watch; robustness tests: validateBookmarkable; etcd#15220";
    WatchFiltered "watch-filtered"
        "Filters and range: a watch shows only events of its keys that its filters let pass."
        "etcd API reference: WatchCreateRequest; robustness tests: validateFilter";
    WatchAccurate "watch-accurate"
        "An event shows what happened at its revision: type, key, value, version, create revision, lease."
        "robustness tests: validateEventMatchingWatchRequest, validateIsCreate";
    WatchPreviousPair "watch-prev-kv"
        "prev_kv is the pair just before the event, and absent for a creation or if not asked for."
        "etcd API reference: WatchCreateRequest.prev_kv; robustness tests: validatePrevKV";
    WatchCompacted "watch-compacted"
        "A watch that needs a compacted revision is told so with the compact revision, and no other watch is."
        "etcd API reference: WatchResponse.compact_revision";
    Durability "durability"
        "An acknowledged write is present at the end unless something else may have replaced or removed it."
        "etcd API guarantees: durability; Jepsen: set checker; etcd#14370";
    Convergence "convergence"
        "At the quiet end all members hold the same state."
        "Jepsen's etcd tests: watch convergence; TigerBeetle's liveness mode";
    ServesWrites "serves-writes"
        "When all faults are healed a fresh write through each member is answered, in bounded time."
        "etcd robustness tests; openraft's fuzzer: liveness phase";
    ServesReads "serves-reads"
        "When all faults are healed a linearizable read through each member is answered, in bounded time."
        "etcd robustness tests; openraft's fuzzer: liveness phase";
    StaysUp "stays-up"
        "No member ends by itself."
        "Jepsen's etcd tests: crash checker";
    LeaseNotEarly "lease-not-early"
        "A key with a lease does not vanish before the lease's time to live is over, unless somebody removes it."
        "etcd API reference: LeaseGrant; etcd#12528, #16822, #15247";
    LeaseExpires "lease-expires"
        "A key whose lease was revoked, or ran out long ago, is gone."
        "etcd API reference: LeaseRevoke: all keys attached are deleted";
    LeaseEndedAnswer "lease-ended-answer"
        "Who is told that a lease is gone finds none of its keys."
        "etcd's lessor: a renewal of a lease that has run out waits for its revocation";
    OldestHolds "oldest-holds"
        "Whoever is told that it holds a lock, or who leads, has the oldest key below the name at the answer's revision."
        "etcd's v3lock and v3election; etcd#11456; Jepsen's etcd 3.4.3 report: locks";
    Permission "permission"
        "A limited user's call is carried out where a permission allows it and refused where none does, from the moment that the change was acknowledged."
        "etcd documentation: role-based access control; etcd#14571";
    NoSpace "no-space"
        "From the moment that the alarm for lack of space is seen until it is switched off nothing that needs space is carried out; what needs none is never refused for lack of it."
        "etcd documentation: space quota; etcd API reference: AlarmType.NOSPACE";
}

/// A property that does not hold, and where it shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub property: Property,
    pub message: String,
    pub operations: Vec<OpId>,
    pub watches: Vec<WatchId>,
    /// The keys that it is about, where the check knows them.
    pub keys: Vec<Vec<u8>>,
    /// The revision that it is about, where the check knows it.
    pub revision: Option<i64>,
    /// When it showed, where that is not the return of the last of its operations.
    pub at: Option<Nanos>,
}

impl Violation {
    pub fn of_operations(
        property: Property,
        operations: impl IntoIterator<Item = OpId>,
        message: impl Into<String>,
    ) -> Self {
        Violation {
            property,
            message: message.into(),
            operations: operations.into_iter().collect(),
            watches: Vec::new(),
            keys: Vec::new(),
            revision: None,
            at: None,
        }
    }

    pub fn of_watch(property: Property, watch: WatchId, message: impl Into<String>) -> Self {
        Violation {
            watches: vec![watch],
            ..Violation::of_operations(property, [], message)
        }
    }

    pub fn on_key(mut self, key: &[u8]) -> Self {
        self.keys.push(key.to_vec());
        self
    }

    pub fn at_revision(mut self, revision: i64) -> Self {
        self.revision = Some(revision);
        self
    }

    pub fn seen_at(mut self, at: Nanos) -> Self {
        self.at = Some(at);
        self
    }
}
