//! From a refusal to what gRPC sends: the one place where the two meet.
//!
//! clientv3 and kube-apiserver compare the message first, so the text is etcd's, byte for byte, and no
//! details are attached. The server's own code speaks [`Denied`] everywhere; what tonic itself refuses
//! (a message beyond the limit) is put into grpc-go's words here.

use http::{HeaderMap, HeaderValue};
use tonic::Status;

use crate::base::Denied;
use crate::base::error::Code;

/// How tonic begins the text for a message beyond the limit.
const TONIC_TOO_LARGE: &str = "Error, decoded message length too large";

/// The gRPC code with etcd's number.
pub fn code(code: Code) -> tonic::Code {
    tonic::Code::from_i32(code as i32)
}

/// The status that carries a refusal to the client.
pub fn status(denied: Denied) -> Status {
    Status::new(code(denied.code), denied.text)
}

/// What a request stream's error becomes when the answer stream ends with it.
pub fn of_request(error: Status) -> Status {
    match too_large(error.message()) {
        Some(text) => Status::resource_exhausted(text),
        None => error,
    }
}

/// Puts tonic's refusal of a large message, as it stands in response headers, into grpc-go's words.
pub fn correct(headers: &mut HeaderMap) {
    let Some(message) = headers.get(Status::GRPC_MESSAGE) else {
        return;
    };
    // The text travels percent-encoded; the numbers in it do not need that.
    let decoded = String::from_utf8_lossy(message.as_bytes())
        .replace("%20", " ")
        .replace("%2C", ",");
    let Some(text) = too_large(&decoded) else { return };
    let exhausted = HeaderValue::from(tonic::Code::ResourceExhausted as i32);
    headers.insert(Status::GRPC_STATUS, exhausted);
    if let Ok(text) = HeaderValue::from_str(&text) {
        headers.insert(Status::GRPC_MESSAGE, text);
    }
}

/// grpc-go's text, if this is tonic's for a message beyond the limit.
fn too_large(message: &str) -> Option<String> {
    if !message.starts_with(TONIC_TOO_LARGE) {
        return None;
    }
    let mut numbers = message
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty());
    let (size, limit) = (numbers.next()?, numbers.next()?);
    Some(format!(
        "grpc: received message larger than max ({size} vs. {limit})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// tonic's own words, as its decoder makes them.
    const REFUSAL: &str =
        "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes";
    const GO: &str = "grpc: received message larger than max (3000000 vs. 2097152)";

    #[test]
    fn a_refusal_keeps_code_and_text() {
        let status = status(Denied::COMPACTED);
        assert_eq!(status.code(), tonic::Code::OutOfRange);
        assert_eq!(
            status.message(),
            "etcdserver: mvcc: required revision has been compacted"
        );
        assert!(status.details().is_empty());
    }

    #[test]
    fn a_large_message_is_refused_in_the_words_of_grpc_go() {
        let response: http::Response<()> = Status::out_of_range(REFUSAL).into_http();
        let mut headers = response.headers().clone();
        correct(&mut headers);
        let status = Status::from_header_map(&headers).expect("a status");
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::ResourceExhausted, GO)
        );
        let status = of_request(Status::out_of_range(REFUSAL));
        assert_eq!(
            (status.code(), status.message()),
            (tonic::Code::ResourceExhausted, GO)
        );
    }

    #[test]
    fn other_refusals_stay_as_they_are() {
        let response: http::Response<()> = status(Denied::FUTURE_REVISION).into_http();
        let mut headers = response.headers().clone();
        correct(&mut headers);
        assert_eq!(&headers, response.headers());
    }
}
