//! A view of an engine as a sequence of checksummed chunks, for a member that is too far behind.
//!
//! ```text
//!   chunk  = kind: u8 (0 rows, 1 end) | crc32c(number, body): u32 LE | number: u64 LE | body
//!   rows   = change*         change = space: u8 | has value: u8 | key length: u32 LE | key | [value length: u32 LE | value]
//!   end    = rows in all: u64 LE | crc32c over the bodies of all chunks before: u32 LE
//! ```
//!
//! The receiver accepts chunks in order only, refuses anything malformed, and is complete only with the end
//! chunk's count and checksum: half a snapshot can never be taken for a whole one. The same row encoding serves
//! the simulator's journal.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::engine::View;
use crate::base::kv::{Batch, Change, Space, Visit};
use crate::base::{Broken, limits};

const ROWS: u8 = 0;
const END: u8 = 1;
const HEADER_BYTES: usize = 13;

/// Appends the encoded form of one change.
pub(super) fn encode_change(out: &mut BytesMut, space: Space, key: &[u8], value: Option<&[u8]>) {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("keys and values are far below 4 GiB");
    out.put_u8(space as u8);
    out.put_u8(value.is_some().into());
    out.put_u32_le(length(key));
    out.put_slice(key);
    if let Some(value) = value {
        out.put_u32_le(length(value));
        out.put_slice(value);
    }
}

/// Decodes what [`encode_change`] wrote, to the last byte.
pub(super) fn decode_changes(mut body: Bytes) -> Result<Vec<Change>, Broken> {
    let malformed = || Broken::new("malformed row");
    let mut changes = Vec::new();
    while !body.is_empty() {
        let space = Space::from_u8(body.try_get_u8().map_err(|_| malformed())?).ok_or_else(malformed)?;
        let has_value = body.try_get_u8().map_err(|_| malformed())?;
        let key = take_field(&mut body).ok_or_else(malformed)?;
        let value = match has_value {
            0 => None,
            1 => Some(take_field(&mut body).ok_or_else(malformed)?),
            _ => return Err(malformed()),
        };
        changes.push(Change { space, key, value });
    }
    Ok(changes)
}

fn take_field(body: &mut Bytes) -> Option<Bytes> {
    let length = body.try_get_u32_le().ok()? as usize;
    (body.len() >= length).then(|| body.split_to(length))
}

fn checksum(number: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), body)
}

fn encode_chunk(kind: u8, number: u64, body: &[u8]) -> Bytes {
    let mut chunk = BytesMut::with_capacity(HEADER_BYTES + body.len());
    chunk.put_u8(kind);
    chunk.put_u32_le(checksum(number, body));
    chunk.put_u64_le(number);
    chunk.put_slice(body);
    chunk.freeze()
}

/// Cuts a view into chunks.
pub struct Chunks {
    view: Box<dyn View>,
    /// Where the next chunk starts; `None` when all rows are out.
    next: Option<(Space, Bytes)>,
    ended: bool,
    number: u64,
    rows: u64,
    crc: u32,
}

impl Chunks {
    pub fn new(view: Box<dyn View>) -> Self {
        let next = Space::ALL.first().map(|&space| (space, Bytes::new()));
        Chunks {
            view,
            next,
            ended: false,
            number: 0,
            rows: 0,
            crc: 0,
        }
    }

    /// The next chunk of about [`limits::SNAPSHOT_CHUNK_BYTES`]; `None` after the last.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, Broken> {
        if self.ended {
            return Ok(None);
        }
        let mut body = BytesMut::new();
        while let Some((space, from)) = self.next.take() {
            let mut rows = 0;
            let mut resume = None;
            self.view.scan(space, &from, None, &mut |key, value| {
                if body.len() >= limits::SNAPSHOT_CHUNK_BYTES {
                    resume = Some(Bytes::copy_from_slice(key));
                    return Visit::Stop;
                }
                encode_change(&mut body, space, key, Some(&value));
                rows += 1;
                Visit::Continue
            })?;
            self.rows += rows;
            self.next = match resume {
                Some(key) => Some((space, key)),
                None => Space::from_u8(space as u8 + 1).map(|space| (space, Bytes::new())),
            };
            if body.len() >= limits::SNAPSHOT_CHUNK_BYTES {
                break;
            }
        }
        let kind = if body.is_empty() { END } else { ROWS };
        if kind == END {
            body.put_u64_le(self.rows);
            body.put_u32_le(self.crc);
            self.ended = true;
        } else {
            self.crc = crc32c::crc32c_append(self.crc, &body);
        }
        self.number += 1;
        Ok(Some(encode_chunk(kind, self.number, &body)))
    }
}

/// Puts chunks together again.
#[derive(Default)]
pub struct Assembly {
    number: u64,
    rows: u64,
    crc: u32,
    complete: bool,
}

impl Assembly {
    pub fn new() -> Self {
        Self::default()
    }

    /// The end chunk was accepted: everything is there.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Checks the next chunk and hands out its rows.
    pub fn accept(&mut self, chunk: &Bytes) -> Result<Batch, Broken> {
        let mut rest = chunk.clone();
        if rest.len() < HEADER_BYTES {
            return Err(Broken::new("snapshot chunk without a header"));
        }
        let (kind, crc, number) = (rest.get_u8(), rest.get_u32_le(), rest.get_u64_le());
        if self.complete || number != self.number + 1 {
            return Err(Broken::new(format!(
                "snapshot chunk {number} where {} belongs",
                self.number + 1
            )));
        }
        if checksum(number, &rest) != crc {
            return Err(Broken::new(format!(
                "snapshot chunk {number} has a wrong checksum"
            )));
        }
        self.number = number;
        match kind {
            ROWS => {
                self.crc = crc32c::crc32c_append(self.crc, &rest);
                let changes = decode_changes(rest)?;
                self.rows += changes.len() as u64;
                Ok(Batch { changes })
            }
            END => self.end(rest),
            _ => Err(Broken::new(format!(
                "snapshot chunk {number} is of unknown kind {kind}"
            ))),
        }
    }

    fn end(&mut self, mut body: Bytes) -> Result<Batch, Broken> {
        if body.len() != 12 {
            return Err(Broken::new("malformed end of a snapshot"));
        }
        let (rows, crc) = (body.get_u64_le(), body.get_u32_le());
        if (rows, crc) != (self.rows, self.crc) {
            return Err(Broken::new(format!(
                "snapshot of {rows} rows arrived with {}",
                self.rows
            )));
        }
        self.complete = true;
        Ok(Batch::default())
    }
}
