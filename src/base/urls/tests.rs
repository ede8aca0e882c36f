use super::*;

#[test]
fn urls_are_accepted_and_refused_as_in_etcd() {
    let check = |text: &str, expected: Result<&str, &str>| {
        let parsed = Url::parse(text).map(|url| url.text);
        assert_eq!(parsed, expected.map(str::to_owned).map_err(str::to_owned));
    };
    check("http://127.0.0.1:2379", Ok("http://127.0.0.1:2379"));
    check(" http://localhost:1 ", Ok("http://localhost:1"));
    check("HTTP://h:1", Ok("http://h:1"));
    check("https://[::1]:2379", Ok("https://[::1]:2379"));
    check("unix:///run/a.sock", Ok("unix:///run/a.sock"));
    check("foo", Err("URL scheme must be http, https, unix, or unixs: foo"));
    check("", Err("URL scheme must be http, https, unix, or unixs: "));
    check(
        "ftp://h:1",
        Err("URL scheme must be http, https, unix, or unixs: ftp://h:1"),
    );
    check(
        "http://h",
        Err("URL address does not have the form \"host:port\": http://h"),
    );
    check(
        "http://::1:2379",
        Err("URL address does not have the form \"host:port\": http://::1:2379"),
    );
    check("http://h:1/x", Err("URL must not contain a path: http://h:1/x"));
    check("http://h:1/", Err("URL must not contain a path: http://h:1/"));
    check(
        "http://h:x",
        Err("parse \"http://h:x\": invalid port \":x\" after host"),
    );
}

#[test]
fn addresses_to_bind_are_ips_or_localhost() {
    let check = |text: &str, ok: bool| {
        assert_eq!(Url::parse(text).unwrap().check_bind().is_ok(), ok, "{text}");
    };
    check("http://127.0.0.1:1", true);
    check("http://[::1]:1", true);
    check("http://localhost:1", true);
    check("http://example.com:1", false);
    check("http://:1", false);
}

#[test]
fn a_cluster_lists_names_with_one_or_more_urls() {
    let cluster = parse_cluster("b=http://h:3,,a=http://h:2,a=http://h:1").unwrap();
    assert_eq!(format_cluster(&cluster), "a=http://h:1,a=http://h:2,b=http://h:3");
    assert_eq!(parse_cluster("").unwrap().len(), 0);
    assert!(parse_cluster("foo").is_err());
}
