//! Watch: many watches on each stream, with all filters and options, some of them read slowly.
//!
//! Streams are closed every few seconds and resumed at another member, progress is asked for often, values are large enough that
//! a reader that rests fills its window: the member has to hold back, or catch up from history, and lose nothing.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, WatchPlan, Watching, Weights, standard_watches};

pub const WORKLOAD: Workload = Workload {
    name: "watch",
    about: "many watches with filters, previous pairs, fragments and progress, resumed often, some read slowly",
    aims: &[
        Property::WatchOrdered,
        Property::WatchUnique,
        Property::WatchReliable,
        Property::WatchAtomic,
        Property::WatchResumable,
        Property::WatchBookmarkable,
        Property::WatchFiltered,
        Property::WatchAccurate,
        Property::WatchPreviousPair,
        Property::WatchCompacted,
    ],
    source: "Jepsen's etcd tests: watch; etcd's robustness tests: watch traffic and its validators",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 30,
        get: 4,
        delete: 10,
        delete_range: 4,
        multi_put: 10,
        compact: [0, 1, 3][rng.random_range(0..3)],
        lease_grant: 2,
        leased_put: 4,
        ..Weights::NONE
    };
    let shape = Shape {
        keys: [3, 12][rng.random_range(0..2)],
        leased_keys: 4,
        weights,
        compaction_keeps: [0, 20, 200][rng.random_range(0..3)],
        value_bytes: [0, 64, 4_096][rng.random_range(0..3)],
        ..Shape::default()
    };
    let mut watches = standard_watches();
    let more = rng.random_range(2..=6);
    watches.extend((0..more).map(|_| watch(&mut rng, shape.keys)));
    Load {
        shape,
        watching: Watching {
            watches,
            progress_interval_ms: [100, 700, 3_000][rng.random_range(0..3)],
            stream_lifetime_ms: [2_000, 5_000, 15_000][rng.random_range(0..3)],
            slow_readers: rng.random_range(0..=2),
            reads_ms: rng.random_range(100..=1_500),
            rests_ms: rng.random_range(500..=5_000),
        },
        ..Load::default()
    }
}

/// Everything, a prefix, a span of it or a key, from the beginning or from now on, with any options.
fn watch(rng: &mut ChaCha8Rng, keys: u32) -> WatchPlan {
    let first = rng.random_range(0..keys);
    let (key, end) = match rng.random_range(0..5) {
        0 => ("\0".to_owned(), "\0".to_owned()),
        1 => ("l/".to_owned(), "l0".to_owned()),
        2 => ("k/".to_owned(), "k0".to_owned()),
        3 => (format!("k/{first:03}"), format!("k/{:03}", first + 2)),
        _ => (format!("k/{first:03}"), String::new()),
    };
    let (no_put, no_delete) =
        [(false, false), (true, false), (false, true), (true, true)][rng.random_range(0..4)];
    WatchPlan {
        start_revision: rng.random_range(0..=1),
        no_put,
        no_delete,
        prev_kv: rng.random(),
        progress_notify: rng.random(),
        fragment: rng.random(),
        rewinds: rng.random_ratio(1, 4),
        ..WatchPlan::of(&key, &end)
    }
}
