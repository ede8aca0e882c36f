//! Each guarantee with a record that keeps it and one that breaks it: good records are forged by
//! running the model, bad ones by changing one response.

use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::KeyValue;

use super::check;
use crate::forge::Forge;
use crate::history::{History, Moment, WatchEntry, WatchEvent, WatchRecord};
use crate::linearizability;
use crate::property::Property;

/// Number of the forged watch on everything with previous pairs.
const ALL: usize = 0;
/// Number of the forged watch on everything without deletes.
const PUTS: usize = 1;

fn forged() -> History {
    let forge = Forge {
        unknown_percent: 0,
        ..Forge::new(11)
    };
    forge.run().0
}

fn properties(history: &History) -> Vec<Property> {
    let timeline = linearizability::check(history).timeline;
    let mut found: Vec<Property> = check(history, &timeline, false)
        .iter()
        .map(|violation| violation.property)
        .collect();
    found.dedup();
    found
}

/// The responses with events of a watch, in order.
fn lists(watch: &mut WatchRecord) -> Vec<&mut pb::WatchResponse> {
    watch
        .entries
        .iter_mut()
        .filter_map(|entry| match &mut entry.event {
            WatchEvent::Received(response) if !response.events.is_empty() => Some(response.as_mut()),
            _ => None,
        })
        .collect()
}

/// Changes one watch of a good history and expects the first violation to be of `property`.
fn expect(property: Property, watch: usize, change: impl FnOnce(&mut WatchRecord)) {
    let mut history = forged();
    assert_eq!(properties(&history), [], "the forged history is good");
    change(&mut history.watches[watch]);
    let found = properties(&history);
    assert_eq!(found.first(), Some(&property), "found {found:?}");
}

fn progress(revision: i64) -> WatchEvent {
    let header = Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    });
    WatchEvent::Received(Box::new(pb::WatchResponse {
        header,
        ..Default::default()
    }))
}

/// Index of the n-th entry with events.
fn entry_of_list(watch: &WatchRecord, number: usize) -> usize {
    let has_events =
        |entry: &WatchEntry| matches!(&entry.event, WatchEvent::Received(r) if !r.events.is_empty());
    let mut indices = (0..watch.entries.len()).filter(|index| has_events(&watch.entries[*index]));
    indices.nth(number).expect("the forged watch has many lists")
}

fn insert(watch: &mut WatchRecord, index: usize, event: WatchEvent) {
    let at = watch.entries[index.min(watch.entries.len() - 1)].at;
    watch.entries.insert(index, WatchEntry { at, event });
}

fn last_revision(response: &pb::WatchResponse) -> i64 {
    super::mod_revision(response.events.last().expect("a list of events is not empty"))
}

fn kv_mut(response: &mut pb::WatchResponse) -> &mut KeyValue {
    response.events[0].kv.as_mut().expect("events have a pair")
}

#[test]
fn events_in_another_order_break_ordered() {
    expect(Property::WatchOrdered, ALL, |watch| {
        let (a, b) = (entry_of_list(watch, 3), entry_of_list(watch, 4));
        watch.entries.swap(a, b);
    });
    expect(Property::WatchOrdered, ALL, |watch| {
        let mut lists = lists(watch);
        let several =
            |list: &&mut &mut pb::WatchResponse| super::mod_revision(&list.events[0]) < last_revision(list);
        let list = lists
            .iter_mut()
            .find(several)
            .expect("some list has several revisions");
        list.events.reverse();
    });
}

#[test]
fn a_repeated_list_breaks_unique() {
    expect(Property::WatchUnique, ALL, |watch| {
        let index = entry_of_list(watch, 5);
        let again = watch.entries[index].event.clone();
        insert(watch, index + 1, again);
    });
}

#[test]
fn a_dropped_list_breaks_reliable() {
    expect(Property::WatchReliable, ALL, |watch| {
        let index = entry_of_list(watch, 5);
        watch.entries.remove(index);
    });
}

#[test]
fn a_missing_end_breaks_reliable_once_it_is_due() {
    expect(Property::WatchReliable, PUTS, |watch| {
        let due = watch
            .entries
            .pop()
            .expect("the forged watch ends with a due entry");
        let revision = |entry: &WatchEntry| match &entry.event {
            WatchEvent::Received(response) => response.header.as_ref().map_or(0, |h| h.revision),
            _ => 0,
        };
        let end = watch.entries.iter().map(revision).max();
        watch.entries.retain(|entry| Some(revision(entry)) != end);
        watch.entries.push(due);
    });
}

