//! JSON to protocol buffers and back, as grpc-gateway does it: field names as in the `.proto` files, 64-bit integers as
//! strings, bytes as base64, defaults left out. How requests are read is in [`decode`](super::decode).

use std::sync::LazyLock;

use bytes::Bytes;
use prost::encoding::{DecodeContext, decode_key};
use prost::{DecodeError, Message, decode_length_delimiter};
use prost_reflect::{
    DescriptorPool, DynamicMessage, Kind, MessageDescriptor, MethodDescriptor, SerializeOptions, Value,
};
use serde::de::DeserializeSeed;
use serde_json::json;
use serde_json::value::RawValue;
use tonic::{Code, Status};

use super::decode::MessageSeed;
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

/// The first JSON value in a text, as an encoded message. `None`: there is none.
pub fn parse(kind: &MessageDescriptor, text: &[u8]) -> Result<Option<Bytes>, Status> {
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
    let value = match values.next() {
        None => return Ok(None),
        Some(Err(error)) if error.is_eof() => return Err(Status::invalid_argument("unexpected EOF")),
        Some(Err(error)) => return Err(Status::invalid_argument(error.to_string())),
        Some(Ok(value)) => value.get(),
    };
    if !nests_at_most(value.as_bytes(), JSON_LEVELS_MAX) {
        return Err(Status::invalid_argument("proto: exceeded max recursion depth"));
    }
    if has_half_pair(value.as_bytes()) {
        return Err(Status::invalid_argument("proto: invalid escape code in string"));
    }
    let mut json = serde_json::Deserializer::from_str(value);
    json.disable_recursion_limit();
    let message = MessageSeed(kind)
        .deserialize(&mut json)
        .map_err(|error| Status::invalid_argument(format!("proto: {error}")))?;
    Ok(Some(message.encode_to_vec().into()))
}

/// Whether an escape in a value is half of a surrogate pair. Go looks at those of ignored fields too, `serde_json` does not.
fn has_half_pair(value: &[u8]) -> bool {
    let unit = |text: &[u8]| {
        let digits = text.strip_prefix(b"u")?.first_chunk::<4>()?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut rest = value;
    while let Some(at) = rest.iter().position(|&byte| byte == b'\\') {
        let escape = rest.get(at + 1..).unwrap_or_default();
        let mut length = 1;
        if let Some(first @ 0xd800..0xe000) = unit(escape) {
            let second = escape.get(5..).and_then(|next| unit(next.strip_prefix(b"\\")?));
            if first >= 0xdc00 || !matches!(second, Some(0xdc00..0xe000)) {
                return true;
            }
            length = 11;
        }
        rest = escape.get(length..).unwrap_or_default();
    }
    false
}

/// Finds the end of a JSON object that arrives in pieces, and looks at each byte once.
#[derive(Default)]
pub struct Objects {
    seen: usize,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Objects {
    /// How long the object at the beginning of `text` is, once all of it is there. `text` is what it was the last time,
    /// and more. An error: it does not begin with an object.
    pub fn end(&mut self, text: &[u8]) -> Result<Option<usize>, ()> {
        while let Some(&byte) = text.get(self.seen) {
            self.seen += 1;
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' if self.depth > 0 => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' => self.depth += 1,
                b' ' | b'\t' | b'\r' | b'\n' => {}
                _ if self.depth == 0 => return Err(()),
                b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        return Ok(Some(std::mem::take(self).seen));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }
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
mod tests;
