//! Streams that are not read in time, snapshots under watches, and the task that hands out.

use super::*;

#[test]
fn a_stream_that_is_not_read_costs_its_buffer_and_misses_nothing() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", ""));
    client.create(create("b", ""));
    client.check(&["0@1 created", "1@1 created"]);
    for value in 0..5000 {
        member.put(if value % 2 == 0 { "a" } else { "b" }, "x");
    }
    let (unsynced, pending) = member.backlog();
    // And for each that it is unsynced.
    assert_eq!((unsynced, pending), (2, limits::WATCH_BUFFERED_RESPONSES_MAX + 2));
    let texts = client.all();
    assert_eq!(revisions(&texts, 0), (2..5002).step_by(2).collect::<Vec<_>>());
    assert_eq!(revisions(&texts, 1), (3..5002).step_by(2).collect::<Vec<_>>());
    assert_eq!(member.backlog(), (0, 0));
    member.put("a", "y");
    client.check(&["0@5002 a=y/5002"]);
}

#[test]
fn bytes_bound_the_buffer_too() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", ""));
    client.check(&["0@1 created"]);
    let big = "x".repeat(1 << 20);
    for _ in 0..10 {
        member.put("a", &big);
    }
    let (unsynced, pending) = member.backlog();
    assert_eq!(unsynced, 1);
    assert!(
        pending <= limits::WATCH_BUFFERED_BYTES_MAX >> 20,
        "{pending} MiB wait"
    );
    assert_eq!(revisions(&client.all(), 0), (2..12).collect::<Vec<_>>());
}

#[test]
fn a_slow_stream_can_be_overtaken_by_compaction() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", ""));
    client.check(&["0@1 created"]);
    for _ in 0..1000 {
        member.put("a", "x");
    }
    member.compact(900);
    let texts = client.all();
    let buffered = limits::WATCH_BUFFERED_RESPONSES_MAX as i64;
    assert_eq!(revisions(&texts, 0), (2..2 + buffered).collect::<Vec<_>>());
    assert_eq!(
        texts.last().map(String::as_str),
        Some("0@0 canceled compacted=900")
    );
}

#[test]
fn progress_waits_for_a_stream_that_is_behind() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        progress_notify: true,
        ..create("a", "")
    });
    client.create(create("b", ""));
    client.check(&["0@1 created", "1@1 created"]);
    for _ in 0..3000 {
        member.put("b", "x");
    }
    client.progress();
    client.tick();
    let texts = client.all();
    // Watch 0 is in sync and idle: it is told. Watch 1 is behind, so progress for all is withheld.
    assert!(!texts.iter().any(|text| text.starts_with("-1@")), "{texts:?}");
    assert_eq!(texts.iter().filter(|text| *text == "0@3001").count(), 1);
    client.progress();
    client.check(&["-1@3001"]);
}

#[test]
fn many_slow_watches_all_catch_up() {
    let member = Member::new();
    for number in 0..3000 {
        member.put(&format!("k{}", number % 7), "x");
    }
    let mut client = Client::new(&member);
    for watch in 0..700 {
        client.create(from(&format!("k{}", watch % 7), "", 2 + watch * 3));
    }
    let texts = client.all();
    for watch in 0..700i64 {
        let expected =
            (2..3002).filter(|revision| *revision >= 2 + watch * 3 && (revision - 2) % 7 == watch % 7);
        assert_eq!(
            revisions(&texts, watch),
            expected.collect::<Vec<_>>(),
            "watch {watch}"
        );
    }
}

#[test]
fn a_snapshot_neither_repeats_nor_loses() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", ""));
    client.create(from("a", "", 5));
    client.create(create("idle", ""));
    client.check(&["0@1 created", "1@1 created", "2@1 created"]);
    member.put("a", "1");
    member.install(&[put("a", "2"), put("b", "2"), put("a", "3"), put("a", "4")]);
    member.put("a", "5");
    let texts = client.all();
    assert_eq!(revisions(&texts, 0), [2, 3, 5, 6, 7]);
    assert_eq!(revisions(&texts, 1), [5, 6, 7]);
    client.progress();
    client.check(&["-1@7"]);
    // An idle watch was handed everything up to the snapshot: a compaction below it must not cancel it.
    member.compact(7);
    member.install(&[put("idle", "1")]);
    client.check(&["2@8 idle=1/8"]);
}

