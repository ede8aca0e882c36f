use super::*;

#[test]
fn rows_come_back_as_they_were() {
    let block = 3;
    let at = |main, sub| RevisionAt::new(block * BLOCK_REVISIONS + main, sub);
    let kept = [
        at(0, 0),
        at(1, 0),
        at(1, 1),
        at(1, 3),
        at(200, 7),
        at(4095, 0),
        at(4095, 1),
    ];
    for kept in [&kept[..], &kept[1..], &kept[4..5], &[]] {
        assert_eq!(decode(block, encode(block, kept)).unwrap(), kept);
    }
    let alone: Vec<RevisionAt> = (0..4096).map(|main| at(main, 0)).collect();
    assert_eq!(encode(block, &alone).len(), 4096, "a byte each");
    let many: Vec<RevisionAt> = (0..100_000).map(|sub| at(5, sub)).collect();
    assert!(encode(block, &many).len() < 8, "one run");
}

#[test]
fn damaged_rows_are_refused() {
    for row in [&[0x80][..], &[0x01, 0x05], &[0xff, 0xff, 0x7f]] {
        assert!(decode(0, Bytes::from_static(row)).is_err(), "{row:?}");
    }
    assert!(block_of(b"kept12345678123").is_err());
    assert!(decode(i64::MAX, Bytes::new()).is_err());
}
