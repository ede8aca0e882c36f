//! `cargo sim`: campaigns of seeds, the replay of one, and the historical bugs that have to be found.

#[cfg(madsim)]
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use quorate_jepsen::workload::{Workload, named};
use quorate_sim::properties;
use quorate_sim::scenario::Source;
#[cfg(madsim)]
use quorate_sim::{
    campaign::{self, Campaign},
    canary, corpus, mutants,
    plan::Plan,
    shrink,
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
        /// All runs have this workload; by default each seed draws one. `cargo sim workloads` lists them.
        #[arg(long, value_parser = Workload::find)]
        workload: Option<Workload>,
        /// Runs at a time; by default one for each processor.
        #[arg(long)]
        jobs: Option<usize>,
        /// Runs each so-many-th seed twice and compares the traces; 0: none.
        #[arg(long, default_value_t = 50)]
        twice_every: u64,
        /// Ends at the first failure.
        #[arg(long)]
        stop_at_failure: bool,
        /// Starts no run after so much time, such as 90s or 5m.
        #[arg(long, value_parser = time)]
        budget: Option<Duration>,
        /// Writes the summary to this file, as JSON.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Fails if anything known was never exercised: see `coverage` in sim/README.md.
        #[arg(long)]
        require_coverage: bool,
    },
    /// Runs a seed or a stored scenario again and prints its report; with --log everything that happens.
    Replay {
        /// A seed, or the file of a scenario.
        run: Source,
        /// The seed has this workload, whichever it would draw.
        #[arg(long, value_parser = Workload::find)]
        workload: Option<Workload>,
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
        /// The seed has this workload, whichever it would draw.
        #[arg(long, value_parser = Workload::find)]
        workload: Option<Workload>,
        /// As the scenario that `replay` reads.
        #[arg(long)]
        json: bool,
    },
    /// Cuts a failure down to what it needs, and stores that.
    Shrink {
        /// A seed, or the file of a scenario.
        run: Source,
        /// Where to store it; by default target/sim/shrunk/ and the seed.
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// CPU minutes that all runs together may take.
        #[arg(long, default_value_t = 10)]
        cpu_minutes: u64,
        #[arg(long)]
        jobs: Option<usize>,
        /// Another build of the simulator, such as a mutant's in target/mutants/target.
        #[arg(long)]
        executable: Option<PathBuf>,
    },
    /// Replays what once failed: each scenario of sim/corpus has to pass.
    Corpus {
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// A campaign that must fail: one of a hundred seeds is falsified and has to be found, and nothing else.
    Canary {
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        #[arg(long, default_value_t = 0)]
        start: u64,
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// A campaign that must fail: the members' disks acknowledge what they do not keep.
    NoFsync {
        #[arg(long, default_value_t = 20)]
        seeds: u64,
        #[arg(long, default_value_t = 0)]
        start: u64,
        #[arg(long)]
        jobs: Option<usize>,
    },
    /// Lists every property that a run is judged by, with its source.
    Properties,
    /// Lists the workloads that a seed may draw.
    Workloads,
    /// Puts historical bugs back, one at a time, and looks whether they are found.
    Mutants {
        /// Only this row of the catalogue, or the patches whose names begin so.
        #[arg(long)]
        only: Option<String>,
        /// Seeds that each mutant may survive.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        #[arg(long, default_value_t = 0)]
        start: u64,
        #[arg(long)]
        jobs: Option<usize>,
        /// CPU seconds of runs that each mutant may survive.
        #[arg(long, default_value_t = 900.0)]
        budget: f64,
        /// CPU minutes for cutting down each failure; 0: none is.
        #[arg(long, default_value_t = 0)]
        shrink_minutes: u64,
    },
    /// Carries out the plan on standard input and prints the report as a line of JSON.
    #[command(hide = true)]
    Child {
        /// The report has what the clients did.
        #[arg(long)]
        script: bool,
        #[arg(long)]
        level: Option<String>,
        #[arg(long)]
        timeline: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Verb::Plan { run, workload, json } => run.scenario_of(workload).map(|scenario| {
            match json {
                true => println!("{}", scenario.to_json()),
                false => println!("{}", scenario.plan),
            }
            true
        }),
        Verb::Properties => {
            print!("{}", properties::table());
            Ok(true)
        }
        Verb::Workloads => {
            print!("{}", named::table());
            Ok(true)
        }
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

fn time(text: &str) -> Result<Duration, String> {
    quorate_sim::plan::readable::parse(text).ok_or_else(|| "a time such as 90s or 5m is expected".to_owned())
}

#[cfg(madsim)]
fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// True if nothing failed.
#[cfg(madsim)]
fn simulate(verb: Verb) -> std::io::Result<bool> {
    match verb {
        Verb::Run {
            seeds,
            start,
            workload,
            jobs,
            twice_every,
            stop_at_failure,
            budget,
            json,
            require_coverage,
        } => {
            campaign::fix_addresses();
            let campaign = Campaign {
                workload,
                jobs: jobs.unwrap_or_else(campaign::processors),
                twice_every,
                stop_at_failure,
                budget,
                failures: Some(workspace().join("target/sim/failures")),
                ..Campaign::new(std::env::current_exe()?, start, seeds)
            };
            let summary = campaign.carry_out(&|_| {})?;
            summary.print();
            if let Some(path) = json {
                std::fs::write(path, format!("{:#}\n", summary.to_json()))?;
            }
            let uncovered = match require_coverage {
                true => summary.uncovered(),
                false => Vec::new(),
            };
            if !uncovered.is_empty() {
                eprintln!("never exercised: {}", uncovered.join(", "));
            }
            Ok(summary.failures.is_empty() && uncovered.is_empty())
        }
        Verb::Replay {
            run,
            workload,
            timeline,
            log,
            level,
        } => replay(
            &run.scenario_of(workload)?.plan,
            &run,
            timeline.as_deref(),
            log.then_some(level),
        ),
        Verb::Shrink {
            run,
            output,
            cpu_minutes,
            jobs,
            executable,
        } => {
            campaign::fix_addresses();
            let options = shrink::Options {
                executable: executable.map_or_else(std::env::current_exe, Ok)?,
                jobs: jobs.unwrap_or_else(campaign::processors),
                cpu_limit: Duration::from_secs(60 * cpu_minutes),
                quiet: false,
            };
            let shrunk = shrink::shrink(&options, run.scenario()?.plan)?;
            shrunk.print();
            let name = format!("target/sim/shrunk/{}.json", shrunk.scenario.plan.seed.0);
            let path = output.unwrap_or_else(|| workspace().join(name));
            shrunk.scenario.store(&path)?;
            println!("stored; again: cargo sim replay {} --log", path.display());
            Ok(shrunk.replays)
        }
        Verb::Corpus { jobs } => {
            campaign::fix_addresses();
            let jobs = jobs.unwrap_or_else(campaign::processors);
            corpus::replay(&std::env::current_exe()?, &workspace().join("sim/corpus"), jobs)
        }
        Verb::Canary { seeds, start, jobs } => canary::canaries(&must_fail(seeds, start, jobs)?),
        Verb::NoFsync { seeds, start, jobs } => canary::no_fsync(&must_fail(seeds, start, jobs)?),
        Verb::Mutants {
            only,
            seeds,
            start,
            jobs,
            budget,
            shrink_minutes,
        } => {
            campaign::fix_addresses();
            mutants::run(&mutants::Options {
                root: workspace(),
                only,
                seeds,
                start,
                jobs: jobs.unwrap_or_else(campaign::processors),
                cpu_seconds_max: budget,
                shrink: Duration::from_secs(60 * shrink_minutes),
            })
        }
        Verb::Child {
            script,
            level,
            timeline,
        } => child(script, level, timeline.as_deref()),
        Verb::Plan { .. } | Verb::Properties | Verb::Workloads => unreachable!("printed by every build"),
    }
}

#[cfg(madsim)]
fn must_fail(seeds: u64, start: u64, jobs: Option<usize>) -> std::io::Result<canary::Options> {
    campaign::fix_addresses();
    Ok(canary::Options {
        executable: std::env::current_exe()?,
        start,
        seeds,
        jobs: jobs.unwrap_or_else(campaign::processors),
        failures: workspace().join("target/sim/failures"),
    })
}

/// Runs a seed in a child, as a campaign does, with everything it prints.
#[cfg(madsim)]
fn replay(
    plan: &Plan,
    run: &Source,
    timeline: Option<&Path>,
    level: Option<String>,
) -> std::io::Result<bool> {
    use quorate_sim::report::Report;

    campaign::fix_addresses();
    eprintln!("{plan}");
    let output = campaign::child(&std::env::current_exe()?, plan, |command| {
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
fn child(script: bool, level: Option<String>, file: Option<&Path>) -> std::io::Result<bool> {
    use nix::sys::resource::{Resource, UsageWho, getrusage, setrlimit};
    use quorate_jepsen::timeline::{PAGE_BYTES_MAX, render};
    use quorate_sim::notebook::Notebook;

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
    if !script {
        report.script.clear();
    }
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    report.cpu_seconds = seconds(usage.user_time()) + seconds(usage.system_time());
    report.memory_mebibytes = usage.max_rss() as u64 / 1024;
    println!("{}", serde_json::to_string(&report).expect("plain data"));
    Ok(report.passed())
}
