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
            Err(Denied::TokenVerifyOnly),
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
