//! Random commands on the state and on the naive model, and the same commands in other batches.

mod naive;

use proptest::prelude::*;

use super::super::{Bounds, validate};
use super::*;
use crate::proto::etcdserverpb::compare::TargetUnion;
use naive::Naive;

fn key() -> impl Strategy<Value = String> {
    (0..10u8).prop_map(|n| format!("k{n:02}"))
}

fn end() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just(String::new()), 1 => Just("\0".to_owned()), 3 => key()]
}

fn value() -> impl Strategy<Value = String> {
    "[a-c]{0,3}"
}

fn put_any() -> impl Strategy<Value = pb::PutRequest> {
    let lease = prop_oneof![3 => Just(0), 1 => 1..4i64];
    let kept = prop_oneof![6 => Just((false, false)), 1 => any::<(bool, bool)>()];
    (key(), value(), lease, any::<bool>(), kept).prop_map(
        |(key, value, lease, prev_kv, (ignore_value, ignore_lease))| pb::PutRequest {
            key: bytes(&key),
            value: if ignore_value { Bytes::new() } else { bytes(&value) },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete_any() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, end, prev_kv)| pb::DeleteRangeRequest {
        key: bytes(&key),
        range_end: bytes(&end),
        prev_kv,
    })
}

fn range_any() -> impl Strategy<Value = pb::RangeRequest> {
    let bound = || prop_oneof![5 => Just(0), 1 => -1..30i64];
    let revision = prop_oneof![3 => Just(0), 1 => -2..50i64];
    (
        (key(), end(), 0..5i64, revision),
        (0..3i32, 0..5i32, any::<bool>(), prop::bool::weighted(0.2)),
        (bound(), bound(), bound(), bound()),
    )
        .prop_map(
            |((key, end, limit, revision), (order, target, keys_only, count_only), bounds)| {
                pb::RangeRequest {
                    key: bytes(&key),
                    range_end: bytes(&end),
                    limit,
                    revision,
                    sort_order: order,
                    sort_target: target,
                    serializable: false,
                    keys_only,
                    count_only,
                    min_mod_revision: bounds.0,
                    max_mod_revision: bounds.1,
                    min_create_revision: bounds.2,
                    max_create_revision: bounds.3,
                }
            },
        )
}

fn compare_any() -> impl Strategy<Value = pb::Compare> {
    (key(), end(), 0..5i32, 0..4i32, 0..12i64, value(), any::<bool>()).prop_map(
        |(key, end, target, result, number, value, given)| {
            let union = match target {
                0 => TargetUnion::Version(number % 3),
                1 => TargetUnion::CreateRevision(number),
                2 => TargetUnion::ModRevision(number),
                3 => TargetUnion::Value(bytes(&value)),
                _ => TargetUnion::Lease(number % 4),
            };
            pb::Compare {
                key: bytes(&key),
                range_end: bytes(&end),
                target,
                result,
                target_union: given.then_some(union),
            }
        },
    )
}

fn txn_any() -> impl Strategy<Value = pb::TxnRequest> {
    let plain = prop_oneof![
        4 => put_any().prop_map(|put| op(request_op::Request::RequestPut(put))),
        2 => delete_any().prop_map(|delete| op(request_op::Request::RequestDeleteRange(delete))),
        2 => range_any().prop_map(|range| op(request_op::Request::RequestRange(range))),
    ];
    let txn = |op: BoxedStrategy<pb::RequestOp>| {
        let ops = || prop::collection::vec(op.clone(), 0..4);
        (prop::collection::vec(compare_any(), 0..2), ops(), ops()).prop_map(|(compare, success, failure)| {
            pb::TxnRequest {
                compare,
                success,
                failure,
            }
        })
    };
    let nested = txn(plain.clone().boxed()).prop_map(txn_op);
    let allowed = |request: &pb::TxnRequest| validate::txn(request, 128).is_ok();
    txn(prop_oneof![5 => plain, 1 => nested].boxed()).prop_filter("refused at the front", allowed)
}

/// Any command that changes keys or leases.
pub fn request() -> impl Strategy<Value = Request> {
    let grant = |(id, ttl)| Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl });
    prop_oneof![
        8 => put_any().prop_map(Request::Put),
        3 => delete_any().prop_map(Request::DeleteRange),
        4 => txn_any().prop_map(Request::Txn),
        1 => (1..60i64).prop_map(compact),
        1 => (1..4i64, 2..9i64).prop_map(grant),
        1 => (1..4i64).prop_map(|id| Request::LeaseRevoke(pb::LeaseRevokeRequest { id })),
        1 => range_any().prop_map(Request::Range),
    ]
}

