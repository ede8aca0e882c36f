//! Flags about discovery, by a service or by DNS. What those of a service mean together is clientv3's business in etcd, and
//! copied here.

use std::path::PathBuf;

use super::config::{list, span};
use super::flags::Flags;
use crate::config::{ClientOptions, Credentials, DiscoveryOptions, Pings, SrvOptions};

/// How a discovery service is spoken to, if one is named.
///
/// # Errors
/// Half of a certificate and its key.
pub fn options(flags: &Flags) -> Result<Option<DiscoveryOptions>, String> {
    let endpoints = list(flags, "discovery-endpoints");
    if endpoints.is_empty() {
        return Ok(None);
    }
    let (interval, timeout) = (
        span(flags, "discovery-keepalive-time"),
        span(flags, "discovery-keepalive-timeout"),
    );
    // As in clientv3 and gRPC: no interval, no pings; none more often than servers like.
    let pings = (!interval.is_zero()).then_some(Pings {
        interval: interval.max(PING_INTERVAL_MIN),
        timeout,
    });
    Ok(Some(DiscoveryOptions {
        token: flags.text("discovery-token"),
        endpoints,
        dial_timeout: span(flags, "discovery-dial-timeout"),
        request_timeout: span(flags, "discovery-request-timeout"),
        pings,
        tls: tls(flags)?,
        credentials: credentials(flags),
    }))
}

/// The domain that lists the members, if one is named.
pub fn srv_options(flags: &Flags) -> Option<SrvOptions> {
    let (domain, name) = (flags.text("discovery-srv"), flags.text("discovery-srv-name"));
    (!domain.is_empty()).then_some(SrvOptions { domain, name })
}

/// The shortest interval of Go's gRPC clients.
const PING_INTERVAL_MIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A certificate or an authority asks for TLS by itself, whatever `--discovery-insecure-transport` says.
fn tls(flags: &Flags) -> Result<Option<ClientOptions>, String> {
    let file = |name: &str| {
        let path = Some(flags.text(name)).filter(|path| !path.is_empty());
        path.map(PathBuf::from)
    };
    let own = match (file("discovery-cert"), file("discovery-key")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        _ => {
            return Err(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                flags.text("discovery-key"),
                flags.text("discovery-cert")
            ));
        }
    };
    let options = ClientOptions {
        own,
        trusted_ca_file: file("discovery-cacert"),
        skip_verify: flags.boolean("discovery-insecure-skip-tls-verify"),
    };
    let wanted = options != ClientOptions::default() || !flags.boolean("discovery-insecure-transport");
    Ok(wanted.then_some(options))
}

/// `user:password`, or the two apart; a name alone is nobody, as in etcd.
fn credentials(flags: &Flags) -> Option<Credentials> {
    let (user, password) = (flags.text("discovery-user"), flags.text("discovery-password"));
    let (user, password) = match user.split_once(':') {
        Some((user, attached)) if password.is_empty() => (user.to_owned(), attached.to_owned()),
        _ => (user, password),
    };
    (!user.is_empty() && !password.is_empty()).then_some(Credentials { user, password })
}

#[cfg(test)]
mod tests {
    use super::super::flags::{Parsed, parse};
    use super::*;

    fn of(line: &str) -> Result<Option<DiscoveryOptions>, String> {
        let words = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
        match parse(&words.collect::<Vec<_>>()) {
            Parsed::Flags(flags) => options(&flags),
            other => panic!("{line}: {other:?}"),
        }
    }

    fn with(line: &str) -> DiscoveryOptions {
        of(&format!("--discovery-token=t --discovery-endpoints=a:1 {line}"))
            .unwrap()
            .unwrap()
    }

    #[test]
    fn defaults_are_those_of_etcd() {
        assert_eq!(of("--discovery-cert=/only-this"), Ok(None));
        let options = with("");
        assert_eq!(
            (options.token.as_str(), options.endpoints),
            ("t", vec!["a:1".to_owned()])
        );
        assert_eq!(options.dial_timeout, std::time::Duration::from_secs(2));
        assert_eq!(options.request_timeout, std::time::Duration::from_secs(5));
        assert_eq!((options.tls, options.credentials), (None, None));
    }

    #[test]
    fn what_names_a_certificate_wants_tls() {
        let ca = with("--discovery-cacert=/ca").tls.unwrap();
        assert_eq!(ca.trusted_ca_file, Some("/ca".into()));
        assert!(
            with("--discovery-insecure-skip-tls-verify")
                .tls
                .unwrap()
                .skip_verify
        );
        assert_eq!(
            with("--discovery-insecure-transport=false").tls,
            Some(ClientOptions::default())
        );
        let half = of("--discovery-token=t --discovery-endpoints=a:1 --discovery-cert=/c");
        assert_eq!(
            half.unwrap_err(),
            "KeyFile and CertFile must both be present[key: , cert: /c]"
        );
    }

    #[test]
    fn a_password_stands_with_the_name_or_alone() {
        let check = |line: &str, expected: Option<(&str, &str)>| {
            let found = with(line).credentials;
            let found = found.as_ref().map(|known| (&*known.user, &*known.password));
            assert_eq!(found, expected, "{line}");
        };
        check("--discovery-user=a:b", Some(("a", "b")));
        check("--discovery-user=a --discovery-password=b", Some(("a", "b")));
        check("--discovery-user=a:b --discovery-password=c", Some(("a:b", "c")));
        check("--discovery-user=a", None);
        check("--discovery-password=b", None);
    }
}
