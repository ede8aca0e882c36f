//! A client that keeps many leases alive over one stream, as clientv3 does, and lets some of them run out.
//!
//! ```text
//!   grant, put a key each ─► stream: all that are due at once ─► answers, in order ─► gone? ─► is its key gone?
//!                                ▲ some rest until about the end of their time                 └─► another one
//! ```
//!
//! Each lease is a client of its own in the history, since a renewal of each may be under way. What is asked about a
//! lease that has just run out is what an election behind it depends on.

use std::collections::VecDeque;
use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::lease_client::LeaseClient;
use quorate::runtime::Env;
use quorate::runtime::time::Instant;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{Clock, Connection, Stop, User, call};
use crate::history::{Answer, OpId, Outcome, Recorder, Request};

/// Leases of one client.
pub const KEPT_LEASES: u32 = 12;
/// Before another attempt to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(50);
/// How long after its end a lease that was let go is asked about, at most.
const ASKED_LATE_MAX: Duration = Duration::from_millis(700);

#[derive(Clone)]
pub struct KeeperOptions {
    pub seed: u64,
    /// The number of the first lease's client.
    pub client: u32,
    pub user: Option<User>,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    pub call_timeout: Duration,
    pub lease_ttl_seconds: i64,
}

/// Keeps leases until `stop`.
pub async fn run_keeper(env: Env, clock: Clock, recorder: Recorder, options: KeeperOptions, stop: Stop) {
    let rng = ChaCha8Rng::seed_from_u64(options.seed ^ (u64::from(options.client) << 32) ^ 0x4b45_4550);
    let mut keeper = Keeper {
        env,
        clock,
        recorder,
        options,
        rng,
        stop,
        slots: [Slot::default(); KEPT_LEASES as usize],
        numbers: 0,
    };
    while !keeper.stop.clients_stopped() {
        let _ = keeper.visit().await;
        keeper.env.sleep(RECONNECT_PAUSE).await;
    }
}

/// One of the leases that are kept.
#[derive(Clone, Copy, Default)]
struct Slot {
    lease: Option<i64>,
    /// Not before.
    due: Option<Instant>,
    is_asked: bool,
}

struct Keeper {
    env: Env,
    clock: Clock,
    recorder: Recorder,
    options: KeeperOptions,
    rng: ChaCha8Rng,
    stop: Stop,
    slots: [Slot; KEPT_LEASES as usize],
    numbers: i64,
}

/// A keep-alive stream, and what was asked over it: the slots and their operations, in order.
struct Stream {
    connection: Connection,
    member: u32,
    requests: mpsc::UnboundedSender<pb::LeaseKeepAliveRequest>,
    answers: Streaming<pb::LeaseKeepAliveResponse>,
    asked: VecDeque<(usize, OpId, Instant)>,
}

impl Keeper {
    /// Works with one member until something fails.
    async fn visit(&mut self) -> Option<()> {
        let mut stream = self.open().await?;
        let over = self.keep(&mut stream).await;
        for (slot, id, _) in stream.asked {
            self.slots[slot].is_asked = false;
            let unknown = Outcome::unknown("the stream ended before the answer");
            self.recorder.complete(id, self.clock.now(), unknown);
        }
        over
    }

    async fn open(&mut self) -> Option<Stream> {
        let member = self.rng.random_range(0..self.options.addresses.len());
        let (address, timeout) = (&self.options.addresses[member], self.options.call_timeout);
        let connection = Connection::open(&self.env, address, timeout, self.options.user.as_ref()).await?;
        let (requests, asked) = mpsc::unbounded_channel();
        let asked = futures_util::stream::unfold(asked, |mut asked| async {
            asked.recv().await.map(|request| (request, asked))
        });
        let mut client = LeaseClient::new(connection.calls());
        let opened = client.lease_keep_alive(asked);
        let answers = self.env.timeout(timeout, opened).await.ok()?.ok()?.into_inner();
        Some(Stream {
            connection,
            member: member as u32,
            requests,
            answers,
            asked: VecDeque::new(),
        })
    }

