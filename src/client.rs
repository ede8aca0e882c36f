//! A gRPC channel over one stream of an [`Env`]: what the generated clients of [`crate::proto`] need.
//!
//! Used by discovery, the simulator's clients, the black-box suite, the benchmarks and the tests, so that all
//! of them speak the same bytes. One channel is one HTTP/2 connection; it does not reconnect.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::client::conn::http2;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Uri, uri};

use crate::runtime::timer::EnvTimer;
use crate::runtime::{Env, Stream};

/// Runs hyper's background work as tasks of the environment.
#[derive(Clone)]
pub struct EnvExecutor(pub Env);

impl<F> hyper::rt::Executor<F> for EnvExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// How often the other side is asked whether it is still there, and how long it may take to answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pings {
    pub interval: Duration,
    pub timeout: Duration,
}

/// A connected gRPC channel. Clones share the connection.
#[derive(Clone)]
pub struct Channel {
    sender: http2::SendRequest<Body>,
    authority: uri::Authority,
}

impl Channel {
    /// Connects to "host:port" and speaks HTTP/2 from the first byte.
    pub async fn connect(env: &Env, address: &str, timeout: Duration) -> io::Result<Channel> {
        let stream = env.timeout(timeout, env.connect(address)).await??;
        Self::over(env, stream, address).await
    }

    /// A channel over a stream that is connected already.
    pub async fn over(env: &Env, stream: Stream, address: &str) -> io::Result<Channel> {
        Self::alive_over(env, stream, address, None).await
    }

    /// The same; while calls are under way the other side has to answer pings.
    pub async fn alive_over(
        env: &Env,
        stream: Stream,
        address: &str,
        pings: Option<Pings>,
    ) -> io::Result<Channel> {
        let authority = address.parse().map_err(io::Error::other)?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let mut builder = http2::Builder::new(EnvExecutor(env.clone()));
        builder
            .initial_stream_window_size(Some(1 << 20))
            .initial_connection_window_size(Some(4 << 20));
        if let Some(Pings { interval, timeout }) = pings {
            builder
                .timer(EnvTimer::new(env.clone()))
                .keep_alive_interval(interval)
                .keep_alive_timeout(timeout);
        }
        let (sender, connection) = builder.handshake(io).await.map_err(io::Error::other)?;
        // An error of the connection reaches every call that waits on it.
        env.spawn(async move { connection.await.is_ok() });
        Ok(Channel { sender, authority })
    }

    /// True once the connection is gone: calls can only fail.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

impl tower_service::Service<Request<Body>> for Channel {
    type Response = Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = BoxFuture<'static, Result<Self::Response, hyper::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.sender.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let mut parts = uri::Parts::from(std::mem::take(request.uri_mut()));
        parts.scheme = Some(uri::Scheme::HTTP);
        parts.authority = Some(self.authority.clone());
        *request.uri_mut() = Uri::from_parts(parts).expect("a path, a scheme and an authority make a URI");
        let response: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(self.sender.send_request(request));
        response
    }
}
