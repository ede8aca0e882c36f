//! Leases in numbers: clients that keep many alive over one stream each, beside others that read, write and revoke.
//!
//! Renewals are many at once and answered in order, through every member; some leases are let go and asked about when
//! they have just run out.

use rand::RngExt;

use super::{Load, Workload, leases, rng};
use crate::property::Property;

pub const WORKLOAD: Workload = Workload {
    name: "lease-flood",
    about: "many leases kept alive over one stream each, some of which run out",
    aims: &[
        Property::LeaseNotEarly,
        Property::LeaseEndedAnswer,
        Property::LeaseExpires,
        Property::Linearizable,
    ],
    source: "clientv3: KeepAlive; etcd#15247, #16822",
    load: |seed| Load {
        keepers: rng(seed).random_range(1..=2),
        ..leases::WORKLOAD.load(seed)
    },
};
