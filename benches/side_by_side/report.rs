//! Tables, in the form that README.md takes.

use std::time::Duration;

use crate::beside::{Beside, Health};
use crate::load::{Measured, Operation};

/// How much longer than undisturbed clients may wait while others ask for what is expensive.
const P99_RATIO_MAX: f64 = 3.0;
/// How long `/health` may take meanwhile.
const HEALTH_MAX: Duration = Duration::from_millis(100);

/// One measurement.
pub struct Row {
    pub system: &'static str,
    pub nodes: usize,
    pub operation: Operation,
    pub clients: usize,
    pub measured: Measured,
}

pub fn print_head() {
    println!(
        "| nodes | operation | clients | system | operations/s | p50 ms | p99 ms | server CPU us/op | resident MiB |"
    );
    println!("|--:|---|--:|---|--:|--:|--:|--:|--:|");
}

impl Row {
    pub fn print(&self) {
        let Measured {
            per_second,
            p50,
            p99,
            cpu_per_operation,
            resident_bytes,
            errors,
        } = &self.measured;
        let errors = if *errors > 0 {
            format!(" ({errors} errors)")
        } else {
            String::new()
        };
        println!(
            "| {} | {} | {} | {} | {per_second:.0}{errors} | {:.2} | {:.2} | {:.1} | {} |",
            self.nodes,
            self.operation.name(),
            self.clients,
            self.system,
            milliseconds(*p50),
            milliseconds(*p99),
            milliseconds(*cpu_per_operation) * 1000.0,
            resident_bytes >> 20,
        );
    }
}

/// What a row is like while others ask for what is expensive: below it, with the ratios to the undisturbed one. Whether no
/// member stalled.
pub fn print_disturbed(row: &Row, disturbed: &Measured, asked: &[(Beside, u64)], health: Health) -> bool {
    let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
    println!(
        "| {} | {} disturbed | {} | {} | {:.0} ({:.2} times) | {:.2} ({:.1} times) | {:.2} ({:.1} times) | answered beside: {asked:?}; longest /health {:.0} ms, {} failed; leaders lost: {} | {} |",
        row.nodes,
        row.operation.name(),
        row.clients,
        row.system,
        disturbed.per_second,
        disturbed.per_second / row.measured.per_second,
        milliseconds(disturbed.p50),
        ratio(disturbed.p50, row.measured.p50),
        milliseconds(disturbed.p99),
        ratio(disturbed.p99, row.measured.p99),
        milliseconds(health.longest),
        health.failures,
        health.terms,
        disturbed.resident_bytes >> 20,
    );
    ratio(disturbed.p99, row.measured.p99) <= P99_RATIO_MAX
        && health.longest <= HEALTH_MAX
        && health.failures + health.terms == 0
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Quorate's figures divided by etcd's, where both were measured.
pub fn print_ratios(rows: &[Row]) {
    let pair = |row: &Row| {
        rows.iter().find(|other| {
            (other.system, other.nodes, other.operation, other.clients)
                == ("etcd", row.nodes, row.operation, row.clients)
        })
    };
    let pairs: Vec<(&Row, &Row)> = rows
        .iter()
        .filter(|row| row.system == "quorate")
        .filter_map(|row| Some((row, pair(row)?)))
        .collect();
    if pairs.is_empty() {
        return;
    }
    println!("\nQuorate / etcd (throughput: more is better; the rest: less is better)\n");
    println!("| nodes | operation | clients | throughput | p50 | p99 | server CPU | resident |");
    println!("|--:|---|--:|--:|--:|--:|--:|--:|");
    for (ours, theirs) in pairs {
        let (a, b) = (&ours.measured, &theirs.measured);
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        println!(
            "| {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
            ours.nodes,
            ours.operation.name(),
            ours.clients,
            a.per_second / b.per_second,
            ratio(a.p50, b.p50),
            ratio(a.p99, b.p99),
            ratio(a.cpu_per_operation, b.cpu_per_operation),
            a.resident_bytes as f64 / b.resident_bytes as f64,
        );
    }
}
