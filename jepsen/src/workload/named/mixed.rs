//! Mixed: few or many keys, small or padded values, and a random half of all kinds of operation.
//!
//! One mixture finds one sort of bug, so each seed has its own (swarm testing). Most seeds of the simulator run this one;
//! the simulator adds users, contenders and small quotas to some of them.

use super::{Load, Workload};
use crate::property::Property;
use crate::workload::Shape;

pub const WORKLOAD: Workload = Workload {
    name: "mixed",
    about: "a random half of all kinds of operation, each seed its own mixture",
    aims: Property::ALL,
    source: "swarm testing (Groce et al., 2012); etcd's robustness tests: etcd traffic",
    load: |seed| Load {
        shape: Shape::drawn(seed),
        ..Load::default()
    },
};
