use super::*;

fn given(text: &str) -> Vec<(&'static str, String)> {
    let (flags, unknown) = read(text).unwrap();
    assert!(unknown.is_empty(), "{unknown:?}");
    let given = flags.given().map(|(flag, value)| (flag.name, value.to_owned()));
    given.collect()
}

#[test]
fn keys_are_flags_and_some_are_nested() {
    let text = "
name: a
snapshot-count: 7
pre-vote: false
auto-compaction-retention: 1
corrupt-check-time: 60000000000
data-dir:
cors: ''
log-outputs: [stderr, stdout]
peer-transport-security:
  cert-file: p.crt
  allowed-cn: [a, b]
client-transport-security:
  auto-tls: true
socket-options: {reuse-address: true}
discovery-config: {token: t, client: {endpoints: ['http://a:1'], secure: {cert: c}}}
";
    let expected = [
        ("auto-compaction-retention", "1"),
        ("auto-tls", "true"),
        ("corrupt-check-time", "1m0s"),
        ("discovery-cert", "c"),
        ("discovery-endpoints", "http://a:1"),
        ("discovery-token", "t"),
        ("log-outputs", "stderr,stdout"),
        ("name", "a"),
        ("peer-cert-allowed-cn", "a,b"),
        ("peer-cert-file", "p.crt"),
        ("pre-vote", "false"),
        ("snapshot-count", "7"),
        ("socket-reuse-address", "true"),
    ];
    assert_eq!(
        given(text),
        expected.map(|(name, value)| (name, value.to_owned()))
    );
    assert_eq!(given(r#"{"name": "a"}"#), [("name", "a".to_owned())]);
    assert_eq!(given(""), []);
}

#[test]
fn what_is_no_key_is_told() {
    let (flags, unknown) = read("cert-file: a\nproxy: 'off'\npeer-transport-security: {x: 1}").unwrap();
    assert_eq!(flags.given().count(), 0);
    assert_eq!(unknown, ["cert-file", "peer-transport-security.x", "proxy"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_key() {
    for (text, part) in [
        (
            "snapshot-count: many",
            "snapshot-count: \"many\" is not a whole number",
        ),
        ("pre-vote: 1", "pre-vote: 1 is not true or false"),
        ("corrupt-check-time: 1m", "is not a number of nanoseconds"),
        ("listen-peer-urls: localhost", "listen-peer-urls: invalid value"),
        ("snapshot-count: -1", "snapshot-count: invalid value \"-1\""),
        ("peer-transport-security: yes", "invalid peer-transport-security"),
        ("- a", "is a map"),
        ("a: [", "error converting YAML"),
        ("log-outputs: [1]", "is not a list of texts"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(part), "{text}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn noise_never_panics(text in ".{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn any_values_of_any_keys_are_taken_or_refused(
        keys in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), "[-0-9]{1,21}|[a-z:/,=]{0,12}|[\\[{'\"&*!|>~#?%@ -][ -~\n]{0,20}", 0..3u8), 0..8),
    ) {
        let all: Vec<_> = table::all().map(|flag| flag.name).collect();
        let sections: Vec<_> = NESTED.iter().collect();
        let lines = keys.iter().map(|(which, value, shape)| {
            let (section, keys) = which.get(&sections);
            match shape {
                0 => format!("{}: {value}\n", which.get(&all)),
                1 => format!("{section}: {value}\n"),
                _ => format!("{section}:\n  {}: {value}\n", which.get(keys).0),
            }
        });
        let _ = read(&lines.collect::<String>());
    }
}

#[test]
fn a_small_file_is_not_a_large_configuration() {
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, last) in ('b'..='z').zip('a'..='y') {
        bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{last}"); 9].join(", "));
    }
    assert!(read(&bomb).unwrap_err().contains("error converting YAML"));
    assert!(
        read(&"[".repeat(100_000))
            .unwrap_err()
            .contains("error converting YAML")
    );
    assert!(
        read(&"a: {".repeat(100_000))
            .unwrap_err()
            .contains("error converting YAML")
    );
}
