use super::super::{Parsed, parse};
use super::*;

fn apply_to(line: &str, variables: &[(&str, &str)]) -> (Flags, Report) {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let Parsed::Flags(mut flags) = parse(&arguments) else {
        panic!("{line}");
    };
    let owned = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    let variables: Vec<_> = variables.iter().map(owned).collect();
    let report = apply(&mut flags, &variables);
    (flags, report)
}

#[test]
fn a_variable_sets_its_flag() {
    let (flags, report) = apply_to(
        "--name a",
        &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1"), ("PATH", "x")],
    );
    assert_eq!(flags.text("listen-client-urls"), "http://127.0.0.1:1");
    assert!(flags.is_given("listen-client-urls"));
    assert_eq!(report.used.len(), 1);
    assert_eq!(
        (report.unrecognized.len(), report.conflict, report.error),
        (0, None, None)
    );
}

#[test]
fn a_flag_and_its_variable_conflict_even_if_the_variable_is_empty() {
    for value in ["b", ""] {
        let (_, report) = apply_to("--name a", &[("ETCD_NAME", value)]);
        assert_eq!(report.conflict.as_deref(), Some("ETCD_NAME"));
    }
}

#[test]
fn unknown_and_empty_variables_are_reported() {
    let (flags, report) = apply_to("", &[("ETCD_FOO", "a"), ("ETCD_NAME", ""), ("ETCD_VERSION", "3")]);
    assert_eq!(report.unrecognized, ["ETCD_FOO=a", "ETCD_NAME="]);
    assert_eq!(report.conflict, None);
    assert_eq!(flags.given().count(), 0);
}

#[test]
fn a_bad_value_is_told_with_the_variable() {
    let (_, report) = apply_to("", &[("ETCD_SNAPSHOT_COUNT", "abc"), ("ETCD_PRE_VOTE", "maybe")]);
    let expected = "invalid value \"abc\" for ETCD_SNAPSHOT_COUNT: parse error";
    assert_eq!(report.error.as_deref(), Some(expected));
}
