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
        let key = self.sign.as_ref().ok_or(Denied::TOKEN_VERIFY_ONLY)?;
        let claims = Claims {
            username: user.to_owned(),
            revision: auth_revision as f64,
            exp: Some((now + self.ttl).as_secs() as f64),
            nbf: None,
        };
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::new(self.algorithm), &claims, key);
        token.map_err(|error| {
            tracing::error!(%error, "cannot sign a token");
            Denied::AUTH_FAILED
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
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    fn secret(method: &str, key: &str) -> Result<Jwt, String> {
        Jwt::new(&JwtOptions {
            sign_method: method.to_owned(),
            private_key: key.as_bytes().to_vec(),
            ttl: Duration::from_secs(300),
            ..JwtOptions::default()
        })
    }

    fn header(jwt: &Jwt, token: &str, now: Duration) -> Option<(String, u64)> {
        jwt.verify(token, now)
            .map(|header| (header.user, header.auth_revision))
    }

    #[test]
    fn a_token_names_its_user_and_revision_until_it_expires() {
        let jwt = secret("HS256", "secret").unwrap();
        let token = jwt.sign("alice", 7, NOW).unwrap();
        assert_eq!(header(&jwt, &token, NOW), Some(("alice".to_owned(), 7)));
        assert_eq!(
            header(&jwt, &token, NOW + Duration::from_secs(299)),
            Some(("alice".to_owned(), 7))
        );
        assert_eq!(header(&jwt, &token, NOW + Duration::from_secs(300)), None);
    }

    #[test]
    fn another_key_another_method_and_no_method_are_refused() {
        let jwt = secret("HS256", "secret").unwrap();
        for other in [secret("HS256", "guess"), secret("HS512", "secret")] {
            let token = other.unwrap().sign("root", 7, NOW).unwrap();
            assert_eq!(header(&jwt, &token, NOW), None);
        }
        // {"alg":"none","typ":"JWT"} and no signature.
        let claims = jwt.sign("root", 7, NOW).unwrap();
        let claims = claims.split('.').nth(1).unwrap();
        let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
        assert_eq!(header(&jwt, &none, NOW), None);
        for garbage in ["", ".", "..", "a.b.c", "abcdefghijklmnop.7"] {
            assert_eq!(header(&jwt, garbage, NOW), None, "{garbage:?}");
        }
    }

    fn pem(algorithm: &'static rcgen::SignatureAlgorithm) -> (Vec<u8>, Vec<u8>) {
        let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
        (
            key.serialize_pem().into_bytes(),
            key.public_key_pem().into_bytes(),
        )
    }

    #[test]
    fn every_family_signs_with_its_private_key_and_verifies_with_the_public_one() {
        let rsa = pem(&rcgen::PKCS_RSA_SHA256);
        let (p256, p384) = (
            pem(&rcgen::PKCS_ECDSA_P256_SHA256),
            pem(&rcgen::PKCS_ECDSA_P384_SHA384),
        );
        let ed25519 = pem(&rcgen::PKCS_ED25519);
        let mut methods = vec![("ES256", &p256), ("ES384", &p384), ("EdDSA", &ed25519)];
        methods.extend(["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"].map(|method| (method, &rsa)));
        for (method, (private, public)) in methods {
            let made = |private: &[u8], public: &[u8]| {
                Jwt::new(&JwtOptions {
                    sign_method: method.to_owned(),
                    public_key: public.to_vec(),
                    private_key: private.to_vec(),
                    ttl: Duration::from_secs(300),
                })
            };
            let (both, alone) = (made(private, public).unwrap(), made(private, b"").unwrap());
            let verifier = made(b"", public).unwrap();
            let token = both.sign("alice", 7, NOW).unwrap();
            for jwt in [&both, &alone, &verifier] {
                assert_eq!(
                    header(jwt, &token, NOW),
                    Some(("alice".to_owned(), 7)),
                    "{method}"
                );
            }
            assert_eq!(
                verifier.sign("alice", 7, NOW),
                Err(Denied::TOKEN_VERIFY_ONLY),
                "{method}"
            );
            // What everybody knows is no secret to sign with.
            let public_as_secret = String::from_utf8(public.clone()).unwrap();
            let forged = secret("HS256", &public_as_secret)
                .unwrap()
                .sign("root", 7, NOW)
                .unwrap();
            assert_eq!(header(&both, &forged, NOW), None, "{method}");
            let other = if method.starts_with("ES") || method == "EdDSA" {
                &rsa
            } else {
                &p256
            };
            assert!(made(&other.0, b"").is_err(), "{method}: a key of another family");
        }
        let strangers = JwtOptions {
            sign_method: "ES256".to_owned(),
            private_key: p256.0,
            public_key: pem(&rcgen::PKCS_ECDSA_P256_SHA256).1,
            ttl: Duration::from_secs(300),
        };
        assert_eq!(
            Jwt::new(&strangers).err().unwrap(),
            "auth: public and private keys don't match"
        );
    }

    /// As `openssl ecparam -genkey` writes them.
    #[test]
    fn elliptic_keys_of_the_older_form_are_read() {
        const PRIVATE: &str = "-----BEGIN EC PRIVATE KEY-----\n\
MHcCAQEEIOexDHlgCB1wXCjzPWiXYj1hAJHSRdjl1h+ajRsxN3JdoAoGCCqGSM49\n\
AwEHoUQDQgAE+qZBYd+Ekg2GBy8GsGHvewAJ50eP3H+fZW7O8DJ2pvmD8HvAuLlo\n\
RFEXsswqObd8WbWdkxktFuzPjWrqaMVl+A==\n\
-----END EC PRIVATE KEY-----\n";
        const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE+qZBYd+Ekg2GBy8GsGHvewAJ50eP\n\
3H+fZW7O8DJ2pvmD8HvAuLloRFEXsswqObd8WbWdkxktFuzPjWrqaMVl+A==\n\
-----END PUBLIC KEY-----\n";
        let made = |method: &str| {
            Jwt::new(&JwtOptions {
                sign_method: method.to_owned(),
                public_key: PUBLIC.as_bytes().to_vec(),
                private_key: PRIVATE.as_bytes().to_vec(),
                ttl: Duration::from_secs(300),
            })
        };
        let jwt = made("ES256").unwrap();
        let token = jwt.sign("alice", 7, NOW).unwrap();
        assert_eq!(header(&jwt, &token, NOW), Some(("alice".to_owned(), 7)));
        assert!(made("ES384").is_err(), "the key is on another curve");
    }

    #[test]
    fn options_that_make_no_sense_are_refused_in_the_words_of_etcd() {
        let refused = |options: JwtOptions| Jwt::new(&options).err().unwrap();
        let method = |sign_method: &str| JwtOptions {
            sign_method: sign_method.to_owned(),
            ..JwtOptions::default()
        };
        assert_eq!(refused(method("")), "auth: invalid auth signature method");
        assert_eq!(refused(method("none")), "auth: invalid auth signature method");
        assert_eq!(refused(method("HS256")), "auth: missing key data");
        assert_eq!(refused(method("RS256")), "auth: missing key data");
        let not_pem = JwtOptions {
            private_key: b"no key".to_vec(),
            ..method("RS256")
        };
        assert!(refused(not_pem).starts_with("auth: "));
    }
}
