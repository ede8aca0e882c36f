//! `--auto-tls`: a certificate of one's own, for secrecy without identity. It is kept beside the data and used again.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};

const DAY: time::Duration = time::Duration::days(1);

/// Paths of certificate and key in `dir`; made for `hosts` and so many years unless they are there.
pub fn ensure(dir: &Path, hosts: &[String], years: u64) -> io::Result<(PathBuf, PathBuf)> {
    if years == 0 {
        return Err(io::Error::other(
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ));
    }
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    fs::create_dir_all(dir)?;
    let (certificate, secret) = make(hosts, years).map_err(io::Error::other)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&key)?;
    file.write_all(secret.as_bytes())?;
    fs::write(&cert, certificate)?;
    tracing::warn!(dir = %dir.display(), "automatically generate certificates");
    Ok((cert, key))
}

fn make(hosts: &[String], years: u64) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "quorate");
    let days = i32::try_from(years.saturating_mul(365)).unwrap_or(i32::MAX / 400);
    params.not_before = time::OffsetDateTime::now_utc() - DAY;
    params.not_after = params.not_before + DAY * days.min(365 * 1000) + DAY;
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests;
