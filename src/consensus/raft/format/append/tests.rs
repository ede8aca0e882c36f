use openraft::EntryPayload;
use proptest::prelude::*;

use super::super::entry::{Batch, BatchName};
use super::*;
use crate::base::{Level, limits};
use crate::consensus::raft::types::Vote;

fn id(term: u64, index: u64) -> LogId {
    LogIdRecord { term, index }.into()
}

fn batch(command: Bytes) -> EntryPayload<Batch, u64, crate::consensus::raft::types::Peer> {
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
