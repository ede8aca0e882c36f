//! Connections: accepting, HTTP/1.1 or HTTP/2 by the first bytes, hyper's executor and timer from [`Env`],
//! and a stop that lets calls under way finish.
//!
//! What a connection may take is bounded: flow-control windows, header bytes, frames, unsent bytes per stream.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use super::authority_header::AnyAuthority;
use super::coalesce::WriteCoalescer;
use super::front::Front;
use crate::base::limits;
use crate::config::Keepalive;
use crate::runtime::admission::{AtMostOncePerSecond, Newcomer, Newcomers};
use crate::runtime::panics::Contained;
use crate::runtime::timer::EnvTimer;
use crate::runtime::tls::{Refused, Security};
use crate::runtime::{BoxFuture, Env, Listener, Stream, signal};

/// Unsent bytes of one stream that hyper keeps.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// All headers of a request together.
const HEADER_BYTES_MAX: u32 = 64 * 1024;
/// An HTTP/1.1 request's head.
const HTTP1_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// etcd's limit for the head of an HTTP/1.1 request.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(300);
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Pause after an accept failed: what is short (file descriptors) does not come back at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Longer than a connection takes to notice that its time is over.
const STOP_SLACK: Duration = Duration::from_millis(100);

/// Why a connection is not served.
enum NotHeard {
    Refused(Refused),
    /// It ended, or had to, before it said anything.
    Quiet(io::Error),
}

/// Waits until a client has said which protocol it speaks: HTTP/2's preface, or something that cannot become one.
async fn hear_protocol(stream: &mut Stream) -> io::Result<()> {
    let mut heard = [0; HTTP2_PREFACE.len()];
    let mut length = 0;
    while length < heard.len() && HTTP2_PREFACE.starts_with(&heard[..length]) {
        match stream.read(&mut heard[length..]).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => length += more,
        }
    }
    stream.put_back(heard[..length].to_vec());
    Ok(())
}

/// Runs hyper's work as tasks of the environment.
#[derive(Clone)]
struct Executor(Env);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        let name = "a client's stream";
        self.0.spawn_detached(Contained::new(&self.0, name, future));
    }
}

/// Every open connection of a server.
pub struct Connections {
    env: Env,
    http: auto::Builder<Executor>,
    open: Mutex<Open>,
    count: signal::Sender<usize>,
    clients_max: usize,
    /// Those that have not said anything yet.
    newcomers: Newcomers,
}

#[derive(Default)]
struct Open {
    next: u64,
    /// What tells a connection to stop, and how long it may take.
    stops: BTreeMap<u64, oneshot::Sender<Duration>>,
}

/// A connection that counts as open, however it ends.
struct Opened {
    connections: Arc<Connections>,
    number: u64,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.connections.lock().stops.remove(&self.number);
        self.connections.count(-1);
    }
}

impl Connections {
    pub fn new(env: Env, clients_max: usize, max_concurrent_streams: u32, keepalive: Keepalive) -> Arc<Self> {
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
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
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
            clients_max,
            // As many as may be connected at all: after a restart thousands come at once.
            newcomers: Newcomers::new(usize::MAX),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts until it is aborted.
    pub async fn accept(self: Arc<Self>, listener: Box<dyn Listener>, security: Security, front: Front) {
        let mut line = AtMostOncePerSecond::default();
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    self.wait_for_room(&mut line).await;
                    let (stop, newcomer) = (self.clone().open(), self.newcomers.enter());
                    let serving = self
                        .clone()
                        .begin(stream, security.clone(), front.clone(), stop, newcomer);
                    let name = "a client's connection";
                    self.env.spawn(Contained::new(&self.env, name, serving));
                }
                Err(error) => {
                    if line.is_due(self.env.now()) {
                        tracing::warn!(%error, address = listener.local_address(), "cannot accept a connection");
                    }
                    self.env.sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Where as many are connected as may be, who comes next has to wait, as in etcd; but not for one that has said
    /// nothing.
    async fn wait_for_room(&self, line: &mut AtMostOncePerSecond) {
        let mut count = self.count.subscribe();
        if *count.borrow() < self.clients_max {
            return;
        }
        self.newcomers.make_room();
        if line.is_due(self.env.now()) {
            tracing::warn!(
                limit = self.clients_max,
                "as many clients are connected as the limit on file descriptors allows; others have to wait"
            );
        }
        // The signal cannot close before the connections it counts.
        let _ = count.wait_until(|count| *count < self.clients_max).await;
    }

    fn open(self: Arc<Self>) -> (Opened, oneshot::Receiver<Duration>) {
        let (stop, stopped) = oneshot::channel();
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.stops.insert(number, stop);
        drop(open);
        self.count(1);
        let opened = Opened {
            connections: self,
            number,
        };
        (opened, stopped)
    }

    fn count(&self, by: isize) {
        self.count.send_if_modified(|count| {
            *count = count.saturating_add_signed(by);
            true
        });
    }

    /// Shakes hands, if that is how connections begin here, waits for what the client says, and serves.
    async fn begin(
        self: Arc<Self>,
        stream: Stream,
        security: Security,
        front: Front,
        stop: (Opened, oneshot::Receiver<Duration>),
        newcomer: Newcomer,
    ) {
        let peer = stream.peer.clone();
        let hello = async {
            let mut accepted = security
                .accept(&self.env, stream)
                .await
                .map_err(NotHeard::Refused)?;
            hear_protocol(&mut accepted.stream)
                .await
                .map_err(NotHeard::Quiet)?;
            Ok(accepted)
        };
        let heard = newcomer
            .until(&self.env, limits::CLIENT_HELLO_TIMEOUT, hello)
            .await;
        match heard.unwrap_or_else(|error| Err(NotHeard::Quiet(error))) {
            Ok(accepted) => {
                let front = front.of(accepted.is_tls, accepted.common_name);
                self.serve(accepted.stream, front, stop).await;
            }
            Err(NotHeard::Refused(refused)) => tracing::warn!(
                "remote-addr" = peer,
                "server-name" = refused.server_name,
                error = refused.error,
                "rejected connection on client endpoint"
            ),
            Err(NotHeard::Quiet(error)) => tracing::debug!(%error, peer, "a connection ended unheard"),
        }
    }

    async fn serve(
        self: Arc<Self>,
        stream: Stream,
        front: Front,
        (_opened, stop): (Opened, oneshot::Receiver<Duration>),
    ) {
        let peer = stream.peer.clone();
        let io = TokioIo::new(WriteCoalescer::new(AnyAuthority::new(stream), front.answers()));
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
    }

    /// Tells every connection to finish what is under way, and waits for at most about `drain`.
    pub async fn stop(&self, drain: Duration) {
        self.newcomers.send_away();
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
