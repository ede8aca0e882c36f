//! Many runs: one child process per seed, some of them twice, and what they amount to.
//!
//! A process of its own for each seed, without address randomisation and with an empty environment:
//! hash keys, call sites and pointers are then the same in every run of a seed. Starting one costs a few
//! milliseconds, a run costs a thousand times that.
//!
//! Runs outside of any simulation: it may use the clock and threads of the machine.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::personality::{self, Persona};

use crate::plan::Plan;
use crate::report::{Report, Violation, add_counters};
use crate::seed::{FNV_OFFSET, Seed, fnv1a};

/// CPU time after which a run is given up, in seconds.
pub const CPU_SECONDS_MAX: u64 = 180;
/// Memory that one run may use: a member that grows without end is a failure like others.
pub const MEMORY_BYTES_MAX: u64 = 3 << 30;
/// Failures that are shown in full.
const FAILURES_SHOWN: usize = 10;

/// Which runs, and how.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The simulator's executable.
    pub executable: PathBuf,
    pub start: u64,
    pub seeds: u64,
    pub jobs: usize,
    /// Each so-many-th seed is run twice; 0: none.
    pub twice_every: u64,
    /// End at the first failure.
    pub stop_at_failure: bool,
    /// Start no run after so much time.
    pub budget: Option<Duration>,
    pub quiet: bool,
}

/// What a campaign amounts to.
#[derive(Debug, Default)]
pub struct Summary {
    pub runs: u64,
    pub compared: u64,
    /// By seed.
    pub failures: BTreeMap<u64, Report>,
    pub simulated_seconds: f64,
    pub cpu_seconds: f64,
    pub operations: u64,
    pub acknowledged: u64,
    pub watch_responses: u64,
    pub counters: BTreeMap<String, u64>,
    hashes: BTreeMap<u64, String>,
    slowest: (f64, u64),
}

/// Children get the same addresses in each run.
pub fn fix_addresses() {
    let fixed = personality::get().and_then(|persona| personality::set(persona | Persona::ADDR_NO_RANDOMIZE));
    if let Err(error) = fixed {
        eprintln!("warning: address randomisation stays on ({error}): traces may differ between runs");
    }
}

