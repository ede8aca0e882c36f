//! What a seed decides about a run: cluster size, the options of its members, the network's speed, the
//! disks, the workload and the faults. The workload is a class of fault of its own: one finds one sort of
//! bug.

use std::time::Duration;

use quorate::base::Level;
use quorate_jepsen::workload::{MIXED, Retry, Shape, WORKLOADS, Workload};

use super::{CALM, Clients, MemberOptions, Plan};
use crate::nemesis::{Class, Schedule};
use crate::seed::{Dice, Seed};
use crate::world::{buggify, crossing, disk, net};

/// What the members count for a store without keys, for a pair besides its value, and the keys besides the workload's.
const EMPTY_STORE_BYTES: i64 = 20_480;
const PAIR_BYTES: i64 = 100;
const OTHER_KEYS_MAX: u32 = 20;

/// How often a seed has a workload other than the mixed one.
const NAMED_SHARE: f64 = 0.35;
/// Seeds with clients that set no deadline.
const PATIENT_SHARE: f64 = 0.5;
/// How often the clients send calls again as clientv3 does.
const CLIENTV3_SHARE: f64 = 0.4;
/// What makes a workload of changes of the members, and how many classes of faults come beside.
const CHANGES: [Class; 4] = [
    Class::Replace,
    Class::RemoveMember,
    Class::RemoveLeader,
    Class::PromoteLearner,
];
const OTHER_CLASSES: usize = 8;
/// How often the clients rest before the chaos ends, and for how long, in seconds: a member that comes back then finds
/// that nothing is written any more, and has to be brought up to date all the same.
const REST_SHARE: f64 = 0.2;
const REST_SECONDS: std::ops::Range<u64> = 3..12;
/// Below that no member can be removed.
const CHANGING_MEMBERS_MIN: usize = 3;

impl Plan {
    pub fn draw(seed: Seed) -> Plan {
        let mut dice = seed.dice("workload");
        let mut others = WORKLOADS.to_vec();
        let mixed = others.extract_if(.., |workload| workload.name == MIXED).next();
        let chosen = *dice.pick(&others);
        let is_mixed = !dice.chance(NAMED_SHARE);
        Self::draw_of(seed, mixed.filter(|_| is_mixed).unwrap_or(chosen))
    }

    /// The plan of a seed with this workload. Whatever the workload does not decide is the same with each.
    pub fn draw_of(seed: Seed, workload: Workload) -> Plan {
        let mut dice = seed.dice("plan");
        let mut members = *dice.pick(&[1, 3, 3, 3, 3, 5]);
        let millis = Duration::from_millis;
        let election_timeout = *dice.pick(&[millis(500), millis(1000), millis(1000), millis(2000)]);
        let chaos_end = Duration::from_secs(dice.range(15..45));
        let snapshot_count = *dice.pick(&[5, 30, 150, 10_000]);
        let snapshot_catchup_entries = *dice.pick(&[0, 5, 40, 5_000]);
        let log_segment_bytes = *dice.pick(&[64 << 10, 256 << 10, 2 << 20]);
        let load = workload.load(dice.u64());
        let is_mixed = workload.name == MIXED;
        let mut kind = seed.dice("kind");
        let (auth, contend) = (kind.range(0..8) == 0, kind.range(0..8) == 0);
        // The operator makes space by compactions: that does for the mixed workload's keys.
        let quota_bytes = Some(quota(&mut kind, &load.shape)).filter(|_| is_mixed);
        let mut nemesis = seed.dice("nemesis");
        let mut classes = Schedule::half(&mut nemesis);
        if load.membership {
            members = members.max(CHANGING_MEMBERS_MIN);
            classes.truncate(OTHER_CLASSES);
            classes.extend(CHANGES);
        }
        let mut rest = seed.dice("rest");
        let rest = rest.chance(REST_SHARE).then(|| rest.range(REST_SECONDS));
        let contend = load.contend || is_mixed && contend;
        let mut options = seed.dice("options");
        let seconds = Duration::from_secs;
        let mut client = seed.dice("client");
        // Who sends calls again waits for longer than a member does.
        let patience = *client.pick(&[millis(8_000), millis(15_000)]);
        let (retry, patience) = match client.chance(CLIENTV3_SHARE) {
            true => (Retry::Clientv3, Some(patience)),
            false => (Retry::Never, None),
        };
        Plan {
            seed,
            workload: workload.name.to_owned(),
            members,
            network: network(&mut dice),
            disks: disks(&mut dice),
            clients: Clients {
                auth: load.auth || auth,
                contend,
                keepers: load.keepers,
                patient: seed.dice("patience").chance(PATIENT_SHARE),
                shape: load.shape,
                watching: load.watching,
                hosts: dice.range(1..4) as usize,
                per_host: dice.range(1..4) as u32,
                watchers: dice.range(1..4) as u32,
                pause: *dice.pick(&[millis(20), millis(60), millis(150)]),
                call_timeout: {
                    let drawn = *dice.pick(&[millis(1_000), millis(3_000), millis(8_000)]);
                    patience.unwrap_or(drawn)
                },
                retry,
                calls_per_member: *dice.pick(&[0, 3, 20]),
                script: None,
                unscripted_from: Duration::ZERO,
                unscripted_until: rest.map(|rest| chaos_end - seconds(rest)),
            },
            options: MemberOptions {
                heartbeat_interval: election_timeout / 10,
                election_timeout,
                snapshot_count,
                snapshot_catchup_entries,
                log_segment_bytes,
                quota_bytes: quota_bytes.unwrap_or(0),
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
                level: match seed.dice("level").chance(0.3) {
                    true => *options.pick(&[Level::FIRST, Level::APPLIED_ONCE]),
                    false => Level::NEWEST,
                },
                // Who holds what is judged by watches that saw everything: this would overtake them all the time.
                auto_compaction_retention: match options.chance(0.15) && !contend {
                    true => *options.pick(&[millis(500), seconds(2), seconds(8)]),
                    false => Duration::ZERO,
                },
            },
            chaos_end,
            settle_timeout: Duration::from_secs(60),
            buggify: buggify::draw(seed),
            late_crossings: crossing::draw(seed),
            schedule: Schedule::draw(&mut nemesis, &classes, members, CALM, chaos_end),
            sabotage: None,
        }
    }
}

