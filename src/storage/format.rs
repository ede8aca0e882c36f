//! The log on disk, byte by byte. Encoding and decoding only: no file is touched here.
//!
//! ```text
//! segment file "0000000000000007.log"          every number is little-endian
//! +--------------------------+ 0
//! | segment header           |   one sector; never rewritten while the file has this name
//! +--------------------------+ 512
//! | group | group | ...      |   each group starts at a multiple of 512 and is padded with zeros
//! +--------------------------+
//! | zeros, or groups of an   |   what the file held before it was recycled carries another epoch
//! | earlier life of the file |
//! +--------------------------+ length (in the header; the file is never shorter)
//!
//! segment header                               group header
//!  0  8 magic "QUORLOG2"                        0  4 magic "QGRP"
//!  8  8 number: the file's name                 4  4 CRC-32C of bytes 8.. to the last record's end
//! 16  8 epoch: drawn at random per use          8  8 epoch of the segment
//! 24  8 length of the file                     16  8 sequence: +1 per group over the whole log
//! 32 16 identity: whose log this is            24  4 length of the records in bytes
//! 48  4 CRC-32C of bytes 0..48                 28  4 number of records
//! 52    zeros                                  32    records, back to back, then zeros
//!
//! record
//!  0  1 kind        1 entry      log id of the entry; payload opaque
//!  1  1 has log id  2 vote       payload opaque
//!  2  2 zero        3 committed  log id
//!  4  4 length      4 truncate   the log now ends at this log id (without one: it is empty)
//!  8  8 term        5 purge      everything up to this log id is gone
//! 16  8 node        6 start      first group of a segment: where the log ended before the segment
//! 24  8 index       7 reset      the log is empty and ends at this log id (a snapshot replaced it)
//! 32    payload
//! ```
//!
//! A segment's first group begins with the vote, committed, purge and start records as they were then,
//! so that older segments can be dropped. A group is the unit of checking: whole, or not there. Groups
//! start on sectors, so that writing one never rewrites a sector of an acknowledged one. The epoch is
//! random because payloads come from clients: without knowing it, none can forge bytes that look
//! like a group of this segment to the search behind a damaged one.
//!
//! # How a format is changed
//!
//! What is on disk, or under way between members, is read by releases that did not write it: after an upgrade, and during one.
//!
//! * Every format has a version in its first bytes (here the last byte of the segment's magic number). Another layout takes
//!   the next version; a reader names one that it does not know and stops ([`other_version`]), it never guesses.
//! * A release reads what the release before it wrote, and writes that, too, until the cluster's level has risen: so
//!   a member can go back. Only then may what it writes have the new version.
//! * The meaning of what the log holds may change while its layout does not (a new command, or field of one). Such a command
//!   takes the next [`Level`](crate::base::Level) in `consensus::propose::command`, and is not proposed below it.
//! * Messages of members are never reinterpreted: a new one is a new variant at the end of its enum, sent only to members
//!   whose level has it.
//! * The simulator's rolling restarts run members of two levels side by side, and back.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

/// What a disk writes as one: groups are aligned to it.
pub const SECTOR: usize = 512;
/// Length of a segment's header; the first group starts here.
pub const SEGMENT_HEADER: usize = SECTOR;
/// Length of a group's header.
pub const GROUP_HEADER: usize = 32;
/// Length of a record's header.
pub const RECORD_HEADER: usize = 32;

/// Its last byte is the version of the log's format.
const SEGMENT_MAGIC: &[u8; 8] = b"QUORLOG2";
const GROUP_MAGIC: &[u8; 4] = b"QGRP";
/// Bytes of a group's header that its checksum does not cover: magic and checksum.
const UNCHECKED: usize = 8;

/// The name of an entry in a raft log: the leader's term, the leader's node id, the position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogId {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// The first sector of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub number: u64,
    pub epoch: u64,
    pub length: u64,
    pub identity: [u8; 16],
}

