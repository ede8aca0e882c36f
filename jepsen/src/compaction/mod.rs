//! Were refusals because of compaction, or of a future revision, justified, and was what is compacted
//! really refused?
//!
//! Compaction has no place of its own in the order of revisions, so only real time is used: what was
//! acknowledged before counts as done, what was asked for and not refused may have been done. Where members compact by
//! themselves, anything but the newest revision may be gone at any time, and only what is asked for is known to be.

#[cfg(test)]
mod tests;

use tonic::Code;

use crate::history::{History, Operation, Outcome, Request};
use crate::linearizability::is_serializable;
use crate::model::Refusal;
use crate::property::{Property, Violation};

/// Checks ranges and compactions of a history. `auto_compaction`: the members compact by themselves.
pub fn check(history: &History, auto_compaction: bool) -> Vec<Violation> {
    let compactions: Vec<(i64, &Operation)> = history
        .operations
        .iter()
        .filter_map(|operation| match &operation.request {
            Request::Compact(r) => Some((r.revision, operation)),
            _ => None,
        })
        .collect();
    let revisions = history.operations.iter().filter_map(Operation::revision);
    let checker = Checker {
        newest: revisions.max().unwrap_or(0),
        compactions,
        auto_compaction,
        violations: Vec::new(),
    };
    checker.run(history)
}

struct Checker<'a> {
    /// The newest revision that any answer shows.
    newest: i64,
    compactions: Vec<(i64, &'a Operation)>,
    auto_compaction: bool,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn run(mut self, history: &'a History) -> Vec<Violation> {
        for operation in &history.operations {
            match &operation.request {
                Request::Range(r) if r.revision > 0 => self.range(operation, r.revision),
                // A revision below zero counts as compacted from the beginning, as in etcd.
                Request::Compact(r) if r.revision >= 0 => self.compaction(operation, r.revision),
                _ => {}
            }
        }
        self.violations
    }

    fn fail(&mut self, operation: &Operation, other: Option<&Operation>, what: &str) {
        let mut message = format!("{what}:\n  {operation}");
        if let Some(other) = other {
            message.push_str(&format!("\n  {other}"));
        }
        let ids = [Some(operation), other].into_iter().flatten().map(|op| op.id);
        self.violations
            .push(Violation::of_operations(Property::Compaction, ids, message));
    }

    fn range(&mut self, operation: &'a Operation, revision: i64) {
        match &operation.outcome {
            Outcome::Ok(_) if !is_serializable(&operation.request) => {
                if let Some(done) = self.done_before(operation, |compacted| compacted > revision) {
                    self.fail(operation, Some(done), "a compacted revision was read");
                }
            }
            Outcome::Denied { code, text }
                if is(Refusal::COMPACTED, *code, text)
                    && !self.possible_before(operation, |compacted| compacted > revision) =>
            {
                self.fail(
                    operation,
                    None,
                    "refused as compacted, but nobody compacted so far",
                );
            }
            _ => {}
        }
    }

    fn compaction(&mut self, operation: &'a Operation, revision: i64) {
        match &operation.outcome {
            Outcome::Ok(_) => {
                if let Some(done) = self.done_before(operation, |compacted| compacted >= revision) {
                    self.fail(
                        operation,
                        Some(done),
                        "compacted again what was compacted already",
                    );
                }
            }
            Outcome::Denied { code, text }
                if is(Refusal::COMPACTED, *code, text)
                    && !self.possible_before(operation, |compacted| compacted >= revision) =>
            {
                self.fail(
                    operation,
                    None,
                    "refused as compacted, but nobody compacted so far",
                );
            }
            _ => {}
        }
    }

    /// A compaction that was acknowledged before `operation` was invoked.
    fn done_before(&self, operation: &Operation, reaches: impl Fn(i64) -> bool) -> Option<&'a Operation> {
        self.compactions
            .iter()
            .find(|(revision, compaction)| {
                reaches(*revision) && compaction.outcome.answer().is_some() && compaction.precedes(operation)
            })
            .map(|(_, compaction)| *compaction)
    }

    /// True if a compaction that was not refused was invoked before `operation` returned, or needed nobody who asks.
    fn possible_before(&self, operation: &Operation, reaches: impl Fn(i64) -> bool) -> bool {
        // Nobody compacts more than there is.
        let by_itself = self.auto_compaction && reaches(self.newest);
        by_itself
            || self.compactions.iter().any(|(revision, compaction)| {
                compaction.id != operation.id
                    && reaches(*revision)
                    && !compaction.outcome.is_denied()
                    && !operation.precedes(compaction)
            })
    }
}

fn is(refusal: Refusal, code: Code, text: &str) -> bool {
    (refusal.code, refusal.text) == (code, text)
}
