use super::*;

#[test]
fn simple_is_simple() {
    assert!(parse("simple").unwrap().is_none());
}

#[test]
fn options_of_signed_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "secret").unwrap();
    let text = format!("jwt,sign-method=HS256,priv-key={},ttl=10m,odd=1", key.display());
    let options = parse(&text).unwrap().unwrap();
    assert_eq!(options.sign_method, "HS256");
    assert_eq!(options.private_key, b"secret");
    assert_eq!(options.ttl, Duration::from_secs(600));
}

#[test]
fn nonsense_is_refused() {
    for text in [
        "",
        "other",
        "jwt,",
        "jwt,sign-method",
        "jwt,sign-method=HS256,sign-method=HS256",
        "jwt,ttl=x",
        "jwt,priv-key=/no/such/file",
        "simple,a=b=c",
    ] {
        assert!(parse(text).unwrap_err().starts_with(INVALID), "{text:?}");
    }
}
