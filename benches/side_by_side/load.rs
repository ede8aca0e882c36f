//! The load: clients that wait for each answer before they ask again.
//!
//! A client is a task; clients share at most sixteen HTTP/2 connections, as they would in one process of a
//! user. Values have 256 bytes.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate::client::Channel;
use quorate::proto::etcdserverpb as pb;
use quorate::runtime::time::Instant;
use quorate::runtime::{Env, Task};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::servers::{Servers, Usage};

const VALUE_BYTES: usize = 256;
const CONNECTIONS_MAX: usize = 16;
/// Keys that exist before reads are measured.
const KEYS: u64 = 10_000;
/// Keys of one client of transactions.
const TXN_KEYS: u64 = 16;
const WARM_UP: Duration = Duration::from_secs(1);
/// How long stragglers may take after the end of a row.
const PATIENCE: Duration = Duration::from_secs(60);

/// What clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Put,
    Get,
    GetSerializable,
    /// Compare the key's revision and put, as Kubernetes updates an object.
    Txn,
    /// One writer; every client watches. An operation is one event that reached one client.
    Watch,
}

impl Operation {
    pub const ALL: [Operation; 5] = [
        Operation::Put,
        Operation::Get,
        Operation::GetSerializable,
        Operation::Txn,
        Operation::Watch,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::GetSerializable => "get-serializable",
            Operation::Txn => "txn",
            Operation::Watch => "watch",
        }
    }
}

impl FromStr for Operation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Operation::ALL
            .into_iter()
            .find(|operation| operation.name() == text)
            .ok_or(())
    }
}

/// What one row showed.
pub struct Measured {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
    pub cpu_per_operation: Duration,
    pub resident_bytes: u64,
    pub errors: usize,
}

/// When a row begins to count, and when it ends.
#[derive(Clone, Copy)]
struct Window {
    from: Instant,
    until: Instant,
}

/// What one client saw within the window.
#[derive(Default)]
struct Seen {
    waits: Vec<Duration>,
    errors: usize,
}

impl Seen {
    fn record(&mut self, window: Window, start: Instant, end: Instant, succeeded: bool) {
        if end < window.from || end >= window.until {
            return;
        }
        match succeeded {
            true => self.waits.push(end - start),
            false => self.errors += 1,
        }
    }
}

fn value(first: u64) -> Bytes {
    let mut value = vec![b'x'; VALUE_BYTES];
    value[..8].copy_from_slice(&first.to_be_bytes());
    value.into()
}

fn key(number: u64) -> Bytes {
    format!("bench/key-{number:012}").into()
}

pub fn put(key: Bytes, value: Bytes) -> pb::PutRequest {
    pb::PutRequest {
        key,
        value,
        ..Default::default()
    }
}

