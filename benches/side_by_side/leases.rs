//! Leases at scale and at a distance, on Quorate and on etcd in turn: `--leases`.
//!
//! Members that are `FAR` apart renew over one stream as fast as they can, and keep 2,000 leases for half a minute; members
//! on loopback keep 20,000 of one client, through the leader and through a follower; and 10,000 of 100,000 end at once.
//! A client renews as clientv3 does: every half second those whose last answer is a third of their TTL old.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use quorate::client::Channel;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::runtime::Env;
use quorate::runtime::time::Instant;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::servers::{Servers, System};

/// One way.
const FAR: Duration = Duration::from_millis(2);
/// Renewals of one stream that wait for their answers.
const OUTSTANDING: usize = 1_000;
const SECONDS: Duration = Duration::from_secs(5);
const KEPT_FOR: Duration = Duration::from_secs(30);
const TTL_SECONDS: i64 = 10;
const LONG_TTL_SECONDS: i64 = 3_600;
/// How long all keys may take to go.
const PATIENCE: Duration = Duration::from_secs(120);

type Renewals = mpsc::UnboundedSender<pb::LeaseKeepAliveRequest>;
type Answers = tonic::Streaming<pb::LeaseKeepAliveResponse>;

pub async fn measure(env: &Env, systems: &[System]) -> Result<(), String> {
    println!("| what | system | result |\n|---|---|---|");
    for system in systems {
        let servers = Servers::start(env, system, 3, FAR).await?;
        let (leader, follower) = leader_and_follower(env, &servers).await?;
        for (through, channel) in [("the leader", &leader), ("a follower", &follower)] {
            let rate = renewals_per_second(env, channel).await?;
            let what = format!("renewals/s of one stream, members {FAR:?} apart, through {through}");
            println!("| {what} | {} | {rate:.0} |", system.name);
        }
        let lost = keep(env, &leader, 1, 2_000).await?;
        println!(
            "| lost of 2,000 leases, members {FAR:?} apart | {} | {lost} |",
            system.name
        );
    }
    for system in systems {
        let servers = Servers::start(env, system, 3, Duration::ZERO).await?;
        let (leader, follower) = leader_and_follower(env, &servers).await?;
        for (number, (through, channel)) in (1..).zip([("the leader", &leader), ("a follower", &follower)]) {
            let lost = keep(env, channel, number * 1_000_000, 20_000).await?;
            let what = format!("lost of 20,000 leases of one client through {through}");
            println!("| {what} | {} | {lost} |", system.name);
        }
    }
    for system in systems {
        let servers = Servers::start(env, system, 3, Duration::ZERO).await?;
        let took = end_together(env, &servers, 90_000, 10_000).await?;
        let what = "10,000 of 100,000 leases end at once: all keys gone after";
        println!("| {what} | {} | {:.1} s |", system.name, took.as_secs_f64());
    }
    Ok(())
}

async fn leader_and_follower(env: &Env, servers: &Servers) -> Result<(Channel, Channel), String> {
    let (mut leader, mut follower) = (None, None);
    for channel in servers.connect(env, 3).await? {
        let mut client = pb::maintenance_client::MaintenanceClient::new(channel.clone());
        let status = client.status(pb::StatusRequest {}).await;
        let status = status.map_err(|error| error.to_string())?.into_inner();
        match status
            .header
            .is_some_and(|header| header.member_id == status.leader)
        {
            true => leader = Some(channel),
            false => follower = Some(channel),
        }
    }
    leader.zip(follower).ok_or_else(|| "no leader".to_owned())
}

async fn grant(channel: &Channel, id: i64, ttl: i64) -> Result<(), String> {
    let mut client = LeaseClient::new(channel.clone());
    let granted = client.lease_grant(pb::LeaseGrantRequest { ttl, id }).await;
    granted.map(drop).map_err(|error| error.to_string())
}

/// Grants leases with these ids, many at a time, each with a key if wanted.
async fn grant_all(
    env: &Env,
    channel: &Channel,
    ids: std::ops::Range<i64>,
    ttl: i64,
    key: bool,
) -> Result<(), String> {
    let workers = 64;
    let mut tasks = Vec::new();
    for worker in 0..workers {
        let (channel, ids) = (channel.clone(), ids.clone());
        tasks.push(env.spawn(async move {
            let mut kv = pb::kv_client::KvClient::new(channel.clone());
            for id in (ids.start + worker..ids.end).step_by(workers as usize) {
                grant(&channel, id, ttl).await?;
                let put = pb::PutRequest {
                    key: format!("leased/{id:012}").into(),
                    lease: id,
                    ..Default::default()
                };
                if key {
                    kv.put(put).await.map_err(|error| error.to_string())?;
                }
            }
            Ok(())
        }));
    }
    for task in tasks {
        task.await
            .unwrap_or_else(|| Err("a client panicked".to_owned()))?;
    }
    Ok(())
}

async fn open(channel: &Channel) -> Result<(Renewals, Answers), String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    // etcd's answer begins with the first renewal's, so there has to be one: of a lease that does not exist.
    let _ = sender.send(pb::LeaseKeepAliveRequest { id: 0 });
    let mut client = LeaseClient::new(channel.clone());
    let answers = client
        .lease_keep_alive(UnboundedReceiverStream::new(receiver))
        .await;
    Ok((sender, answers.map_err(|error| error.to_string())?.into_inner()))
}

