//! The page is one file that loads nothing, no text can break out of its data, the data read back, and a long run is
//! cut down to what fits.

use quorate::proto::etcdserverpb as pb;

use super::data::{Involved, Node, Outcome, Role, State, Timeline};
use super::page::{HTML, SCRIPTS, STYLE, read_back};
use super::{PAGE_BYTES_MAX, Violation, promise, render, source};
use crate::forge::{Forge, Lie};
use crate::history::{Answer, History, Outcome as Ended, Recorder};
use crate::property::Property;
use crate::report::{JudgeOptions, judge};

const SECOND: u64 = 1_000_000;

fn of(history: &History) -> Timeline {
    let mut timeline = Timeline {
        title: "a forged run".to_owned(),
        ..Timeline::default()
    };
    timeline.add_history(history, &|client| match client {
        1_000 => (Role::Watcher, "c1".to_owned()),
        _ => (Role::Client, "c1".to_owned()),
    });
    timeline
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}

/// Client 1 puts a key to "old", client 2 to "new", client 3 then reads "old".
fn stale_read(key: &str) -> History {
    let recorder = Recorder::new();
    let put = |client, at, value: &str, revision| {
        let request = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..Default::default()
        };
        let id = recorder.invoke(client, 0, at, request.into());
        let answer = pb::PutResponse {
            header: header(revision),
            prev_kv: None,
        };
        recorder.complete(id, at + 5_000_000, Ended::Ok(Answer::Put(answer)));
    };
    put(1, 1_000_000_000, "old", 2);
    put(2, 2_000_000_000, "new", 3);
    let request = pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let id = recorder.invoke(3, 1, 3_000_000_000, request.into());
    let kv = quorate::proto::mvccpb::KeyValue {
        key: key.to_owned().into(),
        value: "old".into(),
        create_revision: 2,
        mod_revision: 2,
        version: 1,
        lease: 0,
    };
    let answer = pb::RangeResponse {
        header: header(2),
        kvs: vec![kv],
        count: 1,
        more: false,
    };
    recorder.complete(id, 3_001_000_000, Ended::Ok(Answer::Range(answer)));
    recorder.take()
}

#[test]
fn the_page_loads_nothing_from_anywhere() {
    let page = render(&of(&Forge::new(1).run().0), PAGE_BYTES_MAX);
    let template = [&[HTML, STYLE][..], &SCRIPTS[..]].concat().join("\n");
    let loads = [
        "http://",
        "https://",
        "src=",
        "href=",
        "url(",
        "@import",
        "import(",
        "fetch(",
        "XMLHttpRequest",
        "WebSocket",
        "importScripts",
        "<link",
        "<iframe",
        "<img",
        "sendBeacon",
    ];
    for load in loads {
        assert!(!template.contains(load), "the page contains {load:?}");
    }
    assert!(page.contains("Content-Security-Policy\" content=\"default-src 'none';"));
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    assert!(!template.contains("{{title}}{{") && !page.contains("{{data}}") && !page.contains("{{script}}"));
}

#[test]
fn what_a_page_holds_reads_back() {
    let mut timeline = of(&Forge::new(2).run().0);
    timeline.nodes = vec![nodes_of(200)];
    let page = render(&timeline, PAGE_BYTES_MAX);
    assert!(timeline.omitted.is_empty());
    assert_eq!(read_back(&page), timeline);
    let outcomes: Vec<Outcome> = timeline.operations.iter().map(|own| own.outcome).collect();
    assert!(outcomes.contains(&Outcome::Ok) && outcomes.contains(&Outcome::Unknown));
    assert!(timeline.watches.iter().any(|watch| !watch.entries.is_empty()));
}

#[test]
fn no_text_ends_the_script_that_holds_it() {
    let key = "a</script><script>alert(1)</script><!--\u{2028}{{script}}";
    let mut timeline = of(&stale_read(key));
    timeline.title = "<b>&amp;</b>{{data}}".to_owned();
    let page = render(&timeline, PAGE_BYTES_MAX);
    assert_eq!(read_back(&page), timeline);
    assert_eq!(
        page.matches("</script").count(),
        HTML.matches("</script").count() + 1
    );
    assert!(!page.contains("<script>alert") && !page.contains("<b>"));
}

#[test]
fn the_write_that_a_stale_read_missed_is_named_beside_it() {
    let history = stale_read("k");
    let report = judge(&history, &JudgeOptions::default());
    let mut timeline = of(&history);
    timeline.add_violations(&history, &report.violations);
    let first = timeline.violations.first().expect("a stale read is found");
    assert_eq!(first.property, Property::Linearizable.name());
    assert_eq!(first.at, 3_001_000);
    let part = |id| {
        first
            .operations
            .iter()
            .find(|own| own.operation == id)
            .map(|own| own.part.as_str())
    };
    assert_eq!(part(1), Some("named by the check"));
    assert_eq!(part(2), Some("named by the check"));
    assert_eq!(part(0), Some("made revision 2, which #2 shows"));
    assert_eq!(timeline.operations[2].label, "get k → old @2");
    assert!(timeline.operations[1].writes && !timeline.operations[2].writes);
}

