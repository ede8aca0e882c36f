use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::event::EventType;
use quorate::proto::mvccpb::{Event, KeyValue};

use super::{Checked, check};
use crate::history::{Claim, Recorder, WatchEvent};
use crate::property::Property;

const A: &str = "lock/0/a";
const B: &str = "lock/0/b";

/// Every event is a revision, beginning with 2.
#[derive(Default)]
struct Play {
    recorder: Recorder,
    events: Vec<Event>,
    /// Places of events that were compacted before a watch could tell them.
    missed: Option<std::ops::Range<usize>>,
}

impl Play {
    fn event(&mut self, kind: EventType, kv: KeyValue) {
        self.events.push(Event {
            r#type: kind as i32,
            kv: Some(kv),
            prev_kv: None,
        });
    }

    fn next(&self) -> i64 {
        self.events.len() as i64 + 2
    }

    fn put(&mut self, key: &'static str, create_revision: Option<i64>, value: &'static str) -> i64 {
        let mod_revision = self.next();
        let kv = KeyValue {
            key: key.into(),
            create_revision: create_revision.unwrap_or(mod_revision),
            mod_revision,
            value: value.into(),
            ..Default::default()
        };
        self.event(EventType::Put, kv);
        mod_revision
    }

    fn delete(&mut self, key: &'static str) {
        let kv = KeyValue {
            key: key.into(),
            mod_revision: self.next(),
            ..Default::default()
        };
        self.event(EventType::Delete, kv);
    }

    fn claim(&self, key: &str, revision: i64, value: Option<&str>) {
        self.recorder.claim(Claim {
            client: 0,
            at: self.recorder.moment(0),
            by: "Lock",
            prefix: b"lock/0/".to_vec(),
            key: key.as_bytes().to_vec(),
            revision,
            value: value.map(|value| value.as_bytes().to_vec()),
        });
    }

    fn check(self) -> Checked {
        let request = pb::WatchCreateRequest {
            key: b"\0".as_slice().into(),
            range_end: b"\0".as_slice().into(),
            start_revision: 1,
            ..Default::default()
        };
        let response = |events: &[Event], compact_revision| {
            WatchEvent::Received(Box::new(pb::WatchResponse {
                events: events.to_vec(),
                canceled: compact_revision > 0,
                compact_revision,
                ..Default::default()
            }))
        };
        let end = self.events.len();
        let missed = self.missed.clone().unwrap_or(end..end);
        for watcher in 0..2 {
            let watch = self.recorder.watch(watcher, request.clone());
            let tell = |told| self.recorder.watch_event(watch, 0, told);
            tell(response(&self.events[..missed.start], 0));
            if missed.start < end {
                tell(response(&[], missed.end as i64 + 2));
                tell(response(&self.events[missed.end..], 0));
            }
        }
        check(&self.recorder.take())
    }

    fn found(self) -> Vec<Property> {
        let checked = self.check();
        assert_eq!(checked.undecided, None);
        checked.violations.iter().map(|it| it.property).collect()
    }
}

/// A holds from 2, B waits from 3, A changes its value at 4 and is gone at 5.
fn handed_over() -> Play {
    let mut play = Play::default();
    play.put(A, None, "1");
    play.put(B, None, "2");
    play.put(A, Some(2), "3");
    play.delete(A);
    play.put("lock/00", None, "");
    play
}

#[test]
fn the_oldest_holds() {
    let play = handed_over();
    play.claim(A, 2, Some("1"));
    play.claim(A, 3, None);
    play.claim(A, 4, Some("3"));
    play.claim(B, 5, Some("2"));
    play.claim(B, 6, None);
    assert_eq!(play.found(), []);
}

#[test]
fn a_younger_one_does_not() {
    for (key, revision) in [(B, 3), (B, 4), (A, 5), (A, 6), ("lock/0/c", 4)] {
        let play = handed_over();
        play.claim(key, revision, None);
        assert_eq!(play.found(), [Property::OldestHolds], "{key} at {revision}");
    }
}

#[test]
fn nobody_holds_before_there_is_a_key() {
    let play = handed_over();
    play.claim(A, 1, None);
    assert_eq!(play.found(), [Property::OldestHolds]);
}

#[test]
fn what_was_told_is_the_value() {
    let play = handed_over();
    play.claim(A, 4, Some("1"));
    assert_eq!(play.found(), [Property::OldestHolds]);
}

#[test]
fn what_the_watches_do_not_show_is_not_decided() {
    let play = handed_over();
    play.claim(A, 4, None);
    play.claim(A, 7, None);
    let checked = play.check();
    assert_eq!(checked.violations, []);
    assert!(checked.undecided.is_some());
}

/// Seed 652: both watches were cut off, and what they missed was compacted.
#[test]
fn what_was_compacted_unseen_is_not_decided() {
    let mut play = handed_over();
    play.missed = Some(2..4);
    play.claim(B, 6, None);
    let checked = play.check();
    assert_eq!(checked.violations, []);
    assert!(checked.undecided.is_some());
}

#[test]
fn two_watches_show_the_same() {
    let mut play = handed_over();
    play.claim(A, 2, None);
    let mut other = play.events[0].clone();
    other.kv.as_mut().expect("it is a put").value = "9".into();
    play.events.push(other);
    assert!(play.found().contains(&Property::WatchAccurate));
}
