//! Frames: `length: u32 LE | crc32c(body): u32 LE | body`.
//!
//! The checksum is there because TCP's 16 bits let through what a bad switch or memory damages, and a
//! damaged entry would be logged with a good checksum of its own. Length is bounded before allocation.

use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};

use super::malformed;
use crate::base::figures::PeerFigures;
use crate::base::limits;
use crate::runtime::Stream;
use crate::runtime::buggify::{self, Site};

const HEADER_BYTES: usize = 8;
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// The receiving side of a connection.
pub struct FrameReader {
    stream: BufReader<ReadHalf<Stream>>,
    figures: Option<Arc<PeerFigures>>,
}

/// The sending side of a connection. Frames are buffered until [`flush`](Self::flush).
pub struct FrameWriter {
    stream: WriteHalf<Stream>,
    buffer: BytesMut,
    figures: Option<Arc<PeerFigures>>,
}

pub(super) fn split(stream: Stream) -> (FrameReader, FrameWriter) {
    let (reader, writer) = tokio::io::split(stream);
    let buffer_bytes = buggify::limit(Site::PeerTinyBuffer, READ_BUFFER_BYTES, 100);
    let reader = FrameReader {
        stream: BufReader::with_capacity(buffer_bytes, reader),
        figures: None,
    };
    (
        reader,
        FrameWriter {
            stream: writer,
            buffer: BytesMut::new(),
            figures: None,
        },
    )
}

impl FrameReader {
    /// From now on what comes in is counted.
    pub(super) fn count(&mut self, figures: Arc<PeerFigures>) {
        self.figures = Some(figures);
    }

    /// The next frame; `None` at an end of stream between frames.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let next = self.read().await;
        if let Some(figures) = &self.figures {
            match &next {
                Ok(Some(body)) => figures.received_bytes.add((HEADER_BYTES + body.len()) as u64),
                Ok(None) => {}
                Err(_) => figures.received_failures.inc(),
            }
        }
        next
    }

    async fn read(&mut self) -> io::Result<Option<Bytes>> {
        let mut header = [0; HEADER_BYTES];
        let first = self.stream.read(&mut header).await?;
        if first == 0 {
            return Ok(None);
        }
        self.stream.read_exact(&mut header[first..]).await?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > limits::PEER_FRAME_BYTES_MAX {
            return Err(malformed(format!("frame of {length} bytes")));
        }
        let mut body = BytesMut::zeroed(length);
        self.stream.read_exact(&mut body).await?;
        if crc32c::crc32c(&body) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(malformed("frame with a wrong checksum"));
        }
        Ok(Some(body.freeze()))
    }
}

impl FrameWriter {
    /// Adds a frame made of two parts, so that a small head need not be copied together with its body.
    pub fn push(&mut self, head: &[u8], body: &[u8]) {
        let length = head.len() + body.len();
        assert!(
            length <= limits::PEER_FRAME_BYTES_MAX,
            "batches and chunks are far below the frame limit"
        );
        self.buffer.reserve(HEADER_BYTES + length);
        self.buffer.put_u32_le(length as u32);
        self.buffer
            .put_u32_le(crc32c::crc32c_append(crc32c::crc32c(head), body));
        self.buffer.put_slice(head);
        self.buffer.put_slice(body);
    }

    /// From now on what goes out is counted.
    pub(super) fn count(&mut self, figures: Arc<PeerFigures>) {
        self.figures = Some(figures);
    }

    /// Sends what was pushed.
    pub async fn flush(&mut self) -> io::Result<()> {
        let bytes = self.buffer.len();
        let flushed = self.write().await;
        if let Some(figures) = &self.figures {
            match &flushed {
                Ok(()) => figures.sent_bytes.add(bytes as u64),
                Err(_) => figures.lost(),
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
        self.push(&[], body);
        self.flush().await
    }

    /// Bytes that wait for [`flush`](Self::flush).
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Tells the other side that nothing follows.
    pub async fn close(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.stream.shutdown().await
    }
}
