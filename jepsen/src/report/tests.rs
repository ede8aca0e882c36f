use super::{JudgeOptions, Verdict, judge};
use crate::forge::{Forge, Lie, Once, OnceLie};
use crate::history::{History, Outcome};
use crate::property::{Property, Violation};

#[test]
fn a_good_history_passes_and_reads_the_same_each_time() {
    let report = |seed| judge(&Forge::new(seed).run().0, &JudgeOptions::default());
    let first = report(3);
    assert_eq!(first.verdict, Verdict::Passed, "{}", first.to_text());
    assert_eq!(first.to_text(), report(3).to_text());
    assert_eq!(first.to_json(), report(3).to_json());
    assert!(first.to_text().ends_with("verdict: PASSED\n"));
    let counts = &first.counts;
    for (what, count) in [
        ("ok", counts.ok),
        ("unknown", counts.unknown),
        ("revisions of unknown writes", counts.revisions_of_unknown),
        ("revisions of leases", counts.revisions_of_expiry),
        ("events", counts.watch_events),
        ("progress", counts.watch_progress),
        ("keys", counts.keys_checked_alone),
    ] {
        assert!(count > 0, "the forged history exercises {what}");
    }
}

#[test]
fn a_lie_is_refused_with_the_operations_concerned() {
    let forge = Forge {
        lie: Some(Lie::WrongState),
        unknown_percent: 0,
        ..Forge::new(1)
    };
    let (history, lied) = forge.run();
    assert!(lied);
    let report = judge(&history, &JudgeOptions::default());
    assert_eq!(report.verdict, Verdict::Refused);
    assert!(!report.first_operations.is_empty());
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("the report is JSON");
    assert_eq!(json["verdict"], "refused");
    let name = report.first_property().expect("it was refused").name();
    assert_eq!(json["violations"][0]["property"], name);
    assert_eq!(json["properties"][name], "violated");
}

#[test]
fn nothing_answered_is_nothing_judged() {
    let report = judge(&History::default(), &JudgeOptions::default());
    assert_eq!(report.verdict, Verdict::Undecided);
    let mut history = Forge::new(2).run().0;
    history.watches.clear();
    history.finals.clear();
    for operation in &mut history.operations {
        operation.outcome = Outcome::unknown("all lost");
    }
    let report = judge(&history, &JudgeOptions::default());
    assert_eq!(report.verdict, Verdict::Undecided);
}

#[test]
fn what_the_tester_saw_counts_too() {
    let (history, _) = Forge::new(3).run();
    let failed = |options: JudgeOptions| judge(&history, &options).first_property();
    assert_eq!(failed(JudgeOptions::default()), None);
    let not_alive = JudgeOptions {
        liveness_failure: Some(Violation::of_operations(Property::ServesReads, [], "no leader")),
        ..Default::default()
    };
    assert_eq!(failed(not_alive), Some(Property::ServesReads));
    let crashed = JudgeOptions {
        crashes: vec!["m0 ended".into()],
        ..Default::default()
    };
    assert_eq!(failed(crashed), Some(Property::StaysUp));
}

/// CPU time of this thread so far, in seconds: what else the machine does is none of it.
fn cpu_seconds() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux tells");
    let (_, fields) = stat.rsplit_once(')').expect("the name is in parentheses");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |number: usize| fields[number].parse::<u64>().expect("a number");
    // Of user and of system, 100 to the second.
    (ticks(11) + ticks(12)) / 100
}

#[test]
fn a_long_run_takes_no_more_than_its_length() {
    let once = Once {
        seed: 1,
        keys: 300_000,
        unknown: 600,
        lie: OnceLie::Nothing,
    };
    let history = once.run();
    let begun = cpu_seconds();
    let report = judge(&history, &JudgeOptions::default());
    let spent = cpu_seconds() - begun;
    assert_eq!(report.verdict, Verdict::Passed, "{}", report.to_text());
    let counts = &report.counts;
    assert_eq!((counts.unknown, counts.once_other_versions), (600, 0));
    assert_eq!(counts.keys_checked_alone, 300_003);
    assert!((300..500).contains(&counts.revisions_of_unknown));
    // Some seven without optimization; looking for each key among all takes far longer, even with it.
    assert!(spent < 120, "{spent} s for {} operations", counts.operations);
}

#[test]
fn lies_in_a_long_run_are_found() {
    let found = |lie| {
        let once = Once {
            seed: 2,
            keys: 20_000,
            unknown: 500,
            lie,
        };
        let report = judge(&once.run(), &JudgeOptions::default());
        assert_eq!(report.undecided, [] as [String; 0]);
        let found: Vec<Property> = report.violations.iter().map(|found| found.property).collect();
        found
    };
    assert_eq!(found(OnceLie::Nothing), []);
    let twice = found(OnceLie::TwiceApplied);
    for property in [Property::ExactlyOnce, Property::PerKey] {
        assert!(twice.contains(&property), "{twice:?}");
    }
    let lost = found(OnceLie::Lost);
    for property in [Property::Durability, Property::Convergence] {
        assert!(lost.contains(&property), "{lost:?}");
    }
}
