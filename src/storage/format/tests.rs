use proptest::prelude::*;

use super::*;

const HEADER: SegmentHeader = SegmentHeader {
    number: 7,
    epoch: 0x1122_3344_5566_7788,
    length: 65536,
    identity: *b"cluster 1 node 2",
};

fn id(index: u64) -> LogId {
    LogId {
        term: 3,
        node: 9,
        index,
    }
}

#[test]
fn the_segment_header_is_as_drawn() {
    let sector = HEADER.encode();
    assert_eq!(sector.len(), SEGMENT_HEADER);
    assert_eq!(&sector[..8], b"QUORLOG2");
    assert_eq!(other_version(&sector), None);
    assert_eq!(sector[8], 7);
    assert_eq!(&sector[16..24], &[0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
    assert_eq!(&sector[24..32], &[0, 0, 1, 0, 0, 0, 0, 0]);
    assert_eq!(&sector[32..48], b"cluster 1 node 2");
    assert!(sector[52..].iter().all(|byte| *byte == 0));
    assert_eq!(SegmentHeader::decode(&sector), Some(HEADER));
}

#[test]
fn a_log_of_another_release_is_no_damage() {
    let mut sector = HEADER.encode().to_vec();
    sector[7] = b'1';
    assert_eq!(
        (SegmentHeader::decode(&sector), other_version(&sector)),
        (None, Some('1'))
    );
    assert_eq!(other_version(&sector[..7]), None);
}

#[test]
fn any_flipped_bit_of_a_segment_header_is_noticed() {
    let sector = HEADER.encode();
    for bit in 0..52 * 8 {
        let mut damaged = sector.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(SegmentHeader::decode(&damaged), None, "bit {bit}");
    }
}

#[test]
fn the_group_is_as_drawn() {
    let mut builder = GroupBuilder::new(BytesMut::new());
    assert_eq!(builder.push(Record::Vote(b"me")), 64);
    assert_eq!(builder.push(Record::Entry(id(5), b"hello")), 98);
    let group = builder.finish(HEADER.epoch, 77);
    assert_eq!(group.len(), SECTOR);
    assert_eq!(&group[..4], b"QGRP");
    assert_eq!(&group[8..16], &HEADER.epoch.to_le_bytes());
    assert_eq!(group[16], 77);
    assert_eq!(group[24], 32 + 2 + 32 + 5);
    assert_eq!(group[28], 2);
    assert_eq!(&group[32..40], &[2, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(&group[64..66], b"me");
    assert_eq!(&group[66..74], &[1, 1, 0, 0, 5, 0, 0, 0]);
    assert_eq!((group[74], group[82], group[90]), (3, 9, 5));
    assert_eq!(&group[98..103], b"hello");
    assert!(group[103..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_group_of_another_epoch_or_with_a_flipped_bit_is_not_there() {
    let mut builder = GroupBuilder::new(BytesMut::new());
    builder.push(Record::Entry(id(5), b"hello"));
    let group = builder.finish(1, 77);
    assert!(decode_group(&group, 0, 1).is_some());
    assert_eq!(decode_group(&group, 0, 2), None);
    for bit in 0..(GROUP_HEADER + RECORD_HEADER + 5) * 8 {
        let mut damaged = group.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_group(&damaged, 0, 1), None, "bit {bit}");
    }
}

fn any_record() -> impl Strategy<Value = (u8, LogId, bool, Vec<u8>)> {
    let log_id = (any::<u64>(), any::<u64>(), any::<u64>());
    let log_id = log_id.prop_map(|(term, node, index)| LogId { term, node, index });
    (
        1..8u8,
        log_id,
        any::<bool>(),
        prop::collection::vec(any::<u8>(), 0..600),
    )
}

fn build((kind, id, present, payload): &(u8, LogId, bool, Vec<u8>)) -> Record<'_> {
    match kind {
        1 => Record::Entry(*id, payload),
        2 => Record::Vote(payload),
        3 => Record::Committed(*id),
        4 => Record::Truncate(present.then_some(*id)),
        5 => Record::Purge(*id),
        6 => Record::Start(present.then_some(*id)),
        _ => Record::Reset(*id),
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(parts in prop::collection::vec(any_record(), 1..8), epoch: u64) {
        let mut builder = GroupBuilder::new(BytesMut::from(&b"left over"[..]));
        for part in &parts {
            builder.push(build(part));
        }
        let records_len = builder.records_len();
        let bytes = builder.finish(epoch, 3);
        prop_assert_eq!(bytes.len(), group_len(records_len));
        let group = decode_group(&bytes, 0, epoch).expect("whole");
        prop_assert_eq!(group.sequence, 3);
        prop_assert_eq!(group.end, bytes.len());
        let records = decode_records(&bytes, &group).expect("well formed");
        let records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
        prop_assert_eq!(records, parts.iter().map(build).collect::<Vec<_>>());
    }

    #[test]
    fn decoding_noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..2048), count: u32) {
        let group = Group { sequence: 0, count, records: 0..noise.len(), end: noise.len() };
        let _ = decode_records(&noise, &group);
        let _ = decode_group(&noise, 0, 0);
        let _ = SegmentHeader::decode(&noise);
    }
}
