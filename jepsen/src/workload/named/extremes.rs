//! Requests at the limits and beyond: how deep transactions are nested, how many operations they have, how large keys
//! and values are, how long leases, which revisions and limits ranges name.
//!
//! What passes the front is committed, and has to be applied by every member, now and after each restart; what does not
//! pass changes nothing. Beside them the usual reads and writes, which show what became of them.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "extremes",
    about: "requests at every limit of a client's and beyond: depth, operations, sizes, times to live, numbers",
    aims: &[
        Property::StaysUp,
        Property::ServesWrites,
        Property::RefusedNoEffect,
        Property::Linearizable,
        Property::Convergence,
    ],
    source: "a transaction nested 50 deep that no member could apply (2026-11); TigerBeetle's fuzzers",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 6,
        get: 8,
        range: 4,
        delete: 3,
        compare_and_put: 6,
        nested_txn: 4,
        lease_grant: 1,
        leased_put: 3,
        extreme: rng.random_range(10..=40),
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: [3, 6, 12][rng.random_range(0..3)],
            leased_keys: 4,
            weights,
            ..Shape::default()
        },
        ..Load::default()
    }
}
