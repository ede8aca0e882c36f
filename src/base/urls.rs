//! URLs as flags give them: `http://127.0.0.1:2379`, `https://…`, `unix://…`, `unixs://…`.
//!
//! Accepts and refuses what etcd accepts and refuses, in its words, because start scripts of etcd have
//! to work unchanged. Knows nothing of what listens behind a URL, and looks up no names.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// The schemes that etcd knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scheme {
    Http,
    Https,
    Unix,
    Unixs,
}

/// A URL of scheme, host and port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Url {
    /// The normal form; etcd sorts, compares and hashes it.
    pub text: String,
    pub scheme: Scheme,
    /// "host:port"; an IPv6 address stands in brackets. For `unix`, the path.
    pub address: String,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Url {
    pub fn parse(text: &str) -> Result<Url, String> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "unix" => Scheme::Unix,
            "unixs" => Scheme::Unixs,
            _ => return Err(format!("URL scheme must be http, https, unix, or unixs: {text}")),
        };
        let tcp = matches!(scheme, Scheme::Http | Scheme::Https);
        let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_end);
        if tcp {
            check_host_port(text, authority)?;
            if !path.is_empty() {
                return Err(format!("URL must not contain a path: {text}"));
            }
        }
        let address = if tcp { authority } else { rest };
        Ok(Url {
            text: format!("{scheme}://{address}"),
            scheme,
            address: address.to_owned(),
        })
    }

    /// The host without port and brackets.
    pub fn host(&self) -> &str {
        let host = self
            .address
            .rsplit_once(':')
            .map_or(self.address.as_str(), |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The port's text.
    fn port(&self) -> &str {
        self.address.rsplit_once(':').map_or("", |(_, port)| port)
    }

    pub fn is_secure(&self) -> bool {
        matches!(self.scheme, Scheme::Https | Scheme::Unixs)
    }

    /// The address to bind: "host:port", or "unix:" and a path.
    pub fn bind_address(&self) -> Result<String, String> {
        if matches!(self.scheme, Scheme::Unix | Scheme::Unixs) {
            return Ok(format!("unix:{}", self.address));
        }
        match self.port().parse::<u16>() {
            Ok(_) => Ok(self.address.clone()),
            Err(_) => Err(format!("address {}: invalid port", self.port())),
        }
    }

    /// etcd binds to addresses only: a name may resolve to anything.
    pub fn check_bind(&self) -> Result<(), String> {
        let unix = matches!(self.scheme, Scheme::Unix | Scheme::Unixs);
        if unix || self.host() == "localhost" || self.host().parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        Err(format!("expected IP in URL for binding ({self})"))
    }

    /// What others are told to connect to needs a host.
    pub fn check_host(&self) -> Result<(), String> {
        let unix = matches!(self.scheme, Scheme::Unix | Scheme::Unixs);
        if unix || !self.host().is_empty() {
            return Ok(());
        }
        Err(format!("unexpected empty host ({self})"))
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Unix => "unix",
            Scheme::Unixs => "unixs",
        })
    }
}

fn check_host_port(text: &str, authority: &str) -> Result<(), String> {
    let form = || format!("URL address does not have the form \"host:port\": {text}");
    let (host, port) = authority.rsplit_once(':').ok_or_else(form)?;
    let bracketed = host.starts_with('[') && host.ends_with(']');
    if (host.contains(':') && !bracketed) || port.is_empty() || port.contains(']') {
        return Err(form());
    }
    if !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("parse {text:?}: invalid port \":{port}\" after host"));
    }
    Ok(())
}

/// A comma-separated list, sorted.
pub fn parse_list(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = text.split(',').map(Url::parse).collect::<Result<Vec<_>, _>>()?;
    urls.sort();
    Ok(urls)
}

/// `--initial-cluster`: `name=url,name=url`; a name may appear more than once. URLs of a name are sorted.
pub fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut cluster: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        cluster.entry(name.to_owned()).or_default().push(Url::parse(url)?);
    }
    cluster.values_mut().for_each(|urls| urls.sort());
    Ok(cluster)
}

/// The form in which etcd prints a cluster: sorted by name and URL.
pub fn format_cluster(cluster: &BTreeMap<String, Vec<Url>>) -> String {
    let pairs = cluster
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
    pairs.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests;
