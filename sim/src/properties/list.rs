//! The properties that the simulator judges, by name.

use super::Property;

use super::applied_in_order::AppliedInOrder;
use super::applied_once::AppliedOnce;
use super::commit_own_term::CommitOwnTerm;
use super::commit_quorum::CommitQuorum;
use super::committed_immutable::CommittedImmutable;
use super::durable_log::DurableLog;
use super::durable_vote::DurableVote;
use super::election_quorum::ElectionQuorum;
use super::election_safety::ElectionSafety;
use super::indexes_ordered::IndexesOrdered;
use super::leader_append_only::LeaderAppendOnly;
use super::leader_completeness::LeaderCompleteness;
use super::log_gapless::LogGapless;
use super::log_matching::LogMatching;
use super::membership_in_force::MembershipInForce;
use super::membership_steps::MembershipSteps;
use super::monotonic::Monotonic;
use super::no_hole::NoHole;
use super::no_leader_is_noticed::NoLeaderIsNoticed;
use super::purge_behind_engine::PurgeBehindEngine;
use super::snapshot_committed::SnapshotCommitted;
use super::state_machine_safety::StateMachineSafety;
use super::vote_up_to_date::VoteUpToDate;
use quorate_jepsen::property::Property as OfHistories;

/// What a property is called, what it promises, and where that is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct About {
    /// The name in reports, and in the catalogue of mutants.
    pub name: &'static str,
    pub guarantee: &'static str,
    pub source: &'static str,
}

/// The properties of steps, in the order in which they judge: a cause before its effects.
pub(super) fn of_steps() -> Vec<Box<dyn Property>> {
    vec![
        Box::new(ElectionSafety::default()),
        Box::new(ElectionQuorum::default()),
        Box::new(LogGapless),
        Box::new(LogMatching::default()),
        Box::new(LeaderAppendOnly),
        Box::new(CommittedImmutable),
        Box::new(DurableLog),
        Box::new(LeaderCompleteness::default()),
        Box::new(CommitOwnTerm),
        Box::new(CommitQuorum),
        Box::new(MembershipSteps),
        Box::new(MembershipInForce),
        Box::new(Monotonic),
        Box::new(SnapshotCommitted),
        Box::new(PurgeBehindEngine),
        Box::new(NoHole),
        Box::new(IndexesOrdered),
        Box::new(AppliedInOrder),
        Box::new(AppliedOnce),
        Box::new(StateMachineSafety::default()),
        Box::new(NoLeaderIsNoticed),
    ]
}

/// What the run itself looks at: the phases of liveness, and that nothing breaks.
const OF_RUNS: &[About] = &[
    About {
        name: "elects",
        guarantee: "when all faults are healed the members agree on a leader, in bounded time",
        source: "etcd's robustness tests; TigerBeetle's liveness mode",
    },
    About {
        name: "administers",
        guarantee: "when all faults are healed a replacement that was begun comes to its end, in bounded time",
        source: "Ongaro's thesis, 4.2",
    },
    About {
        name: "answers-in-time",
        guarantee: "a member that runs and can be reached answers every call, also of who sets no deadline, if only that it took too long",
        source: "etcd's `ReqTimeout`: 5 s and two election timeouts",
    },
    About {
        name: "no-panic",
        guarantee: "nothing panics; every assertion of the product and of raft is on",
        source: "TigerBeetle: assertions are the second line of defence",
    },
    About {
        name: "ends-in-time",
        guarantee: "a run ends within bounded CPU time and memory",
        source: "TigerBeetle's VOPR",
    },
    About {
        name: "refuses-lost-data",
        guarantee: "a member that has lost its data does not start as if it had none before",
        source: "Raft, figure 2: votes and entries are durable; etcd: member has already been bootstrapped",
    },
    About {
        name: "determinism",
        guarantee: "a seed gives the same trace again",
        source: "FoundationDB: unseed",
    },
];

/// All properties that the simulator itself judges; the others are `quorate_jepsen`'s.
pub fn all() -> Vec<About> {
    let of_steps = of_steps();
    let of_steps = of_steps.iter().map(|property| property.about());
    let of_votes = [DurableVote::ABOUT, VoteUpToDate::ABOUT];
    of_steps.chain(of_votes).chain(OF_RUNS.iter().copied()).collect()
}

/// Every property that a run is judged by: the simulator's, then those of what clients saw.
pub fn of_all() -> Vec<About> {
    let of_histories = OfHistories::ALL.iter().map(|property| About {
        name: property.name(),
        guarantee: property.guarantee(),
        source: property.source(),
    });
    all().into_iter().chain(of_histories).collect()
}

/// The table of sim/README.md.
pub fn table() -> String {
    let row = |about: About| format!("| `{}` | {} | {} |\n", about.name, about.guarantee, about.source);
    let rows: String = of_all().into_iter().map(row).collect();
    format!("| property | says | source |\n|---|---|---|\n{rows}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_the_readme_lists_all() {
        let names: BTreeSet<&str> = of_all().iter().map(|about| about.name).collect();
        assert_eq!(names.len(), of_all().len());
        let readme = include_str!("../../README.md");
        assert!(
            readme.contains(&table()),
            "sim/README.md has another table than `cargo sim properties` prints"
        );
    }
}
