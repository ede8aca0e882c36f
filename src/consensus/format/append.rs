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
use crate::consensus::types::{AppendRequest, Entry, LogId};

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
mod tests {
    use openraft::EntryPayload;
    use proptest::prelude::*;

    use super::*;
    use crate::base::{Level, limits};
    use crate::consensus::format::entry::{Batch, BatchName};
    use crate::consensus::types::Vote;

    fn id(term: u64, index: u64) -> LogId {
        LogIdRecord { term, index }.into()
    }

    fn batch(command: Bytes) -> EntryPayload<Batch, u64, crate::consensus::types::Peer> {
        let name = BatchName {
            origin: u64::MAX,
            incarnation: u64::MAX,
            sequence: u64::MAX,
        };
        EntryPayload::Normal(Batch::new(name, Level::FIRST, 1, &[(1, command)]))
    }

    fn frame(request: &AppendRequest) -> Bytes {
        encode_append(request).concat().into()
    }

    fn check(request: &AppendRequest) {
        let back = decode_append(&frame(request)).expect("just encoded");
        assert_eq!(
            (back.vote, back.prev_log_id, back.leader_commit),
            (request.vote, request.prev_log_id, request.leader_commit)
        );
        assert_eq!(back.entries, request.entries);
    }

    #[test]
    fn a_frame_is_what_the_leader_meant() {
        let mut request = AppendRequest {
            vote: Vote::new_committed(3, 9),
            prev_log_id: None,
            entries: vec![],
            leader_commit: None,
        };
        check(&request);
        request.prev_log_id = Some(id(2, 0));
        request.entries = vec![
            Entry {
                log_id: id(3, 1),
                payload: EntryPayload::Blank,
            },
            Entry {
                log_id: id(3, 2),
                payload: batch(Bytes::from_static(b"put")),
            },
        ];
        check(&request);
        request.leader_commit = Some(id(0, 0));
        request.vote = Vote::new(u64::MAX, u64::MAX);
        check(&request);
    }

    /// The largest command, alone in a batch, fits into what peers send each other and the log reads back.
    #[test]
    fn the_largest_command_can_be_sent() {
        let last = id(u64::MAX, u64::MAX);
        let command = Bytes::from(vec![7; limits::COMMAND_BYTES_MAX]);
        let request = AppendRequest {
            vote: Vote::new(u64::MAX, u64::MAX),
            prev_log_id: Some(last),
            entries: vec![Entry {
                log_id: last,
                payload: batch(command),
            }],
            leader_commit: Some(last),
        };
        assert!(frame(&request).len() <= limits::PEER_FRAME_BYTES_MAX);
        check(&request);
    }

    proptest! {
        #[test]
        fn decoding_noise_never_panics(
            noise in prop::collection::vec(any::<u8>(), 0..300),
            entries in 0..4u8,
            cut in 0..200usize,
        ) {
            let _ = decode_append(&Bytes::from(noise.clone()));
            let head = [&[VERSION, 7, 0, 0, entries, 0, 0, 0][..], &noise].concat();
            let _ = decode_append(&head.into());
            let request = AppendRequest {
                vote: Vote::new(1, 1),
                prev_log_id: None,
                entries: vec![Entry { log_id: id(1, 0), payload: batch(Bytes::from(noise)) }],
                leader_commit: None,
            };
            let frame = frame(&request);
            if cut < frame.len() {
                prop_assert!(decode_append(&frame.slice(..cut)).is_err());
            }
        }
    }
}
