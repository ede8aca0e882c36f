//! The proof that the checks bite: historical bugs, put back one at a time, have to be found by the
//! property that should find them.
//!
//! ```text
//!   sim/mutants/catalogue.json ─► copy of the workspace ─► patch ─► cargo build ─► seeds until one fails
//!   sim/mutants/<n>-*.patch        target/mutants/<n>               (shared target)      └─► replay twice
//! ```
//!
//! A mutant is a patch file: the product's code carries no trace of it. It is *killed* only if a property
//! that the catalogue expects fires; a panic elsewhere is luck. Nothing here touches the working tree.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::campaign::{Campaign, run_child};
use crate::plan::Plan;
use crate::report::Report;
use crate::seed::Seed;
use crate::shrink::{self, Shrunk};

/// One entry of the catalogue.
#[derive(Clone, Debug, Deserialize)]
pub struct Mutant {
    /// The row of the table of historical bugs.
    pub number: u32,
    /// The patch file, beside the catalogue.
    pub patch: String,
    /// Where the bug happened, with a link.
    pub origin: String,
    pub link: String,
    /// What went wrong there, and what the patch does here.
    pub what: String,
    /// Properties one of which has to fire.
    pub expected: Vec<String>,
}

/// How a mutant fared.
pub struct Outcome {
    mutant: Mutant,
    verdict: Verdict,
    seeds: u64,
    cpu_seconds: f64,
    build: Duration,
}

enum Verdict {
    Killed {
        report: Box<Report>,
        replayed: bool,
        /// What is left of its plan, if it was cut down.
        shrunk: Option<Box<Shrunk>>,
    },
    /// Something fired, but nothing that was expected.
    ByLuck {
        report: Report,
    },
    Survived,
    Broken(String),
}

/// How the mutants are run.
pub struct Options {
    /// The workspace's root.
    pub root: PathBuf,
    pub only: Option<u32>,
    pub seeds: u64,
    pub start: u64,
    pub jobs: usize,
    pub budget: Duration,
    /// CPU time for cutting down what killed a mutant; zero: that is left alone.
    pub shrink: Duration,
}

