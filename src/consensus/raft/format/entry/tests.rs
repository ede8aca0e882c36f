use std::collections::BTreeMap;

use openraft::Membership;
use proptest::prelude::*;

use super::*;

const NAME: BatchName = BatchName {
    origin: 0x1122_3344_5566_7788,
    incarnation: 5,
    sequence: 9,
};

fn membership() -> Membership<MemberId, Peer> {
    let peer = |url: &str| Peer {
        name: String::new(),
        peer_urls: vec![url.to_owned()],
    };
    let nodes = BTreeMap::from([(3, peer("http://a:1")), (7, peer("http://b:1"))]);
    Membership::new(vec![BTreeSet::from([3, 7])], nodes).expect("well formed")
}

#[test]
fn a_batch_is_as_drawn() {
    let batch = Batch::new(
        NAME,
        Level(2),
        20,
        &[(21, Bytes::from_static(b"put")), (23, Bytes::new())],
    );
    let bytes = batch.bytes();
    assert_eq!(bytes[..8], [1, 1, 2, 0, 2, 0, 0, 0]);
    assert_eq!(bytes[8..16], NAME.origin.to_le_bytes());
    assert_eq!((bytes[16], bytes[24], bytes[32]), (5, 9, 20));
    assert_eq!(&bytes[40..], b"\x01\0\0\0\x03\0\0\0put\x03\0\0\0\0\0\0\0");
}

#[test]
fn an_entry_tells_whose_votes_count() {
    let voters = |payload| voters_in(&encode_payload(&payload));
    assert_eq!(
        voters(EntryPayload::Membership(membership())),
        Some(vec![BTreeSet::from([3, 7])])
    );
    let batch = Batch::new(NAME, Level::FIRST, 1, &[(1, Bytes::from_static(b"put"))]);
    assert_eq!(voters(EntryPayload::Normal(batch)), None);
    assert_eq!(voters(EntryPayload::Blank), None);
    assert_eq!(voters_in(&[]), None);
}

#[test]
fn what_a_newer_release_wrote_is_named_and_what_is_none_is_refused() {
    let blank = encode_payload(&EntryPayload::Blank);
    let mut newer = blank.to_vec();
    newer[0] = VERSION + 1;
    assert_eq!(decode_payload(newer.into()), Err(BadEntry::Newer(VERSION + 1)));
    for bad in [
        &b""[..],
        &blank[..3],
        b"\x01\x00\x01\x00\x00",
        b"\x01\x07\x01\x00",
        b"\x01\x01\x01\x00",
    ] {
        assert_eq!(
            decode_payload(Bytes::copy_from_slice(bad)),
            Err(BadEntry::Malformed),
            "{bad:?}"
        );
    }
}

proptest! {
    #[test]
    fn what_was_joined_comes_apart(
        commands in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
        (origin, incarnation, sequence) in any::<(u64, u64, u64)>(),
        (level, floor) in (any::<u16>(), 0..u64::MAX / 2),
    ) {
        let commands: Vec<_> = (floor..).step_by(3).zip(commands.into_iter().map(Bytes::from)).collect();
        let name = BatchName { origin, incarnation, sequence };
        let batch = Batch::new(name, Level(level), floor, &commands);
        let payload = EntryPayload::Normal(batch.clone());
        prop_assert_eq!(decode_payload(encode_payload(&payload)), Ok(payload));
        prop_assert_eq!((batch.name(), batch.level(), batch.floor()), (name, Level(level), floor));
        prop_assert_eq!(batch.len(), commands.len());
        prop_assert_eq!(batch.commands().collect::<Vec<_>>(), commands);
    }

    #[test]
    fn a_batch_that_is_cut_or_longer_is_none(cut in 0..60usize, more in 1..9usize) {
        let commands = [(1, Bytes::from_static(b"some command")), (2, Bytes::from_static(b"other"))];
        let batch = Batch::new(NAME, Level::FIRST, 1, &commands);
        let bytes = batch.bytes();
        if cut < bytes.len() {
            prop_assert!(Batch::from_bytes(bytes.slice(..cut)).is_err());
        }
        let longer = [&bytes[..], &vec![0; more]].concat();
        prop_assert!(Batch::from_bytes(longer.into()).is_err());
    }

    #[test]
    fn decoding_noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200), kind in 0..4u8) {
        let _ = decode_payload(Bytes::from(noise.clone()));
        let headed = [&[VERSION, kind, 1, 0], &noise[..]].concat();
        let _ = voters_in(&headed);
        let _ = decode_payload(headed.into());
    }
}
