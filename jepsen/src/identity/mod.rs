//! Headers: one cluster, a fixed id for each member, and terms that do not go back.
//!
//! A member's term is part of its durable vote (section 5.1 of the Raft paper): one that shows a lower
//! term than before has forgotten a vote.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::history::{History, OpId, Operation};
use crate::property::{Property, Violation};

/// Checks the headers of all answers, in a run in which so many members were replaced by new ones at the same address.
pub fn check(history: &History, replacements: u64) -> Vec<Violation> {
    let mut violations = Vec::new();
    violations.extend(check_ids(history, replacements));
    violations.extend(check_terms(history));
    violations
}

fn check_ids(history: &History, replacements: u64) -> Option<Violation> {
    // Where each id was first met.
    let mut homes: BTreeMap<u64, (u32, OpId)> = BTreeMap::new();
    let mut residents: BTreeMap<u32, OpId> = BTreeMap::new();
    let mut cluster: Option<(u64, OpId)> = None;
    let mut replaced = 0;
    for operation in &history.operations {
        let Some(header) = operation.outcome.answer().and_then(|answer| answer.header()) else {
            continue;
        };
        let (cluster_id, first) = *cluster.get_or_insert((header.cluster_id, operation.id));
        let is_new = !homes.contains_key(&header.member_id);
        let home = homes.entry(header.member_id);
        let (home, met) = *home.or_insert((operation.member, operation.id));
        let resident = *residents.entry(operation.member).or_insert(operation.id);
        if is_new && resident != operation.id {
            replaced += 1;
        }
        let other = if cluster_id != header.cluster_id {
            first
        } else if home != operation.member {
            met
        } else if is_new && replaced > replacements {
            resident
        } else {
            continue;
        };
        let message = format!(
            "cluster {:x} and member {:x} do not go with what answered before:\n  {}\n  {operation}",
            header.cluster_id, header.member_id, history.operations[other],
        );
        return Some(Violation::of_operations(
            Property::OneCluster,
            [other, operation.id],
            message,
        ));
    }
    None
}

fn term(operation: &Operation) -> Option<(u64, u64)> {
    let header = operation.outcome.answer()?.header()?;
    (header.raft_term > 0).then_some((header.member_id, header.raft_term))
}

fn check_terms(history: &History) -> Option<Violation> {
    let mut moments: Vec<(u64, bool, OpId)> = Vec::new();
    for operation in &history.operations {
        if let (Some(_), Some(returned)) = (term(operation), operation.returned) {
            moments.push((operation.invoked.order, false, operation.id));
            moments.push((returned.order, true, operation.id));
        }
    }
    moments.sort_unstable();
    // The highest term that each member had shown, now and when each operation was invoked.
    let mut shown: BTreeMap<u64, (u64, OpId)> = BTreeMap::new();
    let mut before: BTreeMap<OpId, (u64, OpId)> = BTreeMap::new();
    for (_, is_return, id) in moments {
        let operation = &history.operations[id];
        let (member, term) = term(operation).expect("only operations with a term are listed");
        if !is_return {
            if let Some(highest) = shown.get(&member) {
                before.insert(id, *highest);
            }
            continue;
        }
        if let Some((highest, witness)) = before.get(&id)
            && term < *highest
        {
            let message = format!(
                "member {member:x} showed term {highest} and later term {term}:\n  {}\n  {operation}",
                history.operations[*witness]
            );
            return Some(Violation::of_operations(
                Property::TermMonotonic,
                [*witness, id],
                message,
            ));
        }
        let highest = shown.entry(member).or_insert((term, id));
        if highest.0 < term {
            *highest = (term, id);
        }
    }
    None
}
