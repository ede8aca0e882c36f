//! Signed tokens: `--auth-token=jwt,sign-method=…`.
//!
//! The algorithm is the configured one, or the token is refused: neither "none", nor a public key taken for a
//! shared secret. The claims `username` and `revision` must be there; `exp` and `nbf` count if they are.

use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Validation};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::base::Denied;
use crate::config::JwtOptions;
use crate::proto::command::Header;

#[derive(Serialize, Deserialize)]
struct Claims {
    username: String,
    /// JSON's numbers are floating, and others write them so.
    revision: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<f64>,
}

/// See the module.
pub struct Jwt {
    algorithm: Algorithm,
    /// Absent with a public key alone: tokens are checked here and made elsewhere.
    sign: Option<EncodingKey>,
    verify: DecodingKey,
    ttl: Duration,
}

impl Jwt {
    /// # Errors
    /// etcd's texts: an unknown method, a missing or unreadable key, keys that do not belong together.
    pub fn new(options: &JwtOptions) -> Result<Jwt, String> {
        let algorithm: Algorithm = options
            .sign_method
            .parse()
            .map_err(|_| "auth: invalid auth signature method".to_owned())?;
        let given = |key: &Vec<u8>| Some(key.clone()).filter(|key| !key.is_empty());
        let (private, public) = (given(&options.private_key), given(&options.public_key));
        let unreadable = |error: Error| format!("auth: {error}");
        let sign = private
            .map(|key| private_key(algorithm, &key))
            .transpose()
            .map_err(unreadable)?;
        let public = match algorithm.family() {
            AlgorithmFamily::Hmac => None,
            _ => public
                .map(|key| public_key(algorithm, &key))
                .transpose()
                .map_err(unreadable)?,
        };
        let verify = match (&sign, public) {
            (None, None) => return Err("auth: missing key data".to_owned()),
            (None, Some(public)) => public,
            (Some(sign), public) => {
                let own = Jwk::from_encoding_key(sign, algorithm).map_err(unreadable)?;
                if let Some(public) = public {
                    let theirs = Jwk::from_decoding_key(&public, Some(algorithm)).map_err(unreadable)?;
                    if own != theirs {
                        return Err("auth: public and private keys don't match".to_owned());
                    }
                }
                DecodingKey::from_jwk(&own).map_err(unreadable)?
            }
        };
        Ok(Jwt {
            algorithm,
            sign,
            verify,
            ttl: options.ttl,
        })
    }

    /// A token for a user; `now` since the Unix epoch.
    pub fn sign(&self, user: &str, auth_revision: u64, now: Duration) -> Result<String, Denied> {
        let key = self.sign.as_ref().ok_or(Denied::TokenVerifyOnly)?;
        let claims = Claims {
            username: user.to_owned(),
            revision: auth_revision as f64,
            exp: Some((now + self.ttl).as_secs() as f64),
            nbf: None,
        };
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::new(self.algorithm), &claims, key);
        token.map_err(|error| {
            tracing::error!(%error, "cannot sign a token");
            Denied::AuthFailed
        })
    }

    /// Whose token this is, and from which auth revision; `None` if it is not to be believed.
    pub fn verify(&self, token: &str, now: Duration) -> Option<Header> {
        let mut validation = Validation::new(self.algorithm);
        // Time is ours to tell, and nothing but our own claims is demanded.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verify, &validation)
            .ok()?
            .claims;
        let now = now.as_secs_f64();
        let timely = claims.exp.is_none_or(|exp| now < exp) && claims.nbf.is_none_or(|nbf| nbf <= now);
        let sound = !claims.username.is_empty() && claims.revision >= 1.0;
        (timely && sound).then_some(Header {
            user: claims.username,
            auth_revision: claims.revision as u64,
        })
    }
}

fn private_key(algorithm: Algorithm, key: &[u8]) -> Result<EncodingKey, Error> {
    match algorithm.family() {
        AlgorithmFamily::Hmac => Ok(EncodingKey::from_secret(key)),
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(key),
        AlgorithmFamily::Ec => match PrivateKeyDer::from_pem_slice(key) {
            Ok(PrivateKeyDer::Sec1(key)) => sec1_key(algorithm, key.secret_sec1_der()),
            _ => EncodingKey::from_ec_pem(key),
        },
        AlgorithmFamily::Ed => match PrivateKeyDer::from_pem_slice(key) {
            Ok(PrivateKeyDer::Pkcs8(key)) => ed25519_key(key.secret_pkcs8_der()),
            _ => Err(ErrorKind::InvalidEddsaKey.into()),
        },
    }
}

/// The newer form may hold the public key too; jsonwebtoken takes the private one alone.
fn ed25519_key(key: &[u8]) -> Result<EncodingKey, Error> {
    let alone = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key)
        .map_err(|_| ())
        .and_then(|pair| pair.to_pkcs8v1().map_err(|_| ()));
    match alone {
        Ok(alone) => Ok(EncodingKey::from_ed_der(alone.as_ref())),
        Err(()) => Err(ErrorKind::InvalidEddsaKey.into()),
    }
}

/// "EC PRIVATE KEY", which says less of the key than the newer form.
fn sec1_key(algorithm: Algorithm, key: &[u8]) -> Result<EncodingKey, Error> {
    let curve = match algorithm {
        Algorithm::ES384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
    };
    let newer = EcdsaKeyPair::from_private_key_der(curve, key)
        .map_err(|_| ())
        .and_then(|pair| pair.to_pkcs8v1().map_err(|_| ()));
    match newer {
        Ok(newer) => Ok(EncodingKey::from_ec_der(newer.as_ref())),
        Err(()) => Err(ErrorKind::InvalidEcdsaKey.into()),
    }
}

fn public_key(algorithm: Algorithm, key: &[u8]) -> Result<DecodingKey, Error> {
    match algorithm.family() {
        AlgorithmFamily::Hmac => Ok(DecodingKey::from_secret(key)),
        AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(key),
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(key),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(key),
    }
}

#[cfg(test)]
mod tests;
