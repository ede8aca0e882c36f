//! `--config-file`: YAML (so JSON too) in place of all flags and variables.
//!
//! Keys are flags' names, some of them nested; a duration is a number of nanoseconds; what is not set keeps its
//! default. etcd ignores keys that it does not know without a word; here they are at least told.

use serde_json::{Map, Value};

use super::{Flag, Flags, Kind, Support, table};

/// Keys below other keys, and their flags. These flags cannot be set by their own names.
const NESTED: &[(&str, &[(&str, &str)])] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
    (
        "socket-options",
        &[
            ("reuse-port", "socket-reuse-port"),
            ("reuse-address", "socket-reuse-address"),
        ],
    ),
    ("discovery-config", &[("token", "discovery-token")]),
    (
        "discovery-config.client",
        &[
            ("endpoints", "discovery-endpoints"),
            ("dial-timeout", "discovery-dial-timeout"),
            ("request-timeout", "discovery-request-timeout"),
            ("keepalive-time", "discovery-keepalive-time"),
            ("keepalive-timeout", "discovery-keepalive-timeout"),
        ],
    ),
    (
        "discovery-config.client.secure",
        &[
            ("insecure-transport", "discovery-insecure-transport"),
            ("insecure-skip-tls-verify", "discovery-insecure-skip-tls-verify"),
            ("cert", "discovery-cert"),
            ("key", "discovery-key"),
            ("cacert", "discovery-cacert"),
        ],
    ),
    (
        "discovery-config.client.auth",
        &[("username", "discovery-user"), ("password", "discovery-password")],
    ),
];
/// Flags that etcd's file has no key for.
const WITHOUT_KEY: &[&str] = &[
    "client-crl-file",
    "peer-crl-file",
    "config-file",
    "version",
    "discovery-fallback",
];

/// The flags a file stands for, and the keys that stand for none.
pub fn read(text: &str) -> Result<(Flags, Vec<String>), String> {
    let mut flags = Flags::default();
    let mut unknown = Vec::new();
    match serde_saphyr::from_str(text).map_err(|error| format!("error converting YAML: {error}"))? {
        Value::Object(map) => take(&map, "", &mut flags, &mut unknown)?,
        Value::Null => {}
        other => return Err(format!("a configuration is a map, not {other}")),
    }
    Ok((flags, unknown))
}

/// Takes the keys below `path`.
fn take(
    map: &Map<String, Value>,
    path: &str,
    flags: &mut Flags,
    unknown: &mut Vec<String>,
) -> Result<(), String> {
    for (key, value) in map {
        let whole = match path {
            "" => key.clone(),
            path => format!("{path}.{key}"),
        };
        if NESTED.iter().any(|(section, _)| *section == whole) {
            match value {
                Value::Object(map) => take(map, &whole, flags, unknown)?,
                Value::Null => {}
                _ => return Err(format!("invalid {whole}")),
            }
        } else if let Some(flag) = flag_of(path, key) {
            let text = text_of(flag, value).map_err(|what| format!("{whole}: {value} is not {what}"))?;
            if let Some(text) = text {
                flags
                    .set(flag, &text)
                    .map_err(|error| format!("{whole}: invalid value {text:?}: {error}"))?;
            }
        } else {
            unknown.push(whole);
        }
    }
    Ok(())
}

/// The flag behind a key in a section; "" is the file itself.
fn flag_of(section: &str, key: &str) -> Option<&'static Flag> {
    if section.is_empty() {
        let mut nested = NESTED.iter().flat_map(|(_, keys)| keys.iter());
        let elsewhere = WITHOUT_KEY.contains(&key) || nested.any(|(_, flag)| *flag == key);
        return table::find(key).filter(|flag| !elsewhere && flag.support != Support::Gone);
    }
    let (_, keys) = NESTED.iter().find(|(path, _)| *path == section)?;
    let (_, flag) = keys.iter().find(|(name, _)| *name == key)?;
    table::find(flag)
}

/// A value as it would be typed; `None`: not set. The error says what it should be.
fn text_of(flag: &Flag, value: &Value) -> Result<Option<String>, &'static str> {
    let text = match (flag.kind, value) {
        (_, Value::Null) => return Ok(None),
        (Kind::Urls | Kind::UrlsOrAny, Value::String(text)) if text.is_empty() => return Ok(None),
        (Kind::Bool, Value::Bool(set)) => set.to_string(),
        (Kind::Bool, _) => return Err("true or false"),
        (Kind::Int | Kind::Uint | Kind::Uint32, Value::Number(number)) if !number.is_f64() => {
            number.to_string()
        }
        (Kind::Int | Kind::Uint | Kind::Uint32, _) => return Err("a whole number"),
        (Kind::Duration, Value::Number(number)) if !number.is_f64() => format!("{number}ns"),
        (Kind::Duration, _) => return Err("a number of nanoseconds"),
        (Kind::Text | Kind::Texts, Value::Array(list)) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            texts.ok_or("a list of texts")?.join(",")
        }
        // As etcd, whose YAML reader makes texts of them where a text belongs.
        (Kind::Text, Value::Number(number)) => number.to_string(),
        (Kind::Text, Value::Bool(set)) => set.to_string(),
        (_, Value::String(text)) => text.clone(),
        _ => return Err("a text"),
    };
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
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
}
