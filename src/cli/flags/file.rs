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
mod tests;
