use super::*;
use crate::proto::etcdserverpb as pb;

fn kind(name: &str) -> MessageDescriptor {
    pool().get_message_by_name(name).unwrap()
}

#[test]
fn half_a_surrogate_pair_is_refused_wherever_it_is() {
    for (text, is_read) in [
        (r#"{"unknown":"\ud83d\ude00"}"#, true),
        (r#"{"unknown":"\\ud83d"}"#, true),
        (r#"{"unknown":["\ud83d"]}"#, false),
        (r#"{"unknown":"\ud83d\ud83d"}"#, false),
        (r#"{"unknown":"\ud83d\n"}"#, false),
        (r#"{"unknown":"\ude00"}"#, false),
        (r#"{"unknown\uD800":1}"#, false),
        (r#"{} {"unknown":"\ud83d"}"#, true),
    ] {
        let read = parse(&kind("etcdserverpb.PutRequest"), text.as_bytes());
        assert_eq!(read.is_ok(), is_read, "{text}: {read:?}");
    }
}

#[test]
fn requests_are_read_in_either_spelling() {
    let expected = pb::PutRequest {
        key: "a".into(),
        lease: 5,
        prev_kv: true,
        ..Default::default()
    };
    for text in [
        r#"{"key":"YQ==","lease":"5","prev_kv":true}"#,
        r#"{"key":"YQ==","lease":5,"prevKv":true,"unknown":{"x":[1]}} and more"#,
        r#" {"key":"YQ==","lease":"0.5e1","prev_kv":true,"value":null,"[x]":1e999}"#,
    ] {
        let bytes = parse(&kind("etcdserverpb.PutRequest"), text.as_bytes())
            .unwrap()
            .unwrap();
        assert_eq!(pb::PutRequest::decode(bytes).unwrap(), expected);
    }
    let text = r#"{"sort_order":"DESCEND","sort_target":3.0,"limit":"1e2"}"#;
    let bytes = parse(&kind("etcdserverpb.RangeRequest"), text.as_bytes())
        .unwrap()
        .unwrap();
    let range = pb::RangeRequest::decode(bytes).unwrap();
    assert_eq!((range.sort_order, range.sort_target, range.limit), (2, 3, 100));
    let unknown = parse(
        &kind("etcdserverpb.RangeRequest"),
        br#"{"sort_order":"SIDEWAYS"}"#,
    );
    assert_eq!(
        unknown.unwrap().unwrap(),
        Bytes::new(),
        "unknown names stand for nothing"
    );
}

#[test]
fn what_is_no_request_is_refused() {
    for (text, reason) in [
        ("{bad", "key must be a string"),
        ("[]", "invalid type: sequence"),
        ("1", "invalid type: integer"),
        ("null", "invalid type: null"),
        ("{", "unexpected EOF"),
        (r#"{"key":"YQ=="#, "unexpected EOF"),
        (r#"{"key":"!!"}"#, "invalid value for field key"),
        (r#"{"key":5}"#, "invalid value for field key"),
        (r#"{"lease":"x"}"#, "invalid value for field lease"),
        (
            r#"{"lease":"9223372036854775808"}"#,
            "invalid value for field lease",
        ),
        (r#"{"lease":1.5}"#, "invalid value for field lease"),
        (r#"{"prev_kv":"true"}"#, "invalid value for field prevKv"),
        (r#"{"key":"YQ==","key":"YQ=="}"#, r#"duplicate field "key""#),
        (r#"{"prev_kv":null,"prevKv":true}"#, r#"duplicate field "prevKv""#),
    ] {
        let refused = parse(&kind("etcdserverpb.PutRequest"), text.as_bytes()).unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        assert!(
            refused.message().contains(reason),
            "{text}: {}",
            refused.message()
        );
    }
    let both = r#"{"success":[{"request_put":{},"requestRange":{}}]}"#;
    let refused = parse(&kind("etcdserverpb.TxnRequest"), both.as_bytes()).unwrap_err();
    assert!(
        refused.message().contains("is already set"),
        "{}",
        refused.message()
    );
    for text in ["", " \n"] {
        assert_eq!(
            parse(&kind("etcdserverpb.PutRequest"), text.as_bytes()).unwrap(),
            None
        );
    }
}

#[test]
fn objects_end_where_they_end_however_they_arrive() {
    let text = br#" {"a":"}\"]","b":[{}]}{"c":1}"#;
    for size in 1..=text.len() {
        let (mut objects, mut buffer, mut found) = (Objects::default(), Vec::new(), Vec::new());
        for piece in text.chunks(size) {
            buffer.extend_from_slice(piece);
            while let Some(end) = objects.end(&buffer).unwrap() {
                found.push(buffer.drain(..end).collect::<Vec<u8>>());
            }
        }
        assert_eq!(found, [&text[..22], &text[22..]], "in pieces of {size}");
    }
    for text in ["[]", "null", "1", "}", " x", "\"{}\""] {
        assert_eq!(Objects::default().end(text.as_bytes()), Err(()), "{text}");
    }
    for text in ["", " ", "{", r#"{"a":"}"#] {
        assert_eq!(Objects::default().end(text.as_bytes()), Ok(None), "{text}");
    }
}

#[test]
fn answers_leave_defaults_out_and_write_large_numbers_as_text() {
    let response = crate::proto::etcdserverpb::RangeResponse {
        header: Some(crate::proto::etcdserverpb::ResponseHeader {
            revision: 3,
            ..Default::default()
        }),
        kvs: vec![crate::proto::mvccpb::KeyValue {
            key: "a".into(),
            mod_revision: i64::MAX,
            ..Default::default()
        }],
        more: false,
        count: 1,
    };
    let printed = print(
        &kind("etcdserverpb.RangeResponse"),
        response.encode_to_vec().into(),
    )
    .unwrap();
    assert_eq!(
        String::from_utf8(printed).unwrap(),
        concat!(
            r#"{"header":{"revision":"3"},"#,
            r#""kvs":[{"key":"YQ==","mod_revision":"9223372036854775807"}],"count":"1"}"#
        )
    );
    let event = crate::proto::mvccpb::Event {
        r#type: 1,
        ..Default::default()
    };
    let printed = print(&kind("mvccpb.Event"), event.encode_to_vec().into()).unwrap();
    assert_eq!(printed, br#"{"type":"DELETE"}"#);
}
