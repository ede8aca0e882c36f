use super::*;

#[test]
fn timeouts_are_read_as_grpc_gateway_reads_them() {
    for (text, expected) in [
        ("1S", Some("1000000u")),
        ("99999999n", Some("99999999n")),
        ("100000000n", Some("100000u")),
        ("123456789S", Some("34293H")),
        ("9223372036854775807H", Some("2562047H")),
        ("-1S", Some("0n")),
        ("+5m", Some("5000000n")),
        ("0S", None),
        ("", None),
    ] {
        let headers = HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))]);
        let metadata = metadata(&headers).unwrap();
        let found = metadata.get(GRPC_TIMEOUT).map(|value| value.to_str().unwrap());
        assert_eq!(found, expected, "{text}");
    }
    for text in ["zz", "S", "5", "5s", "1.5S", "\u{e9}"] {
        let headers = HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_str(text).unwrap())]);
        let refused = metadata(&headers).unwrap_err();
        assert_eq!(refused.message(), format!("invalid grpc-timeout: {text}"));
    }
}
