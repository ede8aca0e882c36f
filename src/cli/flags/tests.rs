//! What etcd 3.7.1 does with the same command lines; `tests/flags.rs` compares with the real one.

use super::*;

fn parsed(line: &str) -> Parsed {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    parse(&arguments)
}

/// Checks the values of one flag for command lines.
fn check_value(name: &str, table: &[(&str, &str)]) {
    for (line, expected) in table {
        match parsed(line) {
            Parsed::Flags(flags) => assert_eq!(flags.text(name), *expected, "{line}"),
            other => panic!("{line}: {other:?}"),
        }
    }
}

#[test]
fn every_default_is_well_formed_and_every_name_unique() {
    let mut names = std::collections::BTreeSet::new();
    for flag in table::all() {
        assert!(names.insert(flag.name), "{} twice", flag.name);
        let normal = normal_default(flag);
        assert_eq!(
            value::canonical(flag.kind, &normal),
            Ok(normal.clone()),
            "{}",
            flag.name
        );
        let documented = flag.support == Support::Gone || flag.help.ends_with('.');
        assert!(documented, "{} has no sentence of help", flag.name);
    }
    // 112 registered by etcd 3.7.1 and --feature-gates.
    assert_eq!(
        table::all().filter(|flag| flag.support != Support::Gone).count(),
        113
    );
}

#[test]
fn one_dash_or_two_and_a_value_attached_or_not() {
    check_value(
        "name",
        &[
            ("", "default"),
            ("--name a", "a"),
            ("-name a", "a"),
            ("--name=a", "a"),
            ("-name=a", "a"),
            ("--name=", ""),
            ("--name=a=b", "a=b"),
            ("--name --pre-vote", "--pre-vote"),
            ("--name a --name b", "b"),
            ("--name a --", "a"),
        ],
    );
}

#[test]
fn bools_take_no_separate_value() {
    check_value(
        "pre-vote",
        &[
            ("--pre-vote=false", "false"),
            ("--pre-vote=0", "false"),
            ("--pre-vote", "true"),
            ("--pre-vote=T --name a", "true"),
        ],
    );
    assert_eq!(parsed("--pre-vote true"), Parsed::Stray("true".to_owned()));
}

#[test]
fn what_etcd_ignores_is_known_by_name() {
    check_value(
        "name",
        &[
            ("--v --name a", "a"),
            ("--vv=3 --name a", "a"),
            ("--test.outputdir=x --name a", "a"),
        ],
    );
}

#[test]
fn stray_arguments_end_the_line() {
    let check = |line: &str, stray: &str| assert_eq!(parsed(line), Parsed::Stray(stray.to_owned()));
    check("foo", "foo");
    check("--name a foo --xyz", "foo");
    check("-- --foo", "--foo");
    check("-", "-");
}

#[test]
fn misuse_is_told_in_gos_words() {
    let check = |line: &str, text: &str| assert_eq!(parsed(line), Parsed::Misuse(text.to_owned()));
    check("--xyz", "flag provided but not defined: -xyz");
    check("-xyz=3", "flag provided but not defined: -xyz");
    check("--name", "flag needs an argument: -name");
    check("---x", "bad flag syntax: ---x");
    check("-=x", "bad flag syntax: -=x");
    check(
        "--snapshot-count abc",
        "invalid value \"abc\" for flag -snapshot-count: parse error",
    );
    check(
        "--pre-vote=maybe",
        "invalid boolean value \"maybe\" for -pre-vote: parse error",
    );
    check(
        "--feature-gates=Foo=true",
        "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
    );
    // Help text only, or gone since 3.7: not registered.
    for name in [
        "discovery",
        "discovery-proxy",
        "experimental-initial-corrupt-check",
    ] {
        check(
            &format!("--{name}=x"),
            &format!("flag provided but not defined: -{name}"),
        );
    }
}

#[test]
fn help_is_asked_for_in_four_ways() {
    for line in ["--help", "-help", "-h", "--h", "--name a --help"] {
        assert_eq!(parsed(line), Parsed::Help, "{line}");
    }
}

#[test]
fn a_value_equal_to_the_default_is_no_change() {
    let Parsed::Flags(flags) = parsed("--compact-hash-check-time=60s --pre-vote=1 --name=b --cert-file=")
    else {
        panic!("not flags");
    };
    assert_eq!(flags.given().count(), 4);
    let changed: Vec<_> = flags.changed().map(|(flag, value)| (flag.name, value)).collect();
    assert_eq!(changed, [("name", "b")]);
}

proptest::proptest! {
    #[test]
    fn noise_never_panics(arguments in proptest::collection::vec(
        proptest::prop_oneof!["-{0,3}[a-z-]{0,12}(=.{0,12})?", ".{0,20}", "--(name|initial-cluster|listen-client-urls|auto-compaction-retention|snapshot-count|feature-gates|cors|log-level)=.{0,30}"],
        0..6,
    )) {
        let _ = parse(&arguments);
    }
}

#[test]
fn the_readme_says_how_far_each_flag_is_honoured() {
    let readme = include_str!("../../../README.md");
    for flag in table::all().filter(|flag| flag.support != Support::Gone) {
        let name = format!("`--{}`", flag.name);
        let rows: Vec<&str> = readme
            .lines()
            .filter(|line| line.starts_with('|') && line.contains(&name))
            .collect();
        let mark = if flag.support == Support::Inert {
            "| ~ |"
        } else {
            " |"
        };
        assert!(rows.iter().any(|row| row.contains(mark)), "{name}: {rows:?}");
    }
}