/// What a watch from every revision on would be told, and the pairs it would show beside.
fn check_history(machine: &Machine, naive: &Naive) {
    for from in 1..=naive.revision + 1 {
        let mut told = Vec::new();
        let read = machine.history(from, 7, &mut |revision, events| {
            told.push((revision, events));
            true
        });
        if from < naive.compacted {
            assert_eq!((read, told), (Err(Denied::Compacted), vec![]));
            continue;
        }
        let last = naive.revision.min(from + 6);
        assert_eq!(read, Ok(last.max(from - 1) + 1));
        let expected: Vec<_> = (from..=last)
            .map(|main| {
                let changes = naive.changes.iter().filter(|change| change.main == main);
                (main, changes.map(naive::Change::event).collect::<Vec<_>>())
            })
            .filter(|(_, events)| !events.is_empty())
            .collect();
        assert_eq!(told, expected, "from {from}");
    }
    for change in &naive.changes {
        let (key, before) = (&change.kv.key, change.main - 1);
        let expected = naive.at(key, before).filter(|_| before >= naive.compacted);
        assert_eq!(machine.prev_kv(key, change.main), expected);
    }
}

fn check_leases(machine: &Machine, naive: &Naive) {
    let ids: Vec<i64> = machine.state.leases().map(|(id, _)| id).collect();
    assert_eq!(ids, naive.leases.iter().copied().collect::<Vec<_>>());
    let all = naive.range(&range("\0", "\0"), naive.revision).unwrap();
    for id in ids {
        let keys: Vec<&Bytes> = all
            .kvs
            .iter()
            .filter(|kv| kv.lease == id)
            .map(|kv| &kv.key)
            .collect();
        assert_eq!(
            machine.state.lease(id).unwrap().keys.iter().collect::<Vec<_>>(),
            keys
        );
    }
}

/// How much each command is followed by of a sweep, mostly too little for the whole.
fn sweeps(commands: usize) -> impl Strategy<Value = Vec<usize>> {
    let effort_max = prop_oneof![4 => Just(0), 5 => 1..12usize, 1 => Just(usize::MAX)];
    prop::collection::vec(effort_max, commands)
}

