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
mod tests {
    use super::*;

    #[test]
    fn simple_is_simple() {
        assert!(parse("simple").unwrap().is_none());
    }

    #[test]
    fn options_of_signed_tokens() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "secret").unwrap();
        let text = format!("jwt,sign-method=HS256,priv-key={},ttl=10m,odd=1", key.display());
        let options = parse(&text).unwrap().unwrap();
        assert_eq!(options.sign_method, "HS256");
        assert_eq!(options.private_key, b"secret");
        assert_eq!(options.ttl, Duration::from_secs(600));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "other",
            "jwt,",
            "jwt,sign-method",
            "jwt,sign-method=HS256,sign-method=HS256",
            "jwt,ttl=x",
            "jwt,priv-key=/no/such/file",
            "simple,a=b=c",
        ] {
            assert!(parse(text).unwrap_err().starts_with(INVALID), "{text:?}");
        }
    }
}
