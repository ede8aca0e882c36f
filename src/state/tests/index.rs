//! The index by itself: its sums, its counts, its cache, and what a compaction costs it.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::index::{Compacted, Index, KeyVersion};
use crate::base::{RevisionAt, effort};

/// A change of key `n` at `main`: a put of so many bytes, or a deletion.
fn record(index: &mut Index, n: u16, main: i64, put_bytes: Option<usize>) {
    let key = format!("key{n:05}");
    let place = index.find(key.as_bytes());
    let version = i64::from(put_bytes.is_some());
    let past = KeyVersion::new(RevisionAt::new(main, 0), version, version, 1).unwrap();
    let cached = put_bytes.map(|bytes| Bytes::from(vec![0; bytes]));
    index.record(place, key.as_bytes(), past, 0, cached);
}

/// Compacts in pieces: what all of them did.
fn compact(index: &mut Index, since: i64, revision: i64, effort_max: usize) -> Compacted {
    let (mut all, mut next) = (Compacted::default(), Some(Box::default()));
    while let Some(from) = next {
        let spent = effort::spent();
        let (some, rest) = index.compact_some(&from, since, revision, effort_max);
        assert!(effort::spent() - spent <= effort_max as u64);
        all.dead.extend(some.dead);
        all.kept.extend(some.kept);
        all.dead_bytes += some.dead_bytes;
        next = rest;
        index.assert_consistent();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn sums_and_counts_are_those_of_a_map(
        changes in prop::collection::vec((0..700u16, prop::option::weighted(0.8, 0..200usize)), 1..1500),
        compactions in prop::collection::vec((1..400usize, prop_oneof![1..300usize, Just(usize::MAX)]), 0..6),
        (from, to) in (0..700u16, 0..700u16),
        cache_bytes_max in 0..60_000usize,
    ) {
        let mut index = Index::new(cache_bytes_max);
        let mut versions: BTreeMap<u16, Vec<(i64, bool)>> = BTreeMap::new();
        let (mut main, mut compacted) = (1, -1);
        let mut due = compactions.iter().scan(0, |at, (step, effort_max)| { *at += step; Some((*at, *effort_max)) }).peekable();
        for (number, &(n, put)) in changes.iter().enumerate() {
            main += 1;
            record(&mut index, n, main, put);
            versions.entry(n).or_default().push((main, put.is_some()));
            if let Some((_, effort_max)) = due.next_if(|&(at, _)| at <= number) {
                let revision = main - 3;
                if revision > compacted {
                    compact(&mut index, compacted, revision, effort_max);
                    compacted = revision;
                }
            }
            prop_assert!(index.cached_bytes() <= cache_bytes_max);
        }
        index.assert_consistent();
        let (from_key, to_key) = (format!("key{from:05}"), format!("key{to:05}"));
        for revision in [compacted.max(1), (compacted.max(1) + main) / 2, main, main + 1] {
            let living = |changes: &Vec<(i64, bool)>| {
                changes.iter().rev().find(|(at, _)| *at <= revision).is_some_and(|(_, put)| *put)
            };
            let all = versions.values().filter(|changes| living(changes)).count();
            prop_assert_eq!(index.count(b"", None, revision), all);
            if from <= to {
                let some = versions.range(from..to).filter(|(_, changes)| living(changes)).count();
                prop_assert_eq!(index.count(from_key.as_bytes(), Some(to_key.as_bytes()), revision), some);
            }
        }
    }
}

#[test]
fn the_cache_keeps_what_was_written_last() {
    let (keys, bytes) = (2000, 100);
    let each = bytes + 64;
    let mut index = Index::new(each * 500);
    for n in 0..keys {
        record(&mut index, n, i64::from(n) + 2, Some(bytes));
    }
    let cached = |index: &Index, n: u16| {
        index
            .get(format!("key{n:05}").as_bytes())
            .unwrap()
            .cached
            .is_some()
    };
    assert!(
        (keys - 250..keys).all(|n| cached(&index, n)),
        "the newest are in memory"
    );
    assert!((0..keys - 600).all(|n| !cached(&index, n)), "the oldest are not");
    // Room is used: a sweep drops a part, not everything.
    assert!(index.cached_bytes() > each * 250);
    // A value that never fits is not kept, whatever else has to go.
    record(&mut index, 7, 10_000, Some(each * 501));
    assert!(!cached(&index, 7));
    assert!(index.cached_bytes() <= each * 500);
}

#[test]
fn a_compaction_of_a_key_with_many_versions_is_linear() {
    // Were it quadratic in the versions, this would move terabytes.
    let versions = 300_000;
    let mut index = Index::new(0);
    for version in 0..versions {
        record(&mut index, 1, version + 2, Some(1));
    }
    let compacted = compact(&mut index, -1, versions + 1, 1_000);
    assert_eq!(compacted.dead.len() as i64, versions - 1);
    assert_eq!(compacted.kept, [RevisionAt::new(versions + 1, 0)]);
    index.assert_consistent();
}
