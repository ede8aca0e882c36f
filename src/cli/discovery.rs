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
mod tests;
