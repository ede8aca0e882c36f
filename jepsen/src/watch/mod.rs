//! The watch guarantees, as etcd's documentation names them, checked watch by watch.
//!
//! ```text
//!   timeline (what was written)  ──►  expected events of this watch: its keys, its filters
//!   record   (what was received) ──►  position: everything up to here was received
//! ```
//!
//! The position is the last revision that the watch has behind it, by events or by progress. Order,
//! uniqueness and completeness of revisions show in the record alone; gaps, wrong pairs and early
//! progress show against the timeline, as far as the timeline could be rebuilt.
//!
//! A watch promises nothing about time. Only the end of a run does: with all faults healed, an open
//! watch must have received everything ([`WatchEvent::Due`]).

mod expected;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::{Event, event::EventType};

use crate::history::{History, Moment, Request, WatchEntry, WatchEvent, WatchRecord, show_bytes};
use crate::linearizability::Timeline;
use crate::property::{Property, Violation};
use expected::Expected;

/// At most this many violations are listed for one watch: later ones follow from the first.
const VIOLATIONS_PER_WATCH_MAX: usize = 3;

/// Checks all watches of a history against the write history. `auto_compaction`: the members compact by themselves.
pub fn check(history: &History, timeline: &Timeline, auto_compaction: bool) -> Vec<Violation> {
    let compactions: Vec<(i64, u64)> = history
        .operations
        .iter()
        .filter_map(|operation| match &operation.request {
            Request::Compact(r) if !operation.outcome.is_denied() => {
                Some((r.revision, operation.invoked.order))
            }
            _ => None,
        })
        .collect();
    let check_one = |watch| {
        let mut checker = Checker::new(watch, timeline, &compactions, auto_compaction);
        checker.run();
        checker.violations
    };
    history.watches.iter().flat_map(check_one).collect()
}

/// Follows one watch through its responses.
struct Checker<'a> {
    watch: &'a WatchRecord,
    expected: Expected<'a>,
    /// Revision and invocation of every compaction that may have happened.
    compactions: &'a [(i64, u64)],
    /// Others may have happened.
    auto_compaction: bool,
    /// Everything up to this revision is behind the watch; `None` until it was created.
    position: Option<i64>,
    /// Where the stream now open was told to start.
    start: i64,
    /// The last progress: no event at or below it may follow.
    progress: i64,
    /// Keys received of the last revision, and whether a fragment left it open.
    last_keys: Vec<Bytes>,
    fragment_open: bool,
    /// Index of the entry at hand.
    entry: usize,
    violations: Vec<Violation>,
}

impl<'a> Checker<'a> {
    fn new(
        watch: &'a WatchRecord,
        timeline: &'a Timeline,
        compactions: &'a [(i64, u64)],
        auto_compaction: bool,
    ) -> Self {
        Checker {
            watch,
            expected: Expected::new(&watch.request, timeline),
            compactions,
            auto_compaction,
            position: None,
            start: 0,
            progress: 0,
            last_keys: Vec::new(),
            fragment_open: false,
            entry: 0,
            violations: Vec::new(),
        }
    }

    fn run(&mut self) {
        for (number, entry) in self.watch.entries.iter().enumerate() {
            self.entry = number;
            if self.violations.len() >= VIOLATIONS_PER_WATCH_MAX {
                return;
            }
            match &entry.event {
                WatchEvent::Opened { start_revision, .. } => self.opened(*start_revision),
                WatchEvent::Received(response) => self.received(entry.at, response),
                WatchEvent::Due { revision } => self.due(*revision),
                WatchEvent::ProgressRequested | WatchEvent::CancelRequested | WatchEvent::Closed { .. } => {}
            }
        }
    }

    /// A violation that shows in the entry at hand.
    fn fail(&mut self, property: Property, revision: i64, what: String) {
        let range = format!(
            "{}..{}",
            show_bytes(&self.watch.request.key),
            show_bytes(&self.watch.request.range_end)
        );
        let message = format!(
            "watch {} of client {} on {range}: {what}\n  promise: {}",
            self.watch.id,
            self.watch.client,
            property.guarantee()
        );
        let violation = Violation::of_watch(property, self.watch.id, message).at_revision(revision);
        let shown = self.watch.entries.get(self.entry);
        self.violations.push(match shown {
            Some(entry) => violation.seen_at(entry.at.nanos),
            None => violation,
        });
    }

    fn opened(&mut self, start_revision: i64) {
        self.start = start_revision;
        self.progress = 0;
        self.last_keys.clear();
        self.fragment_open = false;
        // The client says where to resume: what lies before is behind it.
        self.position = (start_revision > 0).then(|| start_revision - 1);
    }

