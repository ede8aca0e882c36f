//! What a restart finds: records that are dead but still stored, in any subset, and damage.

use proptest::prelude::*;

use super::model::request;
use super::*;
use crate::base::RevisionAt;

/// The engine removes dead records in no order: here the tombstone goes first.
#[test]
fn a_deleted_key_stays_deleted_when_its_tombstone_is_gone_first() {
    let mut machine = Machine::new();
    machine.put("k", "1");
    machine.put("k", "2");
    machine.ok(compact(3));
    machine.delete("k", "");
    machine.put("other", "1");
    machine.ok(compact(5));
    assert_eq!(machine.dead_records().len(), 3);
    for gone in [vec![4], vec![3, 4], vec![2, 4]] {
        let mut store = machine.store.clone();
        for main in gone {
            assert!(store.remove_record(RevisionAt::new(main, 0)));
        }
        let reopened = Machine::over(store);
        assert_eq!(reopened.get("k"), None);
        assert_eq!(reopened.range(range("\0", "\0")).unwrap().count, 1);
        assert_eq!(reopened.state.logical_bytes(), machine.state.logical_bytes());
    }
}

/// A session with compacted and later history, leases, and a transaction in the end.
fn session() -> Machine {
    let mut machine = Machine::new();
    machine.ok(Request::LeaseGrant(pb::LeaseGrantRequest { id: 5, ttl: 9 }));
    for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1"), ("a", "3")] {
        machine.put(key, value);
    }
    machine.delete("c", "");
    machine.ok(leased("d", "1", 5));
    machine.ok(compact(6));
    machine.sweep();
    machine.put("b", "2");
    machine.ok(Request::Txn(then(vec![put_op("e", "1"), put_op("f", "1")])));
    machine
}

fn opened(store: &Maps) -> Result<(), String> {
    State::open(store).map(drop).map_err(|broken| broken.to_string())
}

/// The last change of a transaction above the compaction is the one exception: only the engine's checksums guard it.
#[test]
fn a_record_that_should_be_there_is_missed() {
    let mut machine = session();
    let dead = machine.dead_records();
    let records: Vec<RevisionAt> = machine
        .store
        .0
        .keys()
        .filter(|(space, _)| *space == Space::Records)
        .map(|(_, key)| RevisionAt::from_bytes(key).unwrap())
        .collect();
    assert_eq!((records.len(), dead.len()), (10, 2));
    let guarded = records.iter().filter(|at| !dead.contains(at) && at.sub == 0);
    for &at in guarded {
        let mut store = machine.store.clone();
        store.remove_record(at);
        let (main, sub) = (at.main, at.sub);
        assert_eq!(opened(&store), Err(format!("record {main}_{sub} is missing")));
    }
    for at in dead {
        machine.store.remove_record(at);
        assert_eq!(opened(&machine.store), Ok(()));
    }
}

/// One change of a sound store, and how it is refused.
#[test]
fn a_store_that_contradicts_itself_is_refused() {
    let sound = session().store;
    let record = |main| {
        (
            Space::Records,
            Bytes::copy_from_slice(&RevisionAt::new(main, 0).to_bytes()),
        )
    };
    let value = |main| sound.0.get(&record(main)).unwrap().clone();
    let state = || (Space::Meta, bytes("state"));
    let lease = || (Space::Leases, Bytes::copy_from_slice(&5i64.to_be_bytes()));
    let future = (
        Space::Records,
        Bytes::copy_from_slice(&RevisionAt::new(11, 0).to_bytes()),
    );
    let kept = |(space, key): &&(Space, Bytes)| *space == Space::Meta && key.starts_with(b"kept");
    let kept = sound.0.keys().find(kept).unwrap().clone();
    let malformed_key = (Space::Records, bytes("short"));
    for (key, value, expected) in [
        (
            record(8),
            Some(value(9)),
            "record 8_0 does not belong where it is stored",
        ),
        (record(7), Some(bytes("\u{7}")), "record 7_0 is malformed"),
        (record(9), Some(Bytes::new()), "record 9_0 is malformed"),
        (
            record(8),
            Some(value(7)),
            "record 8_0 does not belong where it is stored",
        ),
        (future, Some(value(9)), "record 11_0 lies beyond revision 10"),
        (
            malformed_key,
            Some(value(9)),
            "stored revision [115, 104, 111, 114, 116] is malformed",
        ),
        (lease(), None, "lease 5 has keys, but does not exist"),
        (
            lease(),
            Some(bytes("\u{7}")),
            "stored lease [0, 0, 0, 0, 0, 0, 0, 5] is malformed",
        ),
        (state(), None, "the store has Leases, but no state they belong to"),
        (
            state(),
            Some(Bytes::new()),
            "the stored state has format 0, and this release reads format 2 alone: start the release that wrote it, or \
             add this member anew",
        ),
        (
            kept.clone(),
            Some(Bytes::from_static(&[0x80])),
            "block 0 of kept records is malformed",
        ),
    ] {
        let mut store = sound.clone();
        match value {
            Some(value) => store.0.insert(key.clone(), value),
            None => store.0.remove(&key),
        };
        assert_eq!(opened(&store), Err(expected.to_owned()), "{key:?}");
    }
    assert_eq!(opened(&sound), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn what_the_engine_has_removed_so_far_does_not_matter(
        requests in prop::collection::vec(request(), 1..80),
        removed in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut machine = Machine::new();
        for request in &requests {
            machine.apply(request.clone());
        }
        let dead = machine.dead_records();
        let mut store = machine.store.clone();
        let mut left = Vec::new();
        for (at, removed) in dead.into_iter().zip(removed.into_iter().cycle()) {
            if removed {
                prop_assert!(store.remove_record(at), "a dead record is named once");
            } else {
                left.push(at);
            }
        }
        let mut reopened = Machine::over(store);
        let mut named = reopened.dead_records();
        left.sort_unstable();
        named.sort_unstable();
        prop_assert_eq!(named, left, "what is dead and still stored is named again");
        prop_assert_eq!(reopened.state.logical_bytes(), machine.state.logical_bytes());
        for revision in machine.state.compact_revision().max(1)..=machine.state.revision() {
            let request = pb::RangeRequest { revision, ..range("\0", "\0") };
            prop_assert_eq!(reopened.range(request.clone()), machine.range(request));
        }
    }
}
