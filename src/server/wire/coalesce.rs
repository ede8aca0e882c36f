//! Gathers what a connection has to say into fewer writes.
//!
//! The commands of one raft entry are answered at the same moment, each by the task of its call, and each
//! wakes its connection, which would write at once: a system call or two per answer. Here small writes are copied into a
//! buffer, and a connection that flushes it first lets the tasks that can run now run, once: their answers go out with it
//! (grpc-go does the same). Where no other answer is under way, nor a stream open, there is nothing to wait for, and a task
//! that wakes itself makes tokio wake another thread, too.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unread::Unread;

/// Bytes that wait for a flush; what does not fit is written past the buffer.
const BUFFERED_BYTES_MAX: usize = 16 * 1024;
/// A buffer that has grown beyond this is not kept for the next time.
const BUFFER_BYTES_KEPT: usize = 2 * 1024;

/// A stream that is written to when it is flushed, after one turn of the scheduler.
pub struct WriteCoalescer<S> {
    stream: S,
    /// The answers that it writes.
    answers: Unread,
    buffer: BytesMut,
    /// Others had their turn since the last flush.
    yielded: bool,
}

impl<S> WriteCoalescer<S> {
    pub fn new(stream: S, answers: Unread) -> Self {
        WriteCoalescer {
            stream,
            answers,
            buffer: BytesMut::new(),
            yielded: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> WriteCoalescer<S> {
    /// Writes what is buffered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.buffer.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.buffer))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.buffer.advance(written),
            }
        }
        if self.buffer.capacity() > BUFFER_BYTES_KEPT {
            self.buffer = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteCoalescer<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteCoalescer<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if self.buffer.len() + length <= BUFFERED_BYTES_MAX {
            for part in parts {
                self.buffer.extend_from_slice(part);
            }
            return Poll::Ready(Ok(length));
        }
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() && !self.yielded && self.answers.is_any_under_way() {
            self.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.poll_drain(cx))?;
        self.yielded = false;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