/// Now and then what all keys take at once, a few times over: only compactions keep it.
fn quota(dice: &mut Dice, shape: &Shape) -> i64 {
    if dice.range(0..8) > 0 {
        return 0;
    }
    let keys = i64::from(shape.keys + shape.leased_keys + OTHER_KEYS_MAX);
    let pairs = keys * (shape.value_bytes as i64 + PAIR_BYTES);
    EMPTY_STORE_BYTES + pairs * dice.range(1..4) as i64
}

fn network(dice: &mut Dice) -> net::Settings {
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

fn disks(dice: &mut Dice) -> disk::Settings {
    let micros = *dice.pick(&[50, 400, 4_000]);
    disk::Settings {
        sync_latency_min: Duration::from_micros(micros / 2),
        sync_latency_mean: Duration::from_micros(micros),
        ..disk::Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use quorate::base::limits;
    use quorate_jepsen::workload::extreme;

    use super::*;

    #[test]
    fn the_extremes_are_at_the_products_limits() {
        assert_eq!(extreme::TXN_OPS, limits::TXN_OPS_MAX);
        assert_eq!(extreme::TXN_LEVELS, limits::TXN_LEVELS_MAX);
        assert_eq!(extreme::REQUEST_BYTES, limits::REQUEST_BYTES_MAX);
        assert_eq!(extreme::LEASE_TTL_SECONDS, limits::LEASE_TTL_SECONDS_MAX);
    }

    #[test]
    fn a_plan_is_a_function_of_its_seed() {
        let plan = |seed| format!("{:?}", Plan::draw(Seed(seed)));
        assert_eq!(plan(4), plan(4));
        assert_ne!(plan(4), plan(5));
    }

    #[test]
    fn most_seeds_are_mixed_and_each_workload_comes_up() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..1_000 {
            *counts.entry(Plan::draw(Seed(seed)).workload).or_insert(0) += 1;
        }
        assert!((550..750).contains(&counts[MIXED]), "{counts:?}");
        for workload in WORKLOADS {
            assert!(counts[workload.name] > 10, "{counts:?}");
        }
    }

    #[test]
    fn a_workload_decides_what_clients_do_and_nothing_else() {
        for workload in WORKLOADS
            .into_iter()
            .filter(|workload| workload.name != "membership")
        {
            let mixed = Plan::draw_of(Seed(7), Workload::find(MIXED).expect("registered"));
            let mut other = Plan::draw_of(Seed(7), workload);
            assert_eq!(other.workload, workload.name);
            other.check().expect("it can be carried out");
            other.workload.clone_from(&mixed.workload);
            other.options.quota_bytes = mixed.options.quota_bytes;
            other.options.auto_compaction_retention = mixed.options.auto_compaction_retention;
            other.clients.shape = mixed.clients.shape;
            other.clients.watching = mixed.clients.watching.clone();
            (other.clients.auth, other.clients.contend) = (mixed.clients.auth, mixed.clients.contend);
            other.clients.keepers = mixed.clients.keepers;
            assert_eq!(other, mixed);
        }
    }

    #[test]
    fn a_workload_of_changes_has_members_to_change() {
        let workload = Workload::find("membership").expect("registered");
        let changes = |fault: &crate::nemesis::Fault| CHANGES.contains(&fault.class);
        for seed in 0..100 {
            let plan = Plan::draw_of(Seed(seed), workload);
            assert!(plan.members >= CHANGING_MEMBERS_MIN);
        }
        let plans = (0..100).map(|seed| Plan::draw_of(Seed(seed), workload));
        let changed = plans.filter(|plan| plan.schedule.faults.iter().any(changes));
        assert!(changed.count() > 80);
    }
}