    async fn keep(&mut self, stream: &mut Stream) -> Option<()> {
        let mut tick = self.env.now();
        while !self.stop.clients_stopped() {
            match self.env.timeout_at(tick, stream.answers.message()).await {
                Ok(answer) => self.answered(stream, answer.ok()??).await?,
                Err(_) => {
                    for slot in 0..self.slots.len() {
                        self.fill(stream, slot).await?;
                    }
                    self.ask(stream)?;
                    let ttl_millis = 1_000 * self.options.lease_ttl_seconds as u64;
                    let pause = self.rng.random_range(10..ttl_millis / 3);
                    tick = self.env.now() + Duration::from_millis(pause);
                }
            }
        }
        Some(())
    }

    /// Sends a renewal of each lease that is due; `None` if an earlier one is not answered in time.
    fn ask(&mut self, stream: &mut Stream) -> Option<()> {
        let now = self.env.now();
        let is_late = |(_, _, asked): &(_, _, Instant)| now - *asked > self.options.call_timeout;
        if stream.asked.front().is_some_and(is_late) {
            return None;
        }
        for (number, slot) in self.slots.iter_mut().enumerate() {
            let Some(id) = slot.lease else { continue };
            if slot.is_asked || slot.due.is_some_and(|due| due > now) {
                continue;
            }
            let request = pb::LeaseKeepAliveRequest { id };
            let client = self.options.client + number as u32;
            let op = self
                .recorder
                .invoke(client, stream.member, self.clock.now(), request.into());
            slot.is_asked = true;
            stream.asked.push_back((number, op, now));
            stream.requests.send(request).ok()?;
        }
        Some(())
    }

    async fn answered(&mut self, stream: &mut Stream, answer: pb::LeaseKeepAliveResponse) -> Option<()> {
        let (number, op, _) = stream.asked.pop_front()?;
        let is_gone = answer.ttl <= 0;
        self.recorder
            .complete(op, self.clock.now(), Outcome::Ok(answer.into()));
        self.slots[number].is_asked = false;
        if is_gone {
            self.slots[number].lease = None;
            let read = pb::RangeRequest {
                key: self.key(number),
                ..pb::RangeRequest::default()
            };
            self.call(stream, number, read.into()).await?;
        } else if self.rng.random_ratio(1, 8) {
            let late = self.rng.random_range(0..ASKED_LATE_MAX.as_millis() as u64);
            let rest =
                Duration::from_secs(self.options.lease_ttl_seconds as u64) + Duration::from_millis(late);
            self.slots[number].due = Some(self.env.now() + rest);
        } else {
            self.slots[number].due = None;
        }
        Some(())
    }

    /// Grants a lease and attaches a key to it, where there is none.
    async fn fill(&mut self, stream: &Stream, number: usize) -> Option<()> {
        if self.slots[number].lease.is_some() {
            return Some(());
        }
        self.numbers += 1;
        let client = self.options.client + number as u32;
        let id = i64::from(client + 1) * 1_000_000 + self.numbers;
        let grant = pb::LeaseGrantRequest {
            ttl: self.options.lease_ttl_seconds,
            id,
        };
        let granted = self.call(stream, number, grant.into()).await?;
        let Some(Answer::LeaseGrant(granted)) = granted.answer() else {
            return Some(());
        };
        let lease = granted.id;
        self.slots[number] = Slot {
            lease: Some(lease),
            ..Slot::default()
        };
        let put = pb::PutRequest {
            key: self.key(number),
            value: format!("c{client}-{}", self.numbers).into(),
            lease,
            ..pb::PutRequest::default()
        };
        self.call(stream, number, put.into()).await.map(drop)
    }

    fn key(&self, number: usize) -> bytes::Bytes {
        format!("l/kept-{:03}", self.options.client as usize + number).into()
    }

    /// One call; `None` if nobody knows what became of it.
    async fn call(&self, stream: &Stream, number: usize, request: Request) -> Option<Outcome> {
        let (client, now) = (self.options.client + number as u32, self.clock.now());
        let op = self.recorder.invoke(client, stream.member, now, request.clone());
        let outcome = call(&self.env, &stream.connection, &request, self.options.call_timeout).await;
        self.recorder.complete(op, self.clock.now(), outcome.clone());
        Some(outcome).filter(|outcome| !outcome.is_unknown())
    }
}
