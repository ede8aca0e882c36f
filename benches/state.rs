//! What the state machine costs by itself: no engine (records go into an ordered map, or nowhere), no raft.
//!
//! `cargo bench --bench state`. Every machine has 200,000 keys with values of 256 bytes; commands come as they come
//! out of the log, in batches of 256. The throughput is in commands, or in keys.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use prost::Message;
use quorate::base::kv::{Batch, Read, Space, Visit};
use quorate::base::{Broken, limits};
use quorate::proto::command::{Command, command::Request};
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::request_op;
use quorate::state::{Pending, Position, State};

const KEYS: usize = 200_000;
const VALUE_BYTES: usize = 256;
const BATCH_COMMANDS: usize = 256;
/// Batches between two compactions, so that a long run does not measure how history grows.
const COMPACTION_BATCHES: u64 = 2_000;

#[derive(Default)]
struct Store {
    rows: BTreeMap<(Space, Bytes), Bytes>,
    keeps_records: bool,
}

impl Store {
    fn write(&mut self, batch: Batch) {
        for change in batch.changes {
            if change.space == Space::Records && !self.keeps_records {
                continue;
            }
            match change.value {
                Some(value) => self.rows.insert((change.space, change.key), value),
                None => self.rows.remove(&(change.space, change.key)),
            };
        }
    }
}

