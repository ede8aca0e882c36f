use super::*;

fn frame(record: &Record) -> Vec<u8> {
    let body = record.encode_to_vec();
    let padding = (8 - body.len() % 8) % 8;
    let mut head = body.len() as u64;
    if padding > 0 {
        head |= (0x80 | padding as u64) << 56;
    }
    [&head.to_le_bytes()[..], &body, &vec![0; padding]].concat()
}

fn records(all: &[(i64, Vec<u8>)]) -> Vec<u8> {
    let mut crc = 0;
    let mut bytes = Vec::new();
    for (kind, data) in all {
        if *kind != CRC {
            crc = crc32c::crc32c_append(crc, data);
        }
        let record = Record {
            kind: *kind,
            crc,
            data: data.clone(),
        };
        bytes.extend(frame(&record));
    }
    bytes.extend([0; 64]);
    bytes
}

#[test]
fn a_log_says_whose_it_is_and_how_far_it_goes() {
    let caller = Metadata { node: 7, cluster: 9 }.encode_to_vec();
    let entry = |index| Entry { term: 1, index }.encode_to_vec();
    let mut bytes = records(&[
        (CRC, vec![]),
        (METADATA, caller),
        (ENTRY, entry(1)),
        (ENTRY, entry(2)),
    ]);
    let mut log = Log::default();
    read_segment(&bytes, &mut 0, &mut log).unwrap();
    let expected = Log {
        member: 7,
        cluster: 9,
        last_index: 2,
    };
    assert_eq!(log, expected);
    bytes[40] ^= 1;
    assert!(read_segment(&bytes, &mut 0, &mut Log::default()).is_err());
}
