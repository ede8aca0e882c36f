//! Smaller plans made of a plan: pure functions, none of which runs anything.

use std::ops::Range;
use std::time::Duration;

use quorate_jepsen::workload::{ScriptedClient, Visit};
use serde_json::{Map, Value};

use crate::plan::Plan;

/// A run does not get shorter than this.
const CHAOS_MIN: Duration = Duration::from_millis(500);

pub fn faults(plan: &Plan) -> usize {
    plan.schedule.faults.len()
}

pub fn without_faults(plan: &Plan, gone: Range<usize>) -> Plan {
    let mut plan = plan.clone();
    plan.schedule.faults.drain(gone);
    plan
}

/// Clients with a script.
pub fn clients(plan: &Plan) -> usize {
    plan.clients.script.as_ref().map_or(0, Vec::len)
}

pub fn without_clients(plan: &Plan, gone: Range<usize>) -> Plan {
    let mut plan = plan.clone();
    plan.clients.script.iter_mut().for_each(|script| {
        script.drain(gone.clone());
    });
    plan
}

/// Calls of all scripts, one after the other; a visit without calls counts as one.
pub fn calls(plan: &Plan) -> usize {
    let visits = plan
        .clients
        .script
        .iter()
        .flatten()
        .flat_map(|client| &client.visits);
    visits.map(|visit| visit.calls.len().max(1)).sum()
}

pub fn without_calls(plan: &Plan, gone: Range<usize>) -> Plan {
    let mut number = 0;
    let mut stays = || {
        number += 1;
        !gone.contains(&(number - 1))
    };
    let mut keep_visit = |visit: &mut Visit| {
        if visit.calls.is_empty() {
            return stays();
        }
        visit.calls.retain(|_| stays());
        !visit.calls.is_empty()
    };
    let mut plan = plan.clone();
    for client in plan.clients.script.iter_mut().flatten() {
        client.visits.retain_mut(&mut keep_visit);
    }
    plan.clients.script.iter_mut().for_each(remove_idle);
    plan
}

fn remove_idle(script: &mut Vec<ScriptedClient>) {
    script.retain(|client| !client.visits.is_empty());
}

/// The plan with an earlier end, the earliest first.
pub fn shorter(plan: &Plan) -> Vec<Plan> {
    let shares = [1, 2, 4, 6, 7].map(|eighths| plan.chaos_end * eighths / 8);
    let ends = shares.map(|end| Duration::from_millis(end.as_millis() as u64));
    let possible = ends.into_iter().filter(|end| *end >= CHAOS_MIN);
    possible.map(|end| ending_at(plan, end)).collect()
}

fn ending_at(plan: &Plan, end: Duration) -> Plan {
    let (end_ms, end_nanos) = (end.as_millis() as u64, end.as_nanos() as u64);
    let mut plan = plan.clone();
    plan.chaos_end = end;
    plan.schedule.faults.retain(|fault| fault.at_ms < end_ms);
    for fault in &mut plan.schedule.faults {
        fault.lasts_ms = fault.lasts_ms.min(end_ms - fault.at_ms);
    }
    for client in plan.clients.script.iter_mut().flatten() {
        client.visits.retain(|visit| visit.at_nanos < end_nanos);
        for visit in &mut client.visits {
            visit.calls.retain(|call| call.at_nanos < end_nanos);
        }
    }
    plan.clients.script.iter_mut().for_each(remove_idle);
    plan
}

/// Fewer watchers and keepers of leases, and nobody who is patient.
pub fn fewer_watchers(plan: &Plan) -> Vec<Plan> {
    let with = |watchers| {
        let mut plan = plan.clone();
        plan.clients.watchers = watchers;
        plan
    };
    let with_keepers = |keepers| {
        let mut plan = plan.clone();
        plan.clients.keepers = keepers;
        plan
    };
    let without_patience = plan.clients.patient.then(|| {
        let mut plan = plan.clone();
        plan.clients.patient = false;
        plan
    });
    let watchers = (0..plan.clients.watchers.min(2)).map(with);
    watchers
        .chain((0..plan.clients.keepers).map(with_keepers))
        .chain(without_patience)
        .collect()
}