impl Read for Store {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        assert_ne!(space, Space::Records, "every newest record is cached");
        Ok(self.rows.get(&(space, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        let rows = self.rows.range((space, Bytes::copy_from_slice(from))..);
        for ((_, key), value) in
            rows.take_while(|((found, key), _)| *found == space && to.is_none_or(|to| key.as_ref() < to))
        {
            if visit(key, value.clone()) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

/// Keys in an order that jumps about, as clients' do.
fn key(n: usize) -> Bytes {
    let n = n.wrapping_mul(7_919_317) % KEYS;
    format!("/registry/pods/default/pod-{n:08}").into()
}

fn put(n: usize) -> pb::PutRequest {
    pb::PutRequest {
        key: key(n),
        value: vec![b'v'; VALUE_BYTES].into(),
        ..Default::default()
    }
}

/// As it comes out of the log: one buffer, which everything in the command shares.
fn from_log(request: Request) -> Request {
    let command = Command {
        header: None,
        request: Some(request),
    };
    let encoded = Bytes::from(command.encode_to_vec());
    let decoded = Command::decode(encoded).expect("encoded just now");
    decoded.request.expect("it was given one")
}

struct Machine {
    state: State,
    store: Store,
    index: u64,
}

impl Machine {
    fn filled(keeps_records: bool) -> Machine {
        let store = Store {
            keeps_records,
            ..Store::default()
        };
        let state = State::open(&store).expect("an empty store");
        let mut machine = Machine {
            state,
            store,
            index: 0,
        };
        for first in (0..KEYS).step_by(BATCH_COMMANDS) {
            let end = KEYS.min(first + BATCH_COMMANDS);
            let requests: Vec<Request> = (first..end).map(|n| from_log(Request::Put(put(n)))).collect();
            machine.apply(&requests);
        }
        assert_eq!(machine.state.revision(), KEYS as i64 + 1);
        machine
    }

    fn apply(&mut self, requests: &[Request]) {
        self.index += 1;
        let at = Position {
            term: 1,
            index: self.index,
        };
        let mut pending = Pending::new(&self.store);
        for request in requests {
            let outcome = self
                .state
                .apply(at, None, request, &mut pending, true)
                .expect("a sound store");
            assert!(outcome.answer.is_ok());
            black_box(outcome);
        }
        self.state.seal(&mut pending);
        let batch = pending.into_batch();
        self.store.write(batch);
    }

    fn compact(&mut self) {
        let revision = self.state.revision();
        let compaction = pb::CompactionRequest {
            revision,
            physical: false,
        };
        self.apply(&[Request::Compaction(compaction)]);
        self.sweep();
    }

    fn sweep(&mut self) {
        let Some(mut sweep) = self.state.begin_sweep() else {
            return;
        };
        while !sweep.is_complete() {
            let looked = self.state.sweep_on(&mut sweep, limits::SWEEP_PIECE_ENTRIES);
            looked.expect("no other state takes its place");
        }
        let mut swept = sweep.finish(&self.store).expect("a sound store");
        let rows = std::mem::take(&mut swept.rows);
        self.store.write(Batch { changes: rows });
        self.state
            .end_sweep(&swept)
            .expect("no other state takes its place");
        self.store.write(Batch {
            changes: std::mem::take(&mut swept.outdated),
        });
        black_box(swept.dead);
    }

    fn range(&self, request: &pb::RangeRequest) -> pb::RangeResponse {
        let found = self.state.range(request, &self.store).expect("a sound store");
        found.expect("a valid request")
    }

    /// As Kubernetes updates an object: put if nobody did since it was read, else read it again.
    fn compare_and_put(&self, n: usize) -> Request {
        let read = pb::RangeRequest {
            key: key(n),
            ..Default::default()
        };
        let now = self.range(&read);
        let revision = now.kvs.first().expect("every key exists").mod_revision;
        let compare = pb::Compare {
            key: key(n),
            target: CompareTarget::Mod.into(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Default::default()
        };
        let op = |request| pb::RequestOp {
            request: Some(request),
        };
        Request::Txn(pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(request_op::Request::RequestPut(put(n)))],
            failure: vec![op(request_op::Request::RequestRange(read))],
        })
    }
}

fn writes(criterion: &mut Criterion) {
    let machine = RefCell::new(Machine::filled(false));
    let mut group = criterion.benchmark_group("apply 256");
    group.throughput(Throughput::Elements(BATCH_COMMANDS as u64));
    let mut bench = |name: &str, request: &dyn Fn(&Machine, usize) -> Request| {
        let mut next = 0;
        let mut requests = || {
            let mut machine = machine.borrow_mut();
            if machine.index.is_multiple_of(COMPACTION_BATCHES) {
                machine.compact();
            }
            let batch = next..next + BATCH_COMMANDS;
            next = batch.end;
            batch.map(|n| from_log(request(&machine, n))).collect::<Vec<_>>()
        };
        group.bench_function(name, |bencher| {
            let apply = |requests: Vec<Request>| {
                machine.borrow_mut().apply(&requests);
                requests
            };
            bencher.iter_batched(&mut requests, apply, BatchSize::PerIteration);
        });
    };
    bench("put", &|_, n| Request::Put(put(n)));
    bench("compare and put", &|machine, n| machine.compare_and_put(n));
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let machine = Machine::filled(false);
    let all = || pb::RangeRequest {
        key: Bytes::from_static(b"\0"),
        range_end: Bytes::from_static(b"\0"),
        ..Default::default()
    };
    let from = |n: usize| format!("/registry/pods/default/pod-{n:08}");
    for (name, keys, request) in [
        (
            "get",
            1,
            pb::RangeRequest {
                key: key(77),
                ..Default::default()
            },
        ),
        (
            "range of 100 keys",
            100,
            pb::RangeRequest {
                key: from(5_050).into(),
                range_end: from(5_150).into(),
                ..Default::default()
            },
        ),
        (
            "first 100 of all keys",
            100,
            pb::RangeRequest { limit: 100, ..all() },
        ),
        (
            "count of all keys",
            0,
            pb::RangeRequest {
                count_only: true,
                ..all()
            },
        ),
    ] {
        let found = machine.range(&request);
        assert_eq!(found.kvs.len(), keys, "{name}");
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| machine.range(black_box(&request)))
        });
    }
}

/// What happens seldom, and stops everything else meanwhile.
fn pauses(criterion: &mut Criterion) {
    let machine = RefCell::new(Machine::filled(false));
    let mut group = criterion.benchmark_group("pause");
    group.sample_size(10);
    group.throughput(Throughput::Elements(KEYS as u64));
    let overwrite_half = || {
        let mut machine = machine.borrow_mut();
        for first in (0..KEYS / 2).step_by(BATCH_COMMANDS) {
            let batch = first..first + BATCH_COMMANDS;
            let requests: Vec<Request> = batch.map(|n| from_log(Request::Put(put(n)))).collect();
            machine.apply(&requests);
        }
    };
    // All pieces of it together; others have their turn in between.
    group.bench_function("compaction, half of the keys overwritten", |bencher| {
        let compact = |()| machine.borrow_mut().compact();
        bencher.iter_batched(overwrite_half, compact, BatchSize::PerIteration);
    });
    let stored = Machine::filled(true).store;
    group.bench_function("open", |bencher| {
        bencher.iter_with_large_drop(|| State::open(&stored).expect("a sound store"));
    });
    group.finish();
}

criterion_group!(benches, writes, reads, pauses);
criterion_main!(benches);
