use super::*;

#[test]
fn whole_numbers_are_whole_however_they_are_written() {
    for (text, expected) in [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("0.0e5", Some(0)),
        ("12", Some(12)),
        ("-12", Some(-12)),
        ("1e2", Some(100)),
        ("1E+2", Some(100)),
        ("1.0", Some(1)),
        ("1.50e1", Some(15)),
        ("100e-2", Some(1)),
        ("9223372036854775807.0", Some(i128::from(i64::MAX))),
        ("18446744073709551615", Some(i128::from(u64::MAX))),
        ("1.5", None),
        ("1e-1", None),
        ("1e2147483648", None),
        ("1e999", None),
        ("01", None),
        ("+1", None),
        ("1.", None),
        (".5", None),
        (" 1", None),
        ("1 ", None),
        ("", None),
        ("-", None),
        ("0x1", None),
        ("true", None),
        ("null", None),
        ("\"1\"", None),
        ("[1]", None),
    ] {
        assert_eq!(integer(text), expected, "{text:?}");
    }
}

#[test]
fn base64_is_read_as_go_reads_it() {
    for (text, expected) in [
        ("", Some("")),
        ("YQ==", Some("a")),
        ("YQ", Some("a")),
        ("YR==", Some("a")),
        ("YWJj", Some("abc")),
        ("YWJj\n", Some("abc")),
        ("YQ=", None),
        ("Y", None),
        ("YQ==YQ==", None),
        ("!!", None),
    ] {
        assert_eq!(bytes(text), expected.map(Into::into), "{text:?}");
    }
    assert_eq!(bytes("_-8="), Some(vec![0xff, 0xef]));
    assert_eq!(bytes("/+8="), Some(vec![0xff, 0xef]));
    assert_eq!(bytes("/_8="), None, "one alphabet at a time");
}
