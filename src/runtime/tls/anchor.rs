//! An authority that shows its own certificate.
//!
//! A certificate that is trusted as an authority may be used by its holder as its own, as small clusters with a single
//! self-signed certificate do. Go takes it; webpki refuses any authority as the end of a chain. Whoever can sign
//! with that key could make any other certificate anyway.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::certificate::Names;

/// Verifies as `inner` does, and takes the authorities themselves.
#[derive(Debug)]
pub struct OrItself<V: ?Sized> {
    pub inner: Arc<V>,
    pub authorities: Vec<CertificateDer<'static>>,
    pub allowed: Allowed,
}

/// Whose certificates are taken, of those that are signed well. Empty: everybody's.
#[derive(Clone, Default, Debug)]
pub struct Allowed {
    pub common_names: Vec<String>,
    pub hostnames: Vec<String>,
}

impl Allowed {
    pub fn takes(&self, names: &Names) -> bool {
        let (common, hosts) = (&self.common_names, &self.hostnames);
        (common.is_empty() || common.contains(&names.common_name))
            && (hosts.is_empty() || hosts.iter().any(|host| names.cover(host)))
    }

    /// Refused in the handshake, and not after it, the other side is told why.
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        match Names::of(shown) {
            Ok(names) if self.takes(&names) => Ok(()),
            _ => Err(CertificateError::NotValidForName.into()),
        }
    }
}

impl<V: ?Sized> OrItself<V> {
    fn is_authority(&self, shown: &CertificateDer<'_>, now: UnixTime) -> bool {
        self.authorities.iter().any(|authority| authority == shown)
            && Names::are_valid_at(shown, now.as_secs())
    }
}

impl ClientCertVerifier for OrItself<dyn ClientCertVerifier> {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(shown, intermediates, now);
        let verified = verified.or_else(|error| match self.is_authority(shown, now) {
            true => Ok(ClientCertVerified::assertion()),
            false => Err(error),
        })?;
        self.allowed.check(shown).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

impl ServerCertVerifier for OrItself<dyn ServerCertVerifier> {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self
            .inner
            .verify_server_cert(shown, intermediates, name, ocsp, now);
        let verified = verified.or_else(|error| {
            let covers = Names::of(shown).is_ok_and(|names| names.cover(&name.to_str()));
            match covers && self.is_authority(shown, now) {
                true => Ok(ServerCertVerified::assertion()),
                false => Err(error),
            }
        })?;
        self.allowed.check(shown).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
