use super::*;

fn union(ranges: &[(&'static str, &'static str)]) -> Ranges {
    Ranges::union(ranges.iter().map(|(key, end)| (key.as_bytes(), end.as_bytes())))
}

#[test]
fn a_request_has_to_lie_within_the_union() {
    let granted = union(&[("m", ""), ("c", "f"), ("a", "c"), ("e", "g"), ("x", "\0")]);
    for (key, end, expected) in [
        ("a", "", true),
        ("a", "g", true),
        ("b", "d", true),
        ("a", "h", false),
        ("f", "", true),
        ("g", "", false),
        ("m", "", true),
        ("m", "m\0", true),
        ("m", "n", false),
        ("m\0", "", false),
        ("x", "\0", true),
        ("y", "\0", true),
        ("w", "\0", false),
        ("zz", "", true),
        ("a", "\0", false),
        ("\0", "\0", false),
        ("`", "b", false),
    ] {
        assert_eq!(
            granted.contain(key.as_bytes(), end.as_bytes()),
            expected,
            "{key:?} {end:?}"
        );
    }
}

#[test]
fn a_zero_byte_as_end_is_not_a_small_key() {
    // As a plain end it would make an empty range, which needs next to nothing.
    let granted = union(&[("a", "b")]);
    assert!(!granted.contain(b"a", b"\0"));
    assert!(union(&[("\0", "\0")]).contain(b"a", b"\0"));
}

#[test]
fn a_grant_must_not_be_empty() {
    for (key, end, expected) in [
        ("", "", false),
        ("", "\0", false),
        ("a", "", true),
        ("a", "b", true),
        ("b", "a", false),
        ("a", "a", false),
        ("a", "\0", true),
        ("\0", "\0", true),
    ] {
        assert_eq!(
            is_valid(key.as_bytes(), end.as_bytes()),
            expected,
            "{key:?} {end:?}"
        );
    }
}
