use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::base::Broken;
use crate::base::kv::Visit;

type Found = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;
type Buckets = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

struct Made {
    names: Vec<&'static str>,
    buckets: Buckets,
}

impl Rows for Made {
    fn buckets(&self) -> &[&'static str] {
        &self.names
    }

    fn rows(
        &self,
        bucket: &str,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
    ) -> Result<(), Broken> {
        for (key, value) in self.buckets[bucket].range(from.to_vec()..) {
            if visit(key, value) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl ReadAt for Vec<u8> {
    fn bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = self.get(start..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn written(buckets: &Buckets) -> Vec<u8> {
    let rows = Made {
        names: buckets.keys().copied().collect(),
        buckets: buckets.clone(),
    };
    let mut encoder = Encoder::new(rows).unwrap();
    let expected = encoder.file_bytes();
    let mut file = Vec::new();
    while let Some(part) = encoder.next_part().unwrap() {
        file.extend_from_slice(&part);
    }
    assert_eq!(file.len() as u64, expected);
    file
}

fn read(file: Vec<u8>) -> Result<Found, String> {
    let file = File::open(file)?;
    let mut all = BTreeMap::new();
    for name in file.buckets()? {
        let mut rows = BTreeMap::new();
        file.rows(&name, &mut |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        all.insert(name, rows);
    }
    Ok(all)
}

fn buckets() -> impl Strategy<Value = Buckets> {
    let key = prop::collection::vec(any::<u8>(), 1..40);
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..200),
        1 => prop::collection::vec(any::<u8>(), 3000..20_000),
    ];
    let rows = prop::collection::btree_map(key, value, 0..300);
    (rows.clone(), rows)
        .prop_map(|(a, b)| BTreeMap::from([("alpha", a), ("beta", b), ("empty", BTreeMap::new())]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn what_is_written_is_read(buckets in buckets()) {
        let named = |(name, rows): (&&str, &BTreeMap<Vec<u8>, Vec<u8>>)| (name.as_bytes().to_vec(), rows.clone());
        let expected: BTreeMap<_, _> = buckets.iter().map(named).collect();
        prop_assert_eq!(read(written(&buckets)).unwrap(), expected);
    }

    #[test]
    fn a_changed_file_is_read_or_refused(
        buckets in buckets(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut file = written(&buckets);
        for (at, byte) in changes {
            // Heads of pages, mostly: there the harm is done.
            let page = at.index(file.len()) / PAGE_BYTES * PAGE_BYTES;
            let at = page + at.index(64);
            file[at] = byte;
        }
        if let Some(cut) = cut {
            file.truncate(cut.index(file.len()));
        }
        let _ = read(file);
    }
}

#[test]
fn thousands_of_pages_have_branches_above_branches() {
    let rows = (0..200_000u64).map(|n| (n.to_be_bytes().to_vec(), vec![7; 100]));
    let buckets = BTreeMap::from([("key", rows.collect::<BTreeMap<_, _>>())]);
    let all = read(written(&buckets)).unwrap();
    assert_eq!(all[&b"key"[..]], buckets["key"]);
}
