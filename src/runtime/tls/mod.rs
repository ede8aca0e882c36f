//! TLS on any stream, by rustls: the only folder that names it.
//!
//! ```text
//!   stream ─► handshake (files as of now, bounded in time and number) ─► checks: revoked? allowed name? address?
//!                                                                            └─► stream, and who is at its end
//! ```
//!
//! A handshake belongs to the task of its connection, so one that stalls delays nobody. Files are read for each: a
//! renewed certificate, a new CA or revocation list counts at once. The simulator runs without TLS.

mod anchor;
mod certificate;
mod client;
mod files;
mod self_signed;

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::Acceptor;
use rustls::{AlertDescription, CertificateError, SupportedProtocolVersion};
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

use super::{Aside, Env, Stream};
use anchor::Allowed;
use certificate::Names;
pub use client::{ClientOptions, TlsClient};
pub use files::known_suite;
use files::{Files, Ready};
pub use self_signed::ensure as ensure_self_signed;

/// Longest handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 22;

/// What the flags say of one side: clients, or peers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TlsOptions {
    /// PEM: what this server shows.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// What this server shows where it is the client; the same if absent.
    pub client_cert_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    /// Authorities of the other side.
    pub trusted_ca_file: Option<PathBuf>,
    pub client_cert_auth: bool,
    pub crl_file: Option<PathBuf>,
    /// One of these has to be the other side's common name, if there are any.
    pub allowed_common_names: Vec<String>,
    /// For one of these the other side's certificate has to be valid, if there are any.
    pub allowed_hostnames: Vec<String>,
    /// A client's certificate has to be valid for the address that it comes from.
    pub check_address: bool,
    pub tls12: bool,
    pub tls13: bool,
    /// Of TLS 1.2, by IANA name; all if empty.
    pub cipher_suites: Vec<String>,
    /// Made by this server: others cannot be verified.
    pub self_signed: bool,
    /// For which name servers' certificates have to be valid, in place of their own; the system's authorities then count,
    /// if none are named.
    pub server_name: Option<String>,
}

impl TlsOptions {
    /// Whether clients have to show a certificate.
    pub fn wants_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }
}

fn versions(options: &TlsOptions) -> Vec<&'static SupportedProtocolVersion> {
    let all = [
        (options.tls12, &rustls::version::TLS12),
        (options.tls13, &rustls::version::TLS13),
    ];
    all.into_iter()
        .filter_map(|(wanted, version)| wanted.then_some(version))
        .collect()
}

/// A connection that may or may not be TLS.
pub struct Accepted {
    pub stream: Stream,
    pub is_tls: bool,
    /// Of the verified certificate of the other side, if it showed one.
    pub common_name: Option<Arc<str>>,
}

struct Inner {
    env: Env,
    options: TlsOptions,
    /// What the files said last.
    ready: Mutex<(Files, Arc<Ready>)>,
}

/// See the module. Clones share everything.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

/// Why a connection was refused, and what is known of who wanted it.
#[derive(Debug)]
pub struct Refused {
    pub server_name: String,
    pub names: Vec<String>,
    pub error: String,
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        io::Error::new(io::ErrorKind::PermissionDenied, refused.error)
    }
}

/// etcd's words for a certificate whose name is not among those allowed.
const NOT_ALLOWED: &str = "client certificate authentication failed";

/// An error of a connection in Go's words, which operators search for.
pub fn described(error: &io::Error) -> String {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::AlertReceived(alert)) => format!("remote error: tls: {}", alert_text(*alert)),
        Some(rustls::Error::InvalidCertificate(CertificateError::NotValidForName)) => NOT_ALLOWED.to_owned(),
        Some(other) => format!("tls: {other}"),
        None => error.to_string(),
    }
}

