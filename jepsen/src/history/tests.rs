use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use tonic::{Code, Status};

use super::*;

fn put(key: &str, value: &str) -> Request {
    Request::Put(pb::PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        ..Default::default()
    })
}

#[test]
fn only_refusals_of_the_store_itself_are_definite() {
    let check = |code: Code, text: &str, definite: bool| {
        let outcome = Outcome::from(Status::new(code, text));
        assert_eq!(outcome.is_denied(), definite, "{code:?} {text}");
        assert_eq!(outcome.is_unknown(), !definite, "{code:?} {text}");
    };
    check(Code::InvalidArgument, "etcdserver: key is not provided", true);
    check(Code::NotFound, "etcdserver: requested lease not found", true);
    check(
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
        true,
    );
    check(Code::Unknown, "etcdserver: too many requests", true);
    check(
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
        true,
    );
    check(
        Code::ResourceExhausted,
        "grpc: received message larger than max",
        false,
    );
    check(Code::DataLoss, "etcdserver: corrupt cluster", true);
    check(Code::OutOfRange, "Error, decoded message length too large", false);
    check(Code::Unavailable, "etcdserver: request timed out", false);
    check(Code::Unavailable, "etcdserver: no leader", false);
    check(Code::DeadlineExceeded, "context deadline exceeded", true);
    check(Code::DeadlineExceeded, "Timeout expired", false);
    check(Code::Unknown, "transport error", false);
    check(Code::Cancelled, "etcdserver: request cancelled", false);
}

#[test]
fn real_time_order_is_the_running_number_not_the_clock() {
    let recorder = Recorder::new();
    let first = recorder.invoke(0, 0, 7, put("a", "1"));
    let overlapping = recorder.invoke(1, 0, 7, put("a", "2"));
    recorder.complete(first, 7, Outcome::Ok(pb::PutResponse::default().into()));
    let later = recorder.invoke(0, 0, 7, put("a", "3"));
    let history = recorder.history();
    let at = |id: OpId| &history.operations[id];
    assert!(at(first).precedes(at(later)));
    assert!(!at(first).precedes(at(overlapping)));
    assert!(!at(overlapping).precedes(at(later)), "it never returned");
    assert!(at(later).outcome.is_unknown());
}

#[test]
fn an_operation_reads_as_one_line() {
    let recorder = Recorder::new();
    let id = recorder.invoke(3, 1, 1_500_000_000, put("k\0", "v"));
    recorder.complete(id, 1_600_000_000, Outcome::unknown("time-out"));
    let text = recorder.take().operations[id].to_string();
    assert_eq!(
        text,
        "#0 client 3 member 1 [1.500000s .. 1.600000s] put k\\x00=v -> unknown: time-out"
    );
    assert_eq!(recorder.operation_count(), 0);
}
