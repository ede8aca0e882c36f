//! JSON to protocol buffers and back, as grpc-gateway does it: field names as in the `.proto` files (camelCase is
//! understood, too), 64-bit integers as strings, bytes as base64, defaults left out, unknown fields ignored.

use std::sync::LazyLock;

use bytes::Bytes;
use prost::encoding::{DecodeContext, decode_key};
use prost::{DecodeError, Message, decode_length_delimiter};
use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, Kind, MessageDescriptor, MethodDescriptor,
    SerializeOptions, Value,
};
use serde_json::json;
use tonic::{Code, Status};

use crate::base::limits;

/// Objects and arrays in each other: three for each transaction, and a few for what is in the innermost.
const JSON_LEVELS_MAX: usize = 3 * limits::TXN_LEVELS_MAX + 8;

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
    if !nests_at_most(text, JSON_LEVELS_MAX) {
        return Err(Status::invalid_argument("proto: exceeded max recursion depth"));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    json.disable_recursion_limit();
    let mut values = json.into_iter::<serde_json::Value>();
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

/// Whether objects and arrays are at most so deep in each other.
fn nests_at_most(text: &[u8], levels_max: usize) -> bool {
    let (mut levels, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => levels += 1,
            b'}' | b']' if !in_string => levels = levels.saturating_sub(1),
            _ => {}
        }
        if levels > levels_max {
            return false;
        }
    }
    true
}

/// An answer of ours. prost stops at a hundred messages in each other, nested transactions do not: each message is
/// decoded by itself.
fn decode(kind: &MessageDescriptor, mut rest: Bytes) -> Result<DynamicMessage, DecodeError> {
    let mut message = DynamicMessage::new(kind.clone());
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest)?;
        let field = kind.get_field(tag).filter(|field| !field.is_map());
        let Some((field, Kind::Message(inner))) = field.map(|field| (field.clone(), field.kind())) else {
            message.merge_field(tag, wire_type, &mut rest, DecodeContext::default())?;
            continue;
        };
        let length = decode_length_delimiter(&mut rest)?;
        let inner = Value::Message(decode(&inner, rest.split_to(length.min(rest.len())))?);
        if field.is_list()
            && let Value::List(list) = message.get_field_mut(&field)
        {
            list.push(inner);
        } else {
            message.set_field(&field, inner);
        }
    }
    Ok(message)
}

/// A message as JSON.
pub fn print(kind: &MessageDescriptor, message: Bytes) -> Result<Vec<u8>, Status> {
    let message = decode(kind, message)
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
