//! Once: every key is put once, by somebody who does not look back.
//!
//! So at the end every key has version 1, whatever became of the calls: a second version is a write that was applied
//! twice, which a load that writes the same keys again may hide. Half of the seeds guard the puts, as whoever takes a
//! lock does: a guard that fails has met the call's own write.

use rand::RngExt;

use super::{Load, Workload, rng};
use crate::property::Property;
use crate::workload::{Shape, WatchPlan, Watching, Weights};

pub const WORKLOAD: Workload = Workload {
    name: "once",
    about: "every key is put once; at the end each has version 1",
    aims: &[
        Property::ExactlyOnce,
        Property::Linearizable,
        Property::Durability,
    ],
    source: "jetcd 0.8.2 (Jepsen); a write that was applied twice here",
    load,
};

fn load(seed: u64) -> Load {
    let mut rng = rng(seed);
    let weights = Weights {
        put_once: 60,
        create_once: [0, 60][rng.random_range(0..2)],
        get: [0, 2][rng.random_range(0..2)],
        ..Weights::NONE
    };
    Load {
        shape: Shape {
            keys: 1,
            weights,
            ..Shape::default()
        },
        // Many keys, of which one client's are watched.
        watching: Watching {
            watches: vec![WatchPlan::of("once/0-", "once/0.")],
            ..Watching::default()
        },
        ..Load::default()
    }
}
