//! Byte streams between processes, as TCP gives them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connected, ordered, reliable byte stream: TCP, a Unix socket, or the simulator's.
pub struct Stream {
    io: Pin<Box<dyn Duplex>>,
    /// The other side, for logs: "host:port".
    pub peer: String,
}

/// Both directions of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + 'static> Duplex for T {}

impl Stream {
    pub fn new(io: impl Duplex, peer: impl Into<String>) -> Self {
        Stream {
            io: Box::pin(io),
            peer: peer.into(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io.as_mut().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.as_mut().poll_shutdown(cx)
    }
}

/// A bound port.
pub trait Listener: Send + Sync {
    /// The next connection. An error concerns that connection alone (or a passing shortage): go on.
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>>;
    /// "host:port", with the port that was picked.
    fn local_address(&self) -> String;
}
