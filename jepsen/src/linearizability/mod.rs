//! Is there an order of all operations that explains every answer?
//!
//! Two checkers. [`search`] is the general one, in the manner of porcupine: it tries orders, knows
//! nothing of revisions, and is exponential at worst; it judges small histories, single keys
//! ([`partition`]) and, in tests, the other checker.
//!
//! The other one makes use of what etcd gives away: every write has a revision of its own, every
//! answer shows the revision at which it was made.
//!
//! ```text
//!   index      operations ─► writer of each revision | gap;  reads of each revision;  witnesses
//!   real_time  an operation's revision is not below what was seen before it was invoked
//!   timeline   revision by revision: apply the writer to the model, compare its answer and the reads;
//!              a gap is filled by an operation with unknown result, or the end of a lease
//! ```
//!
//! That is close to linear: a million operations take ten seconds. Only gaps need a search, and what was
//! seen (values are unique) nearly always leaves one choice. If the search gives up, the history is
//! *undecided*, which is neither accepted nor refused.

mod index;
pub mod partition;
mod real_time;
pub mod search;
#[cfg(test)]
mod tests;
mod timeline;
mod told;

pub use index::{KeyRange, footprint, is_serializable, made_revision, shown_pairs};
pub use timeline::{Author, Revision, Timeline};

use crate::history::History;
use crate::property::Violation;

/// What the revision-based checker found.
#[derive(Debug)]
pub struct Checked {
    pub violations: Vec<Violation>,
    /// The search for authors of gaps gave up.
    pub undecided: Option<String>,
    /// The write history as far as it could be rebuilt.
    pub timeline: Timeline,
}

/// Checks a whole history by its revisions.
pub fn check(history: &History) -> Checked {
    check_within(history, timeline::CONTRADICTIONS_MAX)
}

/// The same; the search for authors gives up after so many contradictions.
fn check_within(history: &History, contradictions_max: u32) -> Checked {
    let index = index::Index::new(history);
    let mut violations = real_time::check(history, &index);
    violations.extend(index.clashes(history));
    let built = timeline::build(history, &index, contradictions_max);
    violations.extend(built.violation);
    Checked {
        violations,
        undecided: built.undecided,
        timeline: built.timeline,
    }
}
