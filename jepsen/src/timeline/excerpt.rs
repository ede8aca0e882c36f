//! Which part of a long history a timeline holds: with all of it, millions of operations would be written out in words, and
//! nearly all of these words thrown away again by `thin`.

use std::collections::BTreeSet;

use super::data::{Micros, Violation};
use super::of_history::micros;
use crate::history::{History, Operation, WatchEntry, WatchRecord};

/// A page shows fewer operations and entries of watches, by far.
const SHOWN_MAX: usize = 20_000;

/// What is near the first violation, or, without one, near the end; and whatever the violation names.
pub(super) struct Excerpt {
    times: Vec<Micros>,
    operations: BTreeSet<usize>,
    watches: BTreeSet<usize>,
    /// What is nearer is shown.
    pub reach: Micros,
}

impl Excerpt {
    pub fn whole() -> Self {
        Excerpt {
            times: vec![0],
            operations: BTreeSet::new(),
            watches: BTreeSet::new(),
            reach: Micros::MAX,
        }
    }

    pub fn of(history: &History, first: Option<&Violation>, end: Micros) -> Self {
        let named = first.iter().flat_map(|violation| &violation.operations);
        let operations: BTreeSet<usize> = named.map(|part| part.operation).collect();
        let parts = operations.iter().filter_map(|id| history.operations.get(*id));
        let times = parts.map(|part| micros(part.invoked.nanos));
        let mut excerpt = Excerpt {
            times: times
                .chain([first.map_or(end, |violation| violation.at)])
                .collect(),
            watches: first
                .iter()
                .flat_map(|violation| &violation.watches)
                .copied()
                .collect(),
            operations,
            reach: Micros::MAX,
        };
        let invocations = history.operations.iter().map(|operation| operation.invoked);
        let entries = history.watches.iter().flat_map(|watch| &watch.entries);
        let moments = invocations.chain(entries.map(|entry| entry.at));
        let mut distances: Vec<Micros> = moments
            .map(|moment| excerpt.distance(micros(moment.nanos)))
            .collect();
        if distances.len() > SHOWN_MAX {
            excerpt.reach = *distances.select_nth_unstable(SHOWN_MAX).1;
        }
        excerpt
    }

    fn distance(&self, at: Micros) -> Micros {
        let distances = self.times.iter().map(|time| time.abs_diff(at));
        distances.min().unwrap_or(Micros::MAX)
    }

    pub fn shows(&self, operation: &Operation) -> bool {
        self.operations.contains(&operation.id) || self.distance(micros(operation.invoked.nanos)) < self.reach
    }

    pub fn shows_entry(&self, watch: &WatchRecord, entry: &WatchEntry) -> bool {
        self.watches.contains(&watch.id) || self.distance(micros(entry.at.nanos)) < self.reach
    }
}
