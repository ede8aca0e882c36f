//! What a seed decides about a run: cluster size, the options of its members, the network's speed, the
//! disks, the workload's shape and the faults. The workload's shape is a class of fault of its own: one
//! shape finds one sort of bug.

use std::time::Duration;

use quorate_jepsen::workload::Shape;

use super::{CALM, Clients, MemberOptions, Plan};
use crate::nemesis::Schedule;
use crate::seed::Seed;
use crate::world::{buggify, disk, net};

/// What the members count for a store without keys, for a pair besides its value, and the keys besides the workload's.
const EMPTY_STORE_BYTES: i64 = 20_480;
const PAIR_BYTES: i64 = 100;
const OTHER_KEYS_MAX: u32 = 20;

impl Plan {
    pub fn draw(seed: Seed) -> Plan {
        let mut dice = seed.dice("plan");
        let members = *dice.pick(&[1, 3, 3, 3, 3, 5]);
        let millis = Duration::from_millis;
        let election_timeout = *dice.pick(&[millis(500), millis(1000), millis(1000), millis(2000)]);
        let chaos_end = Duration::from_secs(dice.range(15..45));
        let snapshot_count = *dice.pick(&[5, 30, 150, 10_000]);
        let snapshot_catchup_entries = *dice.pick(&[0, 5, 40, 5_000]);
        let log_segment_bytes = *dice.pick(&[64 << 10, 256 << 10, 2 << 20]);
        let shape = Shape::drawn(dice.u64());
        let mut kind = seed.dice("kind");
        let mut nemesis = seed.dice("nemesis");
        let classes = Schedule::half(&mut nemesis);
        let mut options = seed.dice("options");
        let seconds = Duration::from_secs;
        Plan {
            seed,
            members,
            network: network(&mut dice),
            disks: disks(&mut dice),
            clients: Clients {
                shape,
                auth: kind.range(0..8) == 0,
                contend: kind.range(0..8) == 0,
                hosts: dice.range(1..4) as usize,
                per_host: dice.range(1..4) as u32,
                watchers: dice.range(1..4) as u32,
                pause: *dice.pick(&[millis(20), millis(60), millis(150)]),
                call_timeout: *dice.pick(&[millis(1_000), millis(3_000), millis(8_000)]),
                calls_per_member: *dice.pick(&[0, 3, 20]),
                script: None,
                unscripted_from: Duration::ZERO,
                unscripted_until: None,
            },
            options: MemberOptions {
                heartbeat_interval: election_timeout / 10,
                election_timeout,
                snapshot_count,
                snapshot_catchup_entries,
                log_segment_bytes,
                quota_bytes: quota(&mut kind, &shape),
                jwt: seed.dice("tokens").chance(0.5),
                pre_vote: options.chance(0.8),
                lease_checkpoints: options.chance(0.3),
                initial_corruption_check: options.chance(0.2),
                corruption_check_interval: *options.pick(&[seconds(0), seconds(0), seconds(3)]),
                compaction_check_interval: *options.pick(&[seconds(0), seconds(0), seconds(4)]),
                watch_progress_interval: *options.pick(&[millis(300), seconds(1), seconds(5), seconds(600)]),
                max_txn_ops: *options.pick(&[16, 128]),
                max_request_bytes: *options.pick(&[64 << 10, 1_572_864]),
                max_concurrent_streams: *options.pick(&[20, u32::MAX]),
                keepalive_interval: *options.pick(&[seconds(1), seconds(7_200)]),
                auth_token_ttl: *options.pick(&[seconds(2), seconds(300)]),
            },
            chaos_end,
            settle_timeout: Duration::from_secs(60),
            buggify: buggify::draw(seed),
            schedule: Schedule::draw(&mut nemesis, &classes, members, CALM, chaos_end),
            sabotage: None,
        }
    }
}

/// Now and then what all keys take at once, a few times over: only compactions keep it.
fn quota(dice: &mut crate::seed::Dice, shape: &Shape) -> i64 {
    if dice.range(0..8) > 0 {
        return 0;
    }
    let keys = i64::from(shape.keys + shape.leased_keys + OTHER_KEYS_MAX);
    let pairs = keys * (shape.value_bytes as i64 + PAIR_BYTES);
    EMPTY_STORE_BYTES + pairs * dice.range(1..4) as i64
}

fn network(dice: &mut crate::seed::Dice) -> net::Settings {
    let latency = *dice.pick(&[100_000, 500_000, 2_000_000, 15_000_000]);
    net::Settings {
        speed: net::Speed {
            latency,
            jitter: latency * dice.range(0..4) / 2,
            per_kibibyte: *dice.pick(&[1_000, 8_000, 80_000]),
        },
        window: *dice.pick(&[16 << 10, 256 << 10, 4 << 20]),
        give_up: Duration::from_secs(dice.range(5..40)),
    }
}

fn disks(dice: &mut crate::seed::Dice) -> disk::Settings {
    let micros = *dice.pick(&[50, 400, 4_000]);
    disk::Settings {
        sync_latency_min: Duration::from_micros(micros / 2),
        sync_latency_mean: Duration::from_micros(micros),
        ..disk::Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        let plan = |seed| format!("{:?}", Plan::draw(Seed(seed)));
        assert_eq!(plan(4), plan(4));
        assert_ne!(plan(4), plan(5));
    }
}
