//! What a watch has to show of the write history: its keys, minus what its filters hold back.

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::watch_create_request::FilterType;
use quorate::proto::mvccpb::{Event, event::EventType};

use crate::linearizability::Timeline;
use crate::model::covers;

pub(super) struct Expected<'a> {
    request: &'a pb::WatchCreateRequest,
    timeline: &'a Timeline,
}

impl<'a> Expected<'a> {
    pub fn new(request: &'a pb::WatchCreateRequest, timeline: &'a Timeline) -> Self {
        Expected { request, timeline }
    }

    fn filters_out(&self, event: &Event) -> bool {
        let held_back = if event.r#type == EventType::Delete as i32 {
            FilterType::Nodelete
        } else {
            FilterType::Noput
        };
        self.request.filters.contains(&(held_back as i32))
    }

    fn covers(&self, event: &Event) -> bool {
        let key: &[u8] = if self.request.key.is_empty() {
            b"\0"
        } else {
            &self.request.key
        };
        let candidate = event.kv.as_ref().map(|kv| kv.key.as_ref());
        candidate.is_some_and(|candidate| covers(key, &self.request.range_end, candidate))
    }

    /// Why an event must not be on this watch.
    pub fn misfit(&self, event: &Event) -> Option<&'static str> {
        if !self.covers(event) {
            return Some("an event of a key that is not watched");
        }
        self.filters_out(event)
            .then_some("an event that the filter holds back")
    }

    fn select(&self, events: &[Event]) -> Vec<Event> {
        let wanted = |event: &&Event| self.misfit(event).is_none();
        events.iter().filter(wanted).cloned().collect()
    }

    /// The events of one revision; `None` if the revision is not known.
    pub fn at(&self, revision: i64) -> Option<Vec<Event>> {
        Some(self.select(&self.timeline.revision(revision)?.events))
    }

    /// The first revision in (`after`, `to`] with events for this watch, as far as it is known.
    pub fn first_after(&self, after: i64, to: i64) -> Option<(i64, Vec<Event>)> {
        self.timeline
            .between(after + 1, to)
            .map(|(number, revision)| (number, self.select(&revision.events)))
            .find(|(_, events)| !events.is_empty())
    }
}
