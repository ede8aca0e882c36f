//! How fast the log takes entries: one group per iteration, written and synced, on the file system of
//! `target/`. The throughput is in entries.
//!
//! `cargo bench --bench log`
#![allow(clippy::disallowed_methods)]

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use quorate::runtime::tokio::env;
use quorate::storage::wal::{LogId, LogRecord, Wal, WalOptions};
use tokio::runtime::LocalOptions;

const VALUE_BYTES: usize = 256;
/// Entries kept before a purge: some segments are recycled while the bench runs.
const KEPT_ENTRIES: u64 = 200_000;

struct Log {
    wal: Wal,
    next: u64,
    payload: Bytes,
}

impl Log {
    async fn open(directory: &Path) -> Log {
        let options = WalOptions::new(*b"bench of the log");
        let log = Wal::recover(&env(), directory, options).await;
        let wal = log.expect("an empty directory").start();
        let payload = Bytes::from(vec![7; VALUE_BYTES]);
        Log {
            wal,
            next: 0,
            payload,
        }
    }

    async fn append(&mut self, group: u64) {
        let records = (self.next..self.next + group).map(|index| LogRecord {
            term: 1,
            node: 1,
            index,
            payload: self.payload.clone(),
        });
        let durable = self.wal.append(records.collect());
        self.next += group;
        durable.await.expect("the disk works");
        if self.next % KEPT_ENTRIES < group && self.next > KEPT_ENTRIES {
            let upto = LogId {
                term: 1,
                node: 1,
                index: self.next - KEPT_ENTRIES / 2,
            };
            self.wal.purge(upto).await.expect("the disk works");
        }
    }
}

fn append(criterion: &mut Criterion) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().build_local(LocalOptions::default());
    let runtime = runtime.expect("a runtime without sockets asks the system for nothing");
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let mut benches = criterion.benchmark_group("log append, 256-byte values");
    benches.measurement_time(Duration::from_secs(5)).sample_size(30);
    for group in [1, 64, 256] {
        let directory = tempfile::tempdir_in(&target).expect("target/ is writable");
        let mut log = runtime.block_on(Log::open(directory.path()));
        benches.throughput(Throughput::Elements(group));
        benches.bench_function(BenchmarkId::new("group", group), |bencher| {
            bencher.iter(|| runtime.block_on(log.append(group)));
        });
        runtime.block_on(log.wal.close());
    }
    benches.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