/// Fills the store with what the operation needs.
pub async fn prepare(env: &Env, servers: &Servers, operation: Operation) -> Result<(), String> {
    if !matches!(operation, Operation::Get | Operation::GetSerializable) {
        return Ok(());
    }
    let writers = 64;
    let mut tasks = Vec::new();
    for (writer, channel) in spread(servers.connect(env, CONNECTIONS_MAX).await?, writers).enumerate() {
        let mut client = pb::kv_client::KvClient::new(channel);
        tasks.push(env.spawn(async move {
            for number in (writer as u64..KEYS).step_by(writers) {
                client
                    .put(put(key(number), value(number)))
                    .await
                    .map_err(|error| error.to_string())?;
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await
            .unwrap_or_else(|| Err("a writer panicked".to_owned()))?;
    }
    Ok(())
}

/// One channel for each client.
fn spread(channels: Vec<Channel>, clients: usize) -> impl Iterator<Item = Channel> {
    channels.into_iter().cycle().take(clients)
}

/// Measures one row.
pub async fn run(
    env: &Env,
    servers: &Servers,
    operation: Operation,
    clients: usize,
    seconds: Duration,
) -> Result<Measured, String> {
    let channels = servers.connect(env, clients.min(CONNECTIONS_MAX)).await?;
    let writer = servers.connect(env, 1).await?.remove(0);
    let from = env.now() + WARM_UP;
    let window = Window {
        from,
        until: from + seconds,
    };
    let channels = spread(channels, clients);
    let tasks: Vec<Task<Seen>> = match operation {
        Operation::Watch => watchers(env, channels, writer, window).await?,
        _ => channels
            .enumerate()
            .map(|(n, channel)| client(env, operation, n as u64, channel, window))
            .collect(),
    };
    env.sleep_until(window.from).await;
    let before = servers.usage();
    env.sleep_until(window.until).await;
    let after = servers.usage();
    let mut all = Seen::default();
    for task in tasks {
        let seen = env.timeout_at(window.until + PATIENCE, task).await;
        let seen = seen
            .map_err(|_| "a client waits for ever")?
            .ok_or("a client panicked")?;
        all.waits.extend(seen.waits);
        all.errors += seen.errors;
    }
    summarize(all, before, after, seconds)
}

fn summarize(mut all: Seen, before: Usage, after: Usage, seconds: Duration) -> Result<Measured, String> {
    if all.waits.is_empty() {
        return Err(format!("no operation succeeded, {} failed", all.errors));
    }
    all.waits.sort_unstable();
    let count = all.waits.len();
    Ok(Measured {
        per_second: count as f64 / seconds.as_secs_f64(),
        p50: all.waits[count / 2],
        p99: all.waits[count * 99 / 100],
        cpu_per_operation: (after.cpu - before.cpu).div_f64(count as f64),
        resident_bytes: after.resident_bytes,
        errors: all.errors,
    })
}

/// A client of unary calls.
fn client(env: &Env, operation: Operation, number: u64, channel: Channel, window: Window) -> Task<Seen> {
    let mut kv = pb::kv_client::KvClient::new(channel);
    let task_env = env.clone();
    // Keys in an order that is no order, the same on every run.
    let mut random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut revisions = [0_i64; TXN_KEYS as usize];
    env.spawn(async move {
        let env = task_env;
        let mut seen = Seen::default();
        loop {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let start = env.now();
            if start >= window.until {
                return seen;
            }
            let succeeded = match operation {
                Operation::Put => kv
                    .put(put(key(random % (10 * KEYS)), value(random)))
                    .await
                    .is_ok(),
                Operation::Get | Operation::GetSerializable => {
                    let request = pb::RangeRequest {
                        key: key(random % KEYS),
                        serializable: operation == Operation::GetSerializable,
                        ..Default::default()
                    };
                    kv.range(request)
                        .await
                        .is_ok_and(|answer| answer.get_ref().kvs.len() == 1)
                }
                Operation::Txn => {
                    let slot = random % TXN_KEYS;
                    let key = key(1_000_000 + number * TXN_KEYS + slot);
                    compare_and_put(&mut kv, key, &mut revisions[slot as usize], value(random)).await
                }
                Operation::Watch => unreachable!("watchers are no unary clients"),
            };
            seen.record(window, start, env.now(), succeeded);
        }
    })
}

/// Puts if the key is as it was seen last; otherwise learns how it is. A lost comparison is an answer, too.
async fn compare_and_put(
    kv: &mut pb::kv_client::KvClient<Channel>,
    key: Bytes,
    revision: &mut i64,
    value: Bytes,
) -> bool {
    let range = pb::RangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    let request = pb::TxnRequest {
        compare: vec![pb::Compare {
            result: pb::compare::CompareResult::Equal as i32,
            target: pb::compare::CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(*revision)),
            ..Default::default()
        }],
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(key, value))),
        }],
        failure: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestRange(range)),
        }],
    };
    let Ok(answer) = kv.txn(request).await else {
        return false;
    };
    let answer = answer.into_inner();
    if answer.succeeded {
        *revision = answer.header.map_or(0, |header| header.revision);
    } else if let Some(pb::response_op::Response::ResponseRange(range)) =
        answer.responses.into_iter().next().and_then(|op| op.response)
    {
        *revision = range.kvs.first().map_or(0, |kv| kv.mod_revision);
    }
    true
}

/// The key that is watched.
const WATCHED: &[u8] = b"bench/watched";

/// Watchers of one key, and a writer that puts the time into it until the window ends, then a zero.
async fn watchers(
    env: &Env,
    channels: impl Iterator<Item = Channel>,
    writer: Channel,
    window: Window,
) -> Result<Vec<Task<Seen>>, String> {
    let mut tasks = Vec::new();
    for channel in channels {
        tasks.push(watcher(env, channel, window).await?);
    }
    let mut kv = pb::kv_client::KvClient::new(writer);
    let task_env = env.clone();
    let writer = env.spawn(async move {
        let mut seen = Seen::default();
        loop {
            let now = task_env.now();
            let mark = if now < window.until { now.as_nanos() } else { 0 };
            let succeeded = kv
                .put(put(Bytes::from_static(WATCHED), value(mark)))
                .await
                .is_ok();
            if !succeeded {
                seen.errors += 1;
            } else if mark == 0 {
                return seen;
            }
        }
    });
    tasks.push(writer);
    Ok(tasks)
}

async fn watcher(env: &Env, channel: Channel, window: Window) -> Result<Task<Seen>, String> {
    let (sender, receiver) = mpsc::channel(1);
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(WATCHED),
        ..Default::default()
    };
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    sender.try_send(request).map_err(|error| error.to_string())?;
    let mut client = pb::watch_client::WatchClient::new(channel);
    let answers = client
        .watch(ReceiverStream::new(receiver))
        .await
        .map_err(|error| error.to_string())?;
    let mut answers = answers.into_inner();
    // The first answer says that the watch is there.
    answers.message().await.map_err(|error| error.to_string())?;
    let task_env = env.clone();
    let open = Arc::new(sender);
    Ok(env.spawn(async move {
        let _open = open;
        let mut seen = Seen::default();
        while let Ok(Some(answer)) = answers.message().await {
            let now = task_env.now();
            for event in answer.events {
                let value = event.kv.unwrap_or_default().value;
                let mark = value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
                if mark == 0 {
                    return seen;
                }
                seen.record(window, Instant::from_nanos(mark), now, true);
            }
        }
        seen.errors += 1;
        seen
    }))
}