/// Everything that can be read, and the hash of it.
fn check_all(machine: &Machine, naive: &Naive, ranges: &[pb::RangeRequest]) {
    for range in ranges {
        assert_eq!(
            machine.range(range.clone()),
            naive.range(range, naive.revision),
            "{range:?}"
        );
    }
    for revision in 1..=naive.revision + 1 {
        let request = pb::RangeRequest {
            revision,
            ..range("\0", "\0")
        };
        assert_eq!(
            machine.range(request.clone()),
            naive.range(&request, naive.revision)
        );
        let counted = pb::RangeRequest {
            count_only: true,
            ..request
        };
        assert_eq!(
            machine.range(counted.clone()),
            naive.range(&counted, naive.revision)
        );
    }
    check_history(machine, naive);
    check_leases(machine, naive);
    let reopened = machine.reopened();
    assert_eq!(
        reopened.state.hash_kv(0, &reopened.store).unwrap(),
        machine.state.hash_kv(0, &machine.store).unwrap()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn the_state_is_the_naive_model(
        requests in prop::collection::vec(request(), 1..80),
        ranges in prop::collection::vec(range_any(), 1..20),
        cache_bytes in prop_oneof![Just(0), Just(500), Just(1 << 20)],
        sweeps in sweeps(80),
    ) {
        let (mut machine, mut naive) = (Machine::with_cache(Maps::default(), cache_bytes), Naive::new());
        for (request, effort_max) in requests.iter().zip(sweeps) {
            let expected = naive.apply(request);
            prop_assert_eq!(machine.apply(request.clone()), expected, "{:?}", request);
            machine.sweep_some(effort_max);
            machine.forget_dead();
        }
        check_all(&machine, &naive, &ranges);
        check_all(&machine.reopened(), &naive, &ranges);
        machine.sweep();
        machine.forget_dead();
        check_all(&machine, &naive, &ranges);
        let reopened = machine.reopened();
        check_all(&reopened, &naive, &ranges);
        prop_assert_eq!(reopened.state.digest(), machine.state.digest());
        prop_assert_eq!(reopened.state.position(), machine.state.position());
        prop_assert_eq!(reopened.state.logical_bytes(), machine.state.logical_bytes());
    }

    #[test]
    fn batches_do_not_matter(
        requests in prop::collection::vec(request(), 1..60),
        cuts in prop::collection::vec(1..9usize, 1..60),
    ) {
        let (mut one_by_one, mut batched) = (Machine::new(), Machine::new());
        let mut outcomes: Vec<Outcome> =
            requests.iter().map(|request| one_by_one.apply(request.clone())).collect();
        let mut rest = &requests[..];
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (batch, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            let expected: Vec<Outcome> = outcomes.drain(..batch.len()).collect();
            prop_assert_eq!(batched.batch(batch), expected);
        }
        prop_assert_eq!(one_by_one.state.digest(), batched.state.digest());
        prop_assert_eq!(one_by_one.store, batched.store);
    }

    /// A restart in the middle of a session, and of a sweep, with another cache, changes nothing that follows.
    #[test]
    fn restarts_do_not_matter(
        requests in prop::collection::vec(request(), 2..60),
        restarts in prop::collection::vec(prop::bool::weighted(0.2), 60),
        sweeps in sweeps(60),
    ) {
        let (mut steady, mut restarted) = (Machine::new(), Machine::with_cache(Maps::default(), 300));
        for ((request, restart), effort_max) in requests.into_iter().zip(restarts).zip(sweeps) {
            restarted.sweep_some(effort_max);
            restarted.forget_dead();
            if restart {
                let hashes = restarted.hashes;
                restarted = Machine::with_cache(restarted.store, 300);
                restarted.hashes = hashes;
            }
            prop_assert_eq!(restarted.apply(request.clone()), steady.apply(request));
            steady.sweep();
            prop_assert_eq!(restarted.state.digest(), steady.state.digest());
            let revision = steady.state.compact_revision().max(1);
            for revision in [0, revision, (revision + steady.state.revision()) / 2] {
                prop_assert_eq!(
                    restarted.state.hash_kv(revision, &restarted.store).unwrap(),
                    steady.state.hash_kv(revision, &steady.store).unwrap()
                );
            }
        }
        // What was left half done goes with the next sweep.
        for one in [&mut steady, &mut restarted] {
            one.put("last", "");
            one.ok(compact(one.state.revision()));
            one.sweep();
            one.forget_dead();
        }
        prop_assert_eq!(&restarted.store, &steady.store);
        for hash in &restarted.hashes {
            let same = |other: &&KvHash| (other.hash_revision, other.compact_revision)
                == (hash.hash_revision, hash.compact_revision);
            prop_assert!(steady.hashes.iter().find(same).is_none_or(|other| other == hash));
        }
    }

    /// A range that is read in looks, with commands in between, is the range as it was at the first look, or is overtaken.
    #[test]
    fn looks_are_the_whole(
        requests in prop::collection::vec(request(), 1..40),
        later in prop::collection::vec(request(), 0..20),
        range in range_any(),
        (entries, pairs, bytes) in (1..4usize, 1..4usize, 1..60usize),
    ) {
        let mut machine = Machine::with_cache(Maps::default(), 300);
        machine.batch(&requests);
        let expected = machine.range(range.clone());
        let mut cursor = match machine.state.open_range(&range) {
            Ok(cursor) => cursor,
            Err(denied) => {
                prop_assert_eq!(Err(denied), expected);
                return Ok(());
            }
        };
        let revision = match range.revision {
            ..=0 => machine.state.revision(),
            revision => revision,
        };
        let (mut kvs, mut later) = (Vec::new(), later.into_iter());
        while !cursor.is_read() {
            if machine.state.read_on(&mut cursor, Bounds { entries, pairs, bytes }).is_err() {
                prop_assert!(machine.state.compact_revision() > revision);
                return Ok(());
            }
            prop_assert!(cursor.kept() <= entries || !cursor.is_in_key_order());
            cursor.digest(Some(&machine.store)).unwrap();
            if cursor.is_in_key_order() {
                kvs.extend(cursor.take(usize::MAX, usize::MAX, Some(&machine.store)).unwrap());
            }
            if let Some(request) = later.next() {
                machine.apply(request);
            }
        }
        cursor.close();
        while cursor.kept() > 0 && cursor.limit_left() > 0 {
            kvs.extend(cursor.take(2, bytes, Some(&machine.store)).unwrap());
        }
        prop_assert_eq!(cursor.answer(kvs), expected.unwrap());
    }

    /// Who waits for answers, and who does not, end up with the same state, events and decisions.
    #[test]
    fn answers_decide_nothing(requests in prop::collection::vec(request(), 1..60)) {
        let (mut asked, mut unasked) = (Machine::new(), Machine::new());
        unasked.asked = false;
        for request in requests {
            let (with, without) = (asked.apply(request.clone()), unasked.apply(request));
            prop_assert_eq!((with.revision, &with.events), (without.revision, &without.events));
            prop_assert_eq!(with.answer.err(), without.answer.err());
            prop_assert_eq!(asked.state.digest(), unasked.state.digest());
        }
        prop_assert_eq!(asked.store, unasked.store);
    }
}
