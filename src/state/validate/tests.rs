use proptest::prelude::*;

use super::*;

/// Short ones, so that they meet.
fn key() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0..4_u8, 0..4).prop_map(Bytes::from)
}

proptest! {
    #[test]
    fn merged_ranges_delete_what_each_of_them_does(
        deletes_of in prop::collection::vec((key(), key()), 0..12),
        keys in prop::collection::vec(key(), 1..30),
    ) {
        let (mut writes, mut rest) = (Writes::default(), Writes::default());
        for (at, (start, end)) in deletes_of.iter().enumerate() {
            let one = if at % 2 == 0 { &mut writes } else { &mut rest };
            one.delete(start, end);
        }
        writes.delete_all(rest);
        for key in keys {
            let deletes = |(start, end): &(Bytes, Bytes)| {
                if end.is_empty() { *start == key } else { *start <= key && key < *end }
            };
            prop_assert_eq!(writes.deletes_key(&key), deletes_of.iter().any(deletes));
        }
    }
}
