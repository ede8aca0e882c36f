use std::collections::BTreeSet;

use quorate::proto::etcdserverpb as pb;

use super::{Consistency, Generator, Intent, Knowledge, Put, Shape, Weights, wire_form};
use crate::history::{Answer, Outcome, Request};
use crate::linearizability::is_serializable;
use crate::model::Model;

/// Requests of one client that talks to a perfect store.
fn drawn(seed: u64, client: u32, shape: Shape, count: usize) -> Vec<Request> {
    let mut generator = Generator::new(seed, client, shape);
    let mut model = Model::strict();
    let mut requests = Vec::new();
    for _ in 0..count {
        let request = generator.next_request();
        if let Ok(answer) = model.apply(&request, None).result {
            generator.observe(&request, &Outcome::Ok(answer));
        }
        requests.push(request);
    }
    requests
}

#[test]
fn the_same_seed_draws_the_same_requests_and_each_client_its_own() {
    let shape = Shape::default();
    assert_eq!(drawn(7, 0, shape, 500), drawn(7, 0, shape, 500));
    assert_ne!(drawn(7, 0, shape, 500), drawn(8, 0, shape, 500));
    let plain = |request: &Request| matches!(request, Request::Put(_) | Request::Range(_));
    let kinds = |client| -> Vec<bool> { drawn(7, client, shape, 500).iter().map(plain).collect() };
    assert_ne!(kinds(0), kinds(1));
}

#[test]
fn every_value_is_written_once() {
    let mut values = BTreeSet::new();
    for client in 0..3 {
        for request in drawn(1, client, Shape::default(), 2_000) {
            if let Request::Put(put) = request {
                assert!(values.insert(put.value.clone()), "{:?} is drawn twice", put.value);
            }
        }
    }
    assert!(values.len() > 1_000);
}

#[test]
fn what_was_drawn_and_written_down_makes_the_same_requests_again() {
    let shape = Shape {
        value_bytes: 64,
        ..Shape::default()
    };
    let mut generator = Generator::new(5, 2, shape);
    let mut knowledge = Knowledge::new(2, &shape);
    let mut model = Model::strict();
    for _ in 0..2_000 {
        let (intent, request) = generator.next_call();
        let stored = serde_json::to_string(&intent).expect("plain data");
        let read: Intent = serde_json::from_str(&stored).expect("the same");
        assert_eq!(knowledge.request(&read), request);
        if let Ok(answer) = model.apply(&request, None).result {
            let outcome = Outcome::Ok(answer);
            generator.observe(&request, &outcome);
            knowledge.observe(&request, &outcome);
        }
    }
}

#[test]
fn all_kinds_are_drawn_and_a_weight_of_zero_switches_one_off() {
    let kinds = |weights: Weights| -> BTreeSet<&'static str> {
        let shape = Shape {
            weights,
            compaction_keeps: 10,
            ..Shape::default()
        };
        drawn(3, 0, shape, 3_000)
            .iter()
            .map(|request| match request {
                Request::Range(r) if r.serializable && r.revision == 0 => "serializable",
                Request::Range(r) if r.revision > 0 => "at revision",
                Request::Range(r) if r.range_end.is_empty() => "get",
                Request::Range(_) => "range",
                Request::Put(r) if r.lease != 0 => "leased put",
                Request::Put(_) => "put",
                Request::Delete(_) => "delete",
                Request::Txn(r) if r.compare.is_empty() => "several puts",
                Request::Txn(_) => "compare",
                Request::Compact(_) => "compact",
                Request::LeaseGrant(_) => "grant",
                Request::LeaseRevoke(_) => "revoke",
                Request::LeaseKeepAlive(_) => "keep alive",
                Request::LeaseTimeToLive(_) => "time to live",
            })
            .collect()
    };
    assert_eq!(kinds(Weights::DEFAULT).len(), 13);
    let without = kinds(Weights {
        compact: 0,
        delete: 0,
        delete_range: 0,
        ..Weights::DEFAULT
    });
    assert!(!without.contains("compact") && !without.contains("delete"));
}

fn txn_of(knowledge: &mut Knowledge, intent: &Intent) -> pb::TxnRequest {
    match knowledge.request(intent) {
        Request::Txn(r) => r,
        other => panic!("{other} is no transaction"),
    }
}

/// Two clients and one store, call by call: what the store answers, and what a list holds then.
struct Pair {
    model: Model,
    clients: [Knowledge; 2],
}

impl Pair {
    fn new() -> Self {
        let knowledge = |client| Knowledge::new(client, &Shape::default());
        Pair {
            model: Model::strict(),
            clients: [knowledge(0), knowledge(1)],
        }
    }

    /// Whether the transaction succeeded.
    fn call(&mut self, client: usize, intent: &Intent) -> bool {
        let request = Request::Txn(txn_of(&mut self.clients[client], intent));
        let answer = self.model.apply(&request, None).result.expect("well-formed");
        let succeeded = matches!(&answer, Answer::Txn(a) if a.succeeded);
        self.clients[client].observe(&request, &Outcome::Ok(answer));
        succeeded
    }

    fn value(&self, key: &str) -> &str {
        let held = self.model.get(key.as_bytes()).expect("it is there");
        std::str::from_utf8(&held.value).expect("text")
    }
}

