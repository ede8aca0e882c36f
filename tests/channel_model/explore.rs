//! How a scenario is explored, and what is expected of a mutant.

use std::env;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Where there are three threads: how often one may be interrupted though it could go on. (That one has to wait is no
/// interruption, and is tried in all orders.) Without a bound these scenarios take hours.
const INTERRUPTIONS_MAX: usize = 3;

/// Executes a scenario in every order; panics with the first that fails.
pub fn explore(name: &str, scenario: fn()) {
    explore_within(None, name, scenario);
}

/// The same in the orders that have few interruptions.
pub fn explore_most(name: &str, scenario: fn()) {
    explore_within(Some(INTERRUPTIONS_MAX), name, scenario);
}

fn explore_within(interruptions_max: Option<usize>, name: &str, scenario: fn()) {
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = executions.clone();
    let begun = Instant::now();
    let mut model = loom::model::Builder::new();
    model.preemption_bound = interruptions_max;
    model.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        scenario();
    });
    let executions = executions.load(Ordering::Relaxed);
    println!("{name}: {executions} executions in {:?}", begun.elapsed());
    assert!(
        executions > 1,
        "{name}: there is one order only, which shows nothing"
    );
}

/// Scenarios of a mutant, by name.
pub type Mutant<'a> = &'a [(&'a str, fn())];

/// Set in a child process: the scenario that it is for.
const CHILD: &str = "QUORATE_CHANNEL_SCENARIO";

/// Executes each scenario of a mutant until it meets an order in which all that are left wait; panics if one has none.
///
/// In processes of their own, in which `test`, the test that calls this, is all that runs: loom panics when all wait, and
/// again when the ends of the queue are dropped on the way out and ask for the lock, which is the end of a process.
pub fn finds_lost_wakes(test: &str, scenarios: Mutant<'_>) {
    if let Ok(wanted) = env::var(CHILD) {
        let found = scenarios.iter().find(|(name, _)| *name == wanted);
        let (name, scenario) = found.expect("the parent names one of these");
        return explore_most(name, *scenario);
    }
    for (name, _) in scenarios {
        let child = Command::new(env::current_exe().expect("this test"))
            .args([test, "--exact", "--nocapture"])
            .env(CHILD, name)
            .env("RUST_BACKTRACE", "0")
            .output()
            .expect("a process");
        let text = String::from_utf8_lossy(&child.stderr);
        assert!(
            !child.status.success(),
            "{name}: nobody is woken, and nobody notices"
        );
        assert!(text.contains("deadlock; threads = "), "{name}: {text}");
    }
}
