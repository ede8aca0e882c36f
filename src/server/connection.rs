//! Connections: accepting, HTTP/1.1 or HTTP/2 by the first bytes, hyper's executor and timer from [`Env`],
//! and a stop that lets calls under way finish.
//!
//! What a connection may take is bounded: flow-control windows, header bytes, frames, unsent bytes per stream.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::sync::oneshot;

use super::authority::AnyAuthority;
use super::front::Front;
use super::gather::Gather;
use crate::runtime::timer::EnvTimer;
use crate::runtime::tls::Security;
use crate::runtime::{BoxFuture, Env, Listener, Stream, signal};

/// Bytes a client may send on one stream before we read them.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes a client may send on one connection before we read them.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// Unsent bytes of one stream that hyper keeps.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// All headers of a request together.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// An HTTP/1.1 request's head.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// etcd's limit for the head of an HTTP/1.1 request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(300);
/// Pause after an accept failed: what is short (file descriptors) does not come back at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);
/// Longer than a connection takes to notice that its time is over.
const STOP_SLACK: Duration = Duration::from_millis(100);

/// When an idle client is pinged, and how long it may take to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalive {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Default for Keepalive {
    /// etcd's, which are gRPC's.
    fn default() -> Self {
        Keepalive {
            interval: Duration::from_secs(2 * 3600),
            timeout: Duration::from_secs(20),
        }
    }
}

/// Runs hyper's work as tasks of the environment.
#[derive(Clone)]
struct Executor(Env);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        self.0.spawn_detached(future);
    }
}

/// Every open connection of a server.
pub struct Connections {
    env: Env,
    http: auto::Builder<Executor>,
    open: Mutex<Open>,
    count: signal::Sender<usize>,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// What tells a connection to stop, and how long it may take.
    stops: BTreeMap<u64, oneshot::Sender<Duration>>,
}

impl Connections {
    pub fn new(env: Env, max_concurrent_streams: u32, keepalive: Keepalive) -> Arc<Self> {
        let timer = EnvTimer::new(env.clone());
        let mut http = auto::Builder::new(Executor(env.clone()));
        http.http1()
            .timer(timer.clone())
            .header_read_timeout(HEADER_READ_TIMEOUT)
            // As Go writes them: scripts look for "Content-Type".
            .title_case_headers(true)
            .max_buf_size(HTTP1_BUFFER_BYTES_MAX)
            // hyper's date comes from the system's clock.
            .auto_date_header(false);
        http.http2()
            .timer(timer)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .max_concurrent_streams(max_concurrent_streams)
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .auto_date_header(false);
        let (count, _) = signal::channel(0);
        Arc::new(Connections {
            env,
            http,
            open: Mutex::default(),
            count,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts until it is aborted.
    pub async fn accept(self: Arc<Self>, listener: Box<dyn Listener>, security: Security, front: Front) {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let stop = self.open();
                    let serving = self.clone().begin(stream, security.clone(), front.clone(), stop);
                    self.env.spawn(serving);
                }
                Err(error) => {
                    tracing::warn!(%error, address = listener.local_address(), "cannot accept a connection");
                    self.env.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    fn open(&self) -> (u64, oneshot::Receiver<Duration>) {
        let (stop, stopped) = oneshot::channel();
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.stops.insert(number, stop);
        drop(open);
        self.count(1);
        (number, stopped)
    }

    fn count(&self, by: isize) {
        self.count.send_if_modified(|count| {
            *count = count.saturating_add_signed(by);
            true
        });
    }

    /// Shakes hands, if that is how connections begin here, and serves.
    async fn begin(
        self: Arc<Self>,
        stream: Stream,
        security: Security,
        front: Front,
        stop: (u64, oneshot::Receiver<Duration>),
    ) {
        let peer = stream.peer.clone();
        match security.accept(&self.env, stream).await {
            Ok(accepted) => {
                let front = front.of(accepted.is_tls, accepted.common_name);
                self.serve(accepted.stream, front, stop).await;
            }
            Err(refused) => {
                tracing::warn!(
                    "remote-addr" = peer,
                    "server-name" = refused.server_name,
                    error = refused.error,
                    "rejected connection on client endpoint"
                );
                self.close(stop.0);
            }
        }
    }

    async fn serve(
        self: Arc<Self>,
        stream: Stream,
        front: Front,
        (number, stop): (u64, oneshot::Receiver<Duration>),
    ) {
        let peer = stream.peer.clone();
        let io = TokioIo::new(Gather::new(AnyAuthority::new(stream)));
        let mut connection = pin!(self.http.serve_connection_with_upgrades(io, front));
        let mut stop = Some(stop);
        let mut deadline: Option<BoxFuture<'static, ()>> = None;
        let ended = poll_fn(|cx| {
            if let Some(waiting) = &mut stop
                && let Poll::Ready(told) = Pin::new(waiting).poll(cx)
            {
                stop = None;
                deadline = told.ok().map(|drain| self.env.sleep(drain));
                connection.as_mut().graceful_shutdown();
            }
            if let Some(deadline) = &mut deadline
                && deadline.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Ok(()));
            }
            connection.as_mut().poll(cx)
        });
        if let Err(error) = ended.await {
            tracing::debug!(%error, peer, "a connection ended");
        }
        self.close(number);
    }

    fn close(&self, number: u64) {
        self.lock().stops.remove(&number);
        self.count(-1);
    }

    /// Tells every connection to finish what is under way, and waits for at most about `drain`.
    pub async fn stop(&self, drain: Duration) {
        let stops = std::mem::take(&mut self.lock().stops);
        for stop in stops.into_values() {
            // A connection that has ended just now needs no telling.
            let _ = stop.send(drain);
        }
        let mut count = self.count.subscribe();
        let closed = count.wait_until(|count| *count == 0);
        if self.env.timeout(drain + STOP_SLACK, closed).await.is_err() {
            tracing::warn!("connections are still open after the stop");
        }
    }
}
