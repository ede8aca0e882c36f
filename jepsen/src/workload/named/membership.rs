//! Membership: members are removed, added, promoted and replaced all the time, under a small load of reads and writes.
//!
//! The load is that of a register with some bulk: a new member has to fetch a snapshot, and what a removed one had
//! acknowledged must not be lost with it.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "membership",
    about: "members are removed, added, promoted and replaced under reads and writes",
    aims: &[
        Property::Durability,
        Property::Linearizable,
        Property::Convergence,
        Property::OneCluster,
    ],
    source: "Jepsen's etcd tests: member nemesis; the bug in single-server changes (raft-dev, 2015)",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 30,
        get: 20,
        serializable_get: 6,
        range: 4,
        compare_and_put: 14,
        delete: 4,
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: [3, 12, 60][rng.random_range(0..3)],
            weights,
            value_bytes: [0, 64, 4_096][rng.random_range(0..3)],
            ..Shape::default()
        },
        membership: true,
        ..Load::default()
    }
}
