//! Append: lists that grow, each element by a transaction that compares all of its keys with what was read.
//!
//! ```text
//!   read a, b ─► if a and b are as read: a := a ++ [x], read b     otherwise read both, and try again
//! ```
//!
//! Jepsen's list-append on etcd. A list shows the order of all writes that led to it: two appends that did not see one
//! another, or one that took effect twice, show in every later value. Lists of a generation grow for some hundred
//! revisions, then all clients go on to the next one.
//!
//! Deliberately absent: Elle's search for cycles. Each append has a revision, so the sequential model knows what every
//! read has to show, which is strict serializability and not only the absence of anomalies.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "append",
    about: "transactions that read lists and append to them, if they are still as read",
    aims: &[
        Property::Linearizable,
        Property::ExactlyOnce,
        Property::PerKey,
        Property::WatchAtomic,
    ],
    source: "Jepsen's etcd tests: append; Elle (Kingsbury and Alvaro, 2020)",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        append: 60,
        read_lists: rng.random_range(10..=40),
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: [2, 3, 6][rng.random_range(0..3)],
            weights,
            ..Shape::default()
        },
        ..Load::default()
    }
}
