//! The proof that the checks bite: historical bugs, put back one at a time, have to be found by the
//! property that should find them.
//!
//! ```text
//!   sim/mutants/catalogue.json ─► copy of the workspace, or of a library ─► patch ─► cargo build ─► seeds until one fails
//!   sim/mutants/<n>-*.patch        target/mutants/…                                  (shared target)    └─► replay twice
//! ```
//!
//! A mutant is a patch file: the product's code carries no trace of it. It is *killed* only if a property
//! that the catalogue expects fires; a panic elsewhere is luck. Nothing here touches the working tree.
//!
//! Mutants are built without the debug assertions of raft's libraries, as a release is: they are no part of what the properties
//! see, and would end the run before anything can be seen.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::campaign::{Campaign, run_child};
use crate::plan::Plan;
use crate::report::Report;
use crate::seed::Seed;
use crate::shrink::{self, Shrunk};

/// Seeds between two looks at the budget.
const SEEDS_PER_STEP: u64 = 20;
/// Where the table is kept, below the root.
const RESULTS: &str = "sim/mutants/RESULTS.md";
/// The packages that are compiled again for a mutant.
const WORKSPACE: [&str; 3] = ["quorate", "quorate-jepsen", "quorate-sim"];
/// The libraries that look after raft's invariants with debug assertions, which the profile `sim` has on.
const RAFT_LIBRARIES: [&str; 2] = ["openraft", "quorum-set"];
const TABLE_HEAD: &str = "| patch | verdict | seed | seeds run | CPU s | simulated s | replays | left when cut down |\n|---|---|--:|--:|--:|--:|---|---|\n";
/// Where what is left of the failures is kept, beside the table.
const SHRUNK: &str = "shrunk";

/// One entry of the catalogue.
#[derive(Clone, Debug, Deserialize)]
pub struct Mutant {
    /// The row of the table of historical bugs.
    pub number: u32,
    /// The patch file, beside the catalogue.
    pub patch: String,
    /// P: patches our code; O: patches a library; M: changes what disk or transport promise.
    pub kind: String,
    /// The library that is patched, by its name in Cargo.lock; `None`: the workspace.
    #[serde(rename = "crate")]
    pub library: Option<String>,
    /// Where the bug happened, with a link.
    pub origin: String,
    pub link: String,
    /// What went wrong there, and what the patch does here.
    pub what: String,
    /// What has to happen so that it shows.
    pub fault: String,
    /// Properties one of which has to fire.
    pub expected: Vec<String>,
}

/// How a mutant fared.
pub struct Outcome {
    mutant: Mutant,
    verdict: Verdict,
    seeds: u64,
    cpu_seconds: f64,
    simulated_seconds: f64,
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
    /// A row of the catalogue, or the beginning of a patch's name.
    pub only: Option<String>,
    pub seeds: u64,
    pub start: u64,
    pub jobs: usize,
    /// CPU time that the runs of one mutant may take together.
    pub cpu_seconds_max: f64,
    /// CPU time for cutting down what killed a mutant; zero: that is left alone.
    pub shrink: Duration,
}

/// The catalogue, as it is stored.
pub fn catalogue(root: &Path) -> io::Result<Vec<Mutant>> {
    let text = fs::read_to_string(root.join("sim/mutants/catalogue.json"))?;
    serde_json::from_str(&text).map_err(io::Error::other)
}

impl Mutant {
    fn is_wanted(&self, only: &str) -> bool {
        self.number.to_string() == only || self.patch.starts_with(only)
    }

    fn file_of_shrunk(&self) -> String {
        format!("{}.json", self.patch.trim_end_matches(".patch"))
    }
}

