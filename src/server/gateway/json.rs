//! JSON to protocol buffers and back, as grpc-gateway does it: field names as in the `.proto` files (camelCase is
//! understood, too), 64-bit integers as strings, bytes as base64, defaults left out, unknown fields ignored.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, MethodDescriptor, SerializeOptions,
};
use serde_json::json;
use tonic::{Code, Status};

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let descriptors = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
    DescriptorPool::decode(descriptors.as_slice()).expect("compiled with this very code")
});

/// Names and types of everything on the wire.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// What is known of a method.
pub fn method(service: &str, method: &str) -> Option<MethodDescriptor> {
    let service = pool().get_service_by_name(service)?;
    service.methods().find(|known| known.name() == method)
}

/// The first JSON value in a text, as an encoded message, and how many bytes it took. `None`: the text ends before
/// the value does.
pub fn parse(kind: &MessageDescriptor, text: &[u8]) -> Result<Option<(Bytes, usize)>, Status> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<serde_json::Value>();
    let value = match values.next() {
        None => return Ok(None),
        Some(Err(error)) if error.is_eof() => return Ok(None),
        Some(Err(error)) => return Err(Status::invalid_argument(error.to_string())),
        Some(Ok(value)) => value,
    };
    let taken = values.byte_offset();
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let message = DynamicMessage::deserialize_with_options(kind.clone(), value, &options)
        .map_err(|error| Status::invalid_argument(format!("proto: {error}")))?;
    Ok(Some((message.encode_to_vec().into(), taken)))
}

/// A message as JSON.
pub fn print(kind: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let message = DynamicMessage::decode(kind.clone(), message)
        .map_err(|error| Status::internal(format!("an answer cannot be read: {error}")))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let mut text = Vec::new();
    message
        .serialize_with_options(&mut serde_json::Serializer::new(&mut text), &options)
        .map_err(|error| Status::internal(format!("an answer cannot be written: {error}")))?;
    Ok(text)
}

/// A refusal as JSON.
pub fn refusal(status: &Status) -> Vec<u8> {
    let body = json!({ "code": status.code() as i32, "message": status.message() });
    body.to_string().into_bytes()
}

/// The HTTP status that goes with a refusal.
pub fn http_status(code: Code) -> http::StatusCode {
    let number = match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
    };
    http::StatusCode::from_u16(number).expect("all of these are")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> MessageDescriptor {
        pool().get_message_by_name(name).unwrap()
    }

    #[test]
    fn requests_are_read_in_either_spelling() {
        let put = kind("etcdserverpb.PutRequest");
        let expected = crate::proto::etcdserverpb::PutRequest {
            key: "a".into(),
            lease: 5,
            prev_kv: true,
            ..Default::default()
        };
        for text in [
            r#"{"key":"YQ==","lease":"5","prev_kv":true}"#,
            r#"{"key":"YQ==","lease":5,"prevKv":true,"unknown":{"x":[1]}}"#,
        ] {
            let (bytes, taken) = parse(&put, text.as_bytes()).unwrap().unwrap();
            assert_eq!(
                crate::proto::etcdserverpb::PutRequest::decode(bytes).unwrap(),
                expected
            );
            assert_eq!(taken, text.len());
        }
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let put = kind("etcdserverpb.PutRequest");
        for text in [
            "{bad",
            "[]",
            "1",
            r#"{"key":"!!"}"#,
            r#"{"key":5}"#,
            r#"{"lease":"x"}"#,
        ] {
            let refused = parse(&put, text.as_bytes()).unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{text}");
        }
        for text in ["", " ", "{", r#"{"key":"YQ=="#] {
            assert!(parse(&put, text.as_bytes()).unwrap().is_none(), "{text}");
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
}
