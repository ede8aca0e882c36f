//! Frames: `length: u32 LE | crc32c(body): u32 LE | body`. A frame without a body says that nothing follows.
//!
//! The checksum is there because TCP's 16 bits let through what a bad switch or memory damages, and a
//! damaged entry would be logged with a good checksum of its own. Length is bounded before allocation.
//!
//! The end is a frame because TCP's end-of-stream is no message: many a proxy or relay between two members takes
//! the end of one direction for that of the connection, and drops what is under way in the other. So no side
//! closes its direction alone, and an end-of-stream without an end before it is an error.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};

use super::malformed;
use crate::base::limits;
use crate::base::metrics::PeerMetrics;
use crate::runtime::Stream;
use crate::runtime::buggify::{self, Site};

const HEADER_BYTES: usize = 8;
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// The receiving side of a connection.
pub struct FrameReader {
    stream: BufReader<ReadHalf<Stream>>,
    metrics: Option<Arc<PeerMetrics>>,
}

/// The sending side of a connection. Frames are buffered until [`flush`](Self::flush).
pub struct FrameWriter {
    stream: WriteHalf<Stream>,
    buffer: BytesMut,
    metrics: Option<Arc<PeerMetrics>>,
}

pub(super) fn split(stream: Stream) -> (FrameReader, FrameWriter) {
    let (reader, writer) = tokio::io::split(stream);
    let buffer_bytes = buggify::limit(Site::PeerTinyBuffer, READ_BUFFER_BYTES, 100);
    let reader = FrameReader {
        stream: BufReader::with_capacity(buffer_bytes, reader),
        metrics: None,
    };
    (
        reader,
        FrameWriter {
            stream: writer,
            buffer: BytesMut::new(),
            metrics: None,
        },
    )
}

impl FrameReader {
    /// From now on what comes in is counted.
    pub(super) fn count(&mut self, metrics: Arc<PeerMetrics>) {
        self.metrics = Some(metrics);
    }

    /// The next frame; `None` when the other side has said that nothing follows.
    ///
    /// # Errors
    /// `ConnectionAborted` if the other side hung up between two frames without saying so.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let next = read(&mut self.stream, limits::PEER_FRAME_BYTES_MAX).await;
        if let Some(metrics) = &self.metrics {
            match &next {
                Ok(Some(body)) => metrics.received_bytes.add((HEADER_BYTES + body.len()) as u64),
                Ok(None) => {}
                // Nothing was cut off.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => metrics.received_failures.inc(),
            }
        }
        next
    }
}

async fn read<R: AsyncRead + Unpin>(stream: &mut R, bytes_max: usize) -> io::Result<Option<Bytes>> {
    let mut header = [0; HEADER_BYTES];
    let first = stream.read(&mut header).await?;
    if first == 0 {
        return Err(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the peer hung up",
        ));
    }
    stream.read_exact(&mut header[first..]).await?;
    let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if length > bytes_max {
        return Err(malformed(format!("frame of {length} bytes")));
    }
    let mut body = BytesMut::zeroed(length);
    stream.read_exact(&mut body).await?;
    if crc32c::crc32c(&body) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(malformed("frame with a wrong checksum"));
    }
    Ok((length > 0).then(|| body.freeze()))
}

/// The first frame of a connection, before it is known who sends it: small, and nothing behind it is read.
pub(super) async fn read_first(stream: &mut Stream) -> io::Result<Bytes> {
    let first = read(stream, limits::PEER_HELLO_BYTES_MAX).await?;
    first.ok_or_else(|| malformed("nothing where a handshake belongs"))
}

/// Sends the first frame of a connection.
pub(super) async fn write_first(stream: &mut Stream, body: &[u8]) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    put(&mut buffer, &[body]);
    stream.write_all_buf(&mut buffer).await?;
    stream.flush().await
}

fn put(buffer: &mut BytesMut, parts: &[impl AsRef<[u8]>]) {
    let parts = || parts.iter().map(AsRef::as_ref);
    let length = parts().map(<[u8]>::len).sum();
    assert!(
        (1..=limits::PEER_FRAME_BYTES_MAX).contains(&length),
        "messages are not empty, batches and chunks are far below the frame limit"
    );
    buffer.reserve(HEADER_BYTES + length);
    buffer.put_u32_le(length as u32);
    buffer.put_u32_le(parts().fold(0, crc32c::crc32c_append));
    parts().for_each(|part| buffer.put_slice(part));
}

impl FrameWriter {
    /// Adds a frame made of parts, which need not be copied together first.
    pub fn push(&mut self, parts: &[impl AsRef<[u8]>]) {
        put(&mut self.buffer, parts);
    }

    /// From now on what goes out is counted.
    pub(super) fn count(&mut self, metrics: Arc<PeerMetrics>) {
        self.metrics = Some(metrics);
    }

    /// Sends what was pushed.
    pub async fn flush(&mut self) -> io::Result<()> {
        let bytes = self.buffer.len();
        let flushed = self.write().await;
        if let Some(metrics) = &self.metrics {
            match &flushed {
                Ok(()) => metrics.sent_bytes.add(bytes as u64),
                Err(_) => metrics.lost(),
            }
        }
        flushed
    }

    async fn write(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.buffer).await?;
        self.stream.flush().await
    }

    /// One frame, sent at once.
    pub async fn send(&mut self, body: &[u8]) -> io::Result<()> {
        self.send_parts(&[body]).await
    }

    /// The same, made of parts.
    pub async fn send_parts(&mut self, parts: &[impl AsRef<[u8]>]) -> io::Result<()> {
        self.push(parts);
        self.flush().await
    }

    /// Bytes that wait for [`flush`](Self::flush).
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Tells the other side that nothing follows. The connection stays open: there may be answers to come.
    pub async fn end(&mut self) -> io::Result<()> {
        // No bytes, and their checksum.
        self.buffer.put_bytes(0, HEADER_BYTES);
        self.flush().await
    }
}

#[cfg(test)]
mod tests;
