//! The timeline of a run: what the notebook holds of the members, joined with the history and the verdict.

use std::time::Duration;

use quorate_jepsen::history::History;
use quorate_jepsen::property;
use quorate_jepsen::timeline::{Fact, Phase, Role, Timeline, Tone, promise, source};
use tracing::Level;

use crate::cluster::name;
use crate::notebook::cuts;
use crate::plan::Plan;
use crate::report::Violation;
use crate::run::{ADMINISTRATOR, FIRST_STRIKE, FIRST_WATCHER, LIMITED, OPERATOR, SETTLING_CLIENT};
use crate::world::World;

/// A line of a member's own log.
pub fn heard(world: &World, host: &str, level: Level, text: &str) {
    let tone = match text {
        _ if text.contains("snapshot") => Tone::Snapshot,
        _ if level <= Level::WARN => Tone::Warning,
        _ => Tone::Remark,
    };
    world.notebook().mark(world.now(), host, tone, text);
}

/// The whole timeline. `found` is what the history violates; without it, `violations` is what the run itself saw.
pub fn build(
    plan: &Plan,
    world: &World,
    history: &History,
    violations: &[Violation],
    found: &[property::Violation],
) -> Timeline {
    let seed = plan.seed.0;
    let failed = !violations.is_empty();
    // A stored plan may have been cut down: its seed alone gives another run.
    let drawn = *plan == Plan::draw(plan.seed);
    let mut timeline = Timeline {
        title: if drawn {
            format!("seed {seed}")
        } else {
            format!("scenario of seed {seed}")
        },
        verdict: if failed { "failed" } else { "passed" }.to_owned(),
        command: if drawn {
            format!("cargo sim replay {seed} --log")
        } else {
            String::new()
        },
        facts: facts(plan),
        ..Timeline::default()
    };
    let names: Vec<String> = (0..plan.members).map(name).collect();
    world.notebook().fill(&mut timeline, world.now(), &names);
    let changes = world.net(|net, _| std::mem::take(&mut net.link_changes));
    timeline.cuts = cuts(&changes, &|host| world.name(host), world.now());
    timeline.add_history(history, &|client| role(plan, client));
    if found.is_empty() {
        add_seen(world, violations, &names, &mut timeline);
    } else {
        timeline.add_violations(history, found);
    }
    timeline.phases = phases(&timeline);
    timeline
}

/// Violations that the run itself saw.
fn add_seen(world: &World, violations: &[Violation], names: &[String], timeline: &mut Timeline) {
    for (number, violation) in violations.iter().enumerate() {
        let text = world.notebook().explain(&violation.text);
        let mentioned = |name: &String| words(&text).any(|word| word == name);
        let nodes = (0..names.len()).filter(|node| names.get(*node).is_some_and(mentioned));
        timeline.violations.push(quorate_jepsen::timeline::Violation {
            property: violation.property.clone(),
            promise: promise(&violation.property).to_owned(),
            source: source(&violation.property),
            nodes: nodes.collect(),
            at: world.notebook().violated_at(number).unwrap_or(timeline.end),
            text,
            ..Default::default()
        });
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !letter.is_ascii_alphanumeric())
}

/// The notebook's, with calm and chaos before them.
fn phases(timeline: &Timeline) -> Vec<Phase> {
    let noted = timeline.phases.first().map_or(timeline.end, |phase| phase.from);
    let struck = timeline.faults.first().map_or(noted, |fault| fault.from);
    let phase = |name: &str, from, to| Phase {
        name: name.to_owned(),
        from,
        to,
    };
    let mut phases = vec![phase("calm", 0, struck), phase("chaos", struck, noted)];
    phases.retain(|phase| phase.from < phase.to);
    phases.extend(timeline.phases.iter().cloned());
    phases
}

/// Who a client number is, and on which machine it works.
fn role(plan: &Plan, client: u32) -> (Role, String) {
    let hosts = plan.clients.hosts as u32;
    let host = |number: u32| format!("c{}", number % hosts + 1);
    match client {
        _ if client >= FIRST_STRIKE => (Role::Fault, host(0)),
        SETTLING_CLIENT => (Role::Settler, host(0)),
        OPERATOR => (Role::Operator, host(0)),
        ADMINISTRATOR => (Role::Administrator, host(0)),
        _ if LIMITED.contains(&client) => (Role::Limited, host(client - LIMITED.start)),
        _ if client >= FIRST_WATCHER => (Role::Watcher, host(client - FIRST_WATCHER)),
        _ => (Role::Client, host(client / plan.clients.per_host)),
    }
}

fn facts(plan: &Plan) -> Vec<Fact> {
    let millis = |duration: Duration| format!("{} ms", duration.as_secs_f64() * 1e3);
    let fact = |name: &str, value: String| Fact {
        name: name.to_owned(),
        value,
    };
    let mut facts = vec![
        fact("workload", plan.workload.clone()),
        fact("members", plan.members.to_string()),
        fact("election time-out", millis(plan.options.election_timeout)),
        fact(
            "network latency",
            millis(Duration::from_nanos(plan.network.speed.latency)),
        ),
        fact("a sync takes", millis(plan.disks.sync_latency_mean)),
        fact(
            "snapshot each",
            format!("{} entries", plan.options.snapshot_count),
        ),
        fact("call time-out", millis(plan.clients.call_timeout)),
    ];
    if plan.clients.auth {
        facts.push(fact("auth", "on".into()));
    }
    if plan.options.quota_bytes > 0 {
        facts.push(fact("quota", format!("{} bytes", plan.options.quota_bytes)));
    }
    if plan.clients.contend {
        facts.push(fact("clients", "contend for locks and elections".into()));
    }
    if plan.clients.keepers > 0 {
        facts.push(fact("keepers of leases", plan.clients.keepers.to_string()));
    }
    if plan.clients.patient {
        facts.push(fact("patient clients", "four for each member".into()));
    }
    facts
}
