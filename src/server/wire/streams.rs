//! Open streams, and what ends them: a stop, a lost leader, the client's deadline, a request that cannot be read.
//!
//! ```text
//!   Guarded ── polls ──► its End (stopped? no leader? deadline?) ──► then the stream itself ── polls ──► Requests
//!      │                                                                                                    │
//!      └── counts what was sent, and the code it ended with                 counts what came; an error is the last
//!          (Canceled if the client left)
//! ```
//!
//! Ending is a flag and a wake-up per stream, so that a stream pays nothing for it while it runs.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use tonic::Status;

use super::rpc::Rpc;
use super::status::{of_request, status};
use crate::base::Denied;
use crate::runtime::{BoxFuture, Env, Instant};
use crate::server::metrics::Metrics;
use crate::server::spans::Span;

/// The server's hold on one stream.
#[derive(Default)]
struct End {
    needs_leader: bool,
    reason: OnceLock<Denied>,
    waker: AtomicWaker,
}

impl End {
    fn end(&self, reason: Denied) {
        // The first reason counts.
        let _ = self.reason.set(reason);
        self.waker.wake();
    }
}

/// Every open stream of a server.
#[derive(Default)]
pub struct Streams {
    open: Mutex<BTreeMap<u64, Arc<End>>>,
    next: AtomicU64,
    /// Set by the first [`end_all`](Self::end_all): later streams end at once.
    closed: OnceLock<Denied>,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<End>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self, needs_leader: bool) -> (u64, Arc<End>) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let end = Arc::new(End {
            needs_leader,
            ..End::default()
        });
        self.lock().insert(number, end.clone());
        // Looked at after the insertion, so that a stop between the two is seen by one of both.
        if let Some(&reason) = self.closed.get() {
            end.end(reason);
        }
        (number, end)
    }

    /// Ends the streams whose clients demanded a leader.
    pub fn end_leaderless(&self, reason: Denied) {
        self.lock()
            .values()
            .filter(|end| end.needs_leader)
            .for_each(|end| end.end(reason));
    }

    /// Ends every stream, also those that are opened later.
    pub fn end_all(&self, reason: Denied) {
        let _ = self.closed.set(reason);
        self.lock().values().for_each(|end| end.end(reason));
    }
}

/// A stream of answers with everything that may end it.
pub struct Guarded<S> {
    stream: Option<Pin<Box<S>>>,
    end: Arc<End>,
    number: u64,
    streams: Arc<Streams>,
    deadline: Option<BoxFuture<'static, ()>>,
    /// For good, if what is polled panics.
    is_polled: bool,
    record: Record,
}

/// What is written down of a call when it ends.
pub struct Record {
    pub metrics: Arc<Metrics>,
    pub rpc: Rpc,
    pub env: Env,
    pub begun: Instant,
    pub span: Option<Span>,
}

impl Record {
    fn end(&mut self, code: tonic::Code) {
        let took = self.env.now() - self.begun;
        self.metrics.rpc(self.rpc).handled(code, took);
        if let Some(span) = self.span.take() {
            span.end(code);
        }
    }
}

impl<S> Guarded<S> {
    pub fn new(
        streams: &Arc<Streams>,
        record: Record,
        needs_leader: bool,
        deadline: Option<BoxFuture<'static, ()>>,
        stream: S,
    ) -> Self {
        let (number, end) = streams.open(needs_leader);
        Guarded {
            stream: Some(Box::pin(stream)),
            end,
            number,
            streams: streams.clone(),
            deadline,
            is_polled: false,
            record,
        }
    }

    /// The stream is over: counts it, once, and lets go of all it held.
    fn finish(&mut self, code: tonic::Code) {
        if self.stream.take().is_some() {
            self.streams.lock().remove(&self.number);
            self.record.end(code);
        }
    }
}

impl<T, S: Stream<Item = Result<T, Status>>> Stream for Guarded<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(stream) = this.stream.as_mut() else {
            return Poll::Ready(None);
        };
        this.is_polled = true;
        this.end.waker.register(cx.waker());
        let mut reason = this.end.reason.get().copied();
        if let Some(deadline) = &mut this.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            reason = Some(Denied::ContextDeadlineExceeded);
        }
        if let Some(reason) = reason {
            let status = status(reason);
            this.finish(status.code());
            return Poll::Ready(Some(Err(status)));
        }
        let next = stream.as_mut().poll_next(cx);
        this.is_polled = false;
        let next = std::task::ready!(next);
        match &next {
            Some(Ok(_)) => this.record.metrics.rpc(this.record.rpc).msg_sent.inc(),
            Some(Err(status)) => {
                let code = status.code();
                this.finish(code);
            }
            None => this.finish(tonic::Code::Ok),
        }
        Poll::Ready(next)
    }
}

impl<S> Drop for Guarded<S> {
    fn drop(&mut self) {
        // The client went away in the middle, or it panicked.
        self.finish(match self.is_polled {
            true => tonic::Code::Internal,
            false => tonic::Code::Cancelled,
        });
    }
}

/// The requests of a client's stream, up to the first that cannot be read: its status is the last item. tonic's own
/// stream gives the same error again as often as it is asked, so no handler sees that.
pub struct Requests<S> {
    /// `None` after its end.
    stream: Option<S>,
    metrics: Arc<Metrics>,
    rpc: Rpc,
    /// What etcd calls the method where it counts streams that broke off.
    label: &'static str,
}

impl<S> Requests<S> {
    pub fn new(metrics: &Arc<Metrics>, rpc: Rpc, label: &'static str, stream: S) -> Self {
        Requests {
            stream: Some(stream),
            metrics: metrics.clone(),
            rpc,
            label,
        }
    }
}

impl<T, S: Stream<Item = Result<T, Status>> + Unpin> Stream for Requests<S> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        let next = std::task::ready!(Pin::new(stream).poll_next(cx));
        match &next {
            Some(Ok(_)) => this.metrics.rpc(this.rpc).msg_received.inc(),
            Some(Err(error)) => this.metrics.request_failed(this.label, error.code()),
            None => {}
        }
        if !matches!(next, Some(Ok(_))) {
            this.stream = None;
        }
        Poll::Ready(next.map(|request| request.map_err(of_request)))
    }
}

#[cfg(test)]
mod tests;
