//! Flags about certificates, for clients and for peers.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::flags::Flags;
use crate::base::urls::{Url, parse_list};
use crate::config::TlsOptions;
use crate::runtime::tls::{ensure_self_signed, known_suite};

/// The flags of one side, by the name of each.
struct Side {
    endpoint: &'static str,
    cert: &'static str,
    key: &'static str,
    client_cert: &'static str,
    client_key: &'static str,
    auth: &'static str,
    ca: &'static str,
    crl: &'static str,
    auto: &'static str,
    common_names: Option<&'static str>,
    hostnames: &'static str,
    listen: &'static [&'static str],
    /// Where own certificates lie below the data directory.
    fixtures: &'static str,
}

const CLIENTS: Side = Side {
    endpoint: "client",
    cert: "cert-file",
    key: "key-file",
    client_cert: "client-cert-file",
    client_key: "client-key-file",
    auth: "client-cert-auth",
    ca: "trusted-ca-file",
    crl: "client-crl-file",
    auto: "auto-tls",
    common_names: None,
    hostnames: "client-cert-allowed-hostname",
    listen: &[
        "listen-client-urls",
        "listen-client-http-urls",
        "listen-metrics-urls",
    ],
    fixtures: "fixtures/client",
};

const PEERS: Side = Side {
    endpoint: "peer",
    cert: "peer-cert-file",
    key: "peer-key-file",
    client_cert: "peer-client-cert-file",
    client_key: "peer-client-key-file",
    auth: "peer-client-cert-auth",
    ca: "peer-trusted-ca-file",
    crl: "peer-crl-file",
    auto: "peer-auto-tls",
    common_names: Some("peer-cert-allowed-cn"),
    hostnames: "peer-cert-allowed-hostname",
    listen: &["listen-peer-urls"],
    fixtures: "fixtures/peer",
};

/// What can be told without looking at a file.
pub fn verify(flags: &Flags) -> Result<(), String> {
    let version = |name: &str| match flags.text(name).as_str() {
        "" => Ok(0),
        "TLS1.2" => Ok(2),
        "TLS1.3" => Ok(3),
        other => Err(format!(
            "unexpected TLS version {other:?} (must be one of: TLS1.2, TLS1.3)"
        )),
    };
    let (least, most) = (version("tls-min-version")?, version("tls-max-version")?);
    if most != 0 && least > most {
        let (least, most) = (flags.text("tls-min-version"), flags.text("tls-max-version"));
        return Err(format!(
            "min version ({least}) is greater than max version ({most})"
        ));
    }
    let suites = list(flags, "cipher-suites");
    if least == 3 && !suites.is_empty() {
        return Err("cipher suites cannot be configured when only TLS1.3 is enabled".to_owned());
    }
    for suite in suites {
        match known_suite(&suite) {
            None => return Err(format!("unexpected TLS cipher suite {suite:?}")),
            Some(false) => warn!(
                suite,
                "the cipher suite is too weak to be supported; it is left out"
            ),
            Some(true) => {}
        }
    }
    for side in [&CLIENTS, &PEERS] {
        let both = side
            .common_names
            .is_some_and(|name| !list(flags, name).is_empty())
            && !list(flags, side.hostnames).is_empty();
        if both {
            return Err("AllowedCNs and AllowedHostnames are mutually exclusive".to_owned());
        }
    }
    Ok(())
}

fn list(flags: &Flags, name: &str) -> Vec<String> {
    let text = flags.text(name);
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    items.map(str::to_owned).collect()
}

fn urls(flags: &Flags, side: &Side) -> Vec<Url> {
    let texts = side.listen.iter().map(|name| flags.text(name));
    texts
        .flat_map(|text| parse_list(&text).unwrap_or_default())
        .collect()
}

/// TLS for clients, if there is a certificate.
pub fn of_clients(flags: &Flags, data_dir: &Path) -> Result<Option<TlsOptions>, String> {
    options(flags, &CLIENTS, data_dir)
}

/// TLS for peers, if there is a certificate.
pub fn of_peers(flags: &Flags, data_dir: &Path) -> Result<Option<TlsOptions>, String> {
    let tls = options(flags, &PEERS, data_dir)?;
    Ok(tls.map(|tls| TlsOptions {
        check_address: !flags.boolean("peer-skip-client-san-verification"),
        // Members that DNS lists vouch for the domain, unless there is an authority of the cluster's own.
        server_name: Some(flags.text("discovery-srv"))
            .filter(|domain| !domain.is_empty() && tls.trusted_ca_file.is_none()),
        ..tls
    }))
}

fn options(flags: &Flags, side: &Side, data_dir: &Path) -> Result<Option<TlsOptions>, String> {
    let file = |name: &str| {
        Some(flags.text(name))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    };
    let urls = urls(flags, side);
    let secure = urls.iter().any(Url::is_secure);
    let (mut cert, mut key) = (file(side.cert), file(side.key));
    let mut self_signed = false;
    if flags.boolean(side.auto) && secure {
        if cert.is_some() || key.is_some() {
            info!(
                endpoint = side.endpoint,
                "ignoring auto-tls since certificates are given"
            );
        } else {
            let mut hosts: Vec<String> = urls.iter().map(|url| url.host().to_owned()).collect();
            hosts.dedup();
            let dir = data_dir.join(side.fixtures);
            let years = flags.unsigned("self-signed-cert-validity");
            let made = ensure_self_signed(&dir, &hosts, years).map_err(|error| error.to_string())?;
            (cert, key) = (Some(made.0), Some(made.1));
            self_signed = true;
        }
    }
    if !secure && (cert.is_some() || key.is_some()) {
        warn!(
            endpoint = side.endpoint,
            "the scheme of every URL is plain while key/cert files are presented; ignored key/cert files"
        );
        if side.endpoint == CLIENTS.endpoint {
            return Ok(None);
        }
    }
    let (cert_file, key_file) = match (cert, key) {
        // The listener says which URL needs one.
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => (cert, key),
        (cert, key) => {
            let shown =
                |path: Option<PathBuf>| path.map(|path| path.display().to_string()).unwrap_or_default();
            return Err(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                shown(key),
                shown(cert)
            ));
        }
    };
    let (client_cert_file, client_key_file) = (file(side.client_cert), file(side.client_key));
    if client_cert_file.is_some() != client_key_file.is_some() {
        return Err(format!(
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: {}, cert: {}]",
            flags.text(side.client_key),
            flags.text(side.client_cert)
        ));
    }
    let most = flags.text("tls-max-version");
    Ok(Some(TlsOptions {
        cert_file,
        key_file,
        client_cert_file,
        client_key_file,
        trusted_ca_file: file(side.ca),
        client_cert_auth: flags.boolean(side.auth),
        crl_file: file(side.crl),
        allowed_common_names: side
            .common_names
            .map(|name| list(flags, name))
            .unwrap_or_default(),
        allowed_hostnames: list(flags, side.hostnames),
        check_address: false,
        tls12: flags.text("tls-min-version") != "TLS1.3",
        tls13: most != "TLS1.2" && list(flags, "cipher-suites").is_empty() || most == "TLS1.3",
        cipher_suites: list(flags, "cipher-suites"),
        self_signed,
        server_name: None,
    }))
}
