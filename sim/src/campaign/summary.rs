//! What the runs of a campaign amount to, for people and as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use crate::coverage;
use crate::judge::UNDECIDED;
use crate::report::{Report, add_counters};
use crate::seed::{FNV_OFFSET, fnv1a};

/// Failures that are shown in full.
const FAILURES_SHOWN: usize = 10;
/// The JSON has the hash after each so many runs.
const HASH_EVERY: usize = 500;

/// See the module's text.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    pub runs: u64,
    /// Runs that were made twice, and compared.
    pub compared: u64,
    pub simulated_seconds: f64,
    pub cpu_seconds: f64,
    pub wall_seconds: f64,
    pub operations: u64,
    pub acknowledged: u64,
    pub watch_responses: u64,
    pub counters: BTreeMap<String, u64>,
    /// By seed.
    pub failures: BTreeMap<u64, Report>,
    /// Seeds with a check that is neither passed nor failed.
    pub undecided: BTreeSet<u64>,
    #[serde(skip)]
    hashes: BTreeMap<u64, String>,
    slowest: (f64, u64),
}

impl Summary {
    pub(super) fn add(&mut self, report: Report, compared: bool) {
        self.runs += 1;
        self.compared += u64::from(compared);
        self.simulated_seconds += report.simulated_seconds;
        self.cpu_seconds += report.cpu_seconds;
        self.operations += report.operations;
        self.acknowledged += report.acknowledged;
        self.watch_responses += report.watch_responses;
        add_counters(&mut self.counters, &report.counters);
        self.hashes.insert(report.seed, report.trace_hash.clone());
        if report.cpu_seconds > self.slowest.0 {
            self.slowest = (report.cpu_seconds, report.seed);
        }
        if report.counters.get(UNDECIDED).is_some_and(|checks| *checks > 0) {
            self.undecided.insert(report.seed);
        }
        if !report.passed() {
            self.failures.insert(report.seed, report);
        }
    }

    /// One number over the traces of all seeds: equal for two campaigns over the same seeds and code.
    pub fn hash(&self) -> u64 {
        self.hashes_up_to().last().map_or(FNV_OFFSET, |(_, hash)| hash)
    }

    /// The same for the seeds up to each one, in order: a campaign says as much of its parts, and where two differ.
    fn hashes_up_to(&self) -> impl Iterator<Item = (u64, u64)> {
        self.hashes.iter().scan(FNV_OFFSET, |hash, (seed, trace)| {
            *hash = fnv1a(fnv1a(*hash, &seed.to_le_bytes()), trace.as_bytes());
            Some((*seed, *hash))
        })
    }

    /// The hash after each so many runs, by the last seed.
    fn hashes_on_the_way(&self) -> BTreeMap<u64, String> {
        self.hashes_up_to()
            .skip(HASH_EVERY - 1)
            .step_by(HASH_EVERY)
            .map(|(seed, hash)| (seed, format!("{hash:016x}")))
            .collect()
    }

