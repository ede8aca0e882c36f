use super::super::flags::{Parsed, parse};
use super::*;

fn of(line: &str) -> Result<Option<DiscoveryOptions>, String> {
    let words = line.split(' ').filter(|word| !word.is_empty()).map(str::to_owned);
    match parse(&words.collect::<Vec<_>>()) {
        Parsed::Flags(flags) => options(&flags),
        other => panic!("{line}: {other:?}"),
    }
}

fn with(line: &str) -> DiscoveryOptions {
    of(&format!("--discovery-token=t --discovery-endpoints=a:1 {line}"))
        .unwrap()
        .unwrap()
}

#[test]
fn defaults_are_those_of_etcd() {
    assert_eq!(of("--discovery-cert=/only-this"), Ok(None));
    let options = with("");
    assert_eq!(
        (options.token.as_str(), options.endpoints),
        ("t", vec!["a:1".to_owned()])
    );
    assert_eq!(options.dial_timeout, std::time::Duration::from_secs(2));
    assert_eq!(options.request_timeout, std::time::Duration::from_secs(5));
    assert_eq!((options.tls, options.credentials), (None, None));
}

#[test]
fn what_names_a_certificate_wants_tls() {
    let ca = with("--discovery-cacert=/ca").tls.unwrap();
    assert_eq!(ca.trusted_ca_file, Some("/ca".into()));
    assert!(
        with("--discovery-insecure-skip-tls-verify")
            .tls
            .unwrap()
            .skip_verify
    );
    assert_eq!(
        with("--discovery-insecure-transport=false").tls,
        Some(ClientOptions::default())
    );
    let half = of("--discovery-token=t --discovery-endpoints=a:1 --discovery-cert=/c");
    assert_eq!(
        half.unwrap_err(),
        "KeyFile and CertFile must both be present[key: , cert: /c]"
    );
}

#[test]
fn a_password_stands_with_the_name_or_alone() {
    let check = |line: &str, expected: Option<(&str, &str)>| {
        let found = with(line).credentials;
        let found = found.as_ref().map(|known| (&*known.user, &*known.password));
        assert_eq!(found, expected, "{line}");
    };
    check("--discovery-user=a:b", Some(("a", "b")));
    check("--discovery-user=a --discovery-password=b", Some(("a", "b")));
    check("--discovery-user=a:b --discovery-password=c", Some(("a:b", "c")));
    check("--discovery-user=a", None);
    check("--discovery-password=b", None);
}
