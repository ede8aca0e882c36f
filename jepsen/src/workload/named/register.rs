//! Register: reads, writes and compare-and-swap on one to three keys.
//!
//! The smallest load that shows a stale read or a lost write, with nothing beside it that could hide one: every call is about
//! the same few keys, so nearly every pair of calls is ordered by what it saw.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "register",
    about: "reads, writes and compare-and-swap on one to three keys",
    aims: &[
        Property::Linearizable,
        Property::PerKey,
        Property::SerializableRead,
        Property::ExactlyOnce,
    ],
    source: "Jepsen's etcd tests: register",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 20,
        get: 40,
        compare_and_put: 30,
        serializable_get: [0, 10][rng.random_range(0..2)],
        delete: [0, 4][rng.random_range(0..2)],
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: rng.random_range(1..=3),
            weights,
            ..Shape::default()
        },
        ..Load::default()
    }
}
