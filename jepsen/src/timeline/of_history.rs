//! What clients asked and were told, taken from a history: lanes, operations, watches, violations.

use std::collections::BTreeSet;

use super::data::{Client, Entry, Micros, Operation, Outcome, Role, Timeline, Violation, Watch};
use super::{describe, involved, promise, source};
use crate::history::{self, History, Nanos, WatchEvent, WatchRecord, show_bytes};
use crate::linearizability::made_revision;
use crate::property;

pub(super) fn micros(nanos: Nanos) -> Micros {
    nanos / 1_000
}

impl Timeline {
    /// Adds everything that the history shows of clients. `role` names who is more than a client.
    pub fn add_history(&mut self, history: &History, role: &dyn Fn(u32) -> (Role, String)) {
        self.operations.extend(history.operations.iter().map(operation));
        self.watches.extend(history.watches.iter().map(watch));
        let callers = history.operations.iter().map(|operation| operation.client);
        let watchers = history.watches.iter().map(|watch| watch.client);
        let numbers: BTreeSet<u32> = callers.chain(watchers).collect();
        self.clients.extend(numbers.into_iter().map(|number| {
            let (role, host) = role(number);
            Client { number, role, host }
        }));
        let returns = self.operations.iter().filter_map(|operation| operation.to);
        let entries = self.watches.iter().flat_map(|watch| &watch.entries);
        let latest = returns.chain(entries.map(|entry| entry.at)).max();
        self.end = self.end.max(latest.unwrap_or(0));
    }

    /// Adds what the checks found in the history.
    pub fn add_violations(&mut self, history: &History, found: &[property::Violation]) {
        let end = self.end;
        self.violations
            .extend(found.iter().map(|violation| violated(history, violation, end)));
    }
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

fn watch(record: &WatchRecord) -> Watch {
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
    Watch {
        id: record.id,
        client: record.client,
        label,
        entries: record.entries.iter().map(entry).collect(),
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

fn violated(history: &History, found: &property::Violation, end: Micros) -> Violation {
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
        operations: involved::of(history, found),
        watches: found.watches.clone(),
        nodes: Vec::new(),
        keys,
        revision: found.revision,
    }
}
