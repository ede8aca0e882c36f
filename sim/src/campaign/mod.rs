//! Many runs: one child process per seed, some of them twice, and what they amount to.
//!
//! ```text
//!   seeds ─► Plan::draw ─► arrange ─► child ─► Report ─► Summary ─► text, JSON, files of the failures
//! ```
//!
//! Runs outside of any simulation: it may use the clock and threads of the machine.
#![allow(clippy::disallowed_methods)]

mod child;
mod summary;

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use quorate_jepsen::workload::Workload;

pub use self::child::{
    CPU_SECONDS_MAX, MEMORY_BYTES_MAX, child, fix_addresses, run_child, run_child_for_script,
};
pub use self::summary::Summary;
use crate::plan::Plan;
use crate::report::{Report, Violation};
use crate::scenario::Scenario;
use crate::seed::Seed;

/// Which runs, and how.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The simulator's executable.
    pub executable: PathBuf,
    pub start: u64,
    pub seeds: u64,
    /// The workload of all runs; `None`: each seed draws its own.
    pub workload: Option<Workload>,
    /// What is made of a seed's plan.
    pub arrange: fn(Plan) -> Plan,
    pub jobs: usize,
    /// Each so-many-th seed is run twice; 0: none.
    pub twice_every: u64,
    /// End at the first failure.
    pub stop_at_failure: bool,
    /// Start no run after so much time.
    pub budget: Option<Duration>,
    /// The folder that gets a scenario for each failed seed.
    pub failures: Option<PathBuf>,
    pub quiet: bool,
}

impl Campaign {
    /// So many seeds from this one, on all processors, and nothing else.
    pub fn new(executable: PathBuf, start: u64, seeds: u64) -> Self {
        Campaign {
            executable,
            start,
            seeds,
            workload: None,
            arrange: |plan| plan,
            jobs: processors(),
            twice_every: 0,
            stop_at_failure: false,
            budget: None,
            failures: None,
            quiet: false,
        }
    }

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
                let report = self.run(number)?;
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
        let mut summary = summary.into_inner().expect("nothing panics under this lock");
        summary.wall_seconds = begun.elapsed().as_secs_f64();
        Ok(summary)
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

    fn run(&self, number: u64) -> io::Result<Report> {
        let seed = self.start + number;
        let drawn = match self.workload {
            Some(workload) => Plan::draw_of(Seed(seed), workload),
            None => Plan::draw(Seed(seed)),
        };
        let plan = (self.arrange)(drawn);
        let mut report = run_child(&self.executable, &plan)?;
        if self.is_compared(number) {
            self.compare(&plan, &mut report)?;
        }
        if let Some(folder) = self.failures.as_ref().filter(|_| !report.passed()) {
            let path = folder.join(format!("{seed}.json"));
            Scenario::of_failure(plan, &report).store(&path)?;
            report.file = path.display().to_string();
        }
        Ok(report)
    }

    /// The second run is that of the stored scenario.
    fn compare(&self, plan: &Plan, report: &mut Report) -> io::Result<()> {
        let stored = Scenario::of_failure(plan.clone(), report).to_json();
        let stored: Scenario = serde_json::from_str(&stored)?;
        let again = run_child(&self.executable, &stored.plan)?;
        if (&again.trace_hash, again.trace_lines) != (&report.trace_hash, report.trace_lines) {
            let text = format!(
                "a seed gives the same trace again: {} ({} lines), then {} ({} lines)",
                report.trace_hash, report.trace_lines, again.trace_hash, again.trace_lines
            );
            report.violations.push(Violation::new("determinism", text));
        }
        Ok(())
    }
}

/// Runs at a time that keep the machine busy.
pub fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