#[test]
fn a_half_closed_stream_goes_on_until_its_client_leaves() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", ""));
    let (closed, _) = mpsc::unbounded_channel();
    client.requests = closed;
    assert_eq!(client.next().as_deref(), Some("0@1 created"));
    member.put("a", "0");
    assert_eq!(client.next().as_deref(), Some("0@2 a=0/2"));
    assert_eq!(client.next(), None);
    drop(client);
    member.answer();
    assert_eq!(member.hub.metrics().watchers.get(), 0);
    assert_eq!(member.hub.metrics().watch_streams.get(), 0);
    member.put("a", "1");
    assert_eq!(member.backlog(), (0, 0));
}

#[test]
fn with_many_watches_a_task_dispatches_and_progress_waits_for_it() {
    let member = Member::new();
    let mut client = Client::new(&member);
    let count = limits::WATCHES_SERVED_AT_ONCE_MAX as i64 + 1;
    for _ in 0..count {
        client.create(create("a", ""));
    }
    client.all();
    member.put("a", "1");
    assert_eq!(client.all(), [""; 0], "nobody has dispatched yet");
    client.progress();
    assert_eq!(client.all(), [""; 0], "progress comes behind the events");
    let mut run = Box::pin(member.dispatcher.dispatch());
    assert!((&mut run).now_or_never().is_none());
    let texts = client.all();
    assert_eq!(texts.len() as i64, count + 1);
    assert_eq!(texts.last().map(String::as_str), Some("-1@2"));
    member.put("a", "2");
    assert!((&mut run).now_or_never().is_none());
    assert_eq!(client.all().len() as i64, count);
    // A watch that begins while an event waits to be dispatched does not get it, unless it asks for it.
    member.put("a", "3");
    client.create(create("a", ""));
    client.create(from("a", "", 4));
    assert_eq!(
        client.all(),
        [format!("{count}@4 created"), format!("{}@4 created", count + 1)]
    );
    assert!((&mut run).now_or_never().is_none());
    let texts = client.all();
    assert_eq!(revisions(&texts, 0), [4]);
    assert_eq!(revisions(&texts, count), [0; 0]);
    assert_eq!(revisions(&texts, count + 1), [4]);
}

#[test]
fn damage_ends_the_stream_and_is_not_passed_over() {
    let member = Member::new();
    member.put("a", "1");
    member.put("a", "2");
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        prev_kv: true,
        ..from("a", "", 3)
    });
    // The record of revision 2 is gone, though no compaction removed it.
    let lost = crate::base::RevisionAt::new(2, 0).to_bytes();
    let mut kept = member.kept.0.write().unwrap();
    kept.1
        .0
        .remove(&(Space::Records, Bytes::copy_from_slice(&lost)))
        .expect("it was there");
    drop(kept);
    assert_eq!(client.next().as_deref(), Some("0@3 created"));
    let Poll::Ready(Some(Err(ended))) = client.poll() else {
        panic!("the stream goes on");
    };
    assert_eq!(
        (ended.code(), ended.message()),
        (tonic::Code::DataLoss, "etcdserver: corrupt cluster")
    );
}

/// As etcd, which clients and tests that count responses rely on.
#[test]
fn history_comes_in_one_response_of_a_thousand_revisions_or_sixteen_mebibytes() {
    let member = Member::new();
    let big = "x".repeat(1 << 20);
    let watch = |create| {
        let mut client = Client::new(&member);
        client.create(create);
        let texts = client.all();
        assert!(texts[0].ends_with("created"), "{}", texts[0]);
        let responses = texts[1..].iter();
        responses
            .map(|text| revisions(std::slice::from_ref(text), 0).len())
            .collect::<Vec<_>>()
    };
    (0..10).for_each(|_| member.put("a", &big));
    assert_eq!(watch(from("a", "", 2)), [10]);
    (0..20).for_each(|_| member.put("a", &big));
    assert_eq!(watch(from("a", "", 2)), [16, 14]);
    let in_parts = WatchCreateRequest {
        fragment: true,
        ..from("a", "", 2)
    };
    assert_eq!(watch(in_parts), [1; 30]);
    (0..2_500).for_each(|_| member.put("b", "x"));
    assert_eq!(watch(from("b", "", 32)), [1000, 1000, 500]);
}
