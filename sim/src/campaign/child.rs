//! One run in a process of its own.
//!
//! Without address randomisation and with an empty environment: hash keys, call sites and pointers are then
//! the same in every run of a plan. Starting one costs a few milliseconds, a run costs a thousand times that.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::personality::{self, Persona};

use crate::plan::Plan;
use crate::report::{Report, Violation};

/// CPU time after which a run is given up, in seconds.
pub const CPU_SECONDS_MAX: u64 = 180;
/// Memory that one run may use: a member that grows without end is a failure like others.
pub const MEMORY_BYTES_MAX: u64 = 3 << 30;

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
    Ok(report(plan, &output))
}

/// The same; its report says what the clients did.
pub fn run_child_for_script(executable: &Path, plan: &Plan) -> io::Result<Report> {
    let output = child(executable, plan, |command| {
        command.arg("--script").stderr(Stdio::piped())
    })?;
    Ok(report(plan, &output))
}

fn report(plan: &Plan, output: &Output) -> Report {
    let text = String::from_utf8_lossy(&output.stdout);
    if let Some(report) = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
    {
        return report;
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail = errors.ceil_char_boundary(errors.len().saturating_sub(2_000));
    let tail = errors.get(tail..).unwrap_or_default();
    let text = format!("a run ends with a report: {} {tail}", output.status);
    Report {
        seed: plan.seed.0,
        violations: vec![Violation::new("ends-in-time", text)],
        ..Report::default()
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    #[test]
    fn a_child_that_says_nothing_is_a_failure() {
        let report = run_child(Path::new("/bin/false"), &Plan::draw(Seed(7))).expect("it starts");
        assert_eq!(report.seed, 7);
        assert_eq!(report.violations[0].property, "ends-in-time");
    }
}
