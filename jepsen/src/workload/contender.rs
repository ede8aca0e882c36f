//! A client that contends for locks and elections, with the services of that name.
//!
//! ```text
//!   grant a lease ─► lock ────────────────────────────► unlock      ┐ or leave it to the lease;
//!                 ─► campaign ─► proclaim, ask who leads ─► resign  ┘ or be called away in between
//! ```
//!
//! What it is told is recorded as [`Claim`]s. The keys behind it are seen by the watches of the run: whoever was told that
//! it holds something had the oldest key then.

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::proto::v3electionpb as election;
use quorate::proto::v3electionpb::election_client::ElectionClient;
use quorate::proto::v3lockpb as lock;
use quorate::proto::v3lockpb::lock_client::LockClient;
use quorate::runtime::Env;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic::{Response, Status};

use super::{Clock, Connection, Stop, User};
use crate::history::{Claim, Recorder};

/// Names that are contended for.
const NAMES: u32 = 2;

#[derive(Clone)]
pub struct ContenderOptions {
    pub seed: u64,
    pub client: u32,
    pub user: Option<User>,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    pub call_timeout: Duration,
    /// Mean pause between two calls.
    pub pause: Duration,
    pub lease_ttl_seconds: i64,
}

/// Contends until `stop`.
pub async fn run_contender(
    env: Env,
    clock: Clock,
    recorder: Recorder,
    options: ContenderOptions,
    stop: Stop,
) {
    let rng = ChaCha8Rng::seed_from_u64(options.seed ^ (u64::from(options.client) << 32) ^ 0x434f_4e54);
    let mut contender = Contender {
        env,
        clock,
        recorder,
        options,
        rng,
        leases: 0,
        values: 0,
    };
    while !stop.clients_stopped() {
        let _ = contender.attempt().await;
        contender.pause().await;
    }
}

struct Contender {
    env: Env,
    clock: Clock,
    recorder: Recorder,
    options: ContenderOptions,
    rng: ChaCha8Rng,
    leases: i64,
    values: u64,
}

impl Contender {
    /// Anything that fails ends the attempt: its lease cleans up.
    async fn attempt(&mut self) -> Option<()> {
        let connection = self.connect().await?;
        let lease = self.grant(&connection).await?;
        let name = self.rng.random_range(0..NAMES);
        if self.rng.random() {
            self.lock(connection, format!("lock/{name}"), lease).await
        } else {
            self.campaign(connection, format!("election/{name}"), lease).await
        }
    }

    async fn connect(&mut self) -> Option<Connection> {
        let member = self.rng.random_range(0..self.options.addresses.len());
        let address = &self.options.addresses[member];
        let (timeout, user) = (self.options.call_timeout, self.options.user.as_ref());
        Connection::open(&self.env, address, timeout, user).await
    }

    /// Another member now and then: who holds something is not bound to where it got it.
    async fn move_on(&mut self, connection: Connection) -> Option<Connection> {
        if self.rng.random_ratio(1, 4) {
            return self.connect().await;
        }
        Some(connection)
    }

    async fn pause(&mut self) {
        let micros = self
            .rng
            .random_range(0..2 * self.options.pause.as_micros() as u64);
        self.env.sleep(Duration::from_micros(micros)).await;
    }

    async fn grant(&mut self, connection: &Connection) -> Option<i64> {
        self.leases += 1;
        let request = pb::LeaseGrantRequest {
            ttl: self.options.lease_ttl_seconds,
            id: (i64::from(self.options.client) << 32) + self.leases,
        };
        let mut client = LeaseClient::new(connection.calls());
        let granted = self.answer(client.lease_grant(request)).await?;
        Some(granted.id)
    }

    async fn answer<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Option<T> {
        let answered = self.env.timeout(self.options.call_timeout, call).await.ok()?;
        answered.ok().map(Response::into_inner)
    }

    fn claim(&self, by: &'static str, name: &str, key: &[u8], revision: i64, value: Option<&[u8]>) {
        let at = self.recorder.moment(self.clock.now());
        self.recorder.claim(Claim {
            client: self.options.client,
            at,
            by,
            prefix: format!("{name}/").into_bytes(),
            key: key.to_vec(),
            revision,
            value: value.map(<[u8]>::to_vec),
        });
    }

    async fn lock(&mut self, connection: Connection, name: String, lease: i64) -> Option<()> {
        let request = lock::LockRequest {
            name: name.clone().into(),
            lease,
        };
        let mut client = LockClient::new(connection.calls());
        let held = self.answer(client.lock(request)).await?;
        self.claim("Lock", &name, &held.key, revision(held.header.as_ref()), None);
        self.pause().await;
        if self.rng.random_ratio(1, 5) {
            return None;
        }
        let connection = self.move_on(connection).await?;
        let mut client = LockClient::new(connection.calls());
        let request = lock::UnlockRequest { key: held.key };
        self.answer(client.unlock(request)).await.map(drop)
    }

    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        format!("c{}-{}", self.options.client, self.values).into_bytes()
    }

    async fn campaign(&mut self, mut connection: Connection, name: String, lease: i64) -> Option<()> {
        let request = election::CampaignRequest {
            name: name.clone().into(),
            lease,
            value: self.value().into(),
        };
        let mut client = ElectionClient::new(connection.calls());
        let leader = self.answer(client.campaign(request)).await?.leader?;
        // The answer's header is that of the first attempt, so it says nothing; what follows does.
        for _ in 0..self.rng.random_range(0..4) {
            self.pause().await;
            connection = self.move_on(connection).await?;
            let mut client = ElectionClient::new(connection.calls());
            if self.rng.random() {
                let value = self.value();
                let request = election::ProclaimRequest {
                    leader: Some(leader.clone()),
                    value: value.clone().into(),
                };
                let done = self.answer(client.proclaim(request)).await?;
                let at = revision(done.header.as_ref());
                self.claim("Proclaim", &name, &leader.key, at, Some(&value));
            } else {
                let request = election::LeaderRequest {
                    name: name.clone().into(),
                };
                let told = self.answer(client.leader(request)).await?;
                let kv = told.kv?;
                let at = revision(told.header.as_ref());
                self.claim("Leader", &name, &kv.key, at, Some(&kv.value));
            }
        }
        if self.rng.random_ratio(1, 5) {
            return None;
        }
        let mut client = ElectionClient::new(connection.calls());
        let request = election::ResignRequest { leader: Some(leader) };
        self.answer(client.resign(request)).await.map(drop)
    }
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}
