//! Real-time order: what was once seen stays seen.
//!
//! If an answer showed revision r, then r was committed, and every linearizable operation invoked
//! after that answer has a revision of at least r (a write: above r). Any answer is a witness, a
//! serializable one too, since a member shows only what is committed. For a serializable witness the
//! blame is its own: it showed a revision that was made only later.

use super::index::{Index, Place, is_serializable};
use crate::history::{History, Operation};
use crate::property::{Property, Violation};

/// At most this many violations are listed: the first ones tell the story.
const VIOLATIONS_MAX: usize = 10;

pub(super) fn check(history: &History, index: &Index<'_>) -> Vec<Violation> {
    let violation = |operation: &Operation| {
        let (revision, least, verb) = match index.places[operation.id] {
            Place::Write(revision) => (revision, 1, "was written"),
            Place::Read(revision) if !is_serializable(&operation.request) => (revision, 0, "was read"),
            _ => return None,
        };
        if revision < 1 + least {
            let message = format!("no such operation can have revision {revision}:\n  {operation}");
            return Some(Violation::of_operations(
                Property::Linearizable,
                [operation.id],
                message,
            ));
        }
        let seen = index.floors[operation.id]?;
        if revision >= seen.revision + least {
            return None;
        }
        let witness = &history.operations[seen.by];
        let property = match index.places[operation.id] {
            Place::Write(_) if is_serializable(&witness.request) => Property::SerializableRead,
            _ => Property::Linearizable,
        };
        let message = format!(
            "revision {revision} {verb} although revision {} had been seen before the invocation:\n  {witness}\n  {operation}",
            seen.revision
        );
        let violation = Violation::of_operations(property, [witness.id, operation.id], message);
        Some(violation.at_revision(seen.revision))
    };
    history
        .operations
        .iter()
        .filter_map(violation)
        .take(VIOLATIONS_MAX)
        .collect()
}
