//! What a restart finds: records that are dead but still stored, in any subset, and damage.

use proptest::prelude::*;

use super::model::request;
use super::*;
use crate::base::RevisionAt;

fn record_key(at: RevisionAt) -> (Space, Bytes) {
    (Space::Records, Bytes::copy_from_slice(&at.to_bytes()))
}

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
    assert_eq!(machine.state.dead_records().len(), 3);
    for gone in [vec![4], vec![3, 4], vec![2, 4]] {
        let mut store = machine.store.clone();
        for main in gone {
            store.0.remove(&record_key(RevisionAt::new(main, 0))).unwrap();
        }
        let reopened = Machine::over(store);
        assert_eq!(reopened.get("k"), None);
        assert_eq!(reopened.range(range("\0", "\0")).unwrap().count, 1);
        assert_eq!(reopened.state.logical_bytes(), machine.state.logical_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_the_engine_has_removed_so_far_does_not_matter(
        requests in prop::collection::vec(request(), 1..80),
        removed in prop::collection::vec(any::<bool>(), 1..40),
    ) {
        let mut machine = Machine::new();
        for request in &requests {
            machine.apply(request.clone());
        }
        let dead = machine.state.dead_records();
        let mut store = machine.store.clone();
        let mut left = Vec::new();
        for (at, removed) in dead.into_iter().zip(removed.into_iter().cycle()) {
            if removed {
                prop_assert!(store.0.remove(&record_key(at)).is_some(), "a dead record is named once");
            } else {
                left.push(at);
            }
        }
        let mut reopened = Machine::over(store);
        let mut named = reopened.state.dead_records();
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