/// Runs the mutants, prints the table and keeps it. True if every one was killed.
pub fn run(options: &Options) -> io::Result<bool> {
    let wanted = |mutant: &Mutant| options.only.as_deref().is_none_or(|only| mutant.is_wanted(only));
    let mutants: Vec<Mutant> = catalogue(&options.root)?.into_iter().filter(wanted).collect();
    if mutants.is_empty() {
        return Err(io::Error::other("no such mutant in sim/mutants/catalogue.json"));
    }
    let mut outcomes = Vec::new();
    for mutant in mutants {
        eprintln!("mutant {}: {}", mutant.patch, mutant.what);
        let outcome = try_mutant(options, mutant);
        eprintln!("  {}", outcome.line());
        keep(&options.root, &outcome)?;
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

/// Puts an outcome in its place in the table.
fn keep(root: &Path, outcome: &Outcome) -> io::Result<()> {
    let path = root.join(RESULTS);
    let text = fs::read_to_string(&path)?;
    let (before, table) = text
        .split_once(TABLE_HEAD)
        .ok_or_else(|| io::Error::other(format!("{RESULTS} has no table")))?;
    let mut rows: BTreeMap<&str, &str> = BTreeMap::new();
    for row in table.lines() {
        if let Some(patch) = cell(row, 1) {
            rows.insert(patch, row);
        }
    }
    let own = outcome.row();
    rows.insert(&outcome.mutant.patch, &own);
    let rows: Vec<&str> = rows.into_values().collect();
    let summary = summary(&rows);
    fs::write(
        &path,
        format!("{before}{TABLE_HEAD}{}\n\n{summary}\n", rows.join("\n")),
    )
}

fn cell(row: &str, number: usize) -> Option<&str> {
    row.starts_with('|')
        .then(|| row.split('|').nth(number))?
        .map(str::trim)
}

/// How many are killed, and what that takes.
fn summary(rows: &[&str]) -> String {
    let killed = rows
        .iter()
        .filter(|row| cell(row, 2).is_some_and(|verdict| verdict.starts_with("killed")));
    let cpu_seconds = killed.filter_map(|row| cell(row, 5)?.parse().ok());
    let mut cpu_seconds: Vec<f64> = cpu_seconds.collect();
    cpu_seconds.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let rank = (share * cpu_seconds.len() as f64).ceil() as usize;
        cpu_seconds.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    };
    format!(
        "{} of {} killed. CPU seconds until then: median {:.1}, 90th percentile {:.1}.",
        cpu_seconds.len(),
        rows.len(),
        quantile(0.5),
        quantile(0.9)
    )
}

fn fired(report: &Report) -> String {
    let mut names: Vec<&str> = report
        .violations
        .iter()
        .map(|violation| violation.property.as_str())
        .collect();
    names.dedup();
    names.join(", ")
}

impl Outcome {
    fn is_killed(&self) -> bool {
        matches!(self.verdict, Verdict::Killed { replayed: true, .. })
    }

    fn row(&self) -> String {
        let mut left = String::new();
        let (verdict, seed, replays) = match &self.verdict {
            Verdict::Killed {
                report,
                replayed,
                shrunk,
            } => {
                let by = report.violations.first().map_or("", |first| &first.property);
                let replays = if *replayed { "yes" } else { "no" };
                if let Some(shrunk) = shrunk {
                    left = format!("[{}]({SHRUNK}/{})", shrunk.size(), self.mutant.file_of_shrunk());
                }
                (format!("killed by {by}"), report.seed.to_string(), replays)
            }
            Verdict::ByLuck { report } => (
                format!("not as expected: {}", fired(report)),
                report.seed.to_string(),
                "",
            ),
            Verdict::Survived => ("survived".to_owned(), String::new(), ""),
            Verdict::Broken(_) => ("not built".to_owned(), String::new(), ""),
        };
        format!(
            "| {} | {verdict} | {seed} | {} | {:.1} | {:.0} | {replays} | {left} |",
            self.mutant.patch, self.seeds, self.cpu_seconds, self.simulated_seconds
        )
    }

    fn line(&self) -> String {
        let cost = format!(
            "{} seeds, {:.1} CPU s, {:.0} simulated s, build {} s",
            self.seeds,
            self.cpu_seconds,
            self.simulated_seconds,
            self.build.as_secs()
        );
        let fired = |report: &Report| format!("{} at seed {}", fired(report), report.seed);
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
        simulated_seconds: 0.0,
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
    // What an earlier run left.
    if let Err(error) = fs::remove_file(shrunk_path(options, &outcome.mutant))
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut start = options.start;
    let end = options.start + options.seeds;
    while start < end && outcome.cpu_seconds < options.cpu_seconds_max {
        let seeds = SEEDS_PER_STEP.min(end - start);
        let campaign = Campaign {
            jobs: options.jobs,
            stop_at_failure: true,
            quiet: true,
            ..Campaign::new(executable.to_owned(), start, seeds)
        };
        let summary = campaign.carry_out(&|_| {})?;
        outcome.seeds += summary.runs;
        outcome.cpu_seconds += summary.cpu_seconds;
        outcome.simulated_seconds += summary.simulated_seconds;
        let expected = &outcome.mutant.expected;
        let as_expected = |report: &Report| {
            let first = report.violations.first();
            first.is_some_and(|violation| expected.contains(&violation.property))
        };
        let failures: Vec<Report> = summary.failures.into_values().collect();
        let Some(last) = failures.last() else {
            start += seeds;
            continue;
        };
        start = last.seed + 1;
        let Some(report) = failures.iter().find(|report| as_expected(report)).cloned() else {
            outcome.verdict = Verdict::ByLuck { report: last.clone() };
            continue;
        };
        let again = run_child(executable, &Plan::draw(Seed(report.seed)))?;
        let replayed = again.trace_hash == report.trace_hash && again.violations == report.violations;
        let shrunk = shrink_failure(options, executable, &report, &outcome.mutant)?;
        outcome.verdict = Verdict::Killed {
            report: Box::new(report),
            replayed,
            shrunk,
        };
        return Ok(());
    }
    Ok(())
}

fn shrunk_path(options: &Options, mutant: &Mutant) -> PathBuf {
    let folder = options.root.join("sim/mutants").join(SHRUNK);
    folder.join(mutant.file_of_shrunk())
}

/// Cuts down what killed a mutant, and stores what is left.
fn shrink_failure(
    options: &Options,
    executable: &Path,
    report: &Report,
    mutant: &Mutant,
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
    shrunk.scenario.store(&shrunk_path(options, mutant))?;
    Ok(Some(Box::new(shrunk)))
}

fn complain(what: &str, output: &std::process::Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{what}: {why}")))
}

/// A patch, applied to the sources in a folder, or with `check` only tried.
fn apply(patch: &Path, folder: &Path, check: bool) -> io::Result<()> {
    let applied = Command::new("git")
        .args(["apply", "--whitespace=nowarn", "-p1"])
        .args(check.then_some("--check"))
        .arg(patch)
        .current_dir(folder)
        // A folder of its own, even though it lies inside of a repository.
        .env("GIT_DIR", "/nonexistent")
        .output()?;
    complain(&format!("{} does not apply", patch.display()), &applied)
}

/// The cargo that runs this, or the one on the path: with it comes a compiler that no folder of a library chooses.
fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Where cargo keeps the sources of a library.
fn library_source(root: &Path, library: &str) -> io::Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        manifest_path: PathBuf,
    }
    let output = Command::new(cargo())
        .args(["metadata", "--format-version", "1", "--locked"])
        .current_dir(root)
        .stderr(Stdio::piped())
        .output()?;
    complain("cargo metadata", &output)?;
    let metadata: Metadata = serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
    let package = metadata
        .packages
        .into_iter()
        .find(|package| package.name == library);
    let manifest = package.map(|package| package.manifest_path);
    let source = manifest.and_then(|manifest| manifest.parent().map(Path::to_owned));
    source.ok_or_else(|| io::Error::other(format!("no library {library} in Cargo.lock")))
}

