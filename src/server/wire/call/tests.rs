use super::*;

#[test]
fn timeouts_are_read_as_grpc_writes_them() {
    for (text, expected) in [
        ("1H", Some(Duration::from_secs(3600))),
        ("2M", Some(Duration::from_secs(120))),
        ("5S", Some(Duration::from_secs(5))),
        ("4999m", Some(Duration::from_millis(4999))),
        ("99999999u", Some(Duration::from_micros(99_999_999))),
        ("1n", Some(Duration::from_nanos(1))),
        ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
        ("", None),
        ("S", None),
        ("5", None),
        ("5s", None),
        ("-1S", None),
        ("1.5S", None),
        ("123456789S", None),
    ] {
        assert_eq!(parse_timeout(text.as_bytes()), expected, "{text}");
    }
}
