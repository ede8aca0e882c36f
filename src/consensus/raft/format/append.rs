//! A leader's entries on their way to a follower: a head, then the entries as they are logged.
//!
//! ```text
//! every number is little-endian
//!  0  1 version: 1                          24 16 log id before the entries
//!  1  1 flags: 1 there is a log id before   40 16 log id up to which is committed
//!        2 something is committed           56    entries, back to back:
//!        4 the vote is committed                  log id (16), length (4), payload
//!  2  2 zero
//!  4  4 number of entries                   log id
//!  8  8 term of the vote                     0  8 term
//! 16  8 node of the vote                     8  8 index
//! ```

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use super::entry::{decode_payload, encode_payload};
use super::record::{LogIdRecord, VoteRecord};
use super::{u32_at, u64_at};
use crate::consensus::raft::types::{AppendRequest, Entry, LogId};

const VERSION: u8 = 1;
const HAS_PREVIOUS: u8 = 1;
const HAS_COMMIT: u8 = 2;
const VOTE_COMMITTED: u8 = 4;
const HEAD_BYTES: usize = 56;
/// Before each payload.
const ENTRY_HEAD_BYTES: usize = 20;

/// The parts of a frame, in order: payloads are shared, not copied.
pub fn encode_append(request: &AppendRequest) -> Vec<Bytes> {
    let vote = VoteRecord::from(&request.vote);
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(request.prev_log_id.is_some(), HAS_PREVIOUS)
        | flag(request.leader_commit.is_some(), HAS_COMMIT)
        | flag(vote.committed, VOTE_COMMITTED);
    let mut head = BytesMut::with_capacity(HEAD_BYTES + ENTRY_HEAD_BYTES * request.entries.len());
    head.put_slice(&[VERSION, flags, 0, 0]);
    head.put_u32_le(u32::try_from(request.entries.len()).expect("frames are bounded"));
    head.put_u64_le(vote.term);
    head.put_u64_le(vote.node);
    put_log_id(&mut head, request.prev_log_id);
    put_log_id(&mut head, request.leader_commit);
    let mut parts = Vec::with_capacity(1 + 2 * request.entries.len());
    for entry in &request.entries {
        let payload = encode_payload(&entry.payload);
        put_log_id(&mut head, Some(entry.log_id));
        head.put_u32_le(u32::try_from(payload.len()).expect("entries are bounded"));
        parts.extend([head.split().freeze(), payload]);
    }
    if parts.is_empty() {
        parts.push(head.freeze());
    }
    parts
}

/// The request that a frame is. Its entries are slices of the frame.
pub fn decode_append(frame: &Bytes) -> io::Result<AppendRequest> {
    let malformed = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let head = frame
        .first_chunk::<HEAD_BYTES>()
        .ok_or_else(|| malformed("a frame of entries without a head".into()))?;
    if head[0] != VERSION {
        return Err(malformed(format!("version {} of a frame of entries", head[0])));
    }
    let has = |flag: u8| head[1] & flag != 0;
    let vote = VoteRecord {
        term: u64_at(head, 8),
        node: u64_at(head, 16),
        committed: has(VOTE_COMMITTED),
    };
    let mut at = HEAD_BYTES;
    let mut entries = Vec::new();
    for _ in 0..u32_at(head, 4) {
        let begin = at + ENTRY_HEAD_BYTES;
        let entry = frame
            .get(at..begin)
            .ok_or_else(|| malformed("a frame of fewer entries than it says".into()))?;
        let end = begin + u32_at(entry, 16) as usize;
        if end > frame.len() {
            return Err(malformed("an entry that is longer than its frame".into()));
        }
        let payload = decode_payload(frame.slice(begin..end))
            .map_err(|bad| malformed(format!("an entry of a leader: {bad}")))?;
        entries.push(Entry {
            log_id: log_id_at(entry, 0),
            payload,
        });
        at = end;
    }
    if at != frame.len() {
        return Err(malformed(format!(
            "{} bytes behind a leader's entries",
            frame.len() - at
        )));
    }
    Ok(AppendRequest {
        vote: vote.into(),
        prev_log_id: has(HAS_PREVIOUS).then(|| log_id_at(head, 24)),
        entries,
        leader_commit: has(HAS_COMMIT).then(|| log_id_at(head, 40)),
    })
}

fn put_log_id(bytes: &mut BytesMut, id: Option<LogId>) {
    let id = id.map(LogIdRecord::from);
    bytes.put_u64_le(id.map_or(0, |id| id.term));
    bytes.put_u64_le(id.map_or(0, |id| id.index));
}

fn log_id_at(bytes: &[u8], at: usize) -> LogId {
    let (term, index) = (u64_at(bytes, at), u64_at(bytes, at + 8));
    LogIdRecord { term, index }.into()
}

#[cfg(test)]
mod tests;
