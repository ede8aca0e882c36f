//! Clients that ask for what is expensive, without a pause, while others are measured; and whether the members are well
//! meanwhile: none may stall.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use quorate::client::Channel;
use quorate::proto::etcdserverpb::{
    self as pb, kv_client::KvClient, maintenance_client::MaintenanceClient, range_request::SortOrder,
    range_request::SortTarget,
};
use quorate::runtime::{Env, Task};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::load::put;
use crate::servers::Servers;

/// Keys that are there for them.
const KEYS: u64 = 500_000;
const WRITERS: u64 = 64;
const PREFIX: &str = "beside/";
const PREFIX_END: &str = "beside0";
/// Ranges of one transaction that only reads.
const RANGES: usize = 100;
const HEALTH_PAUSE: Duration = Duration::from_millis(50);

/// What they ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beside {
    /// `Maintenance.Hash`.
    Hash,
    /// Ten keys of all, in the order of their values.
    SortedList,
    /// A transaction of many ranges, each over all keys.
    ReadTxn,
    /// All history up to now is compacted: at first that of all keys.
    Compaction,
}

impl FromStr for Beside {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "hash" => Ok(Beside::Hash),
            "sorted-list" => Ok(Beside::SortedList),
            "read-txn" => Ok(Beside::ReadTxn),
            "compaction" => Ok(Beside::Compaction),
            _ => Err(()),
        }
    }
}

/// A client at work.
pub struct Asking {
    what: Beside,
    answers: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
    _task: Task<()>,
}

impl Asking {
    /// Asks no more; what it was, and how often it was answered.
    pub fn stop(&self) -> (Beside, u64) {
        self.stopped.store(true, Relaxed);
        (self.what, self.answers.load(Relaxed))
    }
}

/// Writes all keys twice, so that each has a change to be compacted.
pub async fn prepare(env: &Env, servers: &Servers) -> Result<(), String> {
    write_all(env, servers).await?;
    write_all(env, servers).await
}

async fn write_all(env: &Env, servers: &Servers) -> Result<(), String> {
    let mut channels = servers.connect(env, 8).await?.into_iter().cycle();
    let writer = |writer: u64, channel: Channel| {
        env.spawn(async move {
            let mut kv = KvClient::new(channel);
            for number in (writer..KEYS).step_by(WRITERS as usize) {
                let value = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec();
                let key = format!("{PREFIX}{number:09}");
                let written = kv.put(put(key.into(), value.into())).await;
                written.map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        })
    };
    let next = |number| (number, channels.next());
    let tasks: Vec<_> = (0..WRITERS)
        .map(next)
        .filter_map(|(number, channel)| Some(writer(number, channel?)))
        .collect();
    for task in tasks {
        task.await
            .unwrap_or_else(|| Err("a writer panicked".to_owned()))?;
    }
    Ok(())
}

pub async fn start(env: &Env, servers: &Servers, what: &[Beside]) -> Result<Vec<Asking>, String> {
    let mut asking = Vec::new();
    for &what in what {
        let channel = servers.connect(env, 1).await?.remove(0);
        let (answers, stopped) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, until) = (answers.clone(), stopped.clone());
        let task = env.spawn(async move {
            let mut maintenance = MaintenanceClient::new(channel.clone());
            let mut kv = KvClient::new(channel);
            while !until.load(Relaxed) {
                let answered = match what {
                    Beside::Hash => maintenance.hash(pb::HashRequest {}).await.is_ok(),
                    Beside::SortedList => kv.range(sorted_list()).await.is_ok(),
                    Beside::ReadTxn => kv.txn(read_txn()).await.is_ok(),
                    Beside::Compaction => compact(&mut kv).await.is_some(),
                };
                counted.fetch_add(u64::from(answered), Relaxed);
            }
        });
        asking.push(Asking {
            what,
            answers,
            stopped,
            _task: task,
        });
    }
    Ok(asking)
}

/// How the members were while others asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    /// The longest that `/health` of a member took.
    pub longest: Duration,
    /// It said something else than that all is well, or nothing.
    pub failures: u64,
    /// New terms: a leader was lost for each.
    pub terms: u64,
}

/// Asks all members for their health until it is stopped.
pub struct Watching {
    stopped: Arc<AtomicBool>,
    tasks: Vec<Task<Health>>,
    term: u64,
}

impl Watching {
    pub async fn start(env: &Env, servers: &Servers) -> Result<Watching, String> {
        let stopped = Arc::<AtomicBool>::default();
        let watch = |address: &String| {
            let (env, address, until) = (env.clone(), address.clone(), stopped.clone());
            env.clone().spawn(async move {
                let mut health = Health::default();
                while !until.load(Relaxed) {
                    let begun = env.now();
                    let well = is_well(&env, &address).await;
                    health.longest = health.longest.max(env.now() - begun);
                    health.failures += u64::from(!well);
                    env.sleep(HEALTH_PAUSE).await;
                }
                health
            })
        };
        Ok(Watching {
            tasks: servers.addresses.iter().map(watch).collect(),
            term: term(env, servers).await?,
            stopped,
        })
    }

    pub async fn stop(self, env: &Env, servers: &Servers) -> Result<Health, String> {
        self.stopped.store(true, Relaxed);
        let mut all = Health::default();
        for task in self.tasks {
            let health = task.await.unwrap_or_default();
            all.longest = all.longest.max(health.longest);
            all.failures += health.failures;
        }
        all.terms = term(env, servers).await? - self.term;
        Ok(all)
    }
}

async fn is_well(env: &Env, address: &str) -> bool {
    let asked = async {
        let mut stream = env.connect(address).await?;
        let request = format!("GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer.contains("200 OK"))
    };
    asked.await.unwrap_or(false)
}

async fn term(env: &Env, servers: &Servers) -> Result<u64, String> {
    let mut maintenance = MaintenanceClient::new(servers.connect(env, 1).await?.remove(0));
    let status = maintenance.status(pb::StatusRequest {}).await;
    status
        .map(|status| status.into_inner().raft_term)
        .map_err(|error| error.to_string())
}

/// Compacts at the revision as of now.
async fn compact(kv: &mut KvClient<Channel>) -> Option<()> {
    let now = kv
        .range(pb::RangeRequest {
            key: PREFIX.into(),
            ..Default::default()
        })
        .await;
    let request = pb::CompactionRequest {
        revision: now.ok()?.into_inner().header?.revision,
        physical: true,
    };
    kv.compact(request).await.ok().map(drop)
}

/// Each range looks at all keys, and finds none.
fn read_txn() -> pb::TxnRequest {
    let range = pb::RangeRequest {
        key: PREFIX.into(),
        range_end: PREFIX_END.into(),
        max_create_revision: 1,
        ..Default::default()
    };
    let op = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestRange(range)),
    };
    pb::TxnRequest {
        success: vec![op; RANGES],
        ..Default::default()
    }
}

fn sorted_list() -> pb::RangeRequest {
    pb::RangeRequest {
        key: PREFIX.into(),
        range_end: PREFIX_END.into(),
        sort_target: SortTarget::Value.into(),
        sort_order: SortOrder::Ascend.into(),
        limit: 10,
        ..Default::default()
    }
}
