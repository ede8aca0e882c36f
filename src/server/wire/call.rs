//! What every call passes through: who may call, how long it may take, and counting.
//!
//! tonic's transport is absent, so the client's deadline (`grpc-timeout`) is enforced here, around the handler,
//! where grpc-go's interceptors would be. Handlers know nothing of metadata; they return
//! [`Denied`] and leave codes to [`super::status`].

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use futures_util::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::rpc::Rpc;
use super::status::status;
use super::streams::{Guarded, Record, Requests};
use crate::base::Denied;
use crate::runtime::buggify::{Site, pause};
use crate::runtime::{Instant, panics};
use crate::server::api::Api;
use crate::server::auth::Caller;
use crate::server::spans::Span;

/// The longest pause before an answer, in a simulation.
const ANSWER_PAUSE: Duration = Duration::from_secs(2);

/// What a call may do, from its metadata.
struct Admission {
    needs_leader: bool,
    timeout: Option<Duration>,
}

/// Counts the end of a unary call, also of one whose client gave up.
struct Counted<'a> {
    api: &'a Api,
    rpc: Rpc,
    code: tonic::Code,
    begun: Instant,
    span: Option<Span>,
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if panics::is_unwinding() {
            self.code = tonic::Code::Internal;
        }
        let took = self.api.env.now() - self.begun;
        self.api.metrics.rpc(self.rpc).handled(self.code, took);
        if let Some(span) = self.span.take() {
            span.end(self.code);
        }
        if took > self.api.options.slow.call {
            let (service, method, _) = self.rpc.describe();
            tracing::warn!(
                "time spent" = ?took,
                "response type" = format!("/{service}/{method}"),
                code = ?self.code,
                "request stats"
            );
        }
    }
}

impl Api {
    /// Runs a unary call. `on_learner`: whether a learner serves this very request.
    pub async fn unary<Req: Any, Res, F>(
        &self,
        rpc: Rpc,
        on_learner: bool,
        request: Request<Req>,
        handle: impl FnOnce(Req, Caller) -> F,
    ) -> Result<Response<Res>, Status>
    where
        F: Future<Output = Result<Res, Denied>>,
    {
        let counters = self.metrics.rpc(rpc);
        counters.started.inc();
        counters.msg_received.inc();
        let mut counted = Counted {
            api: self,
            rpc,
            code: tonic::Code::Cancelled,
            begun: self.env.now(),
            span: self.span(rpc, &request),
        };
        let admitted = self.admit(rpc, on_learner, request.metadata());
        let call = |request: Request<Req>| async {
            let caller = self.caller(request.metadata(), request.extensions());
            self.admit_rights(rpc.rights(), &caller).await?;
            let answer = handle(request.into_inner(), caller).await;
            pause(&self.env, Site::AnsweredLate, ANSWER_PAUSE).await;
            answer
        };
        let result = match admitted {
            Err(denied) => Err(denied),
            Ok(Admission { timeout: None, .. }) => call(request).await,
            Ok(Admission {
                timeout: Some(timeout),
                ..
            }) => {
                let call = self.env.timeout(timeout, call(request));
                call.await.unwrap_or(Err(late(rpc)))
            }
        };
        match result {
            Ok(answer) => {
                counted.code = tonic::Code::Ok;
                counters.msg_sent.inc();
                Ok(Response::new(answer))
            }
            Err(denied) => {
                let status = status(denied);
                counted.code = status.code();
                Err(status)
            }
        }
    }

    /// Opens a stream of answers.
    pub async fn stream<Req: Any, T, S>(
        &self,
        rpc: Rpc,
        on_learner: bool,
        request: Request<Req>,
        open: impl FnOnce(Req, Caller) -> Result<S, Denied>,
    ) -> Result<Response<Guarded<S>>, Status>
    where
        S: Stream<Item = Result<T, Status>>,
    {
        let counters = self.metrics.rpc(rpc);
        counters.started.inc();
        let begun = self.env.now();
        let span = self.span(rpc, &request);
        let opened = async {
            let admission = self.admit(rpc, on_learner, request.metadata())?;
            let caller = self.caller(request.metadata(), request.extensions());
            self.admit_rights(rpc.rights(), &caller).await?;
            let stream = open(request.into_inner(), caller)?;
            Ok((admission, stream))
        };
        match opened.await {
            Ok((admission, stream)) => {
                let deadline = admission.timeout.map(|timeout| self.env.sleep(timeout));
                let record = Record {
                    metrics: self.metrics.clone(),
                    rpc,
                    env: self.env.clone(),
                    begun,
                    span,
                };
                let needs_leader = admission.needs_leader;
                let guarded = Guarded::new(&self.streams, record, needs_leader, deadline, stream);
                Ok(Response::new(guarded))
            }
            Err(denied) => {
                let status = status(denied);
                counters.handled(status.code(), self.env.now() - begun);
                if let Some(span) = span {
                    span.end(status.code());
                }
                Err(status)
            }
        }
    }

    /// Opens a stream of answers to a stream of requests, of which no learner serves any. `label`: see [`Requests`].
    pub async fn exchange<Req: 'static, T, S>(
        &self,
        rpc: Rpc,
        label: &'static str,
        request: Request<Streaming<Req>>,
        open: impl FnOnce(Requests<Streaming<Req>>, Caller) -> S,
    ) -> Result<Response<Guarded<S>>, Status>
    where
        S: Stream<Item = Result<T, Status>>,
    {
        let request = request.map(|requests| Requests::new(&self.metrics, rpc, label, requests));
        self.stream(rpc, false, request, |requests, caller| Ok(open(requests, caller)))
            .await
    }

    fn span<Req: Any>(&self, rpc: Rpc, request: &Request<Req>) -> Option<Span> {
        let spans = self.spans.as_ref()?;
        spans.begin(rpc, request.metadata(), request.get_ref())
    }

    /// In etcd's order: learner, client version, leader.
    fn admit(&self, rpc: Rpc, on_learner: bool, metadata: &MetadataMap) -> Result<Admission, Denied> {
        if self.stopping.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Denied::Stopped);
        }
        if self.consensus.is_learner() && !on_learner {
            return Err(Denied::NotSupportedForLearner);
        }
        let version = metadata
            .get("client-api-version")
            .map(|value| std::str::from_utf8(value.as_encoded_bytes()));
        let version = version.transpose().map_err(|_| Denied::InvalidClientApiVersion)?;
        let (_, _, kind) = rpc.describe();
        self.metrics.client_request(version, kind.is_stream());
        let needs_leader = metadata
            .get("hasleader")
            .is_some_and(|value| value.as_encoded_bytes() == b"true");
        if needs_leader && self.standing.leader().is_none() {
            return Err(Denied::NoLeader);
        }
        let timeout = metadata
            .get("grpc-timeout")
            .and_then(|value| parse_timeout(value.as_encoded_bytes()));
        Ok(Admission {
            needs_leader,
            timeout,
        })
    }
}

/// What a call ends with whose client's deadline has come. A client whose own clock is not there yet sends the call
/// again if it reads `DEADLINE_EXCEEDED`, so a write, which may be under way, ends as etcd's does.
fn late(rpc: Rpc) -> Denied {
    match rpc.is_repeatable() {
        true => Denied::ContextDeadlineExceeded,
        false => Denied::Timeout,
    }
}

/// `grpc-timeout`: up to eight digits and a unit.
pub fn parse_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