fn alert_text(alert: AlertDescription) -> String {
    let text = match alert {
        AlertDescription::BadCertificate => "bad certificate",
        AlertDescription::UnsupportedCertificate => "unsupported certificate",
        AlertDescription::CertificateRevoked => "revoked certificate",
        AlertDescription::CertificateExpired => "expired certificate",
        AlertDescription::CertificateUnknown => "unknown certificate",
        AlertDescription::CertificateRequired => "certificate required",
        AlertDescription::UnknownCA => "unknown certificate authority",
        AlertDescription::AccessDenied => "access denied",
        AlertDescription::HandshakeFailure => "handshake failure",
        AlertDescription::ProtocolVersion => "protocol version not supported",
        AlertDescription::DecryptError => "error decrypting message",
        AlertDescription::InternalError => "internal error",
        other => return format!("alert({})", u8::from(other)),
    };
    text.to_owned()
}

fn refused(error: impl ToString) -> Refused {
    Refused {
        server_name: String::new(),
        names: Vec::new(),
        error: error.to_string(),
    }
}

impl TlsOptions {
    fn allowed(&self) -> Allowed {
        Allowed {
            common_names: self.allowed_common_names.clone(),
            hostnames: self.allowed_hostnames.clone(),
        }
    }
}

impl Tls {
    /// # Errors
    /// Files that are missing or make no sense: better now than at the first client.
    pub fn new(env: Env, options: TlsOptions) -> Result<Tls, String> {
        if options.client_cert_auth && options.trusted_ca_file.is_none() {
            return Err("client certificates are demanded, but no trusted CA file is given".to_owned());
        }
        let files = Files::read(&options)?;
        let ready = Arc::new(files.prepare(&options)?);
        Ok(Tls(Arc::new(Inner {
            env,
            options,
            ready: Mutex::new((files, ready)),
        })))
    }

    /// What the files say now.
    async fn ready(&self) -> Result<Arc<Ready>, String> {
        let inner = self.0.clone();
        let look = move || {
            let files = Files::read(&inner.options)?;
            let mut known = inner.ready.lock().unwrap_or_else(PoisonError::into_inner);
            if known.0 != files {
                let ready = files.prepare(&inner.options)?;
                *known = (files, Arc::new(ready));
            }
            Ok(known.1.clone())
        };
        self.0.env.run_aside(Aside::Files, look).await
    }

    /// The server's side of a handshake. How many are under way is bounded by who may be connected without having said
    /// anything yet, and their work by the threads that do it: nobody waits here for anybody else.
    pub async fn accept(&self, stream: Stream) -> Result<Accepted, Refused> {
        let handshake = self.0.env.timeout(HANDSHAKE_TIMEOUT, self.shake_hands(stream));
        handshake.await.map_err(|_| refused("TLS handshake timeout"))?
    }

    async fn shake_hands(&self, stream: Stream) -> Result<Accepted, Refused> {
        let peer = stream.peer.clone();
        let started = LazyConfigAcceptor::new(Acceptor::default(), stream)
            .await
            .map_err(|error| refused(format!("tls: {error}")))?;
        let server_name = started
            .client_hello()
            .server_name()
            .unwrap_or_default()
            .to_owned();
        let fail = |error: String, names: Vec<String>| Refused {
            server_name: server_name.clone(),
            names,
            error,
        };
        let ready = self.ready().await.map_err(|error| fail(error, Vec::new()))?;
        let stream = started
            .into_stream(ready.server.clone())
            .await
            .map_err(|error| fail(described(&error), Vec::new()))?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let names = self
            .check(certificates, &ready)
            .map_err(|(error, names)| fail(error, names))?;
        if let Some(names) = names.as_ref().filter(|_| self.0.options.check_address) {
            let checked = self.check_address(names, &peer).await;
            checked.map_err(|error| fail(error, names.dns_names.clone()))?;
        }
        Ok(Accepted {
            stream: Stream::new(stream, peer),
            is_tls: true,
            common_name: names.map(|names| names.common_name.into()),
        })
    }

