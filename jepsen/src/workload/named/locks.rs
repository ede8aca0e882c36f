//! Locks and elections: clients contend for two locks and two elections, hold them, proclaim, and let go or vanish.
//!
//! The members write the keys behind a lock themselves, so what is judged is what holds without knowledge of every write:
//! whoever is told that it holds or leads has the oldest key then.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::Shape;

pub const WORKLOAD: Workload = Workload {
    name: "locks",
    about: "clients contend for locks and elections, and let go of them or vanish",
    aims: &[Property::OldestHolds, Property::Convergence],
    source: "Jepsen's etcd tests: lock; etcd's v3lock and v3election",
    load: |seed| Load {
        shape: Shape {
            lease_ttl_seconds: rng(seed).random_range(2..=6),
            ..Shape::default()
        },
        contend: true,
        ..Load::default()
    },
};
