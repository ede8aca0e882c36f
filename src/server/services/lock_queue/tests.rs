use super::*;

#[test]
fn keys_are_named_by_lease() {
    assert_eq!(key(&prefix(b"n"), 0x1f), b"n/1f");
    assert_eq!(key(&prefix(b"n"), -1), b"n/-1");
}

#[test]
fn a_prefix_ends_before_its_successor() {
    assert_eq!(end_of(b"n/"), b"n0");
    assert_eq!(end_of(b"a\xff\xff"), b"b");
    assert_eq!(end_of(b"\xff"), [0]);
}
