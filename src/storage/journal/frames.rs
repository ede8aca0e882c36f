//! What a journal's file holds, byte by byte.
//!
//! ```text
//! file "journal-0000000000000003"             every number is little-endian
//! +-------------------+ 0
//! | header, 512 bytes |  magic "QUORJNL2", number (8), epoch (8), CRC-32C of these 24 bytes (4), zeros
//! +-------------------+ 512
//! | frames ...        |  without a gap, or with zeros up to the next multiple of 512
//! +-------------------+
//!
//! frame:  0 4 magic "QJFR"      8 8 epoch                   24 8 length    32 changes
//!         4 4 CRC-32C of 8..    16 8 sequence
//! change: 0 1 space   1 1 has a value   2 2 zero   4 4 key length   8 4 value length   12 key, value
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::base::kv::{Batch, Change, Space};
use crate::storage::format::SECTOR;

const MAGIC: &[u8; 8] = b"QUORJNL2";
const FRAME_MAGIC: &[u8; 4] = b"QJFR";
pub const FRAME_HEADER: usize = 32;

/// The epoch of a journal that begins with these bytes.
pub fn decode_header(bytes: &[u8], number: u64) -> Option<u64> {
    let body = bytes.get(..24)?;
    let checksum = u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?);
    let named = u64::from_le_bytes(body.get(8..16)?.try_into().ok()?);
    let whole = body.starts_with(MAGIC) && crc32c::crc32c(body) == checksum && named == number;
    if !whole {
        return None;
    }
    Some(u64::from_le_bytes(body.get(16..24)?.try_into().ok()?))
}

/// The header of a journal, with the zeros up to its first frame.
pub fn encode_header(number: u64, epoch: u64) -> BytesMut {
    let mut bytes = BytesMut::from(&MAGIC[..]);
    bytes.put_u64_le(number);
    bytes.put_u64_le(epoch);
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(checksum);
    bytes.resize(SECTOR, 0);
    bytes
}

/// The frames of these batches; the first has this sequence.
pub fn encode_frames(epoch: u64, first: u64, batches: &[Batch]) -> Bytes {
    let mut bytes = BytesMut::new();
    for (sequence, batch) in (first..).zip(batches) {
        let start = bytes.len();
        bytes.resize(start + FRAME_HEADER, 0);
        for Change { space, key, value } in &batch.changes {
            let length = |bytes: &Bytes| u32::try_from(bytes.len()).expect("requests are far below 4 GiB");
            bytes.put_u8(*space as u8);
            bytes.put_u8(u8::from(value.is_some()));
            bytes.put_u16_le(0);
            bytes.put_u32_le(length(key));
            bytes.put_u32_le(value.as_ref().map_or(0, length));
            bytes.put_slice(key);
            bytes.put_slice(value.as_deref().unwrap_or_default());
        }
        let frame = &mut bytes[start..];
        let length = (frame.len() - FRAME_HEADER) as u64;
        frame[..4].copy_from_slice(FRAME_MAGIC);
        frame[8..16].copy_from_slice(&epoch.to_le_bytes());
        frame[16..24].copy_from_slice(&sequence.to_le_bytes());
        frame[24..32].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes.freeze()
}

pub struct Frame {
    pub sequence: u64,
    pub changes: Bytes,
}

/// The frame at `offset`, if it is whole.
pub fn decode_frame(bytes: &Bytes, offset: usize, epoch: u64) -> Option<Frame> {
    let frame = bytes.get(offset..)?;
    let u64_at = |at: usize| Some(u64::from_le_bytes(frame.get(at..at + 8)?.try_into().ok()?));
    if !frame.starts_with(FRAME_MAGIC) || u64_at(8)? != epoch {
        return None;
    }
    let end = usize::try_from(u64_at(24)?).ok()?.checked_add(FRAME_HEADER)?;
    let checksum = u32::from_le_bytes(frame.get(4..8)?.try_into().ok()?);
    if crc32c::crc32c(frame.get(8..end)?) != checksum {
        return None;
    }
    Some(Frame {
        sequence: u64_at(16)?,
        changes: bytes.slice(offset + FRAME_HEADER..offset + end),
    })
}

/// What a frame changes.
pub fn decode_changes(bytes: Bytes) -> Option<Vec<Change>> {
    let mut list = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let header = bytes.get(at..at + 12)?;
        let length = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?) as usize);
        let space = Space::from_u8(*header.first()?)?;
        let (key, value) = (at + 12, at + 12 + length(4)?);
        at = value + length(8)?;
        bytes.get(..at)?;
        let present = *header.get(1)? == 1;
        list.push(Change {
            space,
            // Copied, so that one small row does not keep the whole journal in memory.
            key: Bytes::copy_from_slice(bytes.get(key..value)?),
            value: if present {
                Some(Bytes::copy_from_slice(bytes.get(value..at)?))
            } else {
                None
            },
        });
    }
    Some(list)
}
