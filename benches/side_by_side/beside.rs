//! Clients that ask for what is expensive, without a pause, while others are measured.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use quorate::client::Channel;
use quorate::proto::etcdserverpb::{
    self as pb, kv_client::KvClient, maintenance_client::MaintenanceClient, range_request::SortOrder,
    range_request::SortTarget,
};
use quorate::runtime::{Env, Task};

use crate::load::put;
use crate::servers::Servers;

/// Keys that are there for them.
const KEYS: u64 = 300_000;
const WRITERS: u64 = 64;
const PREFIX: &str = "beside/";

/// What they ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beside {
    /// `Maintenance.Hash`.
    Hash,
    /// Ten keys of all, in the order of their values.
    SortedList,
}

impl FromStr for Beside {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "hash" => Ok(Beside::Hash),
            "sorted-list" => Ok(Beside::SortedList),
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

pub async fn prepare(env: &Env, servers: &Servers) -> Result<(), String> {
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

fn sorted_list() -> pb::RangeRequest {
    pb::RangeRequest {
        key: PREFIX.into(),
        range_end: "beside0".into(),
        sort_target: SortTarget::Value.into(),
        sort_order: SortOrder::Ascend.into(),
        limit: 10,
        ..Default::default()
    }
}
