use proptest::prelude::*;

use super::*;

fn key(number: u8) -> Bytes {
    Bytes::copy_from_slice(&[number])
}

fn depth<T>(link: &Link<T>) -> usize {
    link.as_ref()
        .map_or(0, |node| 1 + depth(&node.left).max(depth(&node.right)))
}

fn keys() -> impl Strategy<Value = Keys> {
    prop_oneof![
        any::<u8>().prop_map(|one| Keys::One(key(one))),
        (any::<u8>(), 1..40u8)
            .prop_map(|(start, length)| { Keys::Range(key(start), start.checked_add(length).map(key)) }),
    ]
}

proptest! {
    /// Whatever is added and removed: an event finds exactly the watches that a look at each would find.
    #[test]
    fn finds_what_a_list_finds(steps in prop::collection::vec((keys(), any::<prop::sample::Index>(), 0..3u8), 1..200)) {
        let mut registry = Registry::default();
        let mut list: Vec<(Keys, u64)> = Vec::new();
        for (number, (keys, at, action)) in steps.into_iter().enumerate() {
            if action == 0 && !list.is_empty() {
                let (keys, number) = list.swap_remove(at.index(list.len()));
                prop_assert_eq!(registry.remove(&keys, number), Some(number));
                prop_assert_eq!(registry.remove(&keys, number), None);
            } else {
                registry.insert(&keys, number as u64, number as u64);
                list.push((keys, number as u64));
            }
            prop_assert_eq!(registry.len(), list.len());
        }
        for probe in 0..=255u8 {
            let mut found = Vec::new();
            registry.visit(&[probe], &mut |number, _| found.push(number));
            found.sort_unstable();
            let mut expected: Vec<u64> =
                list.iter().filter(|(keys, _)| keys.contains(&[probe])).map(|(_, number)| *number).collect();
            expected.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}

#[test]
fn the_tree_stays_shallow_under_ordered_insertion() {
    let mut registry = Registry::default();
    for number in 0..10_000u64 {
        let start = Bytes::copy_from_slice(&number.to_be_bytes());
        let end = Bytes::copy_from_slice(&(number + 1).to_be_bytes());
        registry.insert(&Keys::Range(start, Some(end)), number, ());
    }
    let depth = depth(&registry.ranges);
    assert!(
        depth < 50,
        "a balanced tree of 10,000 has depth 14, this one {depth}"
    );
}