#[test]
fn a_revision_in_two_lists_breaks_atomic() {
    expect(Property::WatchAtomic, ALL, |watch| {
        let several = |entry: &WatchEntry| match &entry.event {
            WatchEvent::Received(r) => {
                let revisions: Vec<i64> = r.events.iter().map(super::mod_revision).collect();
                revisions.len() >= 2 && revisions[revisions.len() - 2] == revisions[revisions.len() - 1]
            }
            _ => false,
        };
        let index = watch
            .entries
            .iter()
            .position(several)
            .expect("some list ends with a transaction of several keys");
        let mut rest = watch.entries[index].event.clone();
        if let WatchEvent::Received(response) = &mut watch.entries[index].event {
            response.events.pop();
        }
        if let WatchEvent::Received(response) = &mut rest {
            let last = response.events.pop().expect("checked above");
            response.events = vec![last];
        }
        insert(watch, index + 1, rest);
    });
}

#[test]
fn events_before_the_start_break_resumable() {
    expect(Property::WatchResumable, ALL, |watch| {
        let index = entry_of_list(watch, 6);
        let WatchEvent::Received(response) = &watch.entries[index].event else {
            unreachable!("the entry has events");
        };
        let (again, start_revision) = (response.clone(), last_revision(response) + 1);
        let opened = WatchEvent::Opened {
            stream: 2,
            member: 1,
            start_revision,
        };
        insert(watch, index + 1, opened);
        insert(watch, index + 2, WatchEvent::Received(again));
    });
}

#[test]
fn progress_before_pending_events_breaks_bookmarkable() {
    let early = |watch: &mut WatchRecord| {
        let index = entry_of_list(watch, 5);
        let WatchEvent::Received(response) = &watch.entries[index].event else {
            unreachable!("the entry has events");
        };
        let revision = last_revision(response);
        insert(watch, index, progress(revision));
    };
    expect(Property::WatchBookmarkable, ALL, early);
    expect(Property::WatchBookmarkable, PUTS, early);
}

#[test]
fn what_a_filter_holds_back_or_another_key_breaks_filtered() {
    use quorate::proto::mvccpb::event::EventType;
    expect(Property::WatchFiltered, PUTS, |watch| {
        lists(watch)[3].events[0].r#type = EventType::Delete as i32;
    });
    expect(Property::WatchFiltered, 2, |watch| {
        kv_mut(lists(watch)[1]).key = "z".into();
    });
}

#[test]
fn a_changed_pair_breaks_accurate() {
    expect(Property::WatchAccurate, PUTS, |watch| {
        kv_mut(lists(watch)[3]).version += 1;
    });
    expect(Property::WatchAccurate, PUTS, |watch| {
        kv_mut(lists(watch)[3]).create_revision -= 1;
    });
    expect(Property::WatchAccurate, PUTS, |watch| {
        kv_mut(lists(watch)[3]).value = "wrong".into();
    });
}

#[test]
fn a_wrong_previous_pair_is_named() {
    let with_previous = |watch: &mut WatchRecord| -> usize {
        let mut lists = lists(watch);
        lists
            .iter_mut()
            .position(|list| list.events[0].prev_kv.is_some())
            .expect("some list begins with an overwritten key")
    };
    expect(Property::WatchPreviousPair, ALL, |watch| {
        let number = with_previous(watch);
        let list = &mut lists(watch)[number];
        let previous = list.events[0].prev_kv.as_mut().expect("chosen for it");
        previous.value = "wrong".into();
    });
    expect(Property::WatchPreviousPair, PUTS, |watch| {
        let list = &mut lists(watch)[3];
        list.events[0].prev_kv = list.events[0].kv.clone();
    });
}

#[test]
fn compaction_must_concern_the_watch_and_have_been_asked_for() {
    let canceled = |compact_revision| {
        WatchEvent::Received(Box::new(pb::WatchResponse {
            canceled: true,
            compact_revision,
            ..Default::default()
        }))
    };
    expect(Property::WatchCompacted, ALL, |watch| {
        let index = entry_of_list(watch, 5);
        insert(watch, index + 1, canceled(3));
    });
    let mut history = forged();
    let end = history.watches[ALL].entries.len();
    // A watch that resumes far back, and is told a revision that nobody compacted.
    let at = Moment {
        nanos: 0,
        order: u64::MAX,
    };
    let start_revision = 2;
    let opened = WatchEvent::Opened {
        stream: 2,
        member: 1,
        start_revision,
    };
    for event in [opened, canceled(i64::MAX)] {
        history.watches[ALL].entries.insert(end, WatchEntry { at, event });
    }
    history.watches[ALL].entries[end..].reverse();
    assert_eq!(properties(&history).first(), Some(&Property::WatchCompacted));
}
