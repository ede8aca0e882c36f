//! `--auth-token`: `simple`, or `jwt` with options, some of which name files.

use std::collections::BTreeMap;
use std::time::Duration;

use super::flags::value;
use crate::config::JwtOptions;

const INVALID: &str = "auth: invalid auth options";
const TTL_DEFAULT: Duration = Duration::from_secs(300);
const JWT_OPTIONS: [&str; 4] = ["sign-method", "pub-key", "priv-key", "ttl"];

/// What the flag asks for; `None`: simple tokens.
///
/// # Errors
/// etcd's text, or why a key file cannot be read.
pub fn parse(text: &str) -> Result<Option<JwtOptions>, String> {
    let (kind, rest) = text
        .split_once(',')
        .map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    let mut options = BTreeMap::new();
    for pair in rest.into_iter().flat_map(|rest| rest.split(',')) {
        let parts: Vec<&str> = pair.split('=').collect();
        let [name, value] = parts[..] else {
            return Err(INVALID.to_owned());
        };
        if options.insert(name, value).is_some() {
            return Err(INVALID.to_owned());
        }
    }
    match kind {
        "simple" => {
            tracing::warn!("simple token is not cryptographically signed");
            Ok(None)
        }
        "jwt" => jwt(&options).map(Some),
        _ => Err(INVALID.to_owned()),
    }
}

fn jwt(options: &BTreeMap<&str, &str>) -> Result<JwtOptions, String> {
    let unknown: Vec<&str> = options
        .keys()
        .copied()
        .filter(|name| !JWT_OPTIONS.contains(name))
        .collect();
    if !unknown.is_empty() {
        tracing::warn!(keys = ?unknown, "unknown JWT options");
    }
    let option = |name| options.get(name).copied().filter(|value| !value.is_empty());
    let file = |name| match option(name) {
        Some(path) => std::fs::read(path).map_err(|error| format!("{INVALID}: {name} {path}: {error}")),
        None => Ok(Vec::new()),
    };
    let ttl = match option("ttl") {
        Some(text) => {
            let nanos = value::duration(text).and_then(|nanos| u64::try_from(nanos).ok());
            Duration::from_nanos(nanos.ok_or_else(|| format!("{INVALID}: ttl {text}"))?)
        }
        None => TTL_DEFAULT,
    };
    Ok(JwtOptions {
        sign_method: option("sign-method").unwrap_or_default().to_owned(),
        public_key: file("pub-key")?,
        private_key: file("priv-key")?,
        ttl,
    })
}

#[cfg(test)]
mod tests;