pub fn fewer_members(plan: &Plan) -> Vec<Plan> {
    let with = |members| {
        let mut plan = plan.clone();
        plan.members = members;
        let faults = &mut plan.schedule.faults;
        faults.retain(|fault| fault.class.is_possible(members));
        faults.iter_mut().for_each(|fault| fault.member %= members);
        for client in plan.clients.script.iter_mut().flatten() {
            client.visits.iter_mut().for_each(|visit| visit.member %= members);
        }
        plan
    };
    let fewer = [1, 3].into_iter().filter(|members| *members < plan.members);
    fewer.map(with).collect()
}

/// Less time for the clients that have no script.
pub fn narrower(plan: &Plan) -> Vec<Plan> {
    let clients = &plan.clients;
    let unscripted = clients.auth || clients.contend || clients.keepers > 0 || clients.patient;
    if clients.script.is_some() && !unscripted {
        return Vec::new();
    }
    let from = plan.clients.unscripted_from;
    let until = plan.clients.unscripted_until.unwrap_or(plan.chaos_end);
    let width = until.saturating_sub(from);
    if width < CHAOS_MIN {
        return Vec::new();
    }
    let millis = |time: Duration| Duration::from_millis(time.as_millis() as u64);
    let with = |(from, until)| {
        let mut plan = plan.clone();
        plan.clients.unscripted_from = millis(from);
        plan.clients.unscripted_until = Some(millis(until));
        plan
    };
    let windows = [2, 4, 8].map(|part| [(from, until - width / part), (from + width / part, until)]);
    windows.into_iter().flatten().map(with).collect()
}

/// Clients that draw.
pub fn fewer_clients(plan: &Plan) -> Vec<Plan> {
    let (hosts, per_host) = (plan.clients.hosts, plan.clients.per_host);
    let fewer = [(1, 1), (hosts / 2, per_host), (hosts, per_host / 2)].into_iter();
    let fewer = fewer.filter(|(hosts, per_host)| *hosts > 0 && *per_host > 0);
    let with = |(hosts, per_host)| {
        let mut plan = plan.clone();
        (plan.clients.hosts, plan.clients.per_host) = (hosts, per_host);
        plan
    };
    fewer.map(with).collect()
}

/// Clients that draw: one kind of call less.
pub fn fewer_kinds(plan: &Plan) -> Vec<Plan> {
    let kinds = serde_json::to_value(plan.clients.shape.weights).expect("plain data");
    let on = kinds.as_object().into_iter().flatten();
    let on = on.filter(|(_, weight)| weight.as_u64() != Some(0));
    let without = |(kind, _): (&String, &Value)| {
        let mut kinds = kinds.clone();
        kinds[kind] = 0.into();
        let mut plan = plan.clone();
        plan.clients.shape.weights = serde_json::from_value(kinds).ok()?;
        Some(plan)
    };
    on.filter_map(without).collect()
}

/// The parts of a plan whose fields have a default that is simpler than what was drawn.
const PARTS: [&str; 5] = ["/options", "/network", "/network/speed", "/disks", "/clients"];

/// Fields with a cut of their own.
const KEPT: [&str; 4] = ["script", "unscripted_from", "unscripted_until", "watchers"];

/// One field with its default, or a whole part.
pub fn toward_defaults(plan: &Plan) -> Vec<Plan> {
    let simple = serde_json::to_value(Plan::default()).expect("plain data");
    let whole = serde_json::to_value(plan).expect("plain data");
    let mut candidates = Vec::new();
    for part in PARTS {
        let (Some(now), Some(default)) = (fields(&whole, part), fields(&simple, part)) else {
            continue;
        };
        let mut different: Vec<&String> = now
            .iter()
            .filter(|(name, value)| !KEPT.contains(&name.as_str()) && default.get(*name) != Some(*value))
            .map(|(name, _)| name)
            .collect();
        // Weights say nothing where there is a script.
        if plan.clients.script.is_none() {
            different.retain(|name| name.as_str() != "shape");
        }
        let mut groups = vec![different.clone()];
        groups.extend(different.into_iter().map(|name| vec![name]));
        for group in groups {
            let mut value = whole.clone();
            if let Some(fields) = value.pointer_mut(part).and_then(Value::as_object_mut) {
                for name in &group {
                    match default.get(*name) {
                        Some(default) => fields.insert((*name).clone(), default.clone()),
                        None => fields.remove(*name),
                    };
                }
            }
            candidates.extend(serde_json::from_value::<Plan>(value));
        }
    }
    candidates
}

