//! Auth: everybody logs in, and an administrator gives and takes permissions while limited users try what they may.
//!
//! What clients with all rights do beside is little, and the tokens' time to live, which the simulator draws, makes them log in
//! again and again.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "auth",
    about: "users log in, an administrator gives and takes permissions, limited users try what they may",
    aims: &[Property::Permission, Property::RefusedNoEffect],
    source: "etcd documentation: role-based access control; etcd#14571",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 20,
        get: 20,
        range: 8,
        delete: 4,
        compare_and_put: 10,
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: [3, 12][rng.random_range(0..2)],
            weights,
            ..Shape::default()
        },
        auth: true,
        ..Load::default()
    }
}
