//! Compaction: history is forgotten again and again, close behind what clients read and watch.
//!
//! Reads go back as far as 300 revisions, compactions keep none to some tens: many reads are of what was just compacted, or
//! is about to be. Watches that start over at the first revision are overtaken and have to be told so.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, WatchPlan, Watching, Weights, standard_watches};

pub const WORKLOAD: Workload = Workload {
    name: "compaction",
    about: "compactions close behind what clients read at old revisions and watch",
    aims: &[
        Property::Compaction,
        Property::WatchCompacted,
        Property::Linearizable,
        Property::Convergence,
    ],
    source: "etcd's robustness tests: Compact; etcd#15220; hash comparison after compaction (etcd 3.6)",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 30,
        get: 6,
        range: 6,
        get_at_revision: 20,
        delete: 10,
        multi_put: [0, 6][rng.random_range(0..2)],
        compact: rng.random_range(2..=10),
        ..Weights::NONE
    };
    let mut watches = standard_watches();
    watches.push(WatchPlan {
        start_revision: 1,
        rewinds: true,
        ..WatchPlan::of("\0", "\0")
    });
    Load {
        shape: Shape {
            keys: [3, 12][rng.random_range(0..2)],
            leased_keys: 2,
            weights,
            compaction_keeps: [0, 0, 20][rng.random_range(0..3)],
            ..Shape::default()
        },
        watching: Watching {
            watches,
            stream_lifetime_ms: 3_000,
            ..Watching::default()
        },
        ..Load::default()
    }
}