    /// Runs that violated each property.
    pub fn by_property(&self) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        for property in self.failures.values().flat_map(Report::properties) {
            *counts.entry(property).or_default() += 1;
        }
        counts
    }

    /// What has to be exercised and was not.
    pub fn uncovered(&self) -> Vec<String> {
        coverage::missing(&self.counters)
    }

    /// All of it, for machines.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::to_value(self).expect("plain data");
        if let Some(fields) = json.as_object_mut() {
            let hash = format!("{:016x}", self.hash());
            fields.insert("hash".into(), hash.into());
            fields.insert("hash_up_to_seed".into(), json!(self.hashes_on_the_way()));
            fields.insert("uncovered".into(), self.uncovered().into());
        }
        json
    }

    /// The summary for people.
    pub fn print(&self) {
        self.print_failures();
        println!("\n  {:<44} {:>14}", "counted", "total");
        for (name, count) in coverage::with_known(&self.counters) {
            println!("  {name:<44} {count:>14}");
        }
        self.print_totals();
    }

    fn print_failures(&self) {
        for (seed, report) in self.failures.iter().take(FAILURES_SHOWN) {
            let source = if report.file.is_empty() {
                seed.to_string()
            } else {
                report.file.clone()
            };
            println!(
                "seed {seed} FAILED; again: cargo sim replay {source} --log; cut down: cargo sim shrink {source}"
            );
            println!("    as a page: cargo sim replay {source} --timeline target/seed-{seed}.html");
            for violation in &report.violations {
                println!(
                    "    {}: {}",
                    violation.property,
                    violation.text.replace('\n', "\n    ")
                );
            }
        }
        if self.failures.len() > FAILURES_SHOWN {
            let rest = self.failures.keys().skip(FAILURES_SHOWN);
            let rest: Vec<String> = rest.map(u64::to_string).collect();
            println!("more failed seeds: {}", rest.join(" "));
        }
    }

    fn print_totals(&self) {
        let line = |name: &str, value: String| println!("  {name:<44} {value:>14}");
        let cpu = self.cpu_seconds.max(1e-9);
        println!();
        line("runs", self.runs.to_string());
        line("failed", self.failures.len().to_string());
        for (property, count) in self.by_property() {
            line(&format!("  {property}"), count.to_string());
        }
        line("undecided", self.undecided.len().to_string());
        for seed in self.undecided.iter().take(FAILURES_SHOWN) {
            line("  seed", seed.to_string());
        }
        line("run twice and compared", self.compared.to_string());
        line("operations", self.operations.to_string());
        line("acknowledged", self.acknowledged.to_string());
        line("watch responses", self.watch_responses.to_string());
        line("simulated seconds", format!("{:.0}", self.simulated_seconds));
        line("CPU seconds", format!("{:.1}", self.cpu_seconds));
        line("wall seconds", format!("{:.1}", self.wall_seconds));
        line(
            "simulated s per CPU s",
            format!("{:.1}", self.simulated_seconds / cpu),
        );
        line(
            "operations per CPU s",
            format!("{:.0}", self.operations as f64 / cpu),
        );
        line("slowest seed", self.slowest.1.to_string());
        line("its CPU seconds", format!("{:.1}", self.slowest.0));
        line("hash of all traces", format!("{:016x}", self.hash()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Violation;

    fn report(seed: u64, trace: &str, failed: bool) -> Report {
        let violation = Violation::new("linearizable", "stale");
        Report {
            seed,
            trace_hash: trace.to_owned(),
            violations: failed.then_some(violation).into_iter().collect(),
            counters: BTreeMap::from([("fault/Kill".to_owned(), 2)]),
            ..Report::default()
        }
    }

    #[test]
    fn a_long_campaign_tells_the_hash_of_a_short_one() {
        let campaign = |seeds: u64| {
            let mut summary = Summary::default();
            (0..seeds).for_each(|seed| summary.add(report(seed, "aa", false), false));
            summary
        };
        let every = HASH_EVERY as u64;
        let short = campaign(every);
        let expected = BTreeMap::from([(every - 1, format!("{:016x}", short.hash()))]);
        assert_eq!(short.hashes_on_the_way(), expected);
        assert_eq!(campaign(every + 1).hashes_on_the_way(), expected);
        assert_ne!(campaign(every + 1).hash(), short.hash());
    }

    #[test]
    fn a_summary_does_not_depend_on_the_order_of_its_runs() {
        let sum = |reports: [Report; 3]| {
            let mut summary = Summary::default();
            reports.into_iter().for_each(|report| summary.add(report, false));
            (summary.hash(), summary.failures.len(), summary.counters)
        };
        let [a, b, c] = [
            report(1, "aa", false),
            report(2, "bb", true),
            report(3, "cc", false),
        ];
        let forward = sum([a.clone(), b.clone(), c.clone()]);
        assert_eq!(forward, sum([c.clone(), a.clone(), b.clone()]));
        assert_eq!((forward.1, forward.2.get("fault/Kill")), (1, Some(&6)));
        assert_ne!(forward.0, sum([report(1, "ab", false), b, c]).0);
    }

    #[test]
    fn what_is_undecided_is_named() {
        let mut summary = Summary::default();
        summary.add(report(1, "aa", false), false);
        let mut undecided = report(2, "bb", false);
        undecided.counters.insert(UNDECIDED.to_owned(), 1);
        summary.add(undecided, false);
        assert_eq!(summary.to_json()["undecided"], json!([2]));
    }

    #[test]
    fn what_was_never_exercised_is_named() {
        let mut summary = Summary::default();
        summary.add(report(1, "aa", false), false);
        let uncovered = summary.uncovered();
        assert!(uncovered.contains(&"fault/Pause".to_owned()));
        assert!(!uncovered.contains(&"fault/Kill".to_owned()));
        let json = summary.to_json();
        assert_eq!(json["runs"], 1);
        assert_eq!(json["counters"]["fault/Kill"], 2);
    }
}
