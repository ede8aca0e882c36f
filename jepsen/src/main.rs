//! `quorate-jepsen`: the black-box suite. Starts real processes on loopback, loads them through real
//! gRPC clients, kills and pauses them, and judges the history.
//!
//! ```text
//! cargo run --release -p quorate-jepsen -- --seconds 60 --nodes 3 --nemesis kill,pause
//! cargo run --release -p quorate-jepsen -- --workload append
//! cargo run --release -p quorate-jepsen -- --binary /usr/bin/etcd          # any etcd will do
//! cargo run --release -p quorate-jepsen -- --consistency stale             # has to be refused
//! ```
//!
//! Exit code: 0 passed, 1 refused, 2 could not run or could not be judged. What was drawn from the
//! seed is repeatable, what the operating system did with it is not: replay belongs to the simulator.

mod runner;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use quorate_jepsen::report::Verdict;
use quorate_jepsen::workload::{Consistency, Retry, Workload};
use runner::{Fault, RunOptions};

/// Runs a cluster of real processes under load and faults, and judges what its clients saw.
#[derive(Parser)]
#[command(name = "quorate-jepsen")]
struct Arguments {
    /// How long the load runs.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Number of members.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// The server to test, started with etcd's flags. Default: quorate beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Number of clients.
    #[arg(long, default_value_t = 10)]
    clients: u32,
    /// What clients and watchers do, by name: register, append, watch and others (jepsen/src/workload/named). Default: all
    /// kinds of operation on keys.
    #[arg(long, value_parser = Workload::find)]
    workload: Option<Workload>,
    /// Faults to inject, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Fault::Kill, Fault::Pause])]
    nemesis: Vec<Fault>,
    /// `stale` sends linearizable reads as serializable ones and lets the history claim otherwise.
    #[arg(long, value_enum, default_value_t = Claim::Linearizable)]
    consistency: Claim,
    /// Clients send again what clientv3 does, and their users see one call.
    #[arg(long)]
    clientv3: bool,
    /// Seed of workload and nemesis.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where report.txt, report.json, timeline.html, history.edn and the members' logs go.
    #[arg(long, default_value = "target/jepsen")]
    out: PathBuf,
    /// Mean pause of a client between two calls, in milliseconds.
    #[arg(long, default_value_t = 10)]
    pause_ms: u64,
    /// Keep the members' data directories (they are kept after a refused run in any case).
    #[arg(long)]
    keep_data: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Claim {
    Linearizable,
    Stale,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = RunOptions {
        seconds: arguments.seconds,
        nodes: arguments.nodes.max(1),
        binary: arguments.binary,
        clients: arguments.clients.max(1),
        workload: arguments.workload,
        faults: arguments.nemesis,
        consistency: match arguments.consistency {
            Claim::Linearizable => Consistency::Linearizable,
            Claim::Stale => Consistency::Stale,
        },
        retry: match arguments.clientv3 {
            true => Retry::Clientv3,
            false => Retry::Never,
        },
        seed: arguments.seed,
        out: arguments.out,
        pause_ms: arguments.pause_ms,
        keep_data: arguments.keep_data,
    };
    match runner::run(&options) {
        Ok(report) => {
            println!("{}", report.to_text());
            println!("report: {}", options.out.display());
            match report.verdict {
                Verdict::Passed => ExitCode::SUCCESS,
                Verdict::Refused => ExitCode::from(1),
                Verdict::Undecided => ExitCode::from(2),
            }
        }
        Err(error) => {
            eprintln!("could not run: {error}");
            ExitCode::from(2)
        }
    }
}