fn fields<'a>(plan: &'a Value, part: &str) -> Option<&'a Map<String, Value>> {
    plan.pointer(part)?.as_object()
}

#[cfg(test)]
mod tests {
    use quorate_jepsen::workload::{Intent, Put, ScriptedCall};

    use super::*;
    use crate::seed::Seed;

    fn call(number: u64) -> ScriptedCall {
        let put = Put {
            key: format!("k/{number}"),
            prev_kv: false,
        };
        ScriptedCall {
            at_nanos: number * 1_000_000_000,
            intent: Intent::Put(put),
        }
    }

    fn visit(numbers: Range<u64>) -> Visit {
        Visit {
            at_nanos: numbers.start * 1_000_000_000,
            member: 4,
            calls: numbers.map(call).collect(),
        }
    }

    /// Two clients with seven calls, and a visit that led to nothing.
    fn scripted() -> Plan {
        let script = vec![
            ScriptedClient {
                client: 0,
                visits: vec![visit(1..4), visit(5..5), visit(6..8)],
            },
            ScriptedClient {
                client: 1,
                visits: vec![visit(10..12)],
            },
        ];
        let mut plan = Plan::draw(Seed(3));
        plan.clients.script = Some(script);
        plan
    }

    fn left(plan: &Plan) -> Vec<u64> {
        let clients = plan.clients.script.iter().flatten();
        let visits = clients.flat_map(|client| &client.visits);
        let calls = visits.flat_map(|visit| &visit.calls);
        calls.map(|call| call.at_nanos / 1_000_000_000).collect()
    }

    #[test]
    fn calls_go_piece_by_piece_and_take_idle_clients_along() {
        let plan = scripted();
        assert_eq!((clients(&plan), calls(&plan)), (2, 8));
        assert_eq!(left(&without_calls(&plan, 1..3)), [1, 6, 7, 10, 11]);
        let without_empty = without_calls(&plan, 3..4);
        assert_eq!(left(&without_empty), left(&plan));
        assert_eq!(calls(&without_empty), 7);
        let first = without_calls(&plan, 6..8);
        assert_eq!((clients(&first), left(&first)), (1, vec![1, 2, 3, 6, 7]));
        assert_eq!(left(&without_clients(&plan, 0..1)), [10, 11]);
        assert_eq!(calls(&without_calls(&plan, 0..8)), 0);
    }

    #[test]
    fn an_earlier_end_leaves_nothing_behind_it() {
        let plan = scripted();
        for shorter in shorter(&plan) {
            let end_ms = shorter.chaos_end.as_millis() as u64;
            assert!(shorter.chaos_end < plan.chaos_end);
            assert!(left(&shorter).iter().all(|at| at * 1_000 < end_ms));
            let faults = &shorter.schedule.faults;
            assert!(faults.iter().all(|fault| fault.at_ms + fault.lasts_ms <= end_ms));
        }
    }

    #[test]
    fn every_cut_can_be_carried_out_and_ends_somewhere() {
        let mut plan = scripted();
        plan.members = 5;
        plan.clients.auth = true;
        for step in [narrower, fewer_watchers, fewer_members, toward_defaults, shorter] {
            let mut steps = 0;
            while let Some(next) = step(&plan).into_iter().find(|next| *next != plan) {
                next.check().expect("it can be carried out");
                plan = next;
                steps += 1;
                assert!(steps < 200, "it goes on forever");
            }
        }
        assert_eq!((plan.members, plan.clients.watchers), (1, 0));
        assert_eq!(plan.options, Plan::default().options);
        assert_eq!(plan.network, Plan::default().network);
        assert!(!plan.clients.auth);
        assert!(
            plan.schedule
                .faults
                .iter()
                .all(|fault| fault.class.is_possible(1))
        );
    }

    #[test]
    fn clients_that_draw_become_fewer_and_do_less() {
        let mut plan = Plan::draw(Seed(3));
        (plan.clients.hosts, plan.clients.per_host) = (3, 3);
        while let Some(next) = fewer_clients(&plan).into_iter().find(|next| *next != plan) {
            plan = next;
        }
        assert_eq!((plan.clients.hosts, plan.clients.per_host), (1, 1));
        let kinds = fewer_kinds(&plan).len();
        let fewer = fewer_kinds(&plan).remove(0);
        assert_eq!(fewer_kinds(&fewer).len(), kinds - 1);
    }
}
