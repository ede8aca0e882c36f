//! Kubernetes: what kube-apiserver asks of etcd.
//!
//! ```text
//!   create   if mod_revision(key) = 0: put
//!   update   if mod_revision(key) = as read: put            otherwise read it, and try again
//!   delete   if mod_revision(key) = as read: delete         otherwise read it, and try again
//!   list     a page with a limit; the next ones from the last key on, at the first page's revision
//!   watch    from the revision after a list's; when that is compacted, a list again
//!   compact  if version(compact_rev_key) = as known: put; whoever succeeds compacts what was newest the time before
//! ```
//!
//! What controllers rely on: an update is lost to nobody, a list is one state, and the watch behind it misses nothing.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, WatchPlan, Watching, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "kubernetes",
    about: "guarded creations, updates and deletions, paged lists, watches behind lists, the compactor",
    aims: &[
        Property::Linearizable,
        Property::WatchReliable,
        Property::WatchResumable,
        Property::WatchPreviousPair,
        Property::WatchCompacted,
        Property::Compaction,
    ],
    source: "kube-apiserver: storage/etcd3 (store, watcher, compact); etcd's robustness tests: Kubernetes traffic",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        create: rng.random_range(10..=20),
        update: 40,
        remove: rng.random_range(5..=15),
        list: 8,
        compactor: [1, 2, 4][rng.random_range(0..3)],
        ..Weights::NONE
    };
    let informer = WatchPlan {
        prev_kv: true,
        progress_notify: true,
        lists: true,
        ..WatchPlan::of("registry/pods/", "registry/pods0")
    };
    let everything = WatchPlan {
        prev_kv: true,
        start_revision: 1,
        ..WatchPlan::of("\0", "\0")
    };
    Load {
        shape: Shape {
            keys: [3, 12, 40][rng.random_range(0..3)],
            weights,
            value_bytes: [0, 64, 1_024][rng.random_range(0..3)],
            ..Shape::default()
        },
        watching: Watching {
            watches: vec![informer.clone(), informer, everything],
            stream_lifetime_ms: [4_000, 9_000][rng.random_range(0..2)],
            slow_readers: rng.random_range(0..=1),
            reads_ms: rng.random_range(500..=2_000),
            rests_ms: rng.random_range(500..=5_000),
            ..Watching::default()
        },
        ..Load::default()
    }
}
