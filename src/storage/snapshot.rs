//! A snapshot on its way to a follower: the rows of a view, cut into checksummed chunks.
//!
//! ```text
//! chunk:  0 4 magic "QSNP"          8 8 sequence (0, 1, 2, ...)    16 1 kind   17 rows, or the end
//!         4 4 CRC-32C of 8..        every number is little-endian
//! kind 0, rows:  space (1), key length (4), value length (4), key, value; and so on; ascending
//! kind 1, end:   number of rows (8), CRC-32C over the rows of all chunks (4)
//! ```
//!
//! The receiver takes a chunk only if it is the next one, whole, and in order, and the snapshot only if the end
//! agrees with what came before. It knows nothing of what the rows mean.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::engine::View;
use crate::base::kv::{Batch, Space, Visit};
use crate::base::{Broken, limits};
use crate::runtime::buggify::{self, Site};

const MAGIC: &[u8; 4] = b"QSNP";
const HEADER: usize = 17;
const ROW_HEADER: usize = 9;
const ROWS: u8 = 0;
const END: u8 = 1;

/// Cuts a view into chunks. Reads the engine: production calls it where blocking is allowed.
pub struct SnapshotEncoder {
    view: Box<dyn View>,
    /// Where the next chunk begins: a space, and the first key that is not sent; `None` at the end.
    next: Option<(Space, Vec<u8>)>,
    sequence: u64,
    rows: u64,
    checksum: u32,
    ended: bool,
}

impl SnapshotEncoder {
    pub fn new(view: Box<dyn View>) -> Self {
        SnapshotEncoder {
            view,
            next: Space::ALL.first().map(|space| (*space, Vec::new())),
            sequence: 0,
            rows: 0,
            checksum: 0,
            ended: false,
        }
    }

    /// The next chunk, of about [`limits::SNAPSHOT_CHUNK_BYTES`]; `None` after the end.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.ended {
            return Ok(None);
        }
        let mut chunk = BytesMut::zeroed(HEADER);
        while let Some((space, from)) = self.next.take() {
            if let Some(key) = self.fill(&mut chunk, space, &from)? {
                self.next = Some((space, key));
                break;
            }
            self.next = Space::from_u8(space as u8 + 1).map(|space| (space, Vec::new()));
        }
        let kind = if chunk.len() > HEADER { ROWS } else { END };
        if kind == ROWS {
            self.checksum = crc32c::crc32c_append(self.checksum, &chunk[HEADER..]);
        } else {
            chunk.put_u64_le(self.rows);
            chunk.put_u32_le(self.checksum);
            self.ended = true;
        }
        chunk[..4].copy_from_slice(MAGIC);
        chunk[8..16].copy_from_slice(&self.sequence.to_le_bytes());
        chunk[16] = kind;
        let checksum = crc32c::crc32c(&chunk[8..]);
        chunk[4..8].copy_from_slice(&checksum.to_le_bytes());
        self.sequence += 1;
        Ok(Some(chunk.freeze()))
    }

    /// Adds rows of one space; returns the key that did not fit.
    fn fill(&mut self, chunk: &mut BytesMut, space: Space, from: &[u8]) -> Result<Option<Vec<u8>>, Broken> {
        let mut rest = None;
        let rows = &mut self.rows;
        let bytes_max = buggify::limit(Site::SnapshotTinyChunks, limits::SNAPSHOT_CHUNK_BYTES, 4_000);
        self.view.scan(space, from, None, &mut |key, value| {
            let full = chunk.len() + ROW_HEADER + key.len() + value.len() > bytes_max;
            // A row larger than a chunk has one of its own.
            if full && chunk.len() > HEADER {
                rest = Some(key.to_vec());
                return Visit::Stop;
            }
            let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("requests are far below 4 GiB");
            chunk.put_u8(space as u8);
            chunk.put_u32_le(length(key));
            chunk.put_u32_le(length(&value));
            chunk.put_slice(key);
            chunk.put_slice(&value);
            *rows += 1;
            Visit::Continue
        })?;
        Ok(rest)
    }
}

/// What was received is not a snapshot, or not all of one: ask again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed snapshot: {0}")]
pub struct Malformed(pub String);

impl Malformed {
    fn new(what: impl Into<String>) -> Self {
        Malformed(what.into())
    }
}

/// Checks chunks as they come and turns them into batches.
#[derive(Default)]
pub struct SnapshotDecoder {
    sequence: u64,
    rows: u64,
    checksum: u32,
    last: Option<(Space, Bytes)>,
    ended: bool,
}

impl SnapshotDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The rows of the next chunk; empty for the end. Keys and values share the chunk's memory.
    ///
    /// # Errors
    /// The chunk is damaged, not the next one, or out of order. The snapshot has to be dropped.
    pub fn next_chunk(&mut self, mut chunk: Bytes) -> Result<Batch, Malformed> {
        let checked = chunk.get(..HEADER).filter(|header| header.starts_with(MAGIC));
        let Some(header) = checked else {
            return Err(Malformed::new("not a chunk"));
        };
        let checksum = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
        let sequence = u64::from_le_bytes(header[8..16].try_into().expect("eight bytes"));
        let kind = header[16];
        if crc32c::crc32c(&chunk[8..]) != checksum {
            return Err(Malformed::new("a chunk with a wrong checksum"));
        }
        if self.ended || sequence != self.sequence {
            return Err(Malformed(format!(
                "chunk {sequence} instead of {}",
                self.sequence
            )));
        }
        self.sequence += 1;
        chunk.advance(HEADER);
        match kind {
            ROWS => self.rows(chunk),
            END => self.end(chunk),
            _ => Err(Malformed(format!("a chunk of kind {kind}"))),
        }
    }

    fn rows(&mut self, mut rows: Bytes) -> Result<Batch, Malformed> {
        self.checksum = crc32c::crc32c_append(self.checksum, &rows);
        let mut batch = Batch::default();
        while !rows.is_empty() {
            if rows.len() < ROW_HEADER {
                return Err(Malformed::new("half a row"));
            }
            let space = rows.get_u8();
            let (key, value) = (rows.get_u32_le() as usize, rows.get_u32_le() as usize);
            if rows.len() < key.saturating_add(value) {
                return Err(Malformed::new("half a row"));
            }
            let space = Space::from_u8(space).ok_or_else(|| Malformed(format!("a row of space {space}")))?;
            let (key, value) = (rows.split_to(key), rows.split_to(value));
            let ascending = self.last.as_ref().is_none_or(|(last_space, last_key)| {
                (*last_space, last_key.as_ref()) < (space, key.as_ref())
            });
            if !ascending {
                return Err(Malformed::new("rows out of order"));
            }
            self.last = Some((space, key.clone()));
            self.rows += 1;
            batch.put(space, key, value);
        }
        // Of the last chunk, only the last key is kept.
        self.last = self
            .last
            .take()
            .map(|(space, key)| (space, Bytes::copy_from_slice(&key)));
        Ok(batch)
    }

    fn end(&mut self, mut end: Bytes) -> Result<Batch, Malformed> {
        if end.len() != 12 {
            return Err(Malformed::new("an end of a wrong length"));
        }
        if end.get_u64_le() != self.rows || end.get_u32_le() != self.checksum {
            return Err(Malformed::new("the end does not agree with the rows"));
        }
        self.ended = true;
        Ok(Batch::default())
    }

    /// How many rows came, if everything did.
    pub fn finish(&self) -> Result<u64, Malformed> {
        if self.ended {
            Ok(self.rows)
        } else {
            Err(Malformed::new("the end is missing"))
        }
    }
}

#[cfg(test)]
mod tests;
