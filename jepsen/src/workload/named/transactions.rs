//! Transactions: compare-and-swap, several keys at once, nested ones, and reads inside.
//!
//! A transaction is one revision: all of its writes or none, its reads at that revision, and its compares on the state
//! before. Enough keys that transactions overlap in some of them.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "transactions",
    about: "compare-and-swap, transactions over several keys, nested and read-only ones",
    aims: &[
        Property::Linearizable,
        Property::ExactlyOnce,
        Property::WatchAtomic,
        Property::RefusedNoEffect,
    ],
    source: "etcd's robustness tests: MultiOpTxn, CompareAndSet; Jepsen's etcd tests: wr",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 6,
        get: 10,
        range: 6,
        delete: 4,
        compare_and_put: 30,
        multi_put: rng.random_range(5..=25),
        nested_txn: rng.random_range(5..=15),
        read_only_txn: rng.random_range(2..=10),
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: [3, 6, 12][rng.random_range(0..3)],
            leased_keys: 2,
            weights,
            value_bytes: [0, 0, 4_096][rng.random_range(0..3)],
            ..Shape::default()
        },
        ..Load::default()
    }
}
