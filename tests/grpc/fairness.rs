//! No request looks at more than a bounded number of keys while the state is locked, however many keys there are.
//!
//! Work is counted, not time: the bound holds on any machine. `cargo bench --bench side_by_side -- --beside hash,sorted-list`
//! measures the time that others wait.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use quorate::proto::etcdserverpb::{
    self as pb, compare, maintenance_client::MaintenanceClient, range_request::SortOrder,
    range_request::SortTarget, request_op::Request, response_op::Response,
};
use tokio_stream::StreamExt;

use crate::http::get;
use crate::{Member, put, range, with_adjusted};

const KEYS: usize = 40_000;
const KEYS_PER_WRITE: usize = 1_000;
/// The first bound of the metric that is above what a look may take in, with the chunks at its edges.
const ENTRIES_MAX: u64 = 16_384;

/// Holds of the state's lock so far: all, and those within the bound.
async fn holds(member: &Member, by: &str) -> (u64, u64) {
    let (_, page) = get(member, "/metrics").await;
    let value = |name: &str| -> u64 {
        let line = page.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split(' ').next_back());
        value
            .and_then(|value| value.parse().ok())
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let bucket = format!("quorate_state_held_entries_bucket{{by=\"{by}\",le=\"{ENTRIES_MAX}\"}}");
    let count = format!("quorate_state_held_entries_count{{by=\"{by}\"}}");
    (value(&count), value(&bucket))
}

fn all() -> pb::RangeRequest {
    range("\0", "\0")
}

fn sorted(target: SortTarget, limit: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        sort_target: target.into(),
        sort_order: SortOrder::Descend.into(),
        limit,
        ..all()
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

/// Every kind of range that could look at all keys, and how many pairs it answers.
fn ranges() -> Vec<(&'static str, pb::RangeRequest, usize)> {
    let filtered = pb::RangeRequest {
        min_mod_revision: 3,
        max_mod_revision: 3,
        ..all()
    };
    let count = pb::RangeRequest {
        count_only: true,
        ..all()
    };
    let keys = pb::RangeRequest {
        keys_only: true,
        ..all()
    };
    // Every key has changed since, so that no sum of the index helps to count.
    let past = pb::RangeRequest {
        revision: 2 + (KEYS / KEYS_PER_WRITE) as i64 - 1,
        limit: 10,
        ..all()
    };
    vec![
        ("all", all(), KEYS),
        ("by value", sorted(SortTarget::Value, 10), 10),
        ("by revision", sorted(SortTarget::Mod, 10), 10),
        ("by key", sorted(SortTarget::Key, 0), KEYS),
        ("filtered", filtered, 0),
        ("count", count, 0),
        ("keys", keys, KEYS),
        ("past", past, 10),
    ]
}

async fn fill(member: &Member) {
    let kv = member.kv().await;
    // Twice, so that every key has a past.
    for round in 0..2 {
        // All at once: together they would be a long look.
        let writes = (0..KEYS).step_by(KEYS_PER_WRITE).map(|first| {
            let put = |number: usize| {
                let value = format!("{:05}/{round}", number * 7919 % KEYS);
                op(Request::RequestPut(put(&format!("key-{number:05}"), value)))
            };
            let write = pb::TxnRequest {
                success: (first..first + KEYS_PER_WRITE).map(put).collect(),
                ..Default::default()
            };
            let mut kv = kv.clone();
            async move { kv.txn(write).await.unwrap() }
        });
        join_all(writes).await;
    }
}

async fn transactions(member: &Member) {
    let mut kv = member.kv().await;
    let compare = pb::Compare {
        key: "\0".into(),
        range_end: "\0".into(),
        target: compare::CompareTarget::Version.into(),
        result: compare::CompareResult::Greater.into(),
        target_union: Some(compare::TargetUnion::Version(1)),
    };
    let read = || op(Request::RequestRange(all()));
    let request = pb::TxnRequest {
        compare: vec![compare],
        success: vec![read(), op(Request::RequestRange(sorted(SortTarget::Value, 3)))],
        ..Default::default()
    };
    let answer = kv.txn(request).await.unwrap().into_inner();
    assert!(answer.succeeded);
    assert_eq!(counts(&answer), [KEYS, 3]);
    // What a transaction reads after its own put has it, and what it reads before has not.
    let writes = pb::TxnRequest {
        success: vec![read(), op(Request::RequestPut(put("new", "1"))), read()],
        ..Default::default()
    };
    let answer = kv.txn(writes).await.unwrap().into_inner();
    let counts = counts(&answer);
    assert_eq!((counts[0], counts.last()), (KEYS, Some(&(KEYS + 1))));
}

fn counts(answer: &pb::TxnResponse) -> Vec<usize> {
    let ranges = answer.responses.iter().filter_map(|op| match &op.response {
        Some(Response::ResponseRange(range)) => Some(range.kvs.len()),
        _ => None,
    });
    ranges.collect()
}

async fn maintain(member: &Member) {
    let mut client = MaintenanceClient::new(member.channel().await);
    client.hash(pb::HashRequest {}).await.unwrap();
    for revision in [0, 20] {
        client.hash_kv(pb::HashKvRequest { revision }).await.unwrap();
    }
    client.status(pb::StatusRequest {}).await.unwrap();
    let mut parts = client
        .snapshot(pb::SnapshotRequest {})
        .await
        .unwrap()
        .into_inner();
    while let Some(part) = parts.next().await {
        part.unwrap();
    }
}

/// Answered when the half of all that is stored is given up.
async fn compact(member: &Member) {
    let mut kv = member.kv().await;
    let revision = kv.range(range("new", "")).await.unwrap().into_inner().kvs[0].mod_revision;
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    kv.compact(request).await.unwrap();
    let (_, page) = get(member, "/metrics").await;
    let died = format!("etcd_debugging_mvcc_db_compaction_keys_total {KEYS}");
    assert!(
        page.lines().any(|line| line == died),
        "another number of records died"
    );
}

#[test]
fn no_look_at_the_state_is_long() {
    with_adjusted(
        |config| config.max_txn_ops = KEYS_PER_WRITE,
        |member| async move {
            fill(&member).await;
            let mut kv = member.kv().await;
            let mut long = BTreeMap::new();
            let check = async |what: &'static str, long: &mut BTreeMap<_, _>| {
                for by in ["read", "apply"] {
                    let (all, within) = holds(&member, by).await;
                    if all > within {
                        long.entry(by).or_insert(what);
                    }
                }
            };
            check("filling", &mut long).await;
            for (what, request, pairs) in ranges() {
                let answer = kv.range(request).await.unwrap().into_inner();
                assert_eq!(answer.kvs.len(), pairs, "{what}");
                assert_eq!(answer.count, KEYS as i64, "{what}");
                check(what, &mut long).await;
            }
            transactions(&member).await;
            check("transactions", &mut long).await;
            maintain(&member).await;
            check("maintenance", &mut long).await;
            compact(&member).await;
            check("compaction", &mut long).await;
            assert!(
                long.is_empty(),
                "more than {ENTRIES_MAX} keys were looked at: {long:?}"
            );
        },
    );
}
