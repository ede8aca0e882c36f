//! The timeline of a black-box run.

use quorate_jepsen::history::{History, Nanos};
use quorate_jepsen::report::{Report, Verdict};
use quorate_jepsen::timeline::{Fact, Fault, Micros, Node, PAGE_BYTES_MAX, Phase, Role, Timeline, render};

use super::{FIRST_WATCHER, RunOptions};

/// What a run knows of its members and of itself, beside the history.
pub struct Seen {
    pub nodes: Vec<Node>,
    /// When the faults ended, and when the clients did.
    pub healed: Nanos,
    pub settled: Nanos,
}

/// The page.
pub fn write(options: &RunOptions, history: &History, report: &Report, seen: Seen) -> String {
    let fact = |name: &str, value: String| Fact {
        name: name.to_owned(),
        value,
    };
    let mut timeline = Timeline {
        title: format!("black-box run, seed {}", options.seed),
        verdict: match report.verdict {
            Verdict::Passed => "passed",
            Verdict::Refused => "failed",
            Verdict::Undecided => "undecided",
        }
        .to_owned(),
        facts: vec![
            fact("members", options.nodes.to_string()),
            fact("clients", options.clients.to_string()),
            fact("seconds of load", options.seconds.to_string()),
        ],
        ..Timeline::default()
    };
    timeline.add_excerpt(history, &report.violations, &|client| {
        (role(client), String::new())
    });
    timeline.phases = phases(&seen, timeline.end);
    timeline.faults = faults(&seen.nodes);
    timeline.nodes = seen.nodes;
    timeline.add_violations(history, &report.violations);
    render(&timeline, PAGE_BYTES_MAX)
}

fn role(client: u32) -> Role {
    match client {
        _ if client >= FIRST_WATCHER => Role::Watcher,
        _ if client == FIRST_WATCHER - 1 => Role::Settler,
        _ => Role::Client,
    }
}

fn phases(seen: &Seen, end: Micros) -> Vec<Phase> {
    let phase = |name: &str, from: Micros, to: Micros| Phase {
        name: name.to_owned(),
        from,
        to,
    };
    let (healed, settled) = (seen.healed / 1_000, seen.settled / 1_000);
    let mut phases = vec![
        phase("chaos", 0, healed),
        phase("calm load", healed, settled),
        phase("settle", settled, end),
    ];
    phases.retain(|phase| phase.from < phase.to);
    phases
}

/// Deaths and pauses, as faults.
fn faults(nodes: &[Node]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, node) in nodes.iter().enumerate() {
        for (life, next) in node.lives.iter().zip(node.lives.iter().skip(1)) {
            if let Some(ended) = &life.ended {
                faults.push(fault("Kill", number, ended.at, next.from));
            }
        }
        for (from, to) in node.lives.iter().flat_map(|life| &life.pauses) {
            faults.push(fault("Pause", number, *from, *to));
        }
    }
    faults.sort_by_key(|fault| fault.from);
    faults
}

fn fault(name: &str, node: usize, from: Micros, to: Micros) -> Fault {
    Fault {
        name: name.to_owned(),
        from,
        to,
        nodes: vec![node],
        text: String::new(),
    }
}
