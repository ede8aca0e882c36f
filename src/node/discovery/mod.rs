//! Bootstrap a cluster whose members know nothing of one another but a token and a discovery service: an etcd, or a
//! Quorate, in which they register.
//!
//! ```text
//!   how many shall we be? ─► is there room? ─► put myself ─► is there room? ─► watch until all are there
//!                                                                                   └─► --initial-cluster
//! ```
//!
//! Keys, order and words are etcd's (`v3discovery`), so that both may found a cluster's worth of members in one service. A
//! service that cannot be reached is asked again and again; what it says is final only if it says no. Differs where etcd
//! would spin: a watch that ends early begins with a fresh look, so that a compaction of the service's is no trap.

mod registry;
mod service;

use std::time::Duration;

use tonic::Streaming;
use tracing::{info, warn};

use crate::base::MemberId;
use crate::config::DiscoveryOptions;
use crate::proto::etcdserverpb::WatchResponse;
use crate::runtime::Env;
use registry::Members;
use service::Service;

/// The pause doubles with each attempt, up to two to the power of this, in seconds.
const DOUBLINGS_MAX: u32 = 8;

/// Registers a member, waits for the others, and returns them all as `--initial-cluster` lists them. `own` lists the one
/// member in the same way.
///
/// # Errors
/// The service says no, or it is not to be spoken to like this.
pub async fn join(
    env: &Env,
    options: &DiscoveryOptions,
    member: MemberId,
    own: &str,
) -> Result<String, String> {
    let service = Service::new(env.clone(), options.clone()).await?;
    let mut discovery = Discovery {
        env: env.clone(),
        own_key: registry::member_key(&options.token, member),
        token: options.token.clone(),
        service,
        retries: 0,
    };
    discovery.look().await?;
    discovery.register(own).await;
    let mut seen = discovery.look().await?;
    while seen.members.len() < seen.size {
        seen = discovery.wait(seen).await?;
    }
    info!(
        "cluster-size" = seen.size,
        "found-peers" = seen.members.len(),
        "found all needed peers from discovery service"
    );
    Ok(seen.members.initial_cluster(seen.size)?)
}

/// The registry at a revision.
struct Seen {
    size: usize,
    members: Members,
    revision: i64,
}

/// Why there is nothing to be seen.
enum Blind {
    /// It may be different next time.
    Unreachable,
    Denied(&'static str),
}

struct Discovery {
    env: Env,
    service: Service,
    token: String,
    own_key: String,
    /// Attempts that failed in a row.
    retries: u32,
}

impl Discovery {
    /// Who is there, as soon as the service says it.
    async fn look(&mut self) -> Result<Seen, &'static str> {
        loop {
            match self.try_look().await {
                Ok(seen) => {
                    self.retries = 0;
                    seen.members.check_room(&self.own_key, seen.size)?;
                    return Ok(seen);
                }
                Err(Blind::Denied(reason)) => return Err(reason),
                Err(Blind::Unreachable) => self.back_off("cluster status check").await,
            }
        }
    }

    async fn try_look(&mut self) -> Result<Seen, Blind> {
        let key = registry::size_key(&self.token);
        let answer = self.service.range(key.clone(), String::new()).await;
        let answer = answer.map_err(|error| {
            warn!(
                "cluster-size-key" = key,
                error, "failed to get cluster size from discovery service"
            );
            Blind::Unreachable
        })?;
        let size = match answer.kvs.first() {
            None => return Err(Blind::Denied("discovery: size key not found")),
            Some(pair) => registry::parse_size(&pair.value).map_err(Blind::Denied)?,
        };
        let prefix = registry::members_prefix(&self.token);
        let answer = self
            .service
            .range(prefix.clone(), registry::members_end(&self.token))
            .await;
        let answer = answer.map_err(|error| {
            warn!(
                "members-key-prefix" = prefix,
                error, "failed to get cluster members from discovery service"
            );
            Blind::Unreachable
        })?;
        let mut members = Members::default();
        for pair in &answer.kvs {
            self.add(&mut members, &pair.key, &pair.value, pair.create_revision);
        }
        Ok(Seen {
            size,
            members,
            revision: answer.header.unwrap_or_default().revision,
        })
    }

    fn add(&self, members: &mut Members, key: &[u8], value: &[u8], create_revision: i64) {
        let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
        let (key, value) = (key.trim(), value.trim());
        match members.add(&self.token, key, value, create_revision) {
            Ok(()) => info!(
                "member-key" = key,
                "member-info" = value,
                "found peer from discovery service"
            ),
            Err(error) => warn!("member-key" = key, "member-info" = value, "{error}"),
        }
    }

    async fn register(&mut self, own: &str) {
        while let Err(error) = self.service.put(self.own_key.clone(), own.to_owned()).await {
            warn!(
                "member-key" = self.own_key,
                error, "failed to register members itself to the discovery service"
            );
            self.back_off("register member itself").await;
        }
        self.retries = 0;
        info!(
            "member-key" = self.own_key,
            "member-info" = own,
            "register member itself successfully"
        );
    }

    /// Waits for the rest, as long as the service can be watched.
    async fn wait(&mut self, mut seen: Seen) -> Result<Seen, &'static str> {
        info!(
            "cluster-size" = seen.size,
            "found-peers" = seen.members.len(),
            "waiting for peers from discovery service"
        );
        let events = self.service.watch_members(&self.token, seen.revision + 1).await;
        let over = match events {
            Ok(events) => match self.follow(events, &mut seen).await {
                Ok(()) => return Ok(seen),
                Err(error) => error,
            },
            Err(error) => error,
        };
        warn!(error = over, "failed to watch the discovery service");
        self.service.hang_up();
        self.back_off("waiting for peers").await;
        self.look().await
    }

    /// Adds who comes until all are there; the error is why the watch ended before.
    async fn follow(&self, mut events: Streaming<WatchResponse>, seen: &mut Seen) -> Result<(), String> {
        while seen.members.len() < seen.size {
            let answer = match events.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err("the watch ended".to_owned()),
                Err(status) => return Err(status.message().to_owned()),
            };
            if answer.canceled {
                return Err(format!("the watch was cancelled: {}", answer.cancel_reason));
            }
            for pair in answer.events.iter().filter_map(|event| event.kv.as_ref()) {
                self.add(&mut seen.members, &pair.key, &pair.value, pair.create_revision);
            }
        }
        Ok(())
    }

    async fn back_off(&mut self, reason: &str) {
        self.retries += 1;
        let pause = Duration::from_secs(1 << self.retries.min(DOUBLINGS_MAX));
        warn!(
            reason,
            backoff = ?pause,
            "retry connecting to discovery service"
        );
        self.env.sleep(pause).await;
    }
}
