use super::*;

fn check<T: PartialEq + std::fmt::Debug>(parse: impl Fn(&str) -> T, table: &[(&str, T)]) {
    for (text, expected) in table {
        assert_eq!(parse(text), *expected, "{text:?}");
    }
}

#[test]
fn numbers_are_gos() {
    check(
        unsigned,
        &[
            ("0", Ok(0)),
            ("10", Ok(10)),
            ("010", Ok(8)),
            ("0x1F", Ok(31)),
            ("0b101", Ok(5)),
            ("0o17", Ok(15)),
            ("1_000", Ok(1000)),
            ("0x_1", Ok(1)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(RANGE)),
            ("", Err(SYNTAX)),
            ("-1", Err(SYNTAX)),
            ("+1", Err(SYNTAX)),
            ("_1", Err(SYNTAX)),
            ("1_", Err(SYNTAX)),
            ("1__0", Err(SYNTAX)),
            ("0x", Err(SYNTAX)),
            ("08", Err(SYNTAX)),
            ("abc", Err(SYNTAX)),
            ("1 ", Err(SYNTAX)),
        ],
    );
    check(
        signed,
        &[
            ("-1", Ok(-1)),
            ("+1", Ok(1)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(RANGE)),
            ("--1", Err(SYNTAX)),
        ],
    );
}

#[test]
fn durations_are_gos() {
    const MS: i64 = 1_000_000;
    check(
        duration,
        &[
            ("0", Some(0)),
            ("100ms", Some(100 * MS)),
            ("2h45m", Some(165 * 60_000 * MS)),
            ("1.5s", Some(1_500 * MS)),
            (".5s", Some(500 * MS)),
            ("1.s", Some(1_000 * MS)),
            ("-1.5h", Some(-90 * 60_000 * MS)),
            ("1h15m30.918s", Some(4_530_918 * MS)),
            ("3us", Some(3_000)),
            ("3\u{b5}s", Some(3_000)),
            ("1.0000000009s", Some(1_000 * MS)),
            ("9223372036854775807ns", Some(i64::MAX)),
            ("-9223372036854775808ns", Some(i64::MIN)),
            ("9223372036854775808ns", None),
            ("2562048h", None),
            ("", None),
            ("-", None),
            ("5", None),
            ("5x", None),
            (".s", None),
            ("1s2", None),
            ("s", None),
        ],
    );
}

#[test]
fn durations_are_written_as_go_writes_them() {
    for text in [
        "0s",
        "1ns",
        "1.5\u{b5}s",
        "100ms",
        "1.5s",
        "1m0s",
        "2h45m0s",
        "-1.5s",
        "10m0.25s",
    ] {
        let nanos = duration(text).unwrap();
        assert_eq!(format_duration(nanos), text);
    }
}

#[test]
fn messages_are_etcds() {
    let check = |kind, text: &str, message: &str| {
        assert_eq!(canonical(kind, text), Err(message.to_owned()));
    };
    check(Kind::Bool, "maybe", "parse error");
    check(Kind::Uint, "99999999999999999999", "value out of range");
    check(
        Kind::Uint32,
        "4294967296",
        r#"strconv.ParseUint: parsing "4294967296": value out of range"#,
    );
    check(Kind::Choice(&["new", "existing"]), "foo", "invalid value");
    check(Kind::Choices(&["gone"]), "foo", r#"invalid value "foo""#);
    check(Kind::Level, "loud", r#"unrecognized level: "loud""#);
    check(
        Kind::Urls,
        "foo",
        "URL scheme must be http, https, unix, or unixs: foo",
    );
}
