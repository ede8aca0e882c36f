//! From gRPC results to outcomes: which refusals prove that nothing happened.
//!
//! The rule is clientv3's: an error that the store itself gave for the request (`etcdserver: …` with a
//! code of the client's fault) is definite; everything that time or the network may have caused is
//! not. Two of etcd's habits make the list shorter than the codes suggest: `database space exceeded`
//! may be answered for a write that was applied, and gRPC libraries invent `OutOfRange` or
//! `ResourceExhausted` of their own for an answer that was too large to decode. A refusal wrongly
//! called unknown only costs sharpness; an unknown wrongly called definite would be a false alarm.

use quorate::proto::etcdserverpb as pb;
use tonic::{Code, Status};

use super::{Answer, Outcome};

/// True if the status proves that the request had no effect and never will have.
pub fn is_definite_refusal(code: Code, text: &str) -> bool {
    let from_the_store = text.starts_with("etcdserver: ") || text.starts_with("RangeStream does not support");
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => from_the_store,
        // Refused at the apply step, before it changed anything.
        Code::DataLoss => text == "etcdserver: corrupt cluster",
        // Refused before it was proposed, or at the apply step. (etcd carries out the write that crosses the quota, and
        // refuses it all the same; Quorate does one or the other.)
        // The second is Quorate's own, and not proposed.
        Code::ResourceExhausted => [
            "etcdserver: mvcc: database space exceeded",
            "etcdserver: the transaction would read more than an answer may hold",
        ]
        .contains(&text),
        // Quorate's own: not proposed, as no member could have applied it.
        Code::Internal => text == "etcdserver: request cannot be applied",
        // Never handed to raft: clientv3 sends such a write again. What may be in a log ends with `request timed out`.
        Code::DeadlineExceeded => text == "context deadline exceeded",
        // Refused before it was proposed; etcd sends this one without a code of its own.
        Code::Unknown => text == "etcdserver: too many requests",
        _ => false,
    }
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        let (code, text) = (status.code(), status.message());
        if is_definite_refusal(code, text) {
            let text = text.to_owned();
            return Outcome::Denied { code, text };
        }
        Outcome::unknown(format!("{code:?}: {text}"))
    }
}

macro_rules! conversions {
    ($($variant:ident: $request:ident => $response:ident;)*) => {$(
        impl From<pb::$request> for super::Request {
            fn from(request: pb::$request) -> Self {
                super::Request::$variant(request)
            }
        }

        impl From<pb::$response> for Answer {
            fn from(response: pb::$response) -> Self {
                Answer::$variant(response)
            }
        }
    )*};
}

conversions! {
    Range: RangeRequest => RangeResponse;
    Put: PutRequest => PutResponse;
    Delete: DeleteRangeRequest => DeleteRangeResponse;
    Txn: TxnRequest => TxnResponse;
    Compact: CompactionRequest => CompactionResponse;
    LeaseGrant: LeaseGrantRequest => LeaseGrantResponse;
    LeaseRevoke: LeaseRevokeRequest => LeaseRevokeResponse;
    LeaseKeepAlive: LeaseKeepAliveRequest => LeaseKeepAliveResponse;
    LeaseTimeToLive: LeaseTimeToLiveRequest => LeaseTimeToLiveResponse;
}
