//! The verdict on what clients saw: `quorate-jepsen`'s checks, as violations of this crate's report.

use quorate_jepsen::history::History;
use quorate_jepsen::{compaction, durability, identity, linearizability, property};

use crate::report::Violation;

/// Longest text of one violation.
const TEXT_BYTES_MAX: usize = 4_000;

/// Everything that the history violates.
pub fn judge(history: &History) -> Vec<Violation> {
    let checked = linearizability::check(history);
    let mut found = checked.violations;
    found.extend(durability::check(history));
    found.extend(durability::check_convergence(history));
    found.extend(compaction::check(history));
    found.extend(identity::check(history));
    found.into_iter().map(convert).collect()
}

fn convert(found: property::Violation) -> Violation {
    let mut text = format!("{} — {}", found.property.guarantee(), found.message);
    if text.len() > TEXT_BYTES_MAX {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX);
        text.truncate(end);
        text.push('…');
    }
    Violation::new(found.property.name(), text)
}
