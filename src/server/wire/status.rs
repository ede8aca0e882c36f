//! From a refusal to what gRPC sends: the one place where the two meet.
//!
//! clientv3 and kube-apiserver compare the message first, so the text is etcd's, byte for byte, and no
//! details are attached. The server's own code speaks [`Denied`] everywhere; what tonic itself refuses
//! (a message beyond the limit) is put into grpc-go's words here.

use http::{HeaderMap, HeaderValue};
use tonic::Status;

use crate::base::Denied;
use crate::base::error::Code;

/// How tonic begins the text for a message beyond the limit, and for one that is when it is no longer compressed.
const TONIC_TOO_LARGE: &str = "Error, decoded message length too large";
const TONIC_GROWS_TOO_LARGE: &str = "Error decompressing: size limit";
/// Its words for a message that never came, and for one that came in part.
const TONIC_MISSING: &str = "Missing request message.";
pub const TONIC_TRUNCATED: &str = "Unexpected EOF decoding stream.";

/// The gRPC code with etcd's number.
pub fn code(code: Code) -> tonic::Code {
    tonic::Code::from_i32(code as i32)
}

/// The status that carries a refusal to the client.
pub fn status(denied: Denied) -> Status {
    Status::new(code(denied.code()), denied.text())
}

/// What a request stream's error becomes when the answer stream ends with it.
pub fn of_request(error: Status) -> Status {
    in_words_of_go(error.message(), false).unwrap_or(error)
}

/// Puts what tonic itself refuses, as it stands in response headers, into grpc-go's words. `unary`: the method.
pub fn correct(headers: &mut HeaderMap, unary: bool) {
    let Some(message) = headers.get(Status::GRPC_MESSAGE) else {
        return;
    };
    // The text travels percent-encoded; what matters of it does not need more.
    let decoded = String::from_utf8_lossy(message.as_bytes())
        .replace("%20", " ")
        .replace("%2C", ",");
    let Some(status) = in_words_of_go(&decoded, unary) else {
        return;
    };
    headers.insert(Status::GRPC_STATUS, HeaderValue::from(status.code() as i32));
    if let Ok(text) = HeaderValue::from_str(status.message()) {
        headers.insert(Status::GRPC_MESSAGE, text);
    }
}

/// grpc-go's code and text for what tonic says of a message that is too large, or not there.
fn in_words_of_go(message: &str, unary: bool) -> Option<Status> {
    let mut numbers = message
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty());
    if message.starts_with(TONIC_TOO_LARGE) {
        let (size, limit) = (numbers.next()?, numbers.next()?);
        let text = format!("grpc: received message larger than max ({size} vs. {limit})");
        return Some(Status::resource_exhausted(text));
    }
    if message.starts_with(TONIC_GROWS_TOO_LARGE) {
        let limit = numbers.next()?;
        let text = format!("grpc: received message after decompression larger than max {limit}");
        return Some(Status::resource_exhausted(text));
    }
    match message {
        TONIC_MISSING if unary => Some(Status::unknown("EOF")),
        TONIC_TRUNCATED if unary => Some(Status::unknown("unexpected EOF")),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
