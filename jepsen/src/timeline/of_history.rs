//! What clients asked and were told, taken from a history: lanes, operations, watches, violations.

use std::collections::BTreeSet;

use super::data::{Client, Entry, Micros, Operation, Outcome, Role, Timeline, Violation, Watch};
use super::excerpt::Excerpt;
use super::involved::{self, Writes};
use super::{describe, promise, source};
use crate::history::{self, History, Nanos, WatchEvent, WatchRecord, show_bytes};
use crate::linearizability::made_revision;
use crate::property;

pub(super) fn micros(nanos: Nanos) -> Micros {
    nanos / 1_000
}

impl Timeline {
    /// Adds everything that the history shows of clients. `role` names who is more than a client.
    pub fn add_history(&mut self, history: &History, role: &dyn Fn(u32) -> (Role, String)) {
        self.end = self.end.max(end(history));
        self.add_part(history, role, &Excerpt::whole());
    }

    /// The same for a history of any length: what is far from the first violation is left out if there is much of it.
    pub fn add_excerpt(
        &mut self,
        history: &History,
        found: &[property::Violation],
        role: &dyn Fn(u32) -> (Role, String),
    ) {
        self.end = self.end.max(end(history));
        let first = found
            .first()
            .map(|found| violated(history, &Writes::of(history), found, self.end));
        let excerpt = Excerpt::of(history, first.as_ref(), self.end);
        let before = self.operations.len();
        self.add_part(history, role, &excerpt);
        if excerpt.reach < Micros::MAX {
            let gone = before + history.operations.len() - self.operations.len();
            self.omitted.push(format!(
                "{gone} operations, and what watches received, more than {:.1} s away are not shown at all",
                excerpt.reach as f64 / 1e6
            ));
        }
    }

    fn add_part(&mut self, history: &History, role: &dyn Fn(u32) -> (Role, String), excerpt: &Excerpt) {
        let shown = history.operations.iter().filter(|own| excerpt.shows(own));
        self.operations.extend(shown.map(operation));
        self.watches
            .extend(history.watches.iter().map(|record| watch(record, excerpt)));
        let callers = history.operations.iter().map(|operation| operation.client);
        let watchers = history.watches.iter().map(|watch| watch.client);
        let numbers: BTreeSet<u32> = callers.chain(watchers).collect();
        self.clients.extend(numbers.into_iter().map(|number| {
            let (role, host) = role(number);
            Client { number, role, host }
        }));
    }

    /// Adds what the checks found in the history.
    pub fn add_violations(&mut self, history: &History, found: &[property::Violation]) {
        let end = self.end;
        let writes = Writes::of(history);
        self.violations.extend(
            found
                .iter()
                .map(|violation| violated(history, &writes, violation, end)),
        );
    }
}

/// The last return, or event of a watch.
fn end(history: &History) -> Micros {
    let returns = history
        .operations
        .iter()
        .filter_map(|operation| operation.returned);
    let entries = history.watches.iter().flat_map(|watch| &watch.entries);
    let latest = returns.chain(entries.map(|entry| entry.at));
    latest.map(|moment| micros(moment.nanos)).max().unwrap_or(0)
}

fn operation(operation: &history::Operation) -> Operation {
    Operation {
        id: operation.id,
        client: operation.client,
        node: operation.member as usize,
        from: micros(operation.invoked.nanos),
        to: operation.returned.map(|returned| micros(returned.nanos)),
        kind: describe::kind(&operation.request).to_owned(),
        label: describe::label(operation),
        keys: describe::keys(&operation.request),
        request: operation.request.to_string(),
        answer: describe::answer(&operation.outcome),
        outcome: match &operation.outcome {
            history::Outcome::Ok(_) => Outcome::Ok,
            history::Outcome::Denied { .. } => Outcome::Denied,
            history::Outcome::Unknown { .. } => Outcome::Unknown,
        },
        revision: operation.revision().unwrap_or(0),
        writes: made_revision(operation).is_some(),
    }
}

fn watch(record: &WatchRecord, excerpt: &Excerpt) -> Watch {
    let request = &record.request;
    let mut label = describe::range(&request.key, &request.range_end);
    if request.start_revision > 0 {
        label.push_str(&format!(" from {}", request.start_revision));
    }
    for filter in request.filters() {
        label.push_str(match filter {
            quorate::proto::etcdserverpb::watch_create_request::FilterType::Noput => " no puts",
            quorate::proto::etcdserverpb::watch_create_request::FilterType::Nodelete => " no deletes",
        });
    }
    let entries = record.entries.iter();
    let shown = entries.filter(|entry| excerpt.shows_entry(record, entry));
    Watch {
        id: record.id,
        client: record.client,
        label,
        entries: shown.map(entry).collect(),
    }
}

fn entry(entry: &history::WatchEntry) -> Entry {
    let mut shown = Entry {
        at: micros(entry.at.nanos),
        kind: String::new(),
        node: None,
        revisions: None,
        text: String::new(),
    };
    let kind = match &entry.event {
        WatchEvent::Opened {
            member,
            start_revision,
            ..
        } => {
            shown.node = Some(*member as usize);
            shown.revisions = Some((*start_revision, *start_revision));
            "opened"
        }
        WatchEvent::Received(response) => {
            let header = response.header.as_ref().map_or(0, |header| header.revision);
            shown.revisions = Some((header, header));
            if response.compact_revision > 0 {
                shown.revisions = Some((response.compact_revision, response.compact_revision));
                shown.text = response.cancel_reason.clone();
                "compacted"
            } else if response.canceled {
                shown.text = response.cancel_reason.clone();
                "canceled"
            } else if !response.events.is_empty() {
                let revisions = response.events.iter().filter_map(|event| event.kv.as_ref());
                let mut revisions: Vec<i64> = revisions.map(|kv| kv.mod_revision).collect();
                revisions.sort_unstable();
                if let (Some(first), Some(last)) = (revisions.first(), revisions.last()) {
                    shown.revisions = Some((*first, *last));
                }
                shown.text = describe::events(&response.events);
                "events"
            } else if response.created {
                "created"
            } else {
                "progress"
            }
        }
        WatchEvent::ProgressRequested => "progress-requested",
        WatchEvent::CancelRequested => "cancel-requested",
        WatchEvent::Closed { reason } => {
            shown.text = reason.clone();
            "closed"
        }
        WatchEvent::Due { revision } => {
            shown.revisions = Some((*revision, *revision));
            "due"
        }
    };
    shown.kind = kind.to_owned();
    shown
}

fn violated(history: &History, writes: &Writes<'_>, found: &property::Violation, end: Micros) -> Violation {
    let named = found
        .operations
        .iter()
        .filter_map(|id| history.operations.get(*id));
    let returned = named
        .filter_map(|operation| Some(operation.returned?.nanos))
        .max();
    let watched = found.watches.iter().filter_map(|id| history.watches.get(*id));
    let received = watched
        .filter_map(|watch| Some(watch.entries.last()?.at.nanos))
        .max();
    let at = found.at.or(returned).or(received).map_or(end, micros);
    let mut keys: Vec<String> = found.keys.iter().map(|key| show_bytes(key)).collect();
    keys.sort();
    keys.dedup();
    Violation {
        property: found.property.name().to_owned(),
        promise: promise(found.property.name()).to_owned(),
        source: source(found.property.name()),
        text: found.message.clone(),
        at,
        operations: involved::of(history, writes, found),
        watches: found.watches.clone(),
        nodes: Vec::new(),
        keys,
        revision: found.revision,
    }
}
