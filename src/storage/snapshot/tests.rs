//! Snapshots arrive whole or not at all.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::base::kv::{Change, Read};

type Rows = Arc<BTreeMap<(Space, Vec<u8>), Vec<u8>>>;

struct TestView(Rows);

impl Read for TestView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        let value = self.0.get(&(space, key.to_vec()));
        Ok(value.map(|value| Bytes::from(value.clone())))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        for ((at, key), value) in self.0.range((space, from.to_vec())..) {
            let inside = *at == space && to.is_none_or(|to| key.as_slice() < to);
            if !inside || visit(key, Bytes::from(value.clone())) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl View for TestView {}

fn encode(rows: &Rows) -> Vec<Bytes> {
    let mut encoder = SnapshotEncoder::new(Box::new(TestView(rows.clone())));
    std::iter::from_fn(|| encoder.next_chunk().unwrap()).collect()
}

fn decode(chunks: &[Bytes]) -> Result<Vec<Change>, Malformed> {
    let mut decoder = SnapshotDecoder::new();
    let mut changes = Vec::new();
    for chunk in chunks {
        changes.extend(decoder.next_chunk(chunk.clone())?.changes);
    }
    assert_eq!(decoder.finish()?, changes.len() as u64);
    Ok(changes)
}

fn changes(rows: &Rows) -> Vec<Change> {
    let change = |((space, key), value): (&(Space, Vec<u8>), &Vec<u8>)| Change {
        space: *space,
        key: Bytes::from(key.clone()),
        value: Some(Bytes::from(value.clone())),
    };
    rows.iter().map(change).collect()
}

/// Rows of all spaces, of several chunks.
fn sample() -> Rows {
    let mut rows = BTreeMap::new();
    for number in 0..40u8 {
        rows.insert((Space::Records, vec![number]), vec![number; 100_000]);
    }
    rows.insert(
        (Space::Records, b"huge".to_vec()),
        vec![1; 3 * limits::SNAPSHOT_CHUNK_BYTES],
    );
    rows.insert((Space::Leases, Vec::new()), Vec::new());
    rows.insert((Space::Meta, b"applied".to_vec()), b"7".to_vec());
    Arc::new(rows)
}

#[test]
fn a_snapshot_of_many_chunks_arrives() {
    let chunks = encode(&sample());
    assert!(chunks.len() > 6, "{}", chunks.len());
    let bound = 4 * limits::SNAPSHOT_CHUNK_BYTES;
    assert!(chunks.iter().all(|chunk| chunk.len() < bound));
    assert_eq!(decode(&chunks).unwrap(), changes(&sample()));
}

#[test]
fn an_empty_snapshot_is_a_snapshot() {
    let chunks = encode(&Rows::default());
    assert_eq!(chunks.len(), 1);
    assert_eq!(decode(&chunks).unwrap(), vec![]);
}

#[test]
fn a_missing_repeated_or_swapped_chunk_is_refused() {
    let chunks = encode(&sample());
    let refused = |chunks: &[Bytes]| decode(chunks).is_err();
    for at in 0..chunks.len() {
        let mut missing = chunks.clone();
        missing.remove(at);
        assert!(refused(&missing), "without chunk {at}");
        let mut repeated = chunks.clone();
        repeated.insert(at, chunks[at].clone());
        assert!(refused(&repeated), "chunk {at} twice");
    }
    for at in 1..chunks.len() {
        let mut swapped = chunks.clone();
        swapped.swap(at - 1, at);
        assert!(refused(&swapped), "chunk {at} early");
    }
    assert!(refused(&[]));
}

#[test]
fn a_flipped_bit_is_refused() {
    let chunks = encode(&Arc::new(BTreeMap::from([(
        (Space::Meta, b"k".to_vec()),
        b"value".to_vec(),
    )])));
    assert_eq!(chunks.len(), 2);
    for at in 0..chunks.len() {
        for bit in 0..chunks[at].len() * 8 {
            let mut damaged = chunks.clone();
            let mut bytes = damaged[at].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            damaged[at] = bytes.into();
            assert!(decode(&damaged).is_err(), "chunk {at} bit {bit}");
        }
    }
}

#[test]
fn chunks_of_two_snapshots_do_not_mix() {
    let one = encode(&sample());
    let mut rows = (*sample()).clone();
    rows.insert((Space::Records, vec![3]), vec![9; 100_000]);
    let other = encode(&Arc::new(rows));
    let mut mixed = one.clone();
    mixed[0] = other[0].clone();
    assert!(decode(&mixed).is_err());
}

fn seal(sequence: u64, kind: u8, body: &[u8]) -> Bytes {
    let mut chunk = BytesMut::from(&MAGIC[..]);
    chunk.put_u32_le(0);
    chunk.put_u64_le(sequence);
    chunk.put_u8(kind);
    chunk.put_slice(body);
    let checksum = crc32c::crc32c(&chunk[8..]);
    chunk[4..8].copy_from_slice(&checksum.to_le_bytes());
    chunk.freeze()
}

fn any_rows() -> impl Strategy<Value = Rows> {
    let space = prop::sample::select(Space::ALL.to_vec());
    let key = (space, prop::collection::vec(any::<u8>(), 0..20));
    let value = prop_oneof![9 => prop::collection::vec(any::<u8>(), 0..50), 1 => Just(vec![5; 400_000])];
    prop::collection::btree_map(key, value, 0..60).prop_map(Arc::new)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sent_arrives(rows in any_rows()) {
        prop_assert_eq!(decode(&encode(&rows)).unwrap(), changes(&rows));
    }

    #[test]
    fn well_sealed_noise_never_panics(kind in 0..3u8, body in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut decoder = SnapshotDecoder::new();
        let _ = decoder.next_chunk(seal(0, kind, &body));
        let _ = decoder.next_chunk(Bytes::from(body));
    }
}

#[test]
fn rows_out_of_order_are_refused() {
    let row = |space: u8, key: &[u8]| {
        let mut row = vec![space];
        row.extend((key.len() as u32).to_le_bytes());
        row.extend(0u32.to_le_bytes());
        row.extend(key);
        row
    };
    let fed = |rows: &[Vec<u8>]| SnapshotDecoder::new().next_chunk(seal(0, ROWS, &rows.concat()));
    assert!(fed(&[row(0, b"a"), row(0, b"b"), row(1, b"a")]).is_ok());
    assert!(fed(&[row(0, b"b"), row(0, b"a")]).is_err());
    assert!(fed(&[row(0, b"a"), row(0, b"a")]).is_err());
    assert!(fed(&[row(1, b"a"), row(0, b"b")]).is_err());
    assert!(fed(&[row(9, b"a")]).is_err());
    let mut decoder = SnapshotDecoder::new();
    decoder.next_chunk(seal(0, ROWS, &row(0, b"b"))).unwrap();
    assert!(
        decoder.next_chunk(seal(1, ROWS, &row(0, b"a"))).is_err(),
        "across chunks"
    );
}