#[test]
fn an_append_fails_once_when_another_was_faster_and_then_goes_behind_it() {
    let append = |reads: &[&str]| Intent::Append {
        keys: vec!["a/0/0".to_owned()],
        reads: reads.iter().map(|key| (*key).to_owned()).collect(),
    };
    let mut pair = Pair::new();
    assert!(pair.call(0, &append(&[])));
    assert!(pair.call(0, &append(&["a/0/1"])));
    assert_eq!(pair.value("a/0/0"), "c0-1 c0-2");
    assert!(!pair.call(1, &append(&[])), "it is not empty any more");
    assert!(pair.call(1, &append(&[])));
    assert_eq!(pair.value("a/0/0"), "c0-1 c0-2 c1-2");
    // A key that is only read is compared, too.
    let other = Intent::Append {
        keys: vec!["a/0/1".to_owned()],
        reads: Vec::new(),
    };
    assert!(pair.call(1, &other));
    assert!(!pair.call(0, &append(&["a/0/1"])));
    assert!(pair.call(0, &append(&["a/0/1"])));
    assert_eq!(pair.value("a/0/0"), "c0-1 c0-2 c1-2 c0-4");
}

/// What the store answers to a read.
fn range(pair: &mut Pair, client: usize, intent: &Intent) -> pb::RangeResponse {
    let request = pair.clients[client].request(intent);
    let answer = pair.model.apply(&request, None).result.expect("well-formed");
    pair.clients[client].observe(&request, &Outcome::Ok(answer.clone()));
    match answer {
        Answer::Range(a) => a,
        other => panic!("{other} is no range"),
    }
}

#[test]
fn objects_are_created_once_and_changed_only_as_they_were_seen() {
    let key = || "registry/pods/1".to_owned();
    let put = || Put {
        key: key(),
        prev_kv: false,
    };
    let (create, update) = (Intent::Create(put()), Intent::CompareAndPut(put()));
    let remove = Intent::CompareAndDelete { key: key() };
    let mut pair = Pair::new();
    assert!(pair.call(0, &create));
    assert!(!pair.call(1, &create));
    assert!(pair.call(0, &update), "its own creation is what it saw last");
    assert!(!pair.call(1, &update), "it knows of the object, but not which");
    assert!(pair.call(1, &update));
    assert!(!pair.call(0, &remove));
    assert!(pair.call(0, &remove));
    assert!(!pair.call(1, &update));
    assert!(pair.call(1, &create));
}

#[test]
fn a_list_is_one_state_however_long_it_takes() {
    let mut pair = Pair::new();
    let create = |number: u32| {
        Intent::Create(Put {
            key: format!("registry/pods/{number}"),
            prev_kv: false,
        })
    };
    for number in [1, 2, 4, 5] {
        assert!(pair.call(0, &create(number)));
    }
    let list = Intent::List { limit: 2 };
    let first = range(&mut pair, 1, &list);
    assert!(first.more && pair.clients[1].is_listing());
    assert!(pair.call(0, &create(3)));
    let second = range(&mut pair, 1, &list);
    assert!(!second.more && !pair.clients[1].is_listing());
    let keys = |page: &pb::RangeResponse| -> Vec<u8> {
        page.kvs.iter().filter_map(|kv| kv.key.last().copied()).collect()
    };
    assert_eq!((keys(&first), keys(&second)), (b"12".to_vec(), b"45".to_vec()));
    assert_eq!(
        keys(&range(&mut pair, 1, &list)),
        b"12",
        "the next one begins anew"
    );
    // A page that is compacted is the last one.
    let refusal = Outcome::Denied {
        code: tonic::Code::OutOfRange,
        text: "etcdserver: mvcc: required revision has been compacted".to_owned(),
    };
    let request = pair.clients[1].request(&list);
    pair.clients[1].observe(&request, &refusal);
    assert!(!pair.clients[1].is_listing());
}

#[test]
fn one_compactor_of_all_compacts_what_was_newest_the_time_before() {
    let mut pair = Pair::new();
    assert!(pair.call(0, &Intent::Compactor));
    assert!(!pair.clients[0].is_compacting(), "there is no time before");
    assert!(!pair.call(1, &Intent::Compactor), "the other one was faster");
    assert!(pair.call(1, &Intent::Compactor));
    let compaction = pb::CompactionRequest {
        revision: 2,
        physical: false,
    };
    assert_eq!(pair.clients[1].request(&Intent::Compactor), compaction.into());
    assert!(!pair.clients[1].is_compacting());
    assert!(!pair.call(0, &Intent::Compactor));
}

#[test]
fn an_update_that_came_too_late_is_tried_again_a_few_times() {
    let weights = Weights {
        append: 1,
        ..Weights::NONE
    };
    let shape = Shape {
        weights,
        ..Shape::default()
    };
    let mut generator = Generator::new(1, 0, shape);
    let failed = Outcome::Ok(Answer::Txn(pb::TxnResponse::default()));
    let mut intents = Vec::new();
    for _ in 0..40 {
        let (intent, request) = generator.next_call();
        generator.observe(&request, &failed);
        intents.push(intent);
    }
    for tries in intents.chunks(4) {
        assert!(tries.iter().all(|intent| *intent == tries[0]));
    }
    assert!(intents.chunks(4).any(|tries| tries[0] != intents[0]));
}

#[test]
fn stale_reads_look_linearizable_in_the_history_only() {
    let get: Request = pb::RangeRequest::default().into();
    assert!(!is_serializable(&get));
    assert_eq!(wire_form(&get, Consistency::Linearizable), get);
    assert!(is_serializable(&wire_form(&get, Consistency::Stale)));
}

#[test]
fn drawn_shapes_differ_and_always_write_and_read() {
    let shapes: Vec<Shape> = (0..50).map(Shape::drawn).collect();
    assert!(
        shapes
            .iter()
            .all(|shape| shape.weights.put > 0 && shape.weights.get > 0)
    );
    assert!(shapes.iter().any(|shape| shape.weights.multi_put == 0));
    assert!(shapes.iter().any(|shape| shape.keys == 1));
    assert_eq!(Shape::drawn(4), Shape::drawn(4));
}
