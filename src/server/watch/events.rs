//! Events on their way into responses: completed with the pairs that they replaced, and cut into fragments.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message;

use super::Source;
use super::session::Batch;
use crate::base::kv::Read;
use crate::base::{Broken, Revision, limits};
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use crate::state::{Picked, SharedStore, State};

/// Whether an event may have replaced a pair; a key that is created replaces none.
pub fn replaces(event: &Event) -> bool {
    let is_put = event.r#type == i32::from(EventType::Put);
    let replaces = |kv: &KeyValue| !is_put || kv.create_revision != kv.mod_revision;
    event.kv.as_ref().is_some_and(replaces)
}

/// Picks the pairs that events replaced in bounded looks, and reads what is not in memory without the state.
pub async fn complete<S: Source>(source: S, mut batches: Vec<Batch>) -> Result<Vec<Batch>, Broken> {
    let wanting = batches.iter_mut().filter(|(target, ..)| target.prev_kv);
    let events = wanting.flat_map(|(.., events)| events);
    let mut lacking: Vec<&mut Event> = events.filter(|event| replaces(event)).collect();
    for events in lacking.chunks_mut(limits::LOOK_ENTRIES_MAX) {
        let pairs = events.iter().filter_map(|event| event.kv.as_ref());
        let changes: Vec<(Bytes, Revision)> = pairs.map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        let look = move |state: &State, store: &dyn Fn() -> SharedStore| {
            let pick = |(key, revision): &(Bytes, Revision)| state.pick_prev(key, *revision);
            let picked: Vec<Option<Picked>> = changes.iter().map(pick).collect();
            let kept = picked.iter().flatten().any(Picked::is_stored).then(store);
            (picked, kept)
        };
        let (picked, kept) = source.look(look).await;
        let store = kept.as_deref().map(|store| store as &dyn Read);
        for (event, picked) in events.iter_mut().zip(picked) {
            event.prev_kv = picked.map(|picked| picked.into_pair(store)).transpose()?;
        }
    }
    Ok(batches)
}

/// Cuts a response so that each part with more than one event stays below `bytes_max`.
pub fn fragment(response: WatchResponse, bytes_max: usize, out: &mut VecDeque<WatchResponse>) {
    if response.events.len() < 2 || response.encoded_len() < bytes_max {
        out.push_back(response);
        return;
    }
    let empty = WatchResponse {
        events: Vec::new(),
        fragment: true,
        ..response.clone()
    };
    let mut part = empty.clone();
    let mut bytes = part.encoded_len();
    for event in response.events {
        // Tag and length of a field come on top of the event itself.
        let length = event.encoded_len();
        let event_bytes = 1 + prost::length_delimiter_len(length) + length;
        if !part.events.is_empty() && bytes + event_bytes >= bytes_max {
            out.push_back(std::mem::replace(&mut part, empty.clone()));
            bytes = empty.encoded_len();
        }
        bytes += event_bytes;
        part.events.push(event);
    }
    part.fragment = false;
    out.push_back(part);
}
