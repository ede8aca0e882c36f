//! Certificates, keys and lists as they lie on disk, read again for each handshake and made ready again when they
//! have changed: whoever renews a certificate need not restart anything.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};

use super::anchor::{Allowed, OrItself};
use super::certificate::revoked;
use super::client::system_authorities;
use super::{TlsOptions, versions};

/// The contents of every file that matters, in a fixed order.
#[derive(PartialEq, Eq)]
pub struct Files(Vec<Vec<u8>>);

/// What a handshake needs.
pub struct Ready {
    pub server: Arc<ServerConfig>,
    pub client: Arc<ClientConfig>,
    /// Serial numbers of revoked certificates.
    pub revoked: BTreeSet<Vec<u8>>,
}

impl Files {
    pub fn read(options: &TlsOptions) -> Result<Files, String> {
        let paths = [
            Some(&options.cert_file),
            Some(&options.key_file),
            options.client_cert_file.as_ref(),
            options.client_key_file.as_ref(),
            options.trusted_ca_file.as_ref(),
            options.crl_file.as_ref(),
        ];
        let read = |path: Option<&std::path::PathBuf>| match path {
            Some(path) => std::fs::read(path).map_err(|error| format!("open {}: {error}", path.display())),
            None => Ok(Vec::new()),
        };
        paths.into_iter().map(read).collect::<Result<_, _>>().map(Files)
    }

    pub fn prepare(&self, options: &TlsOptions) -> Result<Ready, String> {
        let [cert, key, client_cert, client_key, ca, crl] = self.0.as_slice() else {
            unreachable!("read puts six of them");
        };
        let own = || identity(cert, key, &options.cert_file);
        let as_client = || match &options.client_cert_file {
            Some(path) => identity(client_cert, client_key, path),
            None => own(),
        };
        let roots = Authorities::read(ca)?;
        let provider = Arc::new(provider(options)?);
        let versions = versions(options);
        Ok(Ready {
            server: server(options, own()?, &roots, &provider, &versions)?,
            client: client(options, as_client()?, &roots, &provider, &versions)?,
            revoked: if crl.is_empty() {
                BTreeSet::new()
            } else {
                revoked(crl)?
            },
        })
    }
}

pub(super) type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

pub(super) fn identity(cert: &[u8], key: &[u8], path: &Path) -> Result<Identity, String> {
    let unreadable = |error: rustls::pki_types::pem::Error| format!("{}: {error}", path.display());
    let chain = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(format!("{}: no certificate in it", path.display()));
    }
    Ok((chain, PrivateKeyDer::from_pem_slice(key).map_err(unreadable)?))
}

/// Who is trusted: as what others are signed with, and as itself.
pub(super) struct Authorities {
    roots: Arc<RootCertStore>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    pub fn read(ca: &[u8]) -> Result<Authorities, String> {
        let mut roots = RootCertStore::empty();
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(ca) {
            let added = certificate
                .map_err(|error| error.to_string())
                .and_then(|certificate| {
                    certificates.push(certificate.clone());
                    roots.add(certificate).map_err(|error| error.to_string())
                });
            added.map_err(|error| format!("trusted CA file: {error}"))?;
        }
        Ok(Authorities {
            roots: Arc::new(roots),
            certificates,
        })
    }

    /// Believes servers whose certificates these have signed, if there are any.
    pub fn verifier_of_servers(
        &self,
        provider: &Arc<CryptoProvider>,
        allowed: Allowed,
    ) -> Result<Arc<dyn ServerCertVerifier>, String> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots.clone(), provider.clone()).build();
        let verifier: Arc<dyn ServerCertVerifier> = verifier.map_err(|error| error.to_string())?;
        Ok(self.or_itself(verifier, allowed))
    }

    fn or_itself<V: ?Sized>(&self, inner: Arc<V>, allowed: Allowed) -> Arc<OrItself<V>> {
        Arc::new(OrItself {
            inner,
            authorities: self.certificates.clone(),
            allowed,
        })
    }
}

/// The library's cryptography, with the wanted suites of TLS 1.2 alone if some are named.
fn provider(options: &TlsOptions) -> Result<CryptoProvider, String> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if options.cipher_suites.is_empty() {
        return Ok(provider);
    }
    let wanted: Vec<String> = options
        .cipher_suites
        .iter()
        .map(|name| whole_name(name))
        .collect();
    provider.cipher_suites.retain(|suite| {
        let name = format!("{:?}", suite.suite());
        // TLS 1.3's are not configured by name.
        suite.version().version == rustls::ProtocolVersion::TLSv1_3 || wanted.contains(&name)
    });
    let any = provider
        .cipher_suites
        .iter()
        .any(|suite| suite.version().version == rustls::ProtocolVersion::TLSv1_2);
    if any {
        Ok(provider)
    } else {
        Err(format!(
            "none of the cipher suites is supported: {:?}",
            options.cipher_suites
        ))
    }
}

/// Go has short names of two suites, from before they were standards.
fn whole_name(name: &str) -> String {
    match name.ends_with("_CHACHA20_POLY1305") {
        true => format!("{name}_SHA256"),
        false => name.to_owned(),
    }
}

/// Every cipher suite of TLS 1.2 that can be named: those of Go, of which some are too weak to be had here.
pub fn known_suite(name: &str) -> Option<bool> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let supported = provider
        .cipher_suites
        .iter()
        .any(|suite| format!("{:?}", suite.suite()) == whole_name(name));
    let in_go = [
        "TLS_RSA_WITH_RC4_128_SHA",
        "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA",
        "TLS_RSA_WITH_AES_256_CBC_SHA",
        "TLS_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_RSA_WITH_AES_128_GCM_SHA256",
        "TLS_RSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
        "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
        "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
        "TLS_AES_128_GCM_SHA256",
        "TLS_AES_256_GCM_SHA384",
        "TLS_CHACHA20_POLY1305_SHA256",
    ];
    match supported {
        true => Some(true),
        false if in_go.contains(&name) => Some(false),
        false => None,
    }
}

fn server(
    options: &TlsOptions,
    (chain, key): Identity,
    roots: &Authorities,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, String> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    // A CA alone makes certificates mandatory, too: getting this wrong would open the server silently.
    let builder = if options.wants_certificates() {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.roots.clone(), provider.clone()).build();
        let verifier: Arc<dyn ClientCertVerifier> = verifier.map_err(|error| error.to_string())?;
        builder.with_client_cert_verifier(roots.or_itself(verifier, options.allowed()))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| format!("{}: {error}", options.cert_file.display()))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn client(
    options: &TlsOptions,
    (chain, key): Identity,
    roots: &Authorities,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = if options.self_signed {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone::of(provider)))
    } else if roots.certificates.is_empty() {
        // Nobody is believed, or who is listed under a name of a domain that the system's authorities vouch for.
        match &options.server_name {
            Some(_) => builder.with_root_certificates(system_authorities()),
            None => builder.with_root_certificates(roots.roots.clone()),
        }
    } else {
        builder
            .dangerous()
            .with_custom_certificate_verifier(roots.verifier_of_servers(provider, options.allowed())?)
    };
    let config = builder.with_client_auth_cert(chain, key);
    config.map(Arc::new).map_err(|error| error.to_string())
}

/// With `--peer-auto-tls` nobody can know the others' certificates: the connection is secret, the peer is anyone.
#[derive(Debug)]
pub(super) struct Anyone(WebPkiSupportedAlgorithms);

impl Anyone {
    pub fn of(provider: &CryptoProvider) -> Anyone {
        Anyone(provider.signature_verification_algorithms)
    }
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
