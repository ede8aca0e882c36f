//! One request over one channel, as an outcome.

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::kv_client::KvClient;
use quorate::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::runtime::Env;
use tonic::{Response, Status};

use super::{Calls, Connection, Consistency};
use crate::history::{Answer, Outcome, Request};

/// Largest answer a client accepts: all keys of a long run.
const ANSWER_BYTES_MAX: usize = 1 << 30;

/// Sends `request` and waits at most `timeout`. The call is abandoned on time-out: its outcome is
/// unknown then.
pub async fn call(env: &Env, connection: &Connection, request: &Request, timeout: Duration) -> Outcome {
    match attempt(env, connection, request, timeout).await {
        Some(Ok(answer)) => Outcome::Ok(answer),
        Some(Err(status)) => status.into(),
        None => unanswered(timeout),
    }
}

/// Nobody answered in time.
pub(super) fn unanswered(timeout: Duration) -> Outcome {
    Outcome::unknown(format!("no answer within {timeout:?}"))
}

/// The answer to one request as it comes, or none in time.
pub(super) async fn attempt(
    env: &Env,
    connection: &Connection,
    request: &Request,
    timeout: Duration,
) -> Option<Result<Answer, Status>> {
    env.timeout(timeout, send(connection.calls(), request)).await.ok()
}

async fn send(calls: Calls, request: &Request) -> Result<Answer, Status> {
    let mut kv = KvClient::new(calls.clone()).max_decoding_message_size(ANSWER_BYTES_MAX);
    let mut lease = LeaseClient::new(calls);
    match request {
        Request::Range(r) => kv.range(r.clone()).await.map(answer),
        Request::Put(r) => kv.put(r.clone()).await.map(answer),
        Request::Delete(r) => kv.delete_range(r.clone()).await.map(answer),
        Request::Txn(r) => kv.txn(r.clone()).await.map(answer),
        Request::Compact(r) => kv.compact(*r).await.map(answer),
        Request::LeaseGrant(r) => lease.lease_grant(*r).await.map(answer),
        Request::LeaseRevoke(r) => lease.lease_revoke(*r).await.map(answer),
        Request::LeaseTimeToLive(r) => lease.lease_time_to_live(*r).await.map(answer),
        Request::LeaseKeepAlive(r) => keep_alive(lease, *r).await,
    }
}

fn answer<T: Into<Answer>>(response: Response<T>) -> Answer {
    response.into_inner().into()
}

/// One renewal on a stream of its own.
async fn keep_alive(
    mut lease: LeaseClient<Calls>,
    request: pb::LeaseKeepAliveRequest,
) -> Result<Answer, Status> {
    let requests = futures_util::stream::iter([request]);
    let mut responses = lease.lease_keep_alive(requests).await?.into_inner();
    let message = responses.message().await?;
    let ended = || Status::unavailable("the stream ended without an answer");
    message.map(Answer::from).ok_or_else(ended)
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
