use super::*;

/// tonic's own words, as its decoder makes them.
const REFUSAL: &str =
    "Error, decoded message length too large: found 3000000 bytes, the limit is: 2097152 bytes";
const GO: &str = "grpc: received message larger than max (3000000 vs. 2097152)";

#[test]
fn a_refusal_keeps_code_and_text() {
    let status = status(Denied::Compacted);
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
    correct(&mut headers, true);
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
fn a_message_that_is_missing_is_unknown_to_a_unary_call_alone() {
    for (unary, code, text) in [
        (true, tonic::Code::Unknown, "EOF"),
        (false, tonic::Code::Internal, "Missing request message."),
    ] {
        let response: http::Response<()> = Status::internal(TONIC_MISSING).into_http();
        let mut headers = response.headers().clone();
        correct(&mut headers, unary);
        let status = Status::from_header_map(&headers).expect("a status");
        assert_eq!((status.code(), status.message()), (code, text));
    }
}

#[test]
fn other_refusals_stay_as_they_are() {
    let response: http::Response<()> = status(Denied::FutureRevision).into_http();
    let mut headers = response.headers().clone();
    correct(&mut headers, true);
    assert_eq!(&headers, response.headers());
}
