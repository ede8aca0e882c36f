//! Leases: granted, renewed, revoked and left to run out, with keys that move from one lease to another.
//!
//! A client holds two leases and abandons the older one for a new one, so that at each moment some are renewed, some are
//! about to end and some have just ended. Few keys: a put by another client attaches a key to another lease before the
//! first one ends.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "leases",
    about: "leases granted, renewed, revoked and left to run out, and keys that change leases",
    aims: &[
        Property::LeaseNotEarly,
        Property::LeaseExpires,
        Property::Linearizable,
        Property::WatchAtomic,
    ],
    source: "etcd's robustness tests: LeaseGrant, PutWithLease, LeaseRevoke; etcd#12528, #16822",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put: 4,
        get: 16,
        range: 6,
        delete: 4,
        lease_grant: 10,
        lease_keep_alive: [4, 16][rng.random_range(0..2)],
        lease_revoke: [2, 8][rng.random_range(0..2)],
        leased_put: 30,
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: 2,
            leased_keys: [2, 6, 12][rng.random_range(0..3)],
            weights,
            lease_ttl_seconds: rng.random_range(2..=6),
            ..Shape::default()
        },
        ..Load::default()
    }
}
