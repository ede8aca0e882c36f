//! TLS towards a server that is no member: a discovery service.
//!
//! As a Go client does it: a certificate of one's own is optional, and whoever names no authority believes those that
//! the system believes. Files are read once: such a client lives as long as a start takes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::HANDSHAKE_TIMEOUT;
use super::anchor::Allowed;
use super::files::{Anyone, Authorities, identity};
use crate::runtime::{Env, Stream};

/// Where systems keep the authorities that they believe, in Go's order. The variable comes first.
const SYSTEM_BUNDLES: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const BUNDLE_VARIABLE: &str = "SSL_CERT_FILE";

/// Whom a client believes, and what it shows.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// Certificate and key, PEM.
    pub own: Option<(PathBuf, PathBuf)>,
    /// The system's authorities, if absent.
    pub trusted_ca_file: Option<PathBuf>,
    /// Every server is believed: for tests.
    pub skip_verify: bool,
}

/// Makes handshakes. Clones share everything.
#[derive(Clone)]
pub struct TlsClient {
    env: Env,
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// # Errors
    /// Files that are missing or make no sense.
    pub fn new(env: Env, options: &ClientOptions) -> Result<TlsClient, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match (options.skip_verify, &options.trusted_ca_file) {
            (true, _) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anyone::of(&provider))),
            (false, Some(path)) => {
                let authorities = Authorities::read(&read(path)?)?;
                builder.dangerous().with_custom_certificate_verifier(
                    authorities.verifier_of_servers(&provider, Allowed::default())?,
                )
            }
            (false, None) => builder.with_root_certificates(system_authorities()),
        };
        let mut config = match &options.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let (chain, key) = identity(&read(cert)?, &read(key)?, cert)?;
                let config = builder.with_client_auth_cert(chain, key);
                config.map_err(|error| format!("{}: {error}", cert.display()))?
            }
        };
        // Go's HTTP server speaks HTTP/2 only with clients that have asked for it here.
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        Ok(TlsClient { env, config })
    }

    /// A handshake with a host: a name or an address.
    pub async fn connect(&self, stream: Stream, host: &str) -> io::Result<Stream> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let peer = stream.peer.clone();
        let connect = TlsConnector::from(self.config.clone()).connect(name, stream);
        let stream = self.env.timeout(HANDSHAKE_TIMEOUT, connect).await??;
        Ok(Stream::new(stream, peer))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("open {}: {error}", path.display()))
}

/// Whom the system believes; nobody, if that cannot be found out.
pub(super) fn system_authorities() -> RootCertStore {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let named = std::env::var_os(BUNDLE_VARIABLE).map(PathBuf::from);
    let usual = SYSTEM_BUNDLES.iter().map(PathBuf::from);
    let bundle = named
        .into_iter()
        .chain(usual)
        .find_map(|path| fs::read(path).ok());
    let mut roots = RootCertStore::empty();
    // One that cannot be understood says nothing about the others.
    let certificates = CertificateDer::pem_slice_iter(bundle.as_deref().unwrap_or_default());
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    roots
}
