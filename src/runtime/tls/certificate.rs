//! What a certificate says, and what is demanded of it beyond a valid signature.

use std::collections::BTreeSet;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{ASN1Time, CertificateRevocationList, FromDer, Pem, X509Certificate};

/// The names in a certificate.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Names {
    /// Of its subject; of several the last, as Go has it; empty without one.
    pub common_name: String,
    pub dns_names: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// As bytes without leading zeros.
    pub serial: Vec<u8>,
}

fn significant(serial: &[u8]) -> Vec<u8> {
    let zeros = serial.iter().take_while(|&&byte| byte == 0).count();
    serial.get(zeros..).unwrap_or_default().to_vec()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

impl Names {
    pub fn of(der: &[u8]) -> Result<Names, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("unreadable certificate: {error}"))?;
        let common_names = certificate.subject().iter_common_name();
        let mut names = Names {
            common_name: common_names
                .filter_map(|name| name.as_str().ok())
                .last()
                .unwrap_or_default()
                .to_owned(),
            serial: significant(certificate.raw_serial()),
            ..Names::default()
        };
        let alternatives = certificate
            .subject_alternative_name()
            .map_err(|error| format!("unreadable certificate: {error}"))?;
        for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::DNSName(name) => names.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => names.addresses.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(names)
    }

    /// Whether a certificate may be used at this Unix time.
    pub fn are_valid_at(der: &[u8], seconds: u64) -> bool {
        let time = i64::try_from(seconds).ok();
        let time = time.and_then(|seconds| ASN1Time::from_timestamp(seconds).ok());
        X509Certificate::from_der(der)
            .is_ok_and(|(_, certificate)| time.is_some_and(|time| certificate.validity().is_valid_at(time)))
    }

    /// Go's words for a certificate that names other addresses.
    pub fn not_for(&self, address: IpAddr) -> String {
        let own: Vec<String> = self.addresses.iter().map(IpAddr::to_string).collect();
        format!("x509: certificate is valid for {}, not {address}", own.join(", "))
    }

    /// Whether the certificate is valid for a host: an address exactly, a name by RFC 6125's rules.
    pub fn cover(&self, host: &str) -> bool {
        match host.parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address),
            Err(_) => self.dns_names.iter().any(|pattern| matches(pattern, host)),
        }
    }
}

/// A wildcard stands for exactly one label, the first.
fn matches(pattern: &str, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    match pattern.strip_prefix("*.") {
        Some(rest) => host
            .split_once('.')
            .is_some_and(|(label, domain)| !label.is_empty() && domain.eq_ignore_ascii_case(rest)),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// Serial numbers that a revocation list names; DER, or PEM.
pub fn revoked(list: &[u8]) -> Result<BTreeSet<Vec<u8>>, String> {
    let decoded = match Pem::iter_from_buffer(list).next() {
        Some(Ok(pem)) if pem.label == "X509 CRL" => pem.contents,
        _ => list.to_vec(),
    };
    let (_, list) = CertificateRevocationList::from_der(&decoded)
        .map_err(|error| format!("unreadable revocation list: {error}"))?;
    let serials = list.iter_revoked_certificates();
    Ok(serials.map(|revoked| significant(revoked.raw_serial())).collect())
}

#[cfg(test)]
mod tests;
