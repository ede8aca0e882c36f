//! Breaking something on purpose, outside of the product: proof that a campaign can fail.
//!
//! ```text
//!   SecondLeader      a probe's answer is falsified                             ─► election-safety
//!   StaleRead         a read's answer becomes that of an earlier one     ┐
//!   HalfTransaction   a watch loses one of the events of a transaction   ├ in the history, before it is judged
//!   LostWrite         a key is missing at the end                        ┘
//!   LyingSync         disks acknowledge what they do not keep                   ─► durability, linearizable
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use quorate_jepsen::history::{Answer, History, Request, WatchEvent};
use quorate_jepsen::workload::Watching;
use serde::{Deserialize, Serialize};

use crate::nemesis::{Class, Fault};
use crate::plan::{CALM, Plan};
use crate::seed::Seed;

/// Of so many seeds one is a canary.
pub const SEEDS_PER_CANARY: u64 = 100;
/// Where disks lie, power is lost so often.
const POWER_LOST_EVERY: Duration = Duration::from_secs(6);
const LYING_SYNCS_PERCENT: u32 = 90;

/// See the module's text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Sabotage {
    SecondLeader,
    StaleRead,
    HalfTransaction,
    LostWrite,
    LyingSync,
}

impl Sabotage {
    /// Those that a canary is one of.
    pub const CANARIES: [Sabotage; 4] = [
        Sabotage::SecondLeader,
        Sabotage::StaleRead,
        Sabotage::HalfTransaction,
        Sabotage::LostWrite,
    ];

    /// Properties one of which has to notice it.
    pub fn expected(self) -> &'static [&'static str] {
        match self {
            Sabotage::SecondLeader => &["election-safety"],
            Sabotage::StaleRead => &["linearizable", "per-key-linearizable"],
            Sabotage::HalfTransaction => &["watch-reliable", "watch-atomic"],
            Sabotage::LostWrite => &["durability", "convergence"],
            Sabotage::LyingSync => &[
                "durability",
                "linearizable",
                "per-key-linearizable",
                "exactly-once",
            ],
        }
    }

    /// Falsifies what was seen. False: there was nothing to falsify, or it is not of that sort.
    pub fn forge(self, history: &mut History) -> bool {
        match self {
            Sabotage::SecondLeader | Sabotage::LyingSync => false,
            Sabotage::StaleRead => stale_read(history),
            Sabotage::HalfTransaction => half_transaction(history),
            Sabotage::LostWrite => lost_write(history),
        }
    }
}

/// The sabotage of a seed, if it is a canary: exactly one of [`SEEDS_PER_CANARY`] neighbours is.
pub fn canary(seed: u64) -> Option<Sabotage> {
    let flock = seed / SEEDS_PER_CANARY;
    let chosen = Seed(flock).dice("canary").below(SEEDS_PER_CANARY);
    let kind = Sabotage::CANARIES[flock as usize % Sabotage::CANARIES.len()];
    (seed % SEEDS_PER_CANARY == chosen).then_some(kind)
}

/// A canary's plan has a sabotage, and clients that give it something to falsify; others stay as they are.
pub fn with_canaries(mut plan: Plan) -> Plan {
    plan.sabotage = canary(plan.seed.0);
    if plan.sabotage.is_some() {
        plan.clients.contend = false;
        plan.clients.watching = Watching::default();
        // Who stays with a member that does not serve, such as a learner, sees nothing that could be falsified.
        plan.clients.calls_per_member = 3;
        plan.clients.shape.keys = 3;
        plan.clients.shape.weights.put = 24;
        plan.clients.shape.weights.get = 20;
        plan.clients.shape.weights.multi_put = 24;
    }
    plan
}

