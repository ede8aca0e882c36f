//! The boundary around each request: a panic on its inside costs that request and nothing else.
//!
//! ```text
//!   hyper ─► Answering ─► [ handler ] ─► response ─► AnswerBody ─► [ stream of answers ]
//!                └── panicked: INTERNAL, or 500           └── panicked: INTERNAL, or the end of the connection
//! ```
//!
//! Whatever a request runs is polled and dropped inside [`contain`]; what has ended or panicked is dropped at once,
//! so that nothing is polled after its end, neither a handler's stream nor the client's body ([`Received`]).

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::uri::PathAndQuery;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use prometheus::IntCounter;
use tonic::Status;

use super::rpc::Rpc;
use super::{status, unread};
use crate::runtime::panics::contain;
use crate::runtime::{BoxFuture, Env};

const FAILED: &str = "internal error: the server panicked while it served this request";

type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Answer = BoxFuture<'static, Result<Response<tonic::body::Body>, Infallible>>;

/// How a request is answered, and so how its failure is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http,
}

/// What is known of a request while it is served.
struct Served {
    env: Env,
    protocol: Protocol,
    method: http::Method,
    path: Option<PathAndQuery>,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        match self.protocol {
            Protocol::Grpc => f.write_str(path),
            Protocol::Http => write!(f, "{} {path}", self.method),
        }
    }
}

impl Served {
    /// Runs a part of the request; `None` if that panicked.
    fn contain<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        contain(work)
            .map_err(|panic| self.env.panicked(self, &panic))
            .ok()
    }

    fn is_unary(&self) -> bool {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        Rpc::of_path(path).is_some_and(|rpc| !rpc.describe().2.is_stream())
    }

    fn failure(&self) -> Response<tonic::body::Body> {
        match self.protocol {
            Protocol::Grpc => Status::internal(FAILED).into_http(),
            Protocol::Http => super::http::error(StatusCode::INTERNAL_SERVER_ERROR, FAILED),
        }
    }
}

/// The answer to one request on its way.
pub struct Answering {
    answer: Option<Answer>,
    /// Taken by the body.
    served: Option<Served>,
    /// Where sent bytes are counted.
    sent: Option<IntCounter>,
    /// Where unread ones are.
    held: unread::Answer,
}

impl Answering {
    /// `serve` begins to serve the request.
    pub fn new<B>(
        env: &Env,
        protocol: Protocol,
        sent: Option<IntCounter>,
        request: Request<B>,
        serve: impl FnOnce(Request<B>) -> Answer,
    ) -> Self {
        let served = Served {
            env: env.clone(),
            protocol,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
        };
        let held = request.extensions().get::<unread::Answer>().cloned();
        let answer = served.contain(|| serve(request));
        Answering {
            answer,
            served: Some(served),
            sent,
            held: held.unwrap_or_default(),
        }
    }
}

impl Future for Answering {
    type Output = Result<Response<AnswerBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let served = this
            .served
            .as_ref()
            .expect("a future is not polled after its end");
        let answer = this.answer.as_mut();
        let polled = answer.and_then(|answer| served.contain(|| answer.as_mut().poll(cx)));
        let mut response = match polled {
            Some(Poll::Pending) => return Poll::Pending,
            Some(Poll::Ready(Ok(response))) => response,
            None => served.failure(),
        };
        served.contain(|| this.answer = None);
        // A status in the headers is a refusal before the first message: rare, so looking costs nothing.
        if served.protocol == Protocol::Grpc && response.headers().contains_key(Status::GRPC_STATUS) {
            status::correct(response.headers_mut(), served.is_unary());
        }
        let (served, sent) = (this.served.take(), this.sent.take());
        Poll::Ready(Ok(response.map(|body| AnswerBody {
            body: Counted::new(body, sent),
            served: served.expect("taken once"),
            held: this.held.clone(),
        })))
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        // The client left in the middle.
        if let Some(served) = &self.served {
            served.contain(|| self.answer = None);
        }
    }
}

fn trailers(status: &Status) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

/// The body of an answer.
pub struct AnswerBody {
    body: Counted<tonic::body::Body>,
    served: Served,
    held: unread::Answer,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let body = &mut this.body;
        if let Some(polled) = this.served.contain(|| Pin::new(&mut *body).poll_frame(cx)) {
            let frame = ready!(polled);
            return Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|data| this.held.keep(data)))));
        }
        this.served.contain(|| body.end());
        let status = Status::internal(FAILED);
        Poll::Ready(Some(match this.served.protocol {
            Protocol::Grpc => trailers(&status),
            Protocol::Http => Err(status),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.served.contain(|| self.body.end());
    }
}

/// A body whose bytes are counted, and that has one end, however often it is asked: what is behind it is dropped there.
struct Counted<B> {
    /// `None` after the end.
    body: Option<B>,
    counter: Option<IntCounter>,
}

impl<B> Counted<B> {
    fn new(body: B, counter: Option<IntCounter>) -> Self {
        Counted {
            body: Some(body),
            counter,
        }
    }

    fn end(&mut self) {
        self.body = None;
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(counter)) = (frame.data_ref(), &this.counter) {
                    counter.inc_by(data.remaining() as u64);
                }
            }
            None | Some(Err(_)) => this.end(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// Where in a body of gRPC we are: before each message stand a flag and its length.
#[derive(Default)]
struct Framing {
    head: [u8; 5],
    /// How much of the head has come.
    come: usize,
    /// What of the message has not.
    missing: usize,
}

impl Framing {
    fn pass(&mut self, mut data: &[u8]) {
        while let Some((&byte, rest)) = data.split_first() {
            if self.missing > 0 {
                let length = self.missing.min(data.len());
                self.missing -= length;
                data = data.get(length..).unwrap_or_default();
                continue;
            }
            self.head[self.come] = byte;
            self.come += 1;
            data = rest;
            if let [_, length @ ..] = self.head
                && self.come == self.head.len()
            {
                self.come = 0;
                self.missing = u32::from_be_bytes(length) as usize;
            }
        }
    }
}

/// The body of a gRPC request: an end in the middle of a message is an error, also right behind the head, where tonic
/// takes it for the end of the requests.
pub struct Received<B> {
    body: Counted<B>,
    framing: Framing,
}

impl<B> Received<B> {
    pub fn new(body: B, counter: &IntCounter) -> Self {
        Received {
            body: Counted::new(body, Some(counter.clone())),
            framing: Framing::default(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Received<B>
where
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.framing.pass(data);
        }
        if frame.is_none() && std::mem::take(&mut self.framing).missing > 0 {
            return Poll::Ready(Some(Err(Status::internal(status::TONIC_TRUNCATED).into())));
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.framing.missing == 0 && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
