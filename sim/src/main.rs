//! `cargo sim`: campaigns of seeds, the replay of one, and the historical bugs that have to be found.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quorate_sim::scenario::Source;
#[cfg(madsim)]
use std::path::Path;

#[cfg(madsim)]
use quorate_sim::{
    campaign::{self, Campaign},
    mutants,
};

/// The deterministic simulator of Quorate.
#[derive(Parser)]
#[command(name = "cargo sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs many seeds, each in a process of its own, and judges them.
    Run {
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        start: u64,
        /// Runs at a time; by default one for each processor.
        #[arg(long)]
        jobs: Option<usize>,
        /// Runs each so-many-th seed twice and compares the traces; 0: none.
        #[arg(long, default_value_t = 50)]
        twice_every: u64,
        /// Ends at the first failure.
        #[arg(long)]
        stop_at_failure: bool,
        /// Prints each run's report as a line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs a seed or a stored scenario again and prints its report; with --log everything that happens.
    Replay {
        /// A seed, or the file of a scenario.
        run: Source,
        /// Writes a page that shows the run: who led, what broke, what clients were told.
        #[arg(long, value_name = "FILE.html")]
        timeline: Option<PathBuf>,
        #[arg(long)]
        log: bool,
        /// The most talkative level of the members' own log that --log prints.
        #[arg(long, default_value = "info")]
        level: String,
    },
    /// Prints what a seed decides, or a file says, without running it.
    Plan {
        /// A seed, or the file of a scenario.
        run: Source,
        /// As the scenario that `replay` reads.
        #[arg(long)]
        json: bool,
    },
    /// Puts historical bugs back, one at a time, and looks whether they are found.
    Mutants {
        /// Only this row of the catalogue.
        #[arg(long)]
        only: Option<u32>,
        /// Seeds that each mutant may survive.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        #[arg(long, default_value_t = 0)]
        start: u64,
        #[arg(long)]
        jobs: Option<usize>,
        /// Seconds that each mutant may survive.
        #[arg(long, default_value_t = 900)]
        budget: u64,
    },
    /// Carries out the plan on standard input and prints the report as a line of JSON.
    #[command(hide = true)]
    Child {
        #[arg(long)]
        level: Option<String>,
        #[arg(long)]
        timeline: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Verb::Plan { run, json } => run.scenario().map(|scenario| {
            match json {
                true => println!("{}", scenario.to_json()),
                false => println!("{}", scenario.plan),
            }
            true
        }),
        #[cfg(madsim)]
        verb => simulate(verb),
        #[cfg(not(madsim))]
        _ => Err(std::io::Error::other(
            "this build has no executor for simulations: run it as `cargo sim …` (see .cargo/config.toml)",
        )),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True if nothing failed.
#[cfg(madsim)]
fn simulate(verb: Verb) -> std::io::Result<bool> {
    use std::time::Duration;

    let processors = || std::thread::available_parallelism().map_or(1, usize::from);
    match verb {
        Verb::Run {
            seeds,
            start,
            jobs,
            twice_every,
            stop_at_failure,
            json,
        } => {
            campaign::fix_addresses();
            let campaign = Campaign {
                executable: std::env::current_exe()?,
                start,
                seeds,
                jobs: jobs.unwrap_or_else(processors),
                twice_every,
                stop_at_failure,
                budget: None,
                quiet: json,
            };
            let print = |report: &quorate_sim::report::Report| {
                if json {
                    println!("{}", serde_json::to_string(report).expect("plain data"));
                }
            };
            let summary = campaign.carry_out(&print)?;
            if !json {
                summary.print();
            }
            Ok(summary.failures.is_empty())
        }
        Verb::Replay {
            run,
            timeline,
            log,
            level,
        } => replay(&run, timeline.as_deref(), log.then_some(level)),
        Verb::Mutants {
            only,
            seeds,
            start,
            jobs,
            budget,
        } => {
            campaign::fix_addresses();
            mutants::run(&mutants::Options {
                root: Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
                only,
                seeds,
                start,
                jobs: jobs.unwrap_or_else(processors),
                budget: Duration::from_secs(budget),
            })
        }
        Verb::Child { level, timeline } => child(level, timeline.as_deref()),
        Verb::Plan { .. } => unreachable!("plans are printed by every build"),
    }
}

/// Runs a seed in a child, as a campaign does, with everything it prints.
#[cfg(madsim)]
fn replay(run: &Source, timeline: Option<&Path>, level: Option<String>) -> std::io::Result<bool> {
    use quorate_sim::report::Report;

    campaign::fix_addresses();
    let plan = run.scenario()?.plan;
    eprintln!("{plan}");
    let output = campaign::child(&std::env::current_exe()?, &plan, |command| {
        if let Some(level) = level {
            command.arg("--level").arg(level);
        }
        if let Some(file) = timeline {
            command.arg("--timeline").arg(file);
        }
        command.stderr(std::process::Stdio::inherit())
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Report = serde_json::from_str(text.trim())
        .map_err(|error| std::io::Error::other(format!("no report ({}): {error}", output.status)))?;
    println!("{}", serde_json::to_string_pretty(&report).expect("plain data"));
    for violation in &report.violations {
        println!("VIOLATED {}: {}", violation.property, violation.text);
    }
    let verdict = if report.passed() { "passed" } else { "FAILED" };
    println!("{run} {verdict}, trace {}", report.trace_hash);
    if let Some(file) = timeline {
        println!("timeline: {}", file.display());
    }
    Ok(report.passed())
}

#[cfg(madsim)]
fn child(level: Option<String>, file: Option<&Path>) -> std::io::Result<bool> {
    use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
    use quorate_jepsen::timeline::{PAGE_BYTES_MAX, render};
    use quorate_sim::notebook::Notebook;
    use quorate_sim::plan::Plan;

    let plan: Plan = serde_json::from_reader(std::io::stdin().lock())?;
    let level = level
        .map(|level| level.parse().map_err(std::io::Error::other))
        .transpose()?;
    setrlimit(
        Resource::RLIMIT_CPU,
        campaign::CPU_SECONDS_MAX,
        campaign::CPU_SECONDS_MAX,
    )?;
    setrlimit(
        Resource::RLIMIT_AS,
        campaign::MEMORY_BYTES_MAX,
        campaign::MEMORY_BYTES_MAX,
    )?;
    let notebook = file.map_or_else(Notebook::default, |_| Notebook::on());
    let (mut report, timeline) = quorate_sim::run::recorded(plan, level, notebook);
    if let (Some(file), Some(timeline)) = (file, timeline) {
        std::fs::write(file, render(&timeline, PAGE_BYTES_MAX))?;
    }
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    report.cpu_seconds = seconds(usage.user_time()) + seconds(usage.system_time());
    report.memory_mebibytes = usage.max_rss() as u64 / 1024;
    println!("{}", serde_json::to_string(&report).expect("plain data"));
    Ok(report.passed())
}