async fn renewals_per_second(env: &Env, channel: &Channel) -> Result<f64, String> {
    let id = 1 + (env.random_u64() >> 2) as i64;
    grant(channel, id, LONG_TTL_SECONDS).await?;
    let (renewals, mut answers) = open(channel).await?;
    for _ in 0..OUTSTANDING {
        let _ = renewals.send(pb::LeaseKeepAliveRequest { id });
    }
    let (begun, mut count) = (env.now(), 0_u32);
    // A server that answers no more is slow: that is what is measured.
    while env.now() - begun < SECONDS
        && let Ok(answer) = env.timeout_at(begun + SECONDS, answers.message()).await
    {
        match answer.map_err(|error| error.to_string())? {
            Some(_) => count += 1,
            None => break,
        }
        let _ = renewals.send(pb::LeaseKeepAliveRequest { id });
    }
    Ok(f64::from(count) / SECONDS.as_secs_f64())
}

/// Keeps leases for a while; how many were lost.
async fn keep(env: &Env, channel: &Channel, first: i64, count: i64) -> Result<usize, String> {
    let ids = first..first + count;
    let (sender, receiver) = mpsc::unbounded_channel();
    // Renewed while others are granted, as by a client that begins to work.
    let keeping = env.spawn(keep_alive(env.clone(), channel.clone(), receiver, count as usize));
    for id in ids.clone().step_by(1_000) {
        grant_all(env, channel, id..(id + 1_000).min(ids.end), TTL_SECONDS, false).await?;
        for granted in id..(id + 1_000).min(ids.end) {
            let _ = sender.send(granted);
        }
    }
    keeping.await.ok_or("the keeper panicked")??;
    let mut client = LeaseClient::new(channel.clone()).max_decoding_message_size(usize::MAX);
    let leases = client.lease_leases(pb::LeaseLeasesRequest {}).await;
    let leases = leases.map_err(|error| error.to_string())?.into_inner().leases;
    let left = leases.iter().filter(|lease| ids.contains(&lease.id)).count();
    Ok(count as usize - left)
}

/// clientv3's rhythm, until all leases are there and have been kept for a while. A stream that breaks is opened anew.
async fn keep_alive(
    env: Env,
    channel: Channel,
    mut granted: mpsc::UnboundedReceiver<i64>,
    count: usize,
) -> Result<(), String> {
    let third = Duration::from_millis(TTL_SECONDS as u64 * 1_000 / 3);
    let mut due: HashMap<i64, Instant> = HashMap::new();
    let (mut seen, mut end) = (0, None);
    let (mut renewals, mut answers) = open(&channel).await?;
    let mut tick = env.now();
    while end.is_none_or(|end| env.now() < end) {
        match env.timeout_at(tick, answers.message()).await {
            Ok(Ok(Some(answer))) if answer.ttl > 0 => drop(due.insert(answer.id, env.now() + third)),
            Ok(Ok(Some(answer))) => drop(due.remove(&answer.id)),
            Ok(_) => {
                env.sleep(Duration::from_millis(500)).await;
                (renewals, answers) = open(&channel).await?;
            }
            Err(_) => {
                while let Ok(id) = granted.try_recv() {
                    due.insert(id, env.now());
                    seen += 1;
                }
                if seen == count && end.is_none() {
                    end = Some(env.now() + KEPT_FOR);
                }
                let now = env.now();
                for (&id, _) in due.iter().filter(|(_, due)| **due <= now) {
                    let _ = renewals.send(pb::LeaseKeepAliveRequest { id });
                }
                tick = now + Duration::from_millis(500);
            }
        }
    }
    Ok(())
}

/// How long after their end the keys of `ending` leases are gone.
async fn end_together(env: &Env, servers: &Servers, others: i64, ending: i64) -> Result<Duration, String> {
    let channel = servers.connect(env, 1).await?.remove(0);
    grant_all(env, &channel, 1..1 + others, LONG_TTL_SECONDS, false).await?;
    let ids = 1_000_000..1_000_000 + ending;
    grant_all(env, &channel, ids.clone(), 6 * TTL_SECONDS, true).await?;
    // Renewed once, at the same time: that is when they begin to end.
    let (renewals, mut answers) = open(&channel).await?;
    for id in ids {
        let _ = renewals.send(pb::LeaseKeepAliveRequest { id });
    }
    for _ in 0..ending {
        answers.message().await.map_err(|error| error.to_string())?;
    }
    let over = env.now() + Duration::from_secs(6 * TTL_SECONDS as u64);
    env.sleep_until(over).await;
    let mut kv = pb::kv_client::KvClient::new(channel);
    loop {
        let request = pb::RangeRequest {
            key: "leased/".into(),
            range_end: Bytes::from_static(b"leased0"),
            count_only: true,
            ..Default::default()
        };
        let answer = kv.range(request).await.map_err(|error| error.to_string())?;
        let took = env.now() - over;
        if answer.into_inner().count == 0 {
            return Ok(took);
        }
        if took > PATIENCE {
            return Err(format!("keys are left after {took:?}"));
        }
        env.sleep(Duration::from_millis(50)).await;
    }
}
