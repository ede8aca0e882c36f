//! Each workload must really produce what it says: a shape without its operations would pass forever.

use std::collections::BTreeSet;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::compare::TargetUnion::ModRevision;
use quorate::proto::etcdserverpb::request_op::Request as Op;

use super::{Load, MIXED, WORKLOADS, Workload};
use crate::history::{Outcome, Request};
use crate::model::Model;
use crate::workload::extreme::{KEY_BYTES, LEVELS, OPERATIONS, TTLS, VALUE_BYTES};
use crate::workload::{Generator, WatchPlan, Watching};

const SEEDS: u64 = 20;
const CALLS: usize = 400;

fn loads(name: &str) -> Vec<Load> {
    let workload = Workload::find(name).expect("it is registered");
    (0..SEEDS).map(|seed| workload.load(seed)).collect()
}

/// What clients of a workload ask of a perfect store, over some seeds.
fn requests(name: &str) -> Vec<Request> {
    let mut requests = Vec::new();
    for (load, seed) in loads(name).into_iter().zip(0..) {
        let mut model = Model::strict();
        let mut generators: Vec<Generator> = (0..3)
            .map(|client| Generator::new(seed, client, load.shape))
            .collect();
        for _ in 0..CALLS {
            for generator in &mut generators {
                let request = generator.next_request();
                let outcome = match model.apply(&request, None).result {
                    Ok(answer) => Outcome::Ok(answer),
                    Err(refusal) => Outcome::Denied {
                        code: refusal.code,
                        text: refusal.text.to_owned(),
                    },
                };
                generator.observe(&request, &outcome);
                requests.push(request);
            }
        }
    }
    requests
}

fn kinds(name: &str) -> BTreeSet<&'static str> {
    requests(name).iter().map(crate::report::kind).collect()
}

fn is_swap(request: &Request) -> bool {
    matches!(request, Request::Txn(r) if !r.compare.is_empty() && r.success.iter().any(|op| matches!(op.request, Some(Op::RequestPut(_)))))
}

#[test]
fn names_are_distinct_and_an_unknown_one_is_named() {
    let names: BTreeSet<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
    assert_eq!(names.len(), WORKLOADS.len());
    assert!(names.contains(MIXED));
    let error = Workload::find("regster").expect_err("a typing error");
    assert!(
        error.contains("\"regster\"") && error.contains("register"),
        "{error}"
    );
    for workload in WORKLOADS {
        assert!(!workload.aims.is_empty() && !workload.source.is_empty());
        assert!(super::table().contains(workload.about));
    }
}

#[test]
fn a_load_is_a_function_of_the_seed_and_differs_between_seeds() {
    for workload in WORKLOADS {
        let loads = loads(workload.name);
        assert_eq!(loads, self::loads(workload.name));
        assert!(
            loads.iter().any(|load| *load != loads[0]),
            "{} is always the same",
            workload.name
        );
    }
}

#[test]
fn a_register_is_read_written_and_swapped() {
    let requests = requests("register");
    assert!(requests.iter().any(is_swap));
    assert!(kinds("register").is_superset(&BTreeSet::from([
        "get",
        "put",
        "txn",
        "get-serializable",
        "delete"
    ])));
    assert!(loads("register").iter().all(|load| load.shape.keys <= 3));
}

#[test]
fn lists_grow_under_compares_of_all_that_was_read_and_are_read() {
    let requests = requests("append");
    let appends: Vec<_> = requests
        .iter()
        .filter_map(|request| match request {
            Request::Txn(r) => Some(r),
            _ => None,
        })
        .collect();
    for append in &appends {
        assert_eq!(append.compare.len(), append.success.len());
        assert_eq!(append.compare.len(), append.failure.len());
    }
    let put = |op: &pb::RequestOp| match &op.request {
        Some(Op::RequestPut(r)) => Some(r.value.clone()),
        _ => None,
    };
    let values: Vec<_> = appends
        .iter()
        .flat_map(|append| append.success.iter().filter_map(put))
        .collect();
    let longest = values
        .iter()
        .map(|value| value.split(|byte| *byte == b' ').count())
        .max();
    assert!((20..=800).contains(&longest.expect("some")), "{longest:?}");
    assert!(appends.iter().any(|append| append.compare.len() > 2));
    assert!(kinds("append").contains("range"));
}

#[test]
fn transactions_swap_nest_and_write_several_keys() {
    let requests = requests("transactions");
    let several = |request: &Request| matches!(request, Request::Txn(r) if r.success.len() > 2);
    assert!(requests.iter().any(is_swap) && requests.iter().any(several));
    assert!(kinds("transactions").contains("txn-nested"));
}

#[test]
fn kubernetes_guards_what_it_writes_and_lists_by_pages() {
    let requests = requests("kubernetes");
    let with = |is: fn(&pb::TxnRequest) -> bool| {
        requests
            .iter()
            .any(|request| matches!(request, Request::Txn(r) if is(r)))
    };
    let first = |r: &pb::TxnRequest| r.success.first().and_then(|op| op.request.clone());
    assert!(with(
        |r| r.failure.is_empty() && r.compare[0].target_union == Some(ModRevision(0))
    ));
    assert!(with(
        |r| matches!(r.compare[0].target_union, Some(ModRevision(seen)) if seen > 0)
    ));
    let deletes = |r: &pb::TxnRequest| matches!(first(r), Some(Op::RequestDeleteRange(_)));
    assert!(
        requests
            .iter()
            .any(|request| matches!(request, Request::Txn(r) if deletes(r)))
    );
    let pages: Vec<_> = requests
        .iter()
        .filter_map(|request| match request {
            Request::Range(r) if r.limit > 0 => Some(r),
            _ => None,
        })
        .collect();
    assert!(pages.iter().any(|page| page.revision == 0) && pages.iter().any(|page| page.revision > 0));
    assert!(kinds("kubernetes").is_superset(&BTreeSet::from([
        "txn",
        "range",
        "get-at-revision",
        "compact",
        "get"
    ])));
    let informs = |load: &Load| load.watching.watches.iter().any(|watch| watch.lists);
    assert!(loads("kubernetes").iter().all(informs));
}

