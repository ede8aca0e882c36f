//! Cutting a failure down: the smallest plan that this finds which still violates the same property.
//!
//! ```text
//!   plan ─► run, with what the clients did ─► plan with a script ─► cut time, faults, clients, calls,
//!                                                    ▲              watchers, members, options
//!                                                    └── taken if the run still violates the property ──┘
//! ```
//!
//! Delta debugging (Zeller and Hildebrandt, 2002): ever smaller pieces are taken out, and stay out if the
//! failure stays. Candidates run side by side, as many as there are processors; of those that fail the first
//! in the order of the list is taken, so that the result does not depend on which one was faster. When nothing more
//! can go and much is left, each piece is tried again with other seeds: what a run still draws (latencies, the order of tasks) may have been
//! all that was in the way.
#![allow(clippy::disallowed_methods)]

mod cuts;

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use crate::campaign::{run_child, run_child_for_script};
use crate::plan::Plan;
use crate::report::Report;
use crate::scenario::Scenario;
use crate::seed::Seed;

/// Seeds that a candidate is tried with at the end.
const OTHER_SEEDS: u64 = 4;

/// What is no larger can be read, and is not worth that.
const FAULTS_GOAL: usize = 6;
const OPERATIONS_GOAL: usize = 12;

/// How it is done.
pub struct Options {
    pub executable: PathBuf,
    pub jobs: usize,
    /// CPU time of all runs together after which no more are begun.
    pub cpu_limit: Duration,
    pub quiet: bool,
}

/// What came of it.
#[derive(Debug)]
pub struct Shrunk {
    pub scenario: Scenario,
    /// The report of its run.
    pub report: Report,
    pub runs: u64,
    pub cpu_seconds: f64,
    /// A second run gave the same trace.
    pub replays: bool,
}

impl Shrunk {
    /// For people: what is left, and what it cost.
    pub fn print(&self) {
        let plan = &self.scenario.plan;
        print!("{}", plan.schedule);
        for client in plan.clients.script.iter().flatten() {
            for visit in &client.visits {
                for call in &visit.calls {
                    let at = call.at_nanos as f64 / 1e9;
                    let intent = serde_json::to_string(&call.intent).expect("plain data");
                    println!(
                        "{at:>7.3}s client {} to m{}: {intent}",
                        client.client,
                        visit.member + 1
                    );
                }
            }
        }
        if let Some(violation) = self.report.violations.first() {
            println!("violates {}: {}", violation.property, violation.text);
        }
        println!("{}", self.line());
    }

    /// What is left, and what that took, in a line.
    pub fn line(&self) -> String {
        format!(
            "left: {}; {} runs, {:.0} CPU s{}",
            self.size(),
            self.runs,
            self.cpu_seconds,
            if self.replays { "" } else { "; DOES NOT REPLAY" },
        )
    }

    /// What is left.
    pub fn size(&self) -> String {
        let plan = &self.scenario.plan;
        let drawn = if plan.clients.script.is_none() {
            " drawn"
        } else {
            ""
        };
        format!(
            "{} fault events, {}{drawn} client operations, {} watchers, {} members, {:?} of chaos",
            plan.schedule.faults.len(),
            client_operations(plan, &self.report),
            plan.clients.watchers,
            plan.members,
            plan.chaos_end,
        )
    }
}

/// Calls of the script; where there is none, all calls that were made, and what contenders were told.
pub fn client_operations(plan: &Plan, report: &Report) -> usize {
    let claims = report.counters.get("answers who holds or leads");
    match &plan.clients.script {
        Some(script) => script.iter().map(|client| client.calls()).sum(),
        None => report.operations as usize + claims.map_or(0, |claims| *claims as usize),
    }
}

/// Cuts a plan down.
///
/// # Errors
/// It violates nothing, or its process cannot be started.
pub fn shrink(options: &Options, plan: Plan) -> io::Result<Shrunk> {
    let report = run_child_for_script(&options.executable, &plan)?;
    let Some(property) = report.properties().first().map(|&name| name.to_owned()) else {
        return Err(io::Error::other(
            "it violates nothing: there is nothing to cut down",
        ));
    };
    let mut shrinker = Shrinker {
        options,
        property,
        runs: 1,
        cpu_seconds: report.cpu_seconds,
        best: plan,
        report,
        seeds: 1,
    };
    shrinker.run()?;
    shrinker.end()
}

struct Shrinker<'a> {
    options: &'a Options,
    property: String,
    best: Plan,
    report: Report,
    runs: u64,
    cpu_seconds: f64,
    /// Seeds that each candidate is tried with.
    seeds: u64,
}