/// The catalogue, as it is stored.
pub fn catalogue(root: &Path) -> io::Result<Vec<Mutant>> {
    let text = fs::read_to_string(root.join("sim/mutants/catalogue.json"))?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

/// Runs the mutants and prints the table. True if every one was killed.
pub fn run(options: &Options) -> io::Result<bool> {
    let wanted = |mutant: &Mutant| options.only.is_none_or(|only| only == mutant.number);
    let mutants: Vec<Mutant> = catalogue(&options.root)?.into_iter().filter(wanted).collect();
    if mutants.is_empty() {
        return Err(io::Error::other("no such mutant in sim/mutants/catalogue.json"));
    }
    let mut outcomes = Vec::new();
    for mutant in mutants {
        eprintln!("mutant {}: {}", mutant.number, mutant.what);
        let outcome = try_mutant(options, mutant);
        eprintln!("  {}", outcome.line());
        outcomes.push(outcome);
    }
    println!("\n  {:>3}  {:<24} verdict", "row", "origin");
    for outcome in &outcomes {
        println!(
            "  {:>3}  {:<24} {}",
            outcome.mutant.number,
            outcome.mutant.origin,
            outcome.line()
        );
    }
    Ok(outcomes.iter().all(Outcome::is_killed))
}

impl Outcome {
    fn is_killed(&self) -> bool {
        matches!(self.verdict, Verdict::Killed { replayed: true, .. })
    }

    fn line(&self) -> String {
        let cost = format!(
            "{} seeds, {:.1} CPU s, build {} s",
            self.seeds,
            self.cpu_seconds,
            self.build.as_secs()
        );
        let fired = |report: &Report| {
            let mut names: Vec<&str> = report
                .violations
                .iter()
                .map(|violation| violation.property.as_str())
                .collect();
            names.dedup();
            format!("{} at seed {}", names.join(", "), report.seed)
        };
        match &self.verdict {
            Verdict::Killed {
                report,
                replayed: true,
                shrunk,
            } => {
                let left = shrunk.as_ref().map(|shrunk| format!("; {}", shrunk.line()));
                let left = left.unwrap_or_default();
                format!("killed by {}; replays ({cost}){left}", fired(report))
            }
            Verdict::Killed { report, .. } => format!("NOT REPRODUCED: {} ({cost})", fired(report)),
            Verdict::ByLuck { report } => {
                let expected = self.mutant.expected.join(" or ");
                format!("NOT AS EXPECTED: {}, expected {expected} ({cost})", fired(report))
            }
            Verdict::Survived => format!("SURVIVED ({cost})"),
            Verdict::Broken(why) => format!("NOT BUILT: {why}"),
        }
    }
}

fn try_mutant(options: &Options, mutant: Mutant) -> Outcome {
    let begun = Instant::now();
    let mut outcome = Outcome {
        mutant,
        verdict: Verdict::Survived,
        seeds: 0,
        cpu_seconds: 0.0,
        build: Duration::ZERO,
    };
    let built = build(options, &outcome.mutant);
    outcome.build = begun.elapsed();
    let searched = built.and_then(|executable| search(options, &executable, &mut outcome));
    if let Err(error) = searched {
        outcome.verdict = Verdict::Broken(error.to_string());
    }
    outcome
}

/// Runs seeds until one fails as expected, and that one again. Whatever else fires meanwhile, such as an assertion of a
/// library, counts as luck and ends nothing.
fn search(options: &Options, executable: &Path, outcome: &mut Outcome) -> io::Result<()> {
    let begun = Instant::now();
    let mut start = options.start;
    let end = options.start + options.seeds;
    while start < end && begun.elapsed() < options.budget {
        let campaign = Campaign {
            jobs: options.jobs,
            stop_at_failure: true,
            budget: Some(options.budget.saturating_sub(begun.elapsed())),
            ..Campaign::new(executable.to_owned(), start, end - start)
        };
        let summary = campaign.carry_out(&|_| {})?;
        outcome.seeds += summary.runs;
        outcome.cpu_seconds += summary.cpu_seconds;
        let expected = &outcome.mutant.expected;
        let as_expected = |report: &Report| {
            let first = report.violations.first();
            first.is_some_and(|violation| expected.contains(&violation.property))
        };
        let failures: Vec<Report> = summary.failures.into_values().collect();
        let Some(last) = failures.last() else {
            return Ok(());
        };
        start = last.seed + 1;
        let Some(report) = failures.iter().find(|report| as_expected(report)).cloned() else {
            outcome.verdict = Verdict::ByLuck { report: last.clone() };
            continue;
        };
        let again = run_child(executable, &Plan::draw(Seed(report.seed)))?;
        let replayed = again.trace_hash == report.trace_hash && again.violations == report.violations;
        let shrunk = shrink_failure(options, executable, &report, outcome.mutant.number)?;
        outcome.verdict = Verdict::Killed {
            report: Box::new(report),
            replayed,
            shrunk,
        };
        return Ok(());
    }
    Ok(())
}

/// Cuts down what killed a mutant, and stores what is left.
fn shrink_failure(
    options: &Options,
    executable: &Path,
    report: &Report,
    number: u32,
) -> io::Result<Option<Box<Shrunk>>> {
    if options.shrink.is_zero() {
        return Ok(None);
    }
    let how = shrink::Options {
        executable: executable.to_owned(),
        jobs: options.jobs,
        cpu_limit: options.shrink,
        quiet: false,
    };
    let shrunk = shrink::shrink(&how, Plan::draw(Seed(report.seed)))?;
    let file = format!("target/sim/shrunk/mutant-{number}.json");
    shrunk.scenario.store(&options.root.join(file))?;
    Ok(Some(Box::new(shrunk)))
}

/// A patched copy of the workspace, built; the simulator's executable.
fn build(options: &Options, mutant: &Mutant) -> io::Result<PathBuf> {
    let root = &options.root;
    let patch = root.join("sim/mutants").join(&mutant.patch);
    // One folder for all mutants: cargo then rebuilds only what a patch touches.
    let copy = root.join("target/mutants/tree");
    let target = root.join("target/mutants/target");
    synchronize(root, &copy)?;
    let applied = Command::new("git")
        .args(["apply", "--whitespace=nowarn", "-p1"])
        .arg(&patch)
        .current_dir(&copy)
        // A folder of its own, even though it lies inside of a repository.
        .env("GIT_DIR", "/nonexistent")
        .output()?;
    if !applied.status.success() {
        let why = String::from_utf8_lossy(&applied.stderr);
        return Err(io::Error::other(format!(
            "{} does not apply: {why}",
            patch.display()
        )));
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "quorate-sim", "--profile", "sim"])
        .args(["--config", "build.rustflags=['--cfg','madsim']", "--target-dir"])
        .arg(&target)
        .current_dir(&copy)
        .output()?;
    if !built.status.success() {
        let why = String::from_utf8_lossy(&built.stderr);
        return Err(io::Error::other(format!(
            "{} does not build: {why}",
            mutant.patch
        )));
    }
    let executable = target.join(format!("mutant-{}", mutant.number));
    fs::copy(target.join("sim/quorate-sim"), &executable)?;
    Ok(executable)
}

/// Makes `copy` hold the workspace's files; files that are the same keep their times, so that cargo does
/// not rebuild what did not change.
fn synchronize(root: &Path, copy: &Path) -> io::Result<()> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    if !listed.status.success() {
        return Err(io::Error::other(
            String::from_utf8_lossy(&listed.stderr).into_owned(),
        ));
    }
    let names = String::from_utf8(listed.stdout).map_err(io::Error::other)?;
    let mut wanted: std::collections::BTreeSet<PathBuf> = names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .collect();
    wanted.retain(|name| root.join(name).is_file());
    fs::create_dir_all(copy)?;
    remove_others(copy, copy, &wanted)?;
    for name in &wanted {
        let (from, to) = (root.join(name), copy.join(name));
        let content = fs::read(&from)?;
        if fs::read(&to).is_ok_and(|present| present == content) {
            continue;
        }
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&to, content)?;
    }
    Ok(())
}

fn remove_others(copy: &Path, folder: &Path, wanted: &std::collections::BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(copy, &path, wanted)?;
        } else if !path.strip_prefix(copy).is_ok_and(|name| wanted.contains(name)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn every_entry_of_the_catalogue_has_a_patch_and_every_patch_an_entry() {
        let catalogue = catalogue(&root()).expect("a readable catalogue");
        let mut named: Vec<String> = catalogue.iter().map(|mutant| mutant.patch.clone()).collect();
        named.sort();
        let files = fs::read_dir(root().join("sim/mutants")).expect("the folder");
        let mut patches: Vec<String> = files
            .map(|file| file.expect("readable").file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".patch"))
            .collect();
        patches.sort();
        assert_eq!(named, patches);
        assert!(
            catalogue
                .iter()
                .all(|mutant| !mutant.expected.is_empty() && mutant.link.starts_with("https://"))
        );
    }
}
