//! One request over one channel, as an outcome.

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::kv_client::KvClient;
use quorate::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::runtime::Env;
use tonic::Status;

use super::{Calls, Connection, Consistency};
use crate::history::{Outcome, Request};

/// Largest answer a client accepts.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Sends `request` and waits at most `timeout`. The call is abandoned on time-out: its outcome is
/// unknown then.
pub async fn call(env: &Env, connection: &Connection, request: &Request, timeout: Duration) -> Outcome {
    match env.timeout(timeout, send(connection.calls(), request)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::unknown(format!("no answer within {timeout:?}")),
    }
}

async fn send(calls: Calls, request: &Request) -> Outcome {
    let mut kv = KvClient::new(calls.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    let mut lease = LeaseClient::new(calls);
    match request {
        Request::Range(r) => kv.range(r.clone()).await.into(),
        Request::Put(r) => kv.put(r.clone()).await.into(),
        Request::Delete(r) => kv.delete_range(r.clone()).await.into(),
        Request::Txn(r) => kv.txn(r.clone()).await.into(),
        Request::Compact(r) => kv.compact(*r).await.into(),
        Request::LeaseGrant(r) => lease.lease_grant(*r).await.into(),
        Request::LeaseRevoke(r) => lease.lease_revoke(*r).await.into(),
        Request::LeaseTimeToLive(r) => lease.lease_time_to_live(*r).await.into(),
        Request::LeaseKeepAlive(r) => keep_alive(lease, *r).await,
    }
}

/// One renewal on a stream of its own.
async fn keep_alive(mut lease: LeaseClient<Calls>, request: pb::LeaseKeepAliveRequest) -> Outcome {
    let requests = futures_util::stream::iter([request]);
    let mut responses = match lease.lease_keep_alive(requests).await {
        Ok(response) => response.into_inner(),
        Err(status) => return status.into(),
    };
    match responses.message().await {
        Ok(Some(answer)) => Outcome::Ok(answer.into()),
        Ok(None) => Status::unavailable("the stream ended without an answer").into(),
        Err(status) => status.into(),
    }
}

/// What goes over the wire for a request that the history records as `request`.
pub fn wire_form(request: &Request, consistency: Consistency) -> Request {
    let mut request = request.clone();
    if consistency == Consistency::Stale {
        match &mut request {
            Request::Range(r) => r.serializable = true,
            Request::Txn(r) => {
                for op in r.success.iter_mut().chain(&mut r.failure) {
                    if let Some(Op::RequestRange(r)) = &mut op.request {
                        r.serializable = true;
                    }
                }
            }
            _ => {}
        }
    }
    request
}