impl Shrinker<'_> {
    fn run(&mut self) -> io::Result<()> {
        self.follow_script()?;
        self.until_nothing_goes()?;
        let operations = client_operations(&self.best, &self.report);
        if cuts::faults(&self.best) > FAULTS_GOAL || operations > OPERATIONS_GOAL {
            self.seeds = OTHER_SEEDS;
            self.until_nothing_goes()?;
        }
        Ok(())
    }

    /// Until nothing more can go.
    fn until_nothing_goes(&mut self) -> io::Result<()> {
        while !self.is_late() {
            let before = self.best.clone();
            self.shorten()?;
            self.reduce(cuts::faults, cuts::without_faults)?;
            if self.best.clients.script.is_none() {
                self.fewer_clients()?;
                self.follow_script()?;
            }
            self.reduce(cuts::clients, cuts::without_clients)?;
            self.reduce(cuts::calls, cuts::without_calls)?;
            while self.attempt(cuts::narrower(&self.best))?.is_some() {}
            self.attempt(cuts::fewer_watchers(&self.best))?;
            self.attempt(cuts::fewer_members(&self.best))?;
            self.toward_defaults()?;
            self.say();
            if self.best == before {
                break;
            }
        }
        Ok(())
    }

    fn say(&self) {
        if !self.options.quiet {
            eprintln!(
                "{} faults, {} client operations, {} members, {:?} of chaos; {} runs, {:.0} CPU s",
                self.best.schedule.faults.len(),
                client_operations(&self.best, &self.report),
                self.best.members,
                self.best.chaos_end,
                self.runs,
                self.cpu_seconds
            );
        }
    }

    fn is_late(&self) -> bool {
        self.cpu_seconds >= self.options.cpu_limit.as_secs_f64()
    }

    /// From now on the clients do what they did, and draw nothing.
    fn follow_script(&mut self) -> io::Result<()> {
        if self.best.clients.script.is_some() || self.best.clients.contend {
            return Ok(());
        }
        if self.report.script.is_empty() {
            self.report = run_child_for_script(&self.options.executable, &self.best)?;
        }
        let mut scripted = self.best.clone();
        scripted.clients.script = Some(self.report.script.clone());
        self.attempt(vec![scripted]).map(drop)
    }

    /// An earlier end, again and again.
    fn shorten(&mut self) -> io::Result<()> {
        while self.attempt(cuts::shorter(&self.best))?.is_some() {}
        Ok(())
    }

    /// Clients that draw: fewer of them, and fewer kinds of calls.
    fn fewer_clients(&mut self) -> io::Result<()> {
        while self.attempt(cuts::fewer_clients(&self.best))?.is_some() {}
        while self.attempt(cuts::fewer_kinds(&self.best))?.is_some() {}
        Ok(())
    }

    fn toward_defaults(&mut self) -> io::Result<()> {
        while self.attempt(cuts::toward_defaults(&self.best))?.is_some() {}
        Ok(())
    }

    /// Takes pieces out of a list, first large ones, then smaller ones.
    fn reduce(
        &mut self,
        length: fn(&Plan) -> usize,
        without: fn(&Plan, Range<usize>) -> Plan,
    ) -> io::Result<()> {
        let mut size = length(&self.best);
        while size > 0 {
            let mut start = 0;
            while start < length(&self.best) && !self.is_late() {
                let end = length(&self.best);
                let starts = (start..end).step_by(size).take(self.options.jobs.max(1));
                let pieces: Vec<_> = starts.map(|start| start..(start + size).min(end)).collect();
                let tried = pieces.len();
                let without = |piece| without(&self.best, piece);
                let candidates = pieces.into_iter().map(without).collect();
                start += size * self.attempt(candidates)?.unwrap_or(tried);
            }
            size /= 2;
        }
        Ok(())
    }

    /// Runs candidates until one violates the property; that one is the best from now on. Its number.
    fn attempt(&mut self, candidates: Vec<Plan>) -> io::Result<Option<usize>> {
        let seeds = 0..self.seeds;
        let variants = candidates.into_iter().enumerate().flat_map(|(number, plan)| {
            seeds.clone().map(move |other| {
                let seed = Seed(plan.seed.0.wrapping_add(other));
                (number, Plan { seed, ..plan.clone() })
            })
        });
        let variants: Vec<(usize, Plan)> = variants.filter(|(_, plan)| *plan != self.best).collect();
        for wave in variants.chunks(self.options.jobs.max(1)) {
            if self.is_late() {
                return Ok(None);
            }
            let reports = self.run_all(wave)?;
            for ((number, plan), report) in wave.iter().zip(reports) {
                if report.properties().first() == Some(&self.property.as_str()) {
                    (self.best, self.report) = (plan.clone(), report);
                    return Ok(Some(*number));
                }
            }
        }
        Ok(None)
    }

    fn run_all(&mut self, wave: &[(usize, Plan)]) -> io::Result<Vec<Report>> {
        let executable = &self.options.executable;
        let reports = std::thread::scope(|scope| {
            let start = |(_, plan)| scope.spawn(move || run_child(executable, plan));
            let started: Vec<_> = wave.iter().map(|(number, plan)| start((number, plan))).collect();
            let join = started.into_iter();
            join.map(|run| run.join().expect("a runner does not panic"))
                .collect::<io::Result<Vec<Report>>>()
        })?;
        self.runs += reports.len() as u64;
        self.cpu_seconds += reports.iter().map(|report| report.cpu_seconds).sum::<f64>();
        Ok(reports)
    }

    fn end(self) -> io::Result<Shrunk> {
        let executable = &self.options.executable;
        let [first, second] = [
            run_child(executable, &self.best)?,
            run_child(executable, &self.best)?,
        ];
        let same = first.trace_hash == second.trace_hash;
        let replays = same && first.properties().first() == Some(&self.property.as_str());
        Ok(Shrunk {
            scenario: Scenario::of_failure(self.best, &first),
            report: first,
            runs: self.runs + 2,
            cpu_seconds: self.cpu_seconds,
            replays,
        })
    }
}
