//! The state machine alone: what a put, a compare-and-put, a list and a count cost without raft, disk and wire.
//!
//! The store is a map in memory; batches are of 256 commands, as the proposer makes them under load.

use std::collections::BTreeMap;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quorate::base::Broken;
use quorate::base::kv::{Batch, Read, Space, Visit};
use quorate::proto::command::command::Request;
use quorate::proto::etcdserverpb as pb;
use quorate::state::{Pending, Position, State};

const BATCH: usize = 256;
const KEYS: usize = 200_000;

/// A store in memory.
#[derive(Default)]
struct Maps(BTreeMap<(Space, Bytes), Bytes>);

impl Maps {
    fn write(&mut self, batch: Batch) {
        for change in batch.changes {
            match change.value {
                Some(value) => self.0.insert((change.space, change.key), value),
                None => self.0.remove(&(change.space, change.key)),
            };
        }
    }
}

impl Read for Maps {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Ok(self.0.get(&(space, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        let rows = self.0.range((space, Bytes::copy_from_slice(from))..);
        for ((found, key), value) in rows {
            let past = *found != space || to.is_some_and(|to| key.as_ref() >= to);
            if past || visit(key, value.clone()) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

struct Machine {
    state: State,
    store: Maps,
    index: u64,
}

impl Machine {
    fn new() -> Machine {
        let store = Maps::default();
        let state = State::open(&store).expect("an empty store opens");
        Machine {
            state,
            store,
            index: 0,
        }
    }

    /// A machine with [`KEYS`] keys.
    fn filled() -> Machine {
        let mut machine = Machine::new();
        for first in (0..KEYS).step_by(BATCH) {
            machine.apply(&(first..first + BATCH).map(put).collect::<Vec<_>>());
        }
        machine
    }

    fn apply(&mut self, requests: &[Request]) {
        let mut pending = Pending::new(&self.store);
        for request in requests {
            self.index += 1;
            let at = Position {
                term: 1,
                index: self.index,
            };
            self.state
                .apply(at, request, &mut pending)
                .expect("the store is whole");
        }
        self.state.seal(&mut pending);
        let batch = pending.into_batch();
        self.store.write(batch);
    }
}

fn key(n: usize) -> Bytes {
    format!("/registry/pods/default/pod-{:08}", n % KEYS).into()
}

fn put(n: usize) -> Request {
    let value = Bytes::from(vec![b'v'; 256]);
    Request::Put(pb::PutRequest {
        key: key(n),
        value,
        ..Default::default()
    })
}

/// What Kubernetes writes: a put, if the revision is still the one that was read.
fn compare_and_put(n: usize) -> Request {
    let compare = pb::Compare {
        key: key(n),
        target: pb::compare::CompareTarget::Mod.into(),
        result: pb::compare::CompareResult::Greater.into(),
        target_union: Some(pb::compare::TargetUnion::ModRevision(0)),
        ..Default::default()
    };
    let Request::Put(put) = put(n) else {
        unreachable!("put makes puts")
    };
    let success = vec![pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put)),
    }];
    Request::Txn(pb::TxnRequest {
        compare: vec![compare],
        success,
        failure: Vec::new(),
    })
}

fn applies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, request) in [
        ("put", put as fn(usize) -> Request),
        ("compare-and-put", compare_and_put),
    ] {
        let mut machine = Machine::filled();
        let mut n = 0;
        group.bench_function(format!("{name}, batches of {BATCH}"), |bencher| {
            let batch = |n: &mut usize| {
                *n += 7 * BATCH;
                (*n..*n + BATCH).map(request).collect::<Vec<_>>()
            };
            bencher.iter_batched(
                || batch(&mut n),
                |batch| machine.apply(&batch),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn ranges(criterion: &mut Criterion) {
    let machine = Machine::filled();
    let read = |request: &pb::RangeRequest| {
        let read = machine
            .state
            .range(request, &machine.store)
            .expect("the store is whole");
        read.expect("the range is valid").count
    };
    let all = pb::RangeRequest {
        key: "/".into(),
        range_end: "0".into(),
        ..Default::default()
    };
    let one = pb::RangeRequest {
        key: key(KEYS / 2),
        ..Default::default()
    };
    let listed = pb::RangeRequest {
        key: key(KEYS / 2),
        limit: 100,
        ..all.clone()
    };
    let counted = pb::RangeRequest {
        count_only: true,
        ..all
    };
    let mut group = criterion.benchmark_group("range");
    for (name, request) in [
        ("one key", one),
        ("100 keys of 200,000", listed),
        ("count of 200,000", counted),
    ] {
        group.bench_function(name, |bencher| bencher.iter(|| read(&request)));
    }
    group.finish();
}

criterion_group!(benches, applies, ranges);
criterion_main!(benches);