/// Every file below a folder, relative to it.
fn files_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fn collect(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                collect(root, &path, found)?;
            } else if let Ok(name) = path.strip_prefix(root) {
                found.push(name.to_owned());
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    collect(folder, folder, &mut found)?;
    Ok(found)
}

/// A patched copy of the workspace, built; the simulator's executable.
fn build(options: &Options, mutant: &Mutant) -> io::Result<PathBuf> {
    let root = &options.root;
    let patch = root.join("sim/mutants").join(&mutant.patch);
    // One folder for all mutants: cargo then rebuilds only what a patch touches.
    let copy = root.join("target/mutants/tree");
    let target = root.join("target/mutants/target");
    synchronize(root, &files_of_repository(root)?, &copy)?;
    let mut settings = vec!["build.rustflags=['--cfg','madsim']".to_owned()];
    // One mutant differs from the next by a few lines: in small pieces that are optimized one by one little has to be compiled again.
    settings.extend(["profile.sim.lto='off'", "profile.sim.debug=false"].map(str::to_owned));
    settings.extend(WORKSPACE.map(|package| format!("profile.sim.package.{package}.codegen-units=256")));
    settings.extend(
        RAFT_LIBRARIES.map(|library| format!("profile.sim.package.{library}.debug-assertions=false")),
    );
    match &mutant.library {
        None => apply(&patch, &copy, false)?,
        Some(library) => {
            let source = library_source(root, library)?;
            let patched = root.join("target/mutants").join(library);
            synchronize(&source, &files_below(&source)?, &patched)?;
            apply(&patch, &patched, false)?;
            settings.push(format!("patch.crates-io.{library}.path='{}'", patched.display()));
        }
    }
    let built = Command::new(cargo())
        .args(["build", "--quiet", "--package", "quorate-sim", "--profile", "sim"])
        .args(settings.iter().flat_map(|setting| ["--config", setting]))
        .arg("--target-dir")
        .arg(&target)
        .current_dir(&copy)
        .env("CARGO_INCREMENTAL", "1")
        .output()?;
    complain(&format!("{} does not build", mutant.patch), &built)?;
    let executable = target.join("mutant");
    fs::copy(target.join("sim/quorate-sim"), &executable)?;
    Ok(executable)
}

