//! The corpus: scenarios that once failed, and have to pass ever since.
//!
//! Each is a file of `sim/corpus/`: the plan as it was drawn then, so that it goes on meaning what it meant after
//! the drawing has changed. What it found, and the commit that put an end to it, stand in the file.
#![allow(clippy::disallowed_methods)]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::campaign::run_child;
use crate::report::Report;
use crate::scenario::Scenario;

/// The files, by name.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Replays all, each twice. True if all pass, with the same trace both times.
pub fn replay(executable: &Path, folder: &Path, jobs: usize) -> io::Result<bool> {
    let files = files(folder)?;
    let next = AtomicUsize::new(0);
    let verdicts = Mutex::new(Vec::new());
    let work = || -> io::Result<()> {
        while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let scenario = Scenario::load(path)?;
            let first = run_child(executable, &scenario.plan)?;
            let second = run_child(executable, &scenario.plan)?;
            let mut verdicts = verdicts.lock().expect("nothing panics under this lock");
            verdicts.push((path, line(&scenario, &first, &second)));
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        let ends = workers.into_iter();
        ends.map(|worker| worker.join().expect("a worker does not panic"))
            .collect::<io::Result<Vec<()>>>()
    })?;
    let mut verdicts = verdicts.into_inner().expect("nothing panics under this lock");
    verdicts.sort();
    for (path, (good, text)) in &verdicts {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let verdict = if *good { "passed" } else { "FAILED" };
        println!("{verdict} {name:<12} {text}");
    }
    println!("{} scenarios", verdicts.len());
    Ok(!verdicts.is_empty() && verdicts.iter().all(|(_, (good, _))| *good))
}

fn line(scenario: &Scenario, first: &Report, second: &Report) -> (bool, String) {
    if let Some(violation) = first.violations.first() {
        return (false, format!("{}: {}", violation.property, violation.text));
    }
    if first.trace_hash != second.trace_hash {
        let text = format!("two traces: {} and {}", first.trace_hash, second.trace_hash);
        return (false, text);
    }
    (true, scenario.about.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_of_the_corpus_can_be_read_and_says_what_it_is_about() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let files = files(&folder).expect("the folder is there");
        assert!(files.len() >= 10, "{}", files.len());
        for path in files {
            let scenario = Scenario::load(&path).expect("readable");
            assert!(!scenario.about.is_empty(), "{}", path.display());
            assert!(!scenario.fixed_by.is_empty(), "{}", path.display());
        }
    }
}
