//! Campaigns that must fail. If one passes, the pipeline is broken: checks that do not check, reports that are
//! not read, seeds that are not run.

use std::io;
use std::path::PathBuf;

use crate::campaign::{Campaign, Summary};
use crate::report::Report;
use crate::sabotage::{Sabotage, canary, with_canaries, with_lying_disks};

/// Which seeds.
pub struct Options {
    pub executable: PathBuf,
    pub start: u64,
    pub seeds: u64,
    pub jobs: usize,
    /// The folder that gets a scenario for each seed that fails and should not.
    pub failures: PathBuf,
}

impl Options {
    fn campaign(&self) -> Campaign {
        Campaign {
            jobs: self.jobs,
            failures: Some(self.failures.clone()),
            ..Campaign::new(self.executable.clone(), self.start, self.seeds)
        }
    }
}

fn notices(report: &Report, sabotage: Sabotage) -> bool {
    let violated = report.properties();
    sabotage
        .expected()
        .iter()
        .any(|property| violated.contains(property))
}

/// One of a hundred seeds is falsified. True if each of these was found, by a property that should find it, and
/// nothing else was.
pub fn canaries(options: &Options) -> io::Result<bool> {
    let campaign = Campaign {
        arrange: with_canaries,
        ..options.campaign()
    };
    let summary = campaign.carry_out(&|_| {})?;
    Ok(judge_canaries(
        &summary,
        options.start..options.start + options.seeds,
    ))
}

fn judge_canaries(summary: &Summary, seeds: std::ops::Range<u64>) -> bool {
    let mut good = true;
    let canaries: Vec<(u64, Sabotage)> = seeds.filter_map(|seed| Some((seed, canary(seed)?))).collect();
    for (seed, sabotage) in &canaries {
        let report = summary.failures.get(seed);
        let found = report.is_some_and(|report| notices(report, *sabotage));
        let violated = report.map(Report::properties).unwrap_or_default();
        let verdict = if found { "found" } else { "NOT FOUND" };
        println!("canary {seed} ({sabotage:?}) {verdict}: {}", violated.join(", "));
        good &= found;
    }
    for (seed, report) in &summary.failures {
        if canary(*seed).is_none() {
            println!(
                "seed {seed} is no canary and failed: {}",
                report.properties().join(", ")
            );
            good = false;
        }
    }
    println!(
        "{} runs, {} canaries, {:.0} CPU s",
        summary.runs,
        canaries.len(),
        summary.cpu_seconds
    );
    good && !canaries.is_empty()
}

/// The disks of all members lie. True if clients noticed.
pub fn no_fsync(options: &Options) -> io::Result<bool> {
    let campaign = Campaign {
        arrange: with_lying_disks,
        failures: None,
        ..options.campaign()
    };
    let summary = campaign.carry_out(&|_| {})?;
    for (property, count) in summary.by_property() {
        println!("  {property:<32} {count:>6} runs");
    }
    let noticed = |report: &&Report| notices(report, Sabotage::LyingSync);
    let found = summary.failures.values().filter(noticed).count();
    println!(
        "{} runs on disks that lie, lost writes noticed in {found}, {:.0} CPU s",
        summary.runs, summary.cpu_seconds
    );
    Ok(found > 0)
}