fn files_of_repository(root: &Path) -> io::Result<Vec<PathBuf>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()?;
    complain("git ls-files", &listed)?;
    let names = String::from_utf8(listed.stdout).map_err(io::Error::other)?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .collect())
}

/// Makes `copy` hold these files of `root`; files that are the same keep their times, so that cargo does
/// not rebuild what did not change.
fn synchronize(root: &Path, names: &[PathBuf], copy: &Path) -> io::Result<()> {
    let mut wanted: std::collections::BTreeSet<PathBuf> = names.iter().cloned().collect();
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

    #[test]
    fn the_summary_counts_what_was_killed() {
        let row = |verdict: &str, cpu: u32| format!("| a.patch | {verdict} | 7 | 8 | {cpu}.5 | 9 | yes | |");
        let mut rows: Vec<String> = (1..=10).map(|cpu| row("killed by linearizable", cpu)).collect();
        rows.push(row("survived", 900));
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        assert_eq!(
            summary(&rows),
            "10 of 11 killed. CPU seconds until then: median 5.5, 90th percentile 9.5."
        );
    }

    #[test]
    fn every_expected_property_is_one_that_is_judged() {
        let of_clients = quorate_jepsen::property::Property::ALL.iter();
        let mut known: Vec<&str> = of_clients.map(|property| property.name()).collect();
        known.extend(crate::properties::all().iter().map(|about| about.name));
        for mutant in catalogue(&root()).expect("a readable catalogue") {
            for expected in &mutant.expected {
                assert!(known.contains(&expected.as_str()), "{}: {expected}", mutant.patch);
            }
        }
    }

    #[test]
    fn every_patch_applies_to_the_sources_of_today_and_is_small() {
        const LINES_MAX: usize = 15;
        for mutant in catalogue(&root()).expect("a readable catalogue") {
            let patch = root().join("sim/mutants").join(&mutant.patch);
            let patch = patch.canonicalize().expect("it is there");
            let folder = match &mutant.library {
                None => root(),
                Some(library) => library_source(&root(), library).expect("cargo has it"),
            };
            apply(&patch, &folder, true).expect("it applies");
            let text = fs::read_to_string(&patch).expect("readable");
            let changed = |line: &&str| {
                let is_head = line.starts_with("+++") || line.starts_with("---");
                !is_head && (line.starts_with('+') || line.starts_with('-'))
            };
            let lines = text.lines().filter(changed).count();
            assert!(lines <= LINES_MAX, "{}: {lines} lines", mutant.patch);
        }
    }
}