/// Carries a plan out in a process of its own.
pub fn run_child(executable: &Path, plan: &Plan) -> io::Result<Report> {
    let output = child(executable, plan, |command| command.stderr(Stdio::piped()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(report) = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
    {
        return Ok(report);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail = errors.ceil_char_boundary(errors.len().saturating_sub(2_000));
    let tail = errors.get(tail..).unwrap_or_default();
    let text = format!("a run ends with a report: {} {tail}", output.status);
    Ok(Report {
        seed: plan.seed.0,
        violations: vec![Violation::new("ends-in-time", text)],
        ..Report::default()
    })
}

/// Runs the child that carries a plan out. It gets the plan on its standard input, wherever that comes from:
/// its memory then looks the same for a seed and for that seed's file.
pub fn child(
    executable: &Path,
    plan: &Plan,
    arrange: impl FnOnce(&mut Command) -> &mut Command,
) -> io::Result<Output> {
    let mut command = Command::new(executable);
    command.env_clear().arg("child");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = arrange(&mut command).spawn()?;
    let input = serde_json::to_vec(plan).expect("plain data");
    let mut stdin = child.stdin.take().expect("it was asked for");
    // A child that ends before it has read everything is judged by what it says.
    let _ = stdin.write_all(&input);
    drop(stdin);
    child.wait_with_output()
}

impl Campaign {
    /// Carries it out; `each` sees every report.
    pub fn carry_out(&self, each: &(dyn Fn(&Report) + Sync)) -> io::Result<Summary> {
        let next = AtomicU64::new(0);
        let stopped = AtomicBool::new(false);
        let summary = Mutex::new(Summary::default());
        let bar = self.progress();
        let begun = Instant::now();
        let late = || self.budget.is_some_and(|budget| begun.elapsed() > budget);
        let worker = || -> io::Result<()> {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.seeds || stopped.load(Ordering::Relaxed) || late() {
                    return Ok(());
                }
                let seed = self.start + number;
                let report = self.run(number, seed)?;
                each(&report);
                if !report.passed() && self.stop_at_failure {
                    stopped.store(true, Ordering::Relaxed);
                }
                let mut summary = summary.lock().expect("nothing panics under this lock");
                summary.add(report, self.is_compared(number));
                bar.set_message(format!("{} failed", summary.failures.len()));
                bar.inc(1);
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.jobs.max(1)).map(|_| scope.spawn(worker)).collect();
            let ends = workers
                .into_iter()
                .map(|worker| worker.join().expect("a worker does not panic"));
            ends.collect::<io::Result<Vec<()>>>()
        })?;
        bar.finish_and_clear();
        Ok(summary.into_inner().expect("nothing panics under this lock"))
    }

    fn progress(&self) -> ProgressBar {
        if self.quiet {
            return ProgressBar::hidden();
        }
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {msg}, {eta} left");
        ProgressBar::new(self.seeds).with_style(style.expect("the template is well-formed"))
    }

    fn is_compared(&self, number: u64) -> bool {
        self.twice_every > 0 && number.is_multiple_of(self.twice_every)
    }

    fn run(&self, number: u64, seed: u64) -> io::Result<Report> {
        let plan = Plan::draw(Seed(seed));
        let mut report = run_child(&self.executable, &plan)?;
        if self.is_compared(number) {
            let again = run_child(&self.executable, &plan)?;
            if (&again.trace_hash, again.trace_lines) != (&report.trace_hash, report.trace_lines) {
                let text = format!(
                    "a seed gives the same trace again: {} ({} lines), then {} ({} lines)",
                    report.trace_hash, report.trace_lines, again.trace_hash, again.trace_lines
                );
                report.violations.push(Violation::new("determinism", text));
            }
        }
        Ok(report)
    }
}

impl Summary {
    fn add(&mut self, report: Report, compared: bool) {
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
        if !report.passed() {
            self.failures.insert(report.seed, report);
        }
    }

    /// One number over the traces of all seeds: equal for two campaigns over the same seeds and code.
    pub fn hash(&self) -> u64 {
        self.hashes.iter().fold(FNV_OFFSET, |hash, (seed, trace)| {
            fnv1a(fnv1a(hash, &seed.to_le_bytes()), trace.as_bytes())
        })
    }

    /// The summary for people.
    pub fn print(&self) {
        for (seed, report) in self.failures.iter().take(FAILURES_SHOWN) {
            println!("seed {seed} FAILED; reproduce: cargo sim replay {seed} --log");
            println!("    as a page: cargo sim replay {seed} --timeline target/seed-{seed}.html");
            for violation in &report.violations {
                println!(
                    "    {}: {}",
                    violation.property,
                    violation.text.replace('\n', "\n    ")
                );
            }
        }
        if self.failures.len() > FAILURES_SHOWN {
            let rest: Vec<String> = self
                .failures
                .keys()
                .skip(FAILURES_SHOWN)
                .map(u64::to_string)
                .collect();
            println!("more failed seeds: {}", rest.join(" "));
        }
        let mut by_property: BTreeMap<&str, u64> = BTreeMap::new();
        for report in self.failures.values() {
            let properties: BTreeSet<&str> = report
                .violations
                .iter()
                .map(|violation| violation.property.as_str())
                .collect();
            properties
                .into_iter()
                .for_each(|property| *by_property.entry(property).or_default() += 1);
        }
        let cpu = self.cpu_seconds.max(1e-9);
        println!("\n  {:<28} {:>14}", "counted", "total");
        for (name, count) in &self.counters {
            println!("  {name:<28} {count:>14}");
        }
        println!("\n  {:<28} {:>14}", "runs", self.runs);
        println!("  {:<28} {:>14}", "failed", self.failures.len());
        for (property, count) in by_property {
            println!("    {property:<26} {count:>14}");
        }
        println!("  {:<28} {:>14}", "run twice and compared", self.compared);
        println!("  {:<28} {:>14}", "operations", self.operations);
        println!("  {:<28} {:>14}", "acknowledged", self.acknowledged);
        println!("  {:<28} {:>14}", "watch responses", self.watch_responses);
        println!("  {:<28} {:>14.0}", "simulated seconds", self.simulated_seconds);
        println!("  {:<28} {:>14.1}", "CPU seconds", self.cpu_seconds);
        println!(
            "  {:<28} {:>14.1}",
            "simulated s per CPU s",
            self.simulated_seconds / cpu
        );
        println!(
            "  {:<28} {:>14.0}",
            "operations per CPU s",
            self.operations as f64 / cpu
        );
        println!("  {:<28} {:>14}", "slowest seed", self.slowest.1);
        println!("  {:<28} {:>14.1}", "its CPU seconds", self.slowest.0);
        println!(
            "  {:<28} {:>14}",
            "hash of all traces",
            format!("{:016x}", self.hash())
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seed: u64, trace: &str, failed: bool) -> Report {
        let violation = Violation::new("linearizable", "stale");
        Report {
            seed,
            trace_hash: trace.to_owned(),
            violations: failed.then_some(violation).into_iter().collect(),
            counters: BTreeMap::from([("Kill".to_owned(), 2)]),
            ..Report::default()
        }
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
        assert_eq!((forward.1, forward.2.get("Kill")), (1, Some(&6)));
        assert_ne!(forward.0, sum([report(1, "ab", false), b, c]).0);
    }

    #[test]
    fn a_child_that_says_nothing_is_a_failure() {
        let report = run_child(Path::new("/bin/false"), &Plan::draw(Seed(7))).expect("it starts");
        assert_eq!(report.seed, 7);
        assert_eq!(report.violations[0].property, "ends-in-time");
    }
}
