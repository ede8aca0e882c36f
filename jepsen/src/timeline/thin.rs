//! Makes a timeline small enough for a page, from what matters least: what is far from the first
//! violation, or, without one, from the end.
//!
//! In this order: texts of far operations and watches go, then rows of states that change nothing but
//! indexes, then far operations themselves. Whatever the first violation names stays whole. Each step
//! leaves a sentence in [`Timeline::omitted`].

use std::collections::BTreeSet;

use super::data::{Entry, Micros, Operation, State, Timeline, Watch};

/// What is nearer than this keeps its texts, and its states.
const NEAR: Micros = 1_500_000;
/// Distance between two rows of states that are kept far from the violation.
const STATES_APART: Micros = 250_000;

/// Cuts down `timeline` until its JSON has at most `bytes_max` bytes, if that is possible at all.
pub(super) fn thin(timeline: &mut Timeline, bytes_max: usize) {
    let mut size = json_bytes(timeline);
    if size <= bytes_max {
        return;
    }
    let focus = Focus::of(timeline);
    size -= drop_texts(timeline, &focus, size.saturating_sub(bytes_max));
    if size > bytes_max {
        size -= drop_states(timeline, &focus);
    }
    if size > bytes_max {
        // The sentences themselves take a little.
        drop_operations(timeline, &focus, size - bytes_max + 1_000);
    }
}

/// As the page holds it: each "<" takes the room of six characters there.
fn json_bytes(value: &impl serde::Serialize) -> usize {
    let json = serde_json::to_string(value).expect("plain data");
    json.len() + 5 * json.matches('<').count()
}

/// Where a reader will look, and what must stay.
struct Focus {
    times: Vec<Micros>,
    operations: BTreeSet<usize>,
    watches: BTreeSet<usize>,
}

impl Focus {
    fn of(timeline: &Timeline) -> Focus {
        let Some(first) = timeline.violations.first() else {
            return Focus {
                times: vec![timeline.end],
                operations: BTreeSet::new(),
                watches: BTreeSet::new(),
            };
        };
        let operations: BTreeSet<usize> = first.operations.iter().map(|part| part.operation).collect();
        let named = |own: &&Operation| operations.contains(&own.id);
        let times = timeline.operations.iter().filter(named).map(|own| own.from);
        Focus {
            times: times.chain([first.at]).collect(),
            watches: first.watches.iter().copied().collect(),
            operations,
        }
    }

    /// Whether the violation is about this watch.
    fn names(&self, watch: &Watch) -> bool {
        self.watches.contains(&watch.id)
    }

    fn distance(&self, at: Micros) -> Micros {
        let distances = self.times.iter().map(|time| time.abs_diff(at));
        distances.min().unwrap_or(Micros::MAX)
    }
}

fn seconds(micros: Micros) -> String {
    format!("{:.1} s", micros as f64 / 1e6)
}

/// The distance beyond which items have to go so that `excess` bytes do; `Micros::MAX` if none need to.
fn reach(mut items: Vec<(Micros, usize)>, excess: usize) -> Micros {
    items.sort_unstable_by_key(|(distance, _)| std::cmp::Reverse(*distance));
    let mut gone = 0;
    let mut reach = Micros::MAX;
    for (distance, bytes) in items {
        if gone >= excess {
            break;
        }
        gone += bytes;
        reach = distance;
    }
    reach
}

fn text_bytes(operation: &Operation) -> usize {
    operation.request.len() + operation.answer.len()
}

fn drop_texts(timeline: &mut Timeline, focus: &Focus, excess: usize) -> usize {
    let far = |at: Micros| focus.distance(at) >= NEAR;
    let far_operation = |own: &Operation| far(own.from) && !focus.operations.contains(&own.id);
    let operations = timeline.operations.iter().filter(|own| far_operation(own));
    let mut items: Vec<(Micros, usize)> = operations
        .map(|own| (focus.distance(own.from), text_bytes(own)))
        .collect();
    for watch in timeline.watches.iter().filter(|watch| !focus.names(watch)) {
        let entries = watch.entries.iter();
        let entries = entries.filter(|entry| far(entry.at));
        items.extend(entries.map(|entry| (focus.distance(entry.at), entry.text.len())));
    }
    let reach = reach(items, excess);
    let (mut bytes, mut count) = (0, 0);
    for own in timeline.operations.iter_mut().filter(|own| far_operation(own)) {
        if focus.distance(own.from) >= reach {
            bytes += text_bytes(own);
            count += 1;
            own.request.clear();
            own.answer.clear();
        }
    }
    for watch in timeline.watches.iter_mut().filter(|watch| !focus.names(watch)) {
        let far = |entry: &&mut Entry| focus.distance(entry.at) >= reach;
        for entry in watch.entries.iter_mut().filter(far) {
            bytes += entry.text.len();
            entry.text.clear();
        }
    }
    if count > 0 {
        timeline.omitted.push(format!(
            "{count} operations more than {} away are shown without request and answer",
            seconds(reach)
        ));
    }
    bytes
}

/// Far from the violation keeps a row if term, leader or snapshot change, or some time has passed.
fn drop_states(timeline: &mut Timeline, focus: &Focus) -> usize {
    let (mut bytes, mut count) = (0, 0);
    for node in &mut timeline.nodes {
        let mut last: Option<State> = None;
        node.states.retain(|state| {
            let keeps = focus.distance(state.at) < NEAR
                || last.is_none_or(|last| {
                    let before = (last.term, last.leader, last.snapshot);
                    before != (state.term, state.leader, state.snapshot) || state.at >= last.at + STATES_APART
                });
            match keeps {
                true => last = Some(*state),
                false => {
                    bytes += json_bytes(state) + 1;
                    count += 1;
                }
            }
            keeps
        });
    }
    if count > 0 {
        timeline.omitted.push(format!(
            "indexes of nodes are shown each {} only, more than {} away",
            seconds(STATES_APART),
            seconds(NEAR)
        ));
    }
    bytes
}

fn drop_operations(timeline: &mut Timeline, focus: &Focus, excess: usize) {
    let keeps = |own: &Operation| focus.operations.contains(&own.id);
    let operations = timeline.operations.iter().filter(|own| !keeps(own));
    let mut items: Vec<(Micros, usize)> = operations
        .map(|own| (focus.distance(own.from), json_bytes(own) + 1))
        .collect();
    for watch in timeline.watches.iter().filter(|watch| !focus.names(watch)) {
        let entries = watch.entries.iter();
        items.extend(entries.map(|entry| (focus.distance(entry.at), json_bytes(entry) + 1)));
    }
    let reach = reach(items, excess);
    let before = timeline.operations.len();
    timeline
        .operations
        .retain(|own| keeps(own) || focus.distance(own.from) < reach);
    for watch in timeline.watches.iter_mut().filter(|watch| !focus.names(watch)) {
        watch.entries.retain(|entry| focus.distance(entry.at) < reach);
    }
    let gone = before - timeline.operations.len();
    timeline.omitted.push(format!(
        "{gone} operations, and what watches received, more than {} away are not shown at all",
        seconds(reach)
    ));
}