impl SegmentHeader {
    pub fn encode(&self) -> Bytes {
        let mut sector = BytesMut::with_capacity(SEGMENT_HEADER);
        sector.put_slice(SEGMENT_MAGIC);
        sector.put_u64_le(self.number);
        sector.put_u64_le(self.epoch);
        sector.put_u64_le(self.length);
        sector.put_slice(&self.identity);
        let checksum = crc32c::crc32c(&sector);
        sector.put_u32_le(checksum);
        sector.resize(SEGMENT_HEADER, 0);
        sector.freeze()
    }

    /// `None` unless the sector is whole.
    pub fn decode(sector: &[u8]) -> Option<Self> {
        let body = sector.get(..48)?;
        let whole = body.starts_with(SEGMENT_MAGIC) && u32_at(sector, 48)? == crc32c::crc32c(body);
        if !whole {
            return None;
        }
        Some(SegmentHeader {
            number: u64_at(sector, 8)?,
            epoch: u64_at(sector, 16)?,
            length: u64_at(sector, 24)?,
            identity: sector.get(32..48)?.try_into().ok()?,
        })
    }
}

/// The version of a log that this release does not read, if that is what the first sector of a segment says.
pub fn other_version(sector: &[u8]) -> Option<char> {
    let (ours, name) = SEGMENT_MAGIC.split_last()?;
    let version = *sector.strip_prefix(name)?.first()?;
    (version != *ours && version.is_ascii_digit()).then_some(char::from(version))
}

/// One record of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    Entry(LogId, &'a [u8]),
    Vote(&'a [u8]),
    Committed(LogId),
    Truncate(Option<LogId>),
    Purge(LogId),
    Start(Option<LogId>),
    Reset(LogId),
}

impl<'a> Record<'a> {
    fn parts(&self) -> (u8, Option<LogId>, &'a [u8]) {
        match *self {
            Record::Entry(id, payload) => (1, Some(id), payload),
            Record::Vote(vote) => (2, None, vote),
            Record::Committed(id) => (3, Some(id), &[]),
            Record::Truncate(id) => (4, id, &[]),
            Record::Purge(id) => (5, Some(id), &[]),
            Record::Start(id) => (6, id, &[]),
            Record::Reset(id) => (7, Some(id), &[]),
        }
    }

    fn from_parts(kind: u8, id: Option<LogId>, payload: &'a [u8]) -> Option<Self> {
        let record = match (kind, id) {
            (1, Some(id)) => return Some(Record::Entry(id, payload)),
            (2, None) => return Some(Record::Vote(payload)),
            (3, Some(id)) => Record::Committed(id),
            (4, id) => Record::Truncate(id),
            (5, Some(id)) => Record::Purge(id),
            (6, id) => Record::Start(id),
            (7, Some(id)) => Record::Reset(id),
            _ => return None,
        };
        payload.is_empty().then_some(record)
    }
}

/// Bytes that a record with this payload occupies.
pub fn record_len(payload: usize) -> usize {
    RECORD_HEADER + payload
}

/// Bytes that a group with records of this total length occupies on disk.
pub fn group_len(records: usize) -> usize {
    (GROUP_HEADER + records).next_multiple_of(SECTOR)
}

/// Collects the records of one group in one buffer.
pub struct GroupBuilder {
    buffer: BytesMut,
    count: u32,
}

impl GroupBuilder {
    /// Builds into `buffer`, whose capacity is used and whose content is dropped.
    pub fn new(mut buffer: BytesMut) -> Self {
        buffer.clear();
        buffer.put_bytes(0, GROUP_HEADER);
        GroupBuilder { buffer, count: 0 }
    }

