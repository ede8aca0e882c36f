//! Byte streams between processes, as TCP gives them.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connected, ordered, reliable byte stream: TCP, a Unix socket, or the simulator's.
pub struct Stream {
    io: Pin<Box<dyn Duplex>>,
    /// The other side, for logs: "host:port".
    pub peer: String,
    /// What was read already, to be read again.
    put_back: Bytes,
}

/// Both directions of a stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + 'static> Duplex for T {}

impl Stream {
    pub fn new(io: impl Duplex, peer: impl Into<String>) -> Self {
        Stream {
            io: Box::pin(io),
            peer: peer.into(),
            put_back: Bytes::new(),
        }
    }

    /// What is read next, before anything else: whoever looked at it was not the one it is for.
    pub fn put_back(&mut self, read: impl Into<Bytes>) {
        debug_assert!(
            self.put_back.is_empty(),
            "what is put back is read before more is"
        );
        self.put_back = read.into();
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.put_back.is_empty() {
            let length = buf.remaining().min(self.put_back.len());
            buf.put_slice(&self.put_back[..length]);
            self.put_back.advance(length);
            return Poll::Ready(Ok(()));
        }
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
