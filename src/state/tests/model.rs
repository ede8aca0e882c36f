//! Random commands on the state and on the simplest model there is: every version of every key in a list.

use proptest::prelude::*;

use super::*;
use crate::proto::mvccpb::KeyValue;

/// What happened to keys, one entry per change; no index, no cache, no compaction of data.
#[derive(Default)]
struct Naive {
    changes: Vec<(i64, KeyValue, bool)>,
    revision: i64,
    compacted: i64,
}

impl Naive {
    fn new() -> Naive {
        Naive {
            revision: 1,
            compacted: -1,
            ..Naive::default()
        }
    }

    fn at(&self, key: &Bytes, revision: i64) -> Option<&KeyValue> {
        let newest = self
            .changes
            .iter()
            .rev()
            .find(|(main, kv, _)| *main <= revision && kv.key == key);
        newest.filter(|(_, _, living)| *living).map(|(_, kv, _)| kv)
    }

    fn keys(&self) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.changes.iter().map(|(_, kv, _)| kv.key.clone()).collect();
        keys.sort();
        keys.dedup();
        keys
    }

    fn range(&self, from: &Bytes, to: &Bytes, revision: i64) -> Vec<KeyValue> {
        let within = |key: &Bytes| match to.as_ref() {
            [] => key == from,
            [0] => key >= from,
            _ => key >= from && key < to,
        };
        self.keys()
            .iter()
            .filter(|key| within(key))
            .filter_map(|key| self.at(key, revision).cloned())
            .collect()
    }

    fn put(&mut self, main: i64, request: &pb::PutRequest) {
        let old = self.at(&request.key, i64::MAX).cloned();
        let kv = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: old.as_ref().map_or(main, |old| old.create_revision),
            mod_revision: main,
            version: old.map_or(1, |old| old.version + 1),
            lease: request.lease,
        };
        self.changes.push((main, kv, true));
    }

    fn delete(&mut self, main: i64, from: &Bytes, to: &Bytes) -> usize {
        let gone = self.range(from, to, i64::MAX);
        for kv in &gone {
            self.changes.push((
                main,
                KeyValue {
                    key: kv.key.clone(),
                    ..Default::default()
                },
                false,
            ));
        }
        gone.len()
    }

    fn apply(&mut self, request: &Request) {
        let (main, before) = (self.revision + 1, self.changes.len());
        match request {
            Request::Put(request) => self.put(main, request),
            Request::DeleteRange(request) => drop(self.delete(main, &request.key, &request.range_end)),
            Request::Txn(request) => {
                for op in &request.success {
                    match op.request.as_ref().unwrap() {
                        request_op::Request::RequestPut(request) => self.put(main, request),
                        request_op::Request::RequestDeleteRange(request) => {
                            self.delete(main, &request.key, &request.range_end);
                        }
                        _ => {}
                    }
                }
            }
            Request::Compaction(request)
                if request.revision > self.compacted && request.revision <= self.revision =>
            {
                self.compacted = request.revision;
            }
            _ => {}
        }
        self.revision += i64::from(self.changes.len() > before);
    }
}

fn key() -> impl Strategy<Value = String> {
    (0..12u8).prop_map(|n| format!("k{n:02}"))
}

fn end() -> impl Strategy<Value = String> {
    prop_oneof![3 => Just(String::new()), 1 => Just("\0".to_owned()), 2 => key()]
}

pub(super) fn request() -> impl Strategy<Value = Request> {
    let value = || "[a-c]{0,3}";
    let ops = prop::collection::btree_map(key(), value(), 1..4);
    prop_oneof![
        6 => (key(), value()).prop_map(|(key, value)| put(&key, &value)),
        2 => (key(), end()).prop_map(|(key, end)| delete(&key, &end)),
        2 => ops.prop_map(|ops| {
            Request::Txn(then(ops.iter().map(|(key, value)| put_op(key, value)).collect()))
        }),
        1 => (1..60i64).prop_map(compact),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_state_is_the_naive_model(
        requests in prop::collection::vec(request(), 1..80),
        (from, to) in (key(), end()),
        limit in 0..6i64,
    ) {
        let (mut machine, mut naive) = (Machine::new(), Naive::new());
        for request in &requests {
            let outcome = machine.apply(request.clone());
            naive.apply(request);
            prop_assert_eq!(outcome.revision, naive.revision);
        }
        // Dead records may vanish at any time; a reopened state must not miss them.
        for at in machine.state.dead_records() {
            machine.store.0.remove(&(Space::Records, Bytes::copy_from_slice(&at.to_bytes())));
        }
        let reopened = machine.reopened();
        for one in [&machine, &reopened] {
            for revision in naive.compacted.max(1)..=naive.revision {
                let request = pb::RangeRequest { revision, limit, ..range(&from, &to) };
                let found = one.range(request).unwrap();
                let mut expected = naive.range(&bytes(&from), &bytes(&to), revision);
                prop_assert_eq!(found.count as usize, expected.len());
                let cut = limit > 0 && expected.len() > limit as usize;
                if cut {
                    expected.truncate(limit as usize);
                }
                prop_assert_eq!((found.kvs, found.more), (expected, cut));
            }
        }
        prop_assert_eq!(reopened.state.digest(), machine.state.digest());
        prop_assert_eq!(reopened.state.logical_bytes(), machine.state.logical_bytes());
        prop_assert_eq!(
            reopened.state.hash_kv(0, &reopened.store).unwrap(),
            machine.state.hash_kv(0, &machine.store).unwrap()
        );
    }

    #[test]
    fn batches_do_not_matter(
        requests in prop::collection::vec(request(), 1..60),
        cuts in prop::collection::vec(1..9usize, 1..60),
    ) {
        let (mut one_by_one, mut batched) = (Machine::new(), Machine::new());
        let mut outcomes: Vec<Outcome> = requests.iter().map(|request| one_by_one.apply(request.clone())).collect();
        let mut rest = &requests[..];
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let (batch, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            let expected: Vec<Outcome> = outcomes.drain(..batch.len()).collect();
            prop_assert_eq!(batched.batch(batch), expected);
        }
        prop_assert_eq!(one_by_one.state.digest(), batched.state.digest());
        prop_assert_eq!(one_by_one.store, batched.store);
    }
}