    fn received(&mut self, at: Moment, response: &pb::WatchResponse) {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created {
            self.position = self.position.or(Some(revision));
        }
        if response.canceled {
            self.canceled(at, response);
        } else if !response.events.is_empty() {
            self.events(at, response, revision);
        } else if !response.created {
            self.progress(revision);
        }
    }

    fn canceled(&mut self, at: Moment, response: &pb::WatchResponse) {
        let compacted = response.compact_revision;
        if compacted == 0 {
            return;
        }
        let next = self.position.map_or(0, |position| position + 1);
        if next >= compacted {
            self.fail(
                Property::WatchCompacted,
                compacted,
                format!("canceled as compacted at {compacted}, but it needs only revision {next} and later"),
            );
        }
        let asked_for = self
            .compactions
            .iter()
            .any(|(revision, invoked)| *revision == compacted && *invoked < at.order);
        if !asked_for && !self.auto_compaction {
            self.fail(
                Property::WatchCompacted,
                compacted,
                format!("canceled as compacted at {compacted}, which nobody asked for"),
            );
        }
    }

    fn progress(&mut self, revision: i64) {
        let Some(position) = self.position else {
            return;
        };
        if let Some((missing, events)) = self.expected.first_after(position, revision) {
            self.fail(
                Property::WatchBookmarkable,
                missing,
                format!(
                    "progress {revision} before the events of revision {missing}: {}",
                    show_events(&events)
                ),
            );
        }
        self.progress = self.progress.max(revision);
        self.position = Some(position.max(revision));
    }

    fn due(&mut self, revision: i64) {
        let Some(position) = self.position else {
            self.fail(
                Property::WatchReliable,
                revision,
                format!("never created, although everything up to {revision} is due"),
            );
            return;
        };
        if let Some((missing, events)) = self.expected.first_after(position, revision) {
            self.fail(
                Property::WatchReliable,
                missing,
                format!(
                    "at the quiet end the events of revision {missing} are missing: {}",
                    show_events(&events)
                ),
            );
        }
    }

    /// A list of events: whole revisions, in order, after everything received so far.
    fn events(&mut self, at: Moment, response: &pb::WatchResponse, header_revision: i64) {
        let mut rest = response.events.as_slice();
        while let Some(first) = rest.first() {
            let revision = mod_revision(first);
            let length = rest
                .iter()
                .take_while(|event| mod_revision(event) == revision)
                .count();
            let (group, others) = rest.split_at(length);
            let open = response.fragment && others.is_empty();
            self.revision(at, revision, group, open);
            rest = others;
            if self.violations.len() >= VIOLATIONS_PER_WATCH_MAX {
                return;
            }
        }
        let last = response.events.last().map_or(0, mod_revision);
        if header_revision < last {
            self.fail(
                Property::WatchAccurate,
                last,
                format!("the header shows revision {header_revision}, the events reach {last}"),
            );
        }
    }

    /// The events of one revision, or of a part of it if `open`.
    fn revision(&mut self, at: Moment, revision: i64, group: &[Event], open: bool) {
        let position = self.position.unwrap_or(self.start - 1);
        let continues = self.fragment_open && revision == position;
        if revision <= position && !continues {
            self.out_of_place(revision, position, group);
            return;
        }
        if let Some((missing, events)) = self.expected.first_after(position, revision - 1) {
            // Dropped, or only late?
            let (property, fate) = match self.arrives_later(missing) {
                true => (Property::WatchOrdered, "came after it"),
                false => (Property::WatchReliable, "never did"),
            };
            self.fail(
                property,
                missing,
                format!(
                    "events of revision {revision} arrived, those of {missing} {fate}: {}",
                    show_events(&events)
                ),
            );
        }
        if !continues {
            self.last_keys.clear();
        }
        let already = self.last_keys.len();
        self.last_keys.extend(group.iter().map(key));
        self.compare(at, revision, group, already, open);
        self.position = Some(revision);
        self.fragment_open = open;
    }

    /// Events at or before the position: which promise that breaks depends on what came before.
    fn out_of_place(&mut self, revision: i64, position: i64, group: &[Event]) {
        let text = show_events(group);
        if revision < self.start {
            return self.fail(
                Property::WatchResumable,
                revision,
                format!(
                    "started at {} and received revision {revision}: {text}",
                    self.start
                ),
            );
        }
        if revision <= self.progress {
            return self.fail(
                Property::WatchBookmarkable,
                revision,
                format!("revision {revision} after progress {}: {text}", self.progress),
            );
        }
        if revision == position {
            let repeated = group.iter().any(|event| self.last_keys.contains(&key(event)));
            let property = if repeated {
                Property::WatchUnique
            } else {
                Property::WatchAtomic
            };
            self.fail(
                property,
                revision,
                format!("revision {revision} arrived in a second list: {text}"),
            );
            self.last_keys.extend(group.iter().map(key));
            return;
        }
        // A whole revision again is a repetition; one that was never there is out of order.
        let property = if self.received_before(revision) {
            Property::WatchUnique
        } else {
            Property::WatchOrdered
        };
        self.fail(
            property,
            revision,
            format!("revision {revision} after revision {position}: {text}"),
        );
    }

