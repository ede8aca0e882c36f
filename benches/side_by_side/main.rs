//! The same load on Quorate and on etcd, in turn, in one run: `cargo bench --bench side_by_side -- [--quick]`.
//!
//! For each number of nodes and each operation a fresh cluster of one system is started, loaded and stopped,
//! then one of the other; both have the same flags, the same disk and the same clients. etcd is whatever
//! `etcd` is on the PATH; without one only Quorate is measured, and the program says so.
//!
//! `--leases` measures leases instead: see [`leases`].
//! With `--beside hash,sorted-list,read-txn,compaction` each row is measured again while clients ask for what is expensive: how
//! much others wait for them is what `disturbed` shows, and it ends with 1 if a member of Quorate stalls.
//!
//! What is printed per row: operations per second, the median and the 99th percentile of the time that one
//! client waits, CPU time of all servers together per operation (from /proc, so the load generator does not
//! count), and their resident memory. Then the ratios. The load generator shares the machine with the
//! servers: trust ratios, not absolute figures.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod beside;
mod leases;
mod load;
mod options;
mod report;
mod servers;

use std::process::ExitCode;
use std::time::Duration;

use options::Options;
use report::Row;
use servers::{Servers, System};

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    let systems = System::find(&options.systems);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.expect("a runtime can be built");
    let result = runtime.block_on(measure(&options, &systems));
    match result {
        Ok(rows) => {
            report::print_ratios(&rows);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(options: &Options, systems: &[System]) -> Result<Vec<Row>, String> {
    let env = quorate::runtime::tokio::env();
    let (mut rows, mut stalled) = (Vec::new(), false);
    if options.leases {
        leases::measure(&env, systems).await?;
        return Ok(rows);
    }
    report::print_head();
    for &nodes in &options.nodes {
        for &operation in &options.operations {
            for system in systems {
                let servers = Servers::start(&env, system, nodes, Duration::ZERO).await?;
                load::prepare(&env, &servers, operation).await?;
                if !options.beside.is_empty() {
                    beside::prepare(&env, &servers).await?;
                }
                for &clients in &options.clients {
                    let measured = load::run(&env, &servers, operation, clients, options.seconds).await?;
                    let row = Row {
                        system: system.name,
                        nodes,
                        operation,
                        clients,
                        measured,
                    };
                    row.print();
                    if !options.beside.is_empty() {
                        let asking = beside::start(&env, &servers, &options.beside).await?;
                        let watching = beside::Watching::start(&env, &servers).await?;
                        let disturbed =
                            load::run(&env, &servers, operation, clients, options.seconds).await?;
                        let health = watching.stop(&env, &servers).await?;
                        let asked = asking.iter().map(beside::Asking::stop).collect::<Vec<_>>();
                        let goes_on = report::print_disturbed(&row, &disturbed, &asked, health);
                        stalled |= !goes_on && system.name == "quorate";
                    }
                    rows.push(row);
                }
            }
        }
    }
    match stalled {
        true => Err("a member stalled while others asked for what is expensive".into()),
        false => Ok(rows),
    }
}