    /// Adds a record; returns where its payload starts, counted from the group's start.
    pub fn push(&mut self, record: Record<'_>) -> usize {
        let (kind, id, payload) = record.parts();
        let length = u32::try_from(payload.len()).expect("payloads are limited to a peer frame");
        let zero = LogId {
            term: 0,
            node: 0,
            index: 0,
        };
        let LogId { term, node, index } = id.unwrap_or(zero);
        let mut header = [0; RECORD_HEADER];
        header[0] = kind;
        header[1] = u8::from(id.is_some());
        header[4..8].copy_from_slice(&length.to_le_bytes());
        header[8..16].copy_from_slice(&term.to_le_bytes());
        header[16..24].copy_from_slice(&node.to_le_bytes());
        header[24..32].copy_from_slice(&index.to_le_bytes());
        self.buffer.put_slice(&header);
        let start = self.buffer.len();
        self.buffer.put_slice(payload);
        self.count += 1;
        start
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of records so far.
    pub fn records_len(&self) -> usize {
        self.buffer.len() - GROUP_HEADER
    }

    /// The group as it goes to disk: checksummed, and padded to whole sectors.
    pub fn finish(self, epoch: u64, sequence: u64) -> Bytes {
        let mut buffer = self.buffer;
        let length = buffer.len() - GROUP_HEADER;
        let length = u32::try_from(length).expect("groups are limited to far less than 4 GiB");
        buffer[..4].copy_from_slice(GROUP_MAGIC);
        buffer[8..16].copy_from_slice(&epoch.to_le_bytes());
        buffer[16..24].copy_from_slice(&sequence.to_le_bytes());
        buffer[24..28].copy_from_slice(&length.to_le_bytes());
        buffer[28..32].copy_from_slice(&self.count.to_le_bytes());
        let checksum = crc32c::crc32c(&buffer[UNCHECKED..]);
        buffer[4..8].copy_from_slice(&checksum.to_le_bytes());
        buffer.resize(buffer.len().next_multiple_of(SECTOR), 0);
        buffer.freeze()
    }
}

/// A group that was found whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    pub sequence: u64,
    pub count: u32,
    /// Where its records are, in the bytes given to [`decode_group`].
    pub records: Range<usize>,
    /// Where the next group would start.
    pub end: usize,
}

/// The group that starts at `offset`, if it belongs to `epoch` and is whole.
pub fn decode_group(segment: &[u8], offset: usize, epoch: u64) -> Option<Group> {
    let bytes = segment.get(offset..)?;
    if !bytes.starts_with(GROUP_MAGIC) || u64_at(bytes, 8)? != epoch {
        return None;
    }
    let length = usize::try_from(u32_at(bytes, 24)?).ok()?;
    let records_end = GROUP_HEADER + length;
    if crc32c::crc32c(bytes.get(UNCHECKED..records_end)?) != u32_at(bytes, 4)? {
        return None;
    }
    Some(Group {
        sequence: u64_at(bytes, 16)?,
        count: u32_at(bytes, 28)?,
        records: offset + GROUP_HEADER..offset + records_end,
        end: offset + group_len(length),
    })
}

/// The records of a group in order, each with the offset of its payload in the segment. `None` if
/// they are not what this version writes, although the checksum is right.
pub fn decode_records<'a>(segment: &'a [u8], group: &Group) -> Option<Vec<(usize, Record<'a>)>> {
    let bytes = segment.get(..group.records.end)?;
    let mut offset = group.records.start;
    let mut records = Vec::with_capacity(
        usize::try_from(group.count)
            .ok()?
            .min(bytes.len() / RECORD_HEADER),
    );
    while offset < bytes.len() {
        let header = bytes.get(offset..offset + RECORD_HEADER)?;
        let length = usize::try_from(u32_at(header, 4)?).ok()?;
        let id = LogId {
            term: u64_at(header, 8)?,
            node: u64_at(header, 16)?,
            index: u64_at(header, 24)?,
        };
        let id = match header.get(1..4)? {
            [0, 0, 0] => None,
            [1, 0, 0] => Some(id),
            _ => return None,
        };
        let start = offset + RECORD_HEADER;
        let payload = bytes.get(start..start.checked_add(length)?)?;
        records.push((start, Record::from_parts(*header.first()?, id, payload)?));
        offset = start + length;
    }
    (records.len() == usize::try_from(group.count).ok()?).then_some(records)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(field.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at + 8)?;
    Some(u64::from_le_bytes(field.try_into().ok()?))
}

#[cfg(test)]
mod tests;