    /// True if the record shows `revision` more than once.
    fn received_before(&self, revision: i64) -> bool {
        let times = self.watch.entries.iter().filter(|entry| shows(entry, revision));
        times.count() > 1
    }

    /// True if `revision` is shown here or later on the stream now open.
    fn arrives_later(&self, revision: i64) -> bool {
        self.watch
            .entries
            .iter()
            .skip(self.entry)
            .take_while(|entry| !matches!(entry.event, WatchEvent::Opened { .. }))
            .any(|entry| shows(entry, revision))
    }

    /// Compares the events of a revision with what was written; `already` of them came earlier.
    fn compare(&mut self, at: Moment, revision: i64, group: &[Event], already: usize, open: bool) {
        for event in group {
            if let Some(what) = self.expected.misfit(event) {
                self.fail(
                    Property::WatchFiltered,
                    revision,
                    format!("{what}: {}", show_event(event)),
                );
                return;
            }
        }
        let Some(expected) = self.expected.at(revision) else {
            return;
        };
        let expected = expected.get(already..).unwrap_or_default();
        for (event, expected) in group.iter().zip(expected) {
            if key(event) != key(expected) {
                break;
            }
            if (event.r#type, &event.kv) != (expected.r#type, &expected.kv) {
                return self.fail(
                    Property::WatchAccurate,
                    revision,
                    format!(
                        "shows {}, written was {}",
                        show_event(event),
                        show_event(expected)
                    ),
                );
            }
            self.compare_previous(at, revision, event, expected);
        }
        let received: Vec<Bytes> = group.iter().map(key).collect();
        let wanted: Vec<Bytes> = expected.iter().map(key).collect();
        self.compare_keys(revision, &received, &wanted, open);
    }

    fn compare_keys(&mut self, revision: i64, received: &[Bytes], wanted: &[Bytes], open: bool) {
        let shorter = wanted.len() > received.len();
        if received == wanted || (open && wanted.starts_with(received)) {
            return;
        }
        let text = format!(
            "revision {revision} shows the keys {}, written were {}",
            show_keys(received),
            show_keys(wanted)
        );
        let mut sorted = (received.to_vec(), wanted.to_vec());
        sorted.0.sort();
        sorted.1.sort();
        let property = if sorted.0 == sorted.1 {
            Property::WatchOrdered
        } else if sorted.0.windows(2).any(|pair| pair.first() == pair.last()) {
            Property::WatchUnique
        } else if shorter {
            Property::WatchAtomic
        } else {
            Property::WatchAccurate
        };
        self.fail(property, revision, text);
    }

    fn compare_previous(&mut self, at: Moment, revision: i64, event: &Event, expected: &Event) {
        let wanted = expected.prev_kv.as_ref().filter(|_| self.watch.request.prev_kv);
        if event.prev_kv.as_ref() == wanted {
            return;
        }
        // The pair before is gone once the revision before it is compacted.
        let compacted = self
            .compactions
            .iter()
            .any(|(compacted, invoked)| *compacted >= revision && *invoked < at.order);
        if event.prev_kv.is_none() && (compacted || self.auto_compaction) {
            return;
        }
        let show = |kv: Option<&_>| kv.map_or("none".into(), crate::history::show_kv);
        self.fail(
            Property::WatchPreviousPair,
            revision,
            format!(
                "{} came with previous pair {}, which was {}",
                show_event(event),
                show(event.prev_kv.as_ref()),
                show(wanted)
            ),
        );
    }
}

/// True if the entry is a list with events of `revision`.
fn shows(entry: &WatchEntry, revision: i64) -> bool {
    match &entry.event {
        WatchEvent::Received(response) => response.events.iter().any(|e| mod_revision(e) == revision),
        _ => false,
    }
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn key(event: &Event) -> Bytes {
    event.kv.as_ref().map_or(Bytes::new(), |kv| kv.key.clone())
}

fn show_event(event: &Event) -> String {
    let kind = if event.r#type == EventType::Delete as i32 {
        "delete"
    } else {
        "put"
    };
    let kv = event
        .kv
        .as_ref()
        .map_or("no pair".into(), crate::history::show_kv);
    format!("{kind} {kv}")
}

fn show_events(events: &[Event]) -> String {
    let shown: Vec<_> = events.iter().take(5).map(show_event).collect();
    shown.join(", ")
}

fn show_keys(keys: &[Bytes]) -> String {
    let shown: Vec<_> = keys.iter().map(|key| show_bytes(key)).collect();
    format!("[{}]", shown.join(", "))
}
