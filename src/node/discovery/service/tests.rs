use super::*;

#[test]
fn endpoints_are_urls_or_addresses() {
    let check = |endpoint: &str, address: &str, secure: Option<bool>| {
        assert_eq!(parse_endpoint(endpoint), (address.to_owned(), secure));
    };
    check("127.0.0.1:2379", "127.0.0.1:2379", None);
    check("http://a:1", "a:1", Some(false));
    check("https://[::1]:1/x", "[::1]:1", Some(true));
    check("unix:///run/a.sock", "unix:/run/a.sock", Some(false));
    check("unixs:localhost:0", "unix:localhost:0", Some(true));
}

#[test]
fn a_password_is_not_shown() {
    let credentials = Credentials {
        user: "root".into(),
        password: "secret".into(),
    };
    assert!(!format!("{credentials:?}").contains("secret"));
}
