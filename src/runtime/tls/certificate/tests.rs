use super::*;

#[test]
fn names_match_as_go_matches_them() {
    for (pattern, host, expected) in [
        ("a.example", "a.example", true),
        ("a.example", "A.EXAMPLE.", true),
        ("a.example", "b.a.example", false),
        ("*.example", "a.example", true),
        ("*.example", "b.a.example", false),
        ("*.example", "example", false),
        ("*.example", ".example", false),
    ] {
        assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
    }
}

#[test]
fn a_certificate_is_read() {
    let mut params =
        rcgen::CertificateParams::new(vec!["a.example".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "alice");
    params.serial_number = Some(rcgen::SerialNumber::from(vec![0x80, 1]));
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let names = Names::of(certificate.der()).unwrap();
    assert_eq!(names.common_name, "alice");
    assert_eq!(names.serial, [0x80, 1]);
    assert!(names.cover("a.example") && names.cover("127.0.0.1"));
    assert!(!names.cover("127.0.0.2") && !names.cover("alice"));
    assert!(Names::of(b"nonsense").is_err());
}

#[test]
fn the_last_common_name_counts() {
    let mut params = rcgen::CertificateParams::default();
    let name = &mut params.distinguished_name;
    name.push(rcgen::DnType::CommonName, "first");
    name.push(rcgen::DnType::OrganizationName, "between");
    // A type of its own for the library, the same to everybody who reads it.
    name.push(rcgen::DnType::CustomDnType(vec![2, 5, 4, 3]), "last");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    assert_eq!(Names::of(certificate.der()).unwrap().common_name, "last");
}