    /// The client's side of a handshake with a host: a name or an address.
    pub async fn connect(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        let host = self.0.options.server_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let ready = self.ready().await.map_err(io::Error::other)?;
        let peer = stream.peer.clone();
        let connect = TlsConnector::from(ready.client.clone()).connect(name, stream);
        let stream = self.0.env.timeout(HANDSHAKE_TIMEOUT, connect).await??;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
        self.check(certificates, &ready)
            .map_err(|(error, _)| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
        Ok(Stream::new(stream, peer))
    }

    /// What is demanded of a chain that is signed well: the names of its first certificate, if there is one.
    fn check(
        &self,
        chain: &[CertificateDer<'_>],
        ready: &Ready,
    ) -> Result<Option<Names>, (String, Vec<String>)> {
        let mut first = None;
        for certificate in chain {
            let names = Names::of(certificate).map_err(|error| (error, Vec::new()))?;
            if ready.revoked.contains(&names.serial) {
                let serial: String = names.serial.iter().map(|byte| format!("{byte:02x}")).collect();
                let error = format!("transport: certificate serial {serial} revoked");
                return Err((error, names.dns_names));
            }
            first.get_or_insert(names);
        }
        let options = &self.0.options;
        if let Some(names) = first.as_ref().filter(|names| !options.allowed().takes(names)) {
            return Err((NOT_ALLOWED.to_owned(), names.dns_names.clone()));
        }
        Ok(first)
    }

    /// Whether a certificate is for the address that its owner comes from: by address, or by a name that resolves
    /// to it, or to which it resolves.
    async fn check_address(&self, names: &Names, peer: &str) -> Result<(), String> {
        if names.addresses.is_empty() && names.dns_names.is_empty() {
            return Ok(());
        }
        let Ok(address) = peer
            .parse::<SocketAddr>()
            .map(|address| address.ip().to_canonical())
        else {
            return Ok(());
        };
        if names.addresses.contains(&address) {
            return Ok(());
        }
        if names.dns_names.is_empty() {
            return Err(names.not_for(address));
        }
        let dns_names = names.dns_names.clone();
        let look_up = move || resolves(&dns_names, address);
        let matches = self.0.env.run_aside(Aside::Names, look_up);
        if matches.await {
            return Ok(());
        }
        Err(format!(
            "tls: \"{address}\" does not match any of DNSNames {:?}",
            names.dns_names
        ))
    }
}

/// Looks names up, both ways.
fn resolves(names: &[String], address: IpAddr) -> bool {
    let reverse = dns_lookup::lookup_addr(&address).unwrap_or_default();
    let covered = Names {
        dns_names: names.to_vec(),
        ..Names::default()
    };
    if covered.cover(&reverse) && reverse.parse::<IpAddr>().is_err() {
        return true;
    }
    let plain = names.iter().filter(|name| !name.starts_with("*."));
    plain
        .filter_map(|name| (name.as_str(), 0).to_socket_addrs().ok())
        .flatten()
        .any(|found| found.ip().to_canonical() == address)
}

/// How the connections of a listener begin.
#[derive(Clone, Default)]
pub struct Security {
    pub tls: Option<Tls>,
    /// Plain connections are taken as well, or only they.
    pub plain: bool,
}

impl Security {
    pub fn plain() -> Self {
        Security {
            tls: None,
            plain: true,
        }
    }

    /// Finds out what a connection is, and does what it takes.
    pub async fn accept(&self, env: &Env, mut stream: Stream) -> Result<Accepted, Refused> {
        let tls = match &self.tls {
            None => return Ok(plain(stream)),
            Some(tls) if !self.plain => return tls.accept(stream).await,
            Some(tls) => tls,
        };
        let first = env.timeout(HANDSHAKE_TIMEOUT, first_byte(&mut stream)).await;
        let first = first
            .map_err(|_| refused("the connection says nothing"))?
            .map_err(refused)?;
        stream.put_back(vec![first]);
        if first == HANDSHAKE_RECORD {
            tls.accept(stream).await
        } else {
            Ok(plain(stream))
        }
    }
}

fn plain(stream: Stream) -> Accepted {
    Accepted {
        stream,
        is_tls: false,
        common_name: None,
    }
}

async fn first_byte(stream: &mut Stream) -> io::Result<u8> {
    use tokio::io::AsyncReadExt;
    stream.read_u8().await
}
