//! Did whoever was told that it holds a lock, or who leads, have the oldest key below the name?
//!
//! The watches over all keys from the first revision tell what was there at each revision. This does not depend on how the
//! members make the keys, so it holds for locks that clients build by themselves, too.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use quorate::proto::mvccpb::event::EventType;
use quorate::proto::mvccpb::{Event, KeyValue};

use crate::history::{Claim, History, WatchEvent};
use crate::property::{Property, Violation};

/// What was found, and why something could not be decided.
#[derive(Default)]
pub struct Checked {
    pub violations: Vec<Violation>,
    pub undecided: Option<String>,
}

/// Checks all claims.
pub fn check(history: &History) -> Checked {
    let mut checked = Checked::default();
    let mut claims: Vec<&Claim> = history.claims.iter().collect();
    claims.sort_by_key(|claim| claim.revision);
    let Some(newest) = claims.last().map(|claim| claim.revision) else {
        return checked;
    };
    let log = Log::collect(history, &mut checked.violations);
    if log.reaches < newest {
        let reaches = log.reaches;
        checked.undecided = Some(format!(
            "the watches over all keys end at revision {reaches}, but somebody holds something at {newest}"
        ));
    }
    let mut alive: BTreeMap<&[u8], &KeyValue> = BTreeMap::new();
    let mut events = log.events.iter().peekable();
    for claim in claims {
        if claim.revision > log.reaches {
            break;
        }
        while let Some(((_, key), event)) = events.next_if(|((revision, _), _)| *revision <= claim.revision) {
            match &event.kv {
                Some(kv) if event.r#type() == EventType::Put => drop(alive.insert(key, kv)),
                _ => drop(alive.remove(key)),
            }
        }
        if let Some(what) = judge(claim, &alive) {
            let message = format!("{what}: {}", show(claim));
            let violation = Violation::of_operations(Property::OldestHolds, [], message);
            let violation = violation.on_key(&claim.key).at_revision(claim.revision);
            checked.violations.push(violation.seen_at(claim.at.nanos));
        }
    }
    checked
}

fn judge(claim: &Claim, alive: &BTreeMap<&[u8], &KeyValue>) -> Option<String> {
    let below = alive
        .range(claim.prefix.as_slice()..)
        .take_while(|(key, _)| key.starts_with(&claim.prefix));
    let Some((key, oldest)) = below.min_by_key(|(_, kv)| kv.create_revision) else {
        return Some("there is no key below the name".to_owned());
    };
    if *key != claim.key {
        let key = String::from_utf8_lossy(key);
        return Some(format!("{key} is older, of revision {}", oldest.create_revision));
    }
    let told = claim.value.as_ref()?;
    (oldest.value != *told).then(|| format!("its value is {:?}", String::from_utf8_lossy(&oldest.value)))
}

fn show(claim: &Claim) -> String {
    let value = claim.value.as_deref().map(String::from_utf8_lossy);
    let value = value.map_or(String::new(), |value| format!(" with value {value:?}"));
    format!(
        "client {} was told by {} that {} holds{value} at revision {}",
        claim.client,
        claim.by,
        String::from_utf8_lossy(&claim.key),
        claim.revision
    )
}

/// What happened to the keys, by revision.
#[derive(Default)]
struct Log<'a> {
    events: BTreeMap<(i64, &'a [u8]), &'a Event>,
    /// All events up to this revision are there.
    reaches: i64,
}

impl<'a> Log<'a> {
    fn collect(history: &'a History, violations: &mut Vec<Violation>) -> Self {
        let mut log = Log::default();
        for watch in &history.watches {
            let request = &watch.request;
            let is_whole = request.key == b"\0".as_slice()
                && request.range_end == b"\0".as_slice()
                && request.start_revision == 1
                && request.filters.is_empty();
            if !is_whole {
                continue;
            }
            for entry in &watch.entries {
                let WatchEvent::Received(response) = &entry.event else {
                    continue;
                };
                if response.compact_revision > 0 {
                    // What it missed is compacted: behind that it tells less than everything.
                    break;
                }
                for event in &response.events {
                    let Some(kv) = &event.kv else { continue };
                    log.reaches = log.reaches.max(kv.mod_revision);
                    let known = log.events.entry((kv.mod_revision, &kv.key)).or_insert(event);
                    if (known.r#type(), &known.kv) != (event.r#type(), &event.kv) {
                        let message = format!("two watches differ: {known:?} and {event:?}");
                        violations.push(Violation::of_watch(Property::WatchAccurate, watch.id, message));
                    }
                }
            }
        }
        log
    }
}