#[test]
fn leases_are_granted_renewed_revoked_and_used() {
    let leases = ["lease-grant", "lease-keep-alive", "lease-revoke", "put-leased"];
    assert!(kinds("leases").is_superset(&BTreeSet::from(leases)));
}

#[test]
fn compactions_come_behind_reads_of_old_revisions() {
    assert!(kinds("compaction").is_superset(&BTreeSet::from(["compact", "get-at-revision"])));
    let rewinds = |load: &Load| load.watching.watches.iter().any(|watch| watch.rewinds);
    assert!(loads("compaction").iter().all(rewinds));
}

#[test]
fn watches_have_all_options_and_some_readers_are_slow() {
    let loads = loads("watch");
    let watches: Vec<&WatchPlan> = loads.iter().flat_map(|load| &load.watching.watches).collect();
    let options: [fn(&WatchPlan) -> bool; 8] = [
        |watch| watch.no_put && !watch.no_delete,
        |watch| watch.no_delete && !watch.no_put,
        |watch| watch.prev_kv,
        |watch| watch.fragment,
        |watch| watch.progress_notify,
        |watch| watch.rewinds,
        |watch| watch.start_revision == 0,
        |watch| watch.start_revision == 1,
    ];
    for option in options {
        assert!(watches.iter().any(|watch| option(watch)));
        assert!(watches.iter().any(|watch| !option(watch)));
    }
    let is_slow = |load: &Load| load.watching.slow_readers > 0 && load.watching.rests_ms > 0;
    assert!(loads.iter().any(is_slow) && !loads.iter().all(is_slow));
    assert!(kinds("watch").is_superset(&BTreeSet::from(["put", "delete", "txn", "compact", "put-leased"])));
}

#[test]
fn extremes_are_at_every_limit_and_beyond() {
    let requests = requests("extremes");
    fn levels(txn: &pb::TxnRequest) -> usize {
        let inner = |op: &pb::RequestOp| match &op.request {
            Some(Op::RequestTxn(txn)) => levels(txn),
            _ => 0,
        };
        1 + txn
            .success
            .iter()
            .chain(&txn.failure)
            .map(inner)
            .max()
            .unwrap_or(0)
    }
    let drawn = |of: fn(&Request) -> Option<i64>| requests.iter().filter_map(of).collect::<BTreeSet<i64>>();
    let depths = drawn(|request| match request {
        Request::Txn(r) => Some(levels(r) as i64),
        _ => None,
    });
    assert!(
        LEVELS.iter().all(|levels| depths.contains(&(*levels as i64))),
        "{depths:?}"
    );
    let widths = drawn(|request| match request {
        Request::Txn(r) => Some(r.success.len() as i64),
        _ => None,
    });
    assert!(
        OPERATIONS.iter().all(|wide| widths.contains(&(*wide as i64))),
        "{widths:?}"
    );
    let ttls = drawn(|request| match request {
        Request::LeaseGrant(r) => Some(r.ttl),
        _ => None,
    });
    assert!(TTLS.iter().all(|ttl| ttls.contains(ttl)), "{ttls:?}");
    let keys = drawn(|request| match request {
        Request::Put(r) => Some(r.key.len() as i64),
        _ => None,
    });
    assert!(
        KEY_BYTES.iter().all(|bytes| keys.contains(&(*bytes as i64))),
        "{keys:?}"
    );
    let values = drawn(|request| match request {
        Request::Put(r) => Some(r.value.len() as i64),
        _ => None,
    });
    assert!(
        VALUE_BYTES[1..]
            .iter()
            .all(|bytes| values.contains(&(*bytes as i64))),
        "{values:?}"
    );
}

#[test]
fn who_else_works_is_said_by_the_load() {
    assert!(loads("locks").iter().all(|load| load.contend));
    assert!(loads("lease-flood").iter().all(|load| load.keepers > 0));
    assert!(loads("auth").iter().all(|load| load.auth));
    assert!(loads("membership").iter().all(|load| load.membership));
    assert!(kinds("auth").contains("put") && kinds("membership").contains("put"));
    assert_eq!(loads(MIXED)[0].watching, Watching::default());
}

#[test]
fn every_key_is_put_once() {
    let mut keys = BTreeSet::new();
    for (load, seed) in loads("once").into_iter().zip(0..) {
        keys.clear();
        for client in 0..3 {
            let mut generator = Generator::new(seed, client, load.shape);
            for _ in 0..CALLS {
                let put = match generator.next_request() {
                    Request::Put(put) => put,
                    Request::Txn(txn) => match txn.success[0].request.clone() {
                        Some(Op::RequestPut(put)) => put,
                        other => panic!("{other:?}"),
                    },
                    Request::Range(_) => continue,
                    other => panic!("{other}"),
                };
                assert!(put.key.starts_with(b"once/"));
                assert!(keys.insert(put.key.clone()), "{:?} is put twice", put.key);
            }
        }
    }
    assert!(kinds("once").is_superset(&BTreeSet::from(["put", "txn"])));
}
