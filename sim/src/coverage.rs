//! What a campaign has to have exercised: a fault that never struck and a branch that was never taken prove
//! nothing.
//!
//! | prefix | one for each | counts |
//! |---|---|---|
//! | `fault/` | class of fault | faults that somebody noticed |
//! | `operation/` | kind of call and its outcome | calls of all clients |
//! | `workload/` | workload | runs that had it |
//! | `client/` | foreign client whose rule the clients follow, and end of a call that it sends again | runs; attempts |
//! | `buggify/` | site in the product | times that it took the rarer way |
//! | `crossing/` | way of a message between two threads | messages that took milliseconds |
//! | `status/` | what a member has to notice of itself | times that one did |
//! | `level/` | step of a change of release | members that went back; runs whose cluster got a higher level |
//!
//! Other names are counted and shown, but nobody has to reach them.

use std::collections::BTreeMap;

use quorate_jepsen::report::KINDS;
use quorate_jepsen::workload::WORKLOADS;

use crate::nemesis::Class;
use crate::world::{buggify, crossing};

/// How a call ends: with an answer, or without one, so that it may have taken effect. (Refusals are counted too, but a
/// healthy cluster owes nobody one.)
const OUTCOMES: [&str; 2] = ["ok", "unknown"];
/// Runs whose clients send calls again as clientv3 does.
pub const CLIENTV3: &str = "client/clientv3";
/// How attempts end that it sends again.
const SENT_AGAIN: [&str; 2] = ["DeadlineExceeded", "Unavailable"];

/// A member that names no leader any more, though it knows of no newer term than that one's.
pub const LEADER_MISSED: &str = "status/leader missed";

/// Calls without a deadline that a member ended itself, because they took too long.
pub const TOLD_LATE: &str = "status/told that it took too long";

/// Members that went back to the release before.
pub const LEVEL_LEFT: &str = "level/went back";
/// Runs in which all members came to the next release, and counted on it.
pub const LEVEL_RAISED: &str = "level/raised";

/// The counters that have to be above zero after some hundreds of seeds.
pub fn known() -> Vec<String> {
    let faults = Class::ALL.iter().map(|class| class.counter());
    let of_kind = |kind: &str| OUTCOMES.map(|outcome| format!("operation/{kind}/{outcome}"));
    let operations = KINDS.into_iter().flat_map(of_kind);
    let workloads = WORKLOADS.into_iter().map(|workload| of_workload(workload.name));
    let again = SENT_AGAIN.into_iter().map(of_sent_again);
    faults
        .chain(operations)
        .chain(again)
        .chain([CLIENTV3.to_owned()])
        .chain(workloads)
        .chain(buggify::names())
        .chain(crossing::names())
        .chain([LEADER_MISSED, TOLD_LATE, LEVEL_LEFT, LEVEL_RAISED].map(str::to_owned))
        .collect()
}

/// The counter of a workload.
pub fn of_workload(name: &str) -> String {
    format!("workload/{name}")
}

/// The counter of attempts that clients sent again, which had ended so.
pub fn of_sent_again(code: &str) -> String {
    format!("client/sent again after {code}")
}

/// The known counters that are zero.
pub fn missing(counters: &BTreeMap<String, u64>) -> Vec<String> {
    let is_zero = |name: &String| counters.get(name).copied().unwrap_or(0) == 0;
    known().into_iter().filter(is_zero).collect()
}

/// All counters, the known ones that are missing as zeros.
pub fn with_known(counters: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let zeros = known().into_iter().map(|name| (name, 0));
    let mut all: BTreeMap<String, u64> = zeros.collect();
    all.extend(counters.clone());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_counters_have_a_prefix_and_one_name_each() {
        let names = known();
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| {
            [
                "fault/",
                "operation/",
                "client/",
                "workload/",
                "buggify/",
                "crossing/",
                "status/",
                "level/",
            ]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        }));
        assert!(names.len() > 40);
    }

    #[test]
    fn a_counter_is_missing_until_it_counts() {
        let mut counters = BTreeMap::from([("fault/Kill".to_owned(), 0)]);
        assert!(missing(&counters).contains(&"fault/Kill".to_owned()));
        counters.insert("fault/Kill".to_owned(), 1);
        assert!(!missing(&counters).contains(&"fault/Kill".to_owned()));
        assert_eq!(with_known(&counters)["fault/Kill"], 1);
        assert_eq!(with_known(&counters)["fault/Pause"], 0);
    }
}