/// The disks of all members lie, and lose power now and then, all at once.
pub fn with_lying_disks(mut plan: Plan) -> Plan {
    plan.sabotage = Some(Sabotage::LyingSync);
    plan.disks.lying_syncs_percent = LYING_SYNCS_PERCENT;
    plan.clients.contend = false;
    let mut faults = Vec::new();
    let mut dice = plan.seed.dice("lying disks");
    let mut at = CALM;
    while at + POWER_LOST_EVERY < plan.chaos_end {
        at += POWER_LOST_EVERY;
        faults.push(Fault {
            at_ms: at.as_millis() as u64,
            lasts_ms: dice.range(100..500),
            class: Class::PowerLossAll,
            member: 0,
            choice: dice.u64(),
        });
    }
    plan.schedule.faults = faults;
    plan
}

/// The answer to a read of one key becomes the answer that an earlier read had; its revision stays.
fn stale_read(history: &mut History) -> bool {
    let mut earlier: BTreeMap<Bytes, Vec<Vec<quorate::proto::mvccpb::KeyValue>>> = BTreeMap::new();
    for operation in &mut history.operations {
        let Request::Range(request) = &operation.request else {
            continue;
        };
        let plain = quorate::proto::etcdserverpb::RangeRequest {
            key: request.key.clone(),
            ..Default::default()
        };
        if *request != plain || history.limited.contains(&operation.client) {
            continue;
        }
        let key = request.key.clone();
        if let quorate_jepsen::history::Outcome::Ok(Answer::Range(answer)) = &mut operation.outcome {
            let known = earlier.entry(key).or_default();
            if let Some(stale) = known.iter().find(|kvs| **kvs != answer.kvs) {
                answer.kvs = stale.clone();
                answer.count = answer.kvs.len() as i64;
                return true;
            }
            known.push(answer.kvs.clone());
        }
    }
    false
}

/// One watch loses the last event of the first revision with several.
fn half_transaction(history: &mut History) -> bool {
    for entry in history.watches.iter_mut().flat_map(|watch| &mut watch.entries) {
        let WatchEvent::Received(response) = &mut entry.event else {
            continue;
        };
        let revision = |event: &quorate::proto::mvccpb::Event| event.kv.as_ref().map(|kv| kv.mod_revision);
        let mut seen = BTreeSet::new();
        let twin = response
            .events
            .iter()
            .position(|event| !seen.insert(revision(event)));
        if let Some(twin) = twin {
            response.events.remove(twin);
            return true;
        }
    }
    false
}

/// One member does not hold its last key at the end.
fn lost_write(history: &mut History) -> bool {
    let Some(state) = history.finals.first_mut() else {
        return false;
    };
    let lost = state.range.kvs.pop().is_some();
    state.range.count -= i64::from(lost);
    lost
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_a_hundred_neighbours_is_a_canary_and_all_kinds_come_up() {
        let of_flock = |flock: u64| {
            let seeds = flock * SEEDS_PER_CANARY..(flock + 1) * SEEDS_PER_CANARY;
            seeds.filter_map(canary).collect::<Vec<_>>()
        };
        let kinds: Vec<Sabotage> = (0..4).flat_map(of_flock).collect();
        assert_eq!(kinds, Sabotage::CANARIES);
    }

    #[test]
    fn only_canaries_are_changed() {
        for seed in 0..SEEDS_PER_CANARY {
            let plan = Plan::draw(Seed(seed));
            let arranged = with_canaries(plan.clone());
            assert_eq!(arranged == plan, canary(seed).is_none());
        }
    }

    #[test]
    fn lying_disks_lose_power_several_times_within_the_chaos() {
        for seed in 0..50 {
            let plan = with_lying_disks(Plan::draw(Seed(seed)));
            let end = plan.chaos_end.as_millis() as u64;
            let faults = &plan.schedule.faults;
            assert!(!faults.is_empty());
            assert!(faults.iter().all(|fault| fault.at_ms + fault.lasts_ms < end));
        }
    }

    #[test]
    fn an_empty_history_cannot_be_falsified() {
        for sabotage in Sabotage::CANARIES {
            assert!(!sabotage.forge(&mut History::default()));
        }
    }
}