#[test]
fn each_lie_shows_where_it_was_told() {
    for lie in [
        Lie::StaleRead,
        Lie::WrongState,
        Lie::LostWrite,
        Lie::TwiceApplied,
        Lie::HalfTxn,
    ] {
        let forge = Forge {
            lie: Some(lie),
            unknown_percent: 0,
            ..Forge::new(4)
        };
        let (history, lied) = forge.run();
        assert!(lied, "{lie:?} found its occasion");
        let report = judge(&history, &JudgeOptions::default());
        let mut timeline = of(&history);
        timeline.add_violations(&history, &report.violations);
        let first = timeline.violations.first().expect("a lie is found");
        assert!(
            first.at > 0 && first.at <= timeline.end,
            "{lie:?} at {}",
            first.at
        );
        assert!(
            !first.operations.is_empty() || !first.watches.is_empty(),
            "{lie:?}: {}",
            first.text
        );
        for involved in &first.operations {
            assert!(involved.operation < timeline.operations.len());
        }
    }
}

fn nodes_of(count: u64) -> Node {
    let state = |number: u64| State {
        at: number * 20_000,
        term: 1 + number / 1_000,
        leader: Some(0),
        committed: number,
        applied: number,
        snapshot: 0,
    };
    Node {
        name: "m1".to_owned(),
        states: (0..count).map(state).collect(),
        ..Node::default()
    }
}

/// A run of so many operations, of which number `named` violates something.
fn long_run(operations: usize, named: usize) -> Timeline {
    let template = of(&stale_read("k")).operations.remove(2);
    let operation = |id: usize| {
        let mut own = template.clone();
        (own.id, own.from, own.to) = (id, id as u64 * 10_000, Some(id as u64 * 10_000 + 5_000));
        own.answer = "x".repeat(300);
        own
    };
    let violated = Violation {
        property: "linearizable".to_owned(),
        at: named as u64 * 10_000,
        operations: vec![Involved {
            operation: named,
            part: "named by the check".to_owned(),
        }],
        ..Violation::default()
    };
    Timeline {
        end: operations as u64 * 10_000,
        operations: (0..operations).map(operation).collect(),
        nodes: vec![nodes_of(5_000)],
        violations: vec![violated],
        ..Timeline::default()
    }
}

#[test]
fn a_long_run_is_cut_down_far_from_the_violation_and_says_so() {
    let whole = long_run(6_000, 1_500);
    let (mut last, mut lengths) = ((usize::MAX, usize::MAX), Vec::new());
    for bytes_max in [4_000_000, 1_500_000, 900_000, 400_000] {
        let page = render(&whole, bytes_max);
        assert!(page.len() <= bytes_max, "{} of {bytes_max}", page.len());
        let cut = read_back(&page);
        let texts = cut.operations.iter().filter(|own| !own.answer.is_empty()).count();
        assert!((texts, cut.operations.len()) < last);
        last = (texts, cut.operations.len());
        lengths.push((cut.operations.len(), cut.omitted.len()));
        // What the violation names stays whole, and what is near it stays.
        let near = |id: usize| cut.operations.iter().find(|own| own.id == id);
        for id in [1_499, 1_500, 1_501] {
            assert!(
                near(id).is_some_and(|own| own.answer.len() == 300),
                "{id} at {bytes_max}"
            );
        }
        assert_eq!(cut.violations, whole.violations);
    }
    let (first, last) = (lengths.first().expect("four"), lengths.last().expect("four"));
    assert_eq!(*first, (6_000, 0));
    assert!(last.0 < 6_000 && last.1 == 3, "{lengths:?}");
}

#[test]
fn what_the_violation_names_stays_however_small_the_page() {
    let whole = long_run(3_000, 10);
    let cut = read_back(&render(&whole, 120_000));
    let named = cut.operations.iter().find(|own| own.id == 10).expect("it stays");
    assert_eq!(named.answer.len(), 300);
    assert!(cut.operations.iter().all(|own| own.from < 20 * SECOND));
}

#[test]
fn every_property_of_clients_has_its_promise() {
    for property in Property::ALL {
        assert_eq!(promise(property.name()), property.guarantee());
    }
    assert!(source("watch-unique").contains("API guarantees, watch"));
    assert!(source("election-safety").contains("5.2"));
    assert_eq!(
        (promise("no such property"), source("no such property").as_str()),
        ("", "")
    );
}
