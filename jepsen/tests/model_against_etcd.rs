//! Is the model etcd? The same random requests, one after another, to a real etcd and to the model:
//! every answer, every refusal and every event of a watch has to be the same, field by field.
//!
//! Needs an `etcd` 3.7 on the PATH; without one it says so and passes. `QUORATE_MODEL=100000 cargo test --release -p
//! quorate-jepsen --test model_against_etcd` makes so many requests; `MODEL_TEST_SERVER` names another server to compare
//! with (quorate, for one).
#![allow(clippy::disallowed_methods)]

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::compare::TargetUnion;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::watch_client::WatchClient;
use quorate::proto::etcdserverpb::watch_request::RequestUnion;
use quorate::proto::mvccpb::Event;
use quorate::runtime::Env;
use quorate_jepsen::history::{Outcome, Request};
use quorate_jepsen::model::{Model, same_answer};
use quorate_jepsen::workload::{Connection, call};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tonic::Streaming;

/// Requests to one server, which then makes room for a fresh one.
const SESSION: u32 = 4_000;
/// Requests unless [`REQUESTS_VARIABLE`] says otherwise.
const REQUESTS: u32 = 8_000;
const REQUESTS_VARIABLE: &str = "QUORATE_MODEL";
const TIMEOUT: Duration = Duration::from_secs(10);
const MISSING_LEASE: i64 = 999;

/// A running etcd that ends with the test.
struct Etcd {
    process: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed by then.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn server() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("MODEL_TEST_SERVER") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    let binary = std::env::split_paths(&path)
        .map(|folder| folder.join("etcd"))
        .find(|file| file.is_file())?;
    let version = Command::new(&binary).arg("--version").output().ok()?;
    String::from_utf8_lossy(&version.stdout)
        .contains("etcd Version: 3.7")
        .then_some(binary)
}

async fn free_address(env: &Env) -> String {
    let listener = env.listen("127.0.0.1:0").await.expect("a free port on loopback");
    listener.local_address()
}

async fn start(env: &Env, binary: &PathBuf) -> Etcd {
    let data = tempfile::tempdir().expect("a temporary folder");
    let (address, peer) = (free_address(env).await, free_address(env).await);
    let (client_url, peer_url) = (format!("http://{address}"), format!("http://{peer}"));
    let process = Command::new(binary)
        .args(["--name", "m", "--initial-cluster", &format!("m={peer_url}")])
        .args([
            "--listen-client-urls",
            &client_url,
            "--advertise-client-urls",
            &client_url,
        ])
        .args([
            "--listen-peer-urls",
            &peer_url,
            "--initial-advertise-peer-urls",
            &peer_url,
        ])
        .arg("--data-dir")
        .arg(data.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd starts");
    Etcd {
        process,
        address,
        _data: data,
    }
}

async fn connect(env: &Env, address: &str) -> Connection {
    let probe = pb::RangeRequest {
        key: "probe".into(),
        ..Default::default()
    };
    for _ in 0..300 {
        if let Some(connection) = Connection::open(env, address, TIMEOUT, None).await
            && let Outcome::Ok(_) = call(env, &connection, &probe.clone().into(), TIMEOUT).await
        {
            return connection;
        }
        env.sleep(Duration::from_millis(100)).await;
    }
    panic!("etcd does not serve");
}

/// Draws requests over few keys, good and bad ones.
struct Draw {
    rng: ChaCha8Rng,
    revision: i64,
    leases: Vec<i64>,
    /// The transaction being drawn has open-ended deletes, or else puts that keep a value or lease.
    /// With both, etcd 3.7.1 itself ends with a panic: the delete removes, in the same transaction,
    /// the key that was checked to be there.
    open_deletes: bool,
}

impl Draw {
    fn below(&mut self, end: i64) -> i64 {
        self.rng.random_range(0..end)
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.rng.random_ratio(1, count)
    }

    fn key(&mut self) -> Bytes {
        if self.one_in(60) {
            return Bytes::new();
        }
        let keys = ["a", "b", "c", "d", "e", "f"];
        Bytes::from_static(keys[self.below(6) as usize].as_bytes())
    }

    fn range_end(&mut self) -> Bytes {
        match self.below(6) {
            0 => Bytes::from_static(b"\0"),
            1 | 2 => self.key(),
            3 => Bytes::from_static(b"z"),
            _ => Bytes::new(),
        }
    }

    fn lease(&mut self) -> i64 {
        match self.below(6) {
            0 => MISSING_LEASE,
            1 | 2 if !self.leases.is_empty() => {
                let index = self.below(self.leases.len() as i64) as usize;
                self.leases[index]
            }
            _ => 0,
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.one_in(8);
        let ignore_lease = self.one_in(8);
        let keeps_rules = !self.one_in(8);
        let value = if ignore_value && keeps_rules {
            Bytes::new()
        } else {
            Bytes::from(self.below(5).to_string())
        };
        let lease = if ignore_lease && keeps_rules {
            0
        } else {
            self.lease()
        };
        pb::PutRequest {
            key: self.key(),
            value,
            lease,
            prev_kv: self.rng.random(),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            prev_kv: self.rng.random(),
        }
    }

    fn some_revision(&mut self) -> i64 {
        match self.below(4) {
            0 => (self.revision - self.below(40)).max(0),
            1 if self.one_in(4) => self.revision + self.below(3),
            _ => 0,
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let mut filter = || {
            if self.rng.random_ratio(1, 6) {
                self.rng.random_range(0..=self.revision)
            } else {
                0
            }
        };
        let bounds = [filter(), filter(), filter(), filter()];
        pb::RangeRequest {
            key: self.key(),
            range_end: self.range_end(),
            limit: if self.one_in(2) { self.below(5) } else { 0 },
            revision: self.some_revision(),
            sort_order: self.below(3) as i32 + if self.one_in(80) { 7 } else { 0 },
            sort_target: self.below(5) as i32,
            serializable: self.rng.random(),
            keys_only: self.one_in(4),
            count_only: self.one_in(6),
            min_mod_revision: bounds[0],
            max_mod_revision: bounds[1],
            min_create_revision: bounds[2],
            max_create_revision: bounds[3],
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let number = match self.below(3) {
            0 => 0,
            1 => self.below(4),
            _ => (self.revision - self.below(10)).max(0),
        };
        let (target, target_union) = match self.below(5) {
            0 => (0, TargetUnion::Version(number)),
            1 => (1, TargetUnion::CreateRevision(number)),
            2 => (2, TargetUnion::ModRevision(number)),
            3 => (3, TargetUnion::Value(Bytes::from(self.below(5).to_string()))),
            _ => (4, TargetUnion::Lease(self.lease())),
        };
        pb::Compare {
            result: self.below(4) as i32,
            target,
            key: self.key(),
            target_union: (!self.one_in(10)).then_some(target_union),
            range_end: self.range_end(),
        }
    }

    fn put_inside(&mut self) -> pb::PutRequest {
        let mut put = self.put();
        put.ignore_value &= !self.open_deletes;
        put.ignore_lease &= !self.open_deletes;
        put
    }

    fn delete_inside(&mut self) -> pb::DeleteRangeRequest {
        let mut delete = self.delete();
        if !self.open_deletes && delete.range_end.as_ref() == [0] {
            delete.range_end = Bytes::new();
        }
        delete
    }

    fn ops(&mut self, depth: u32) -> Vec<pb::RequestOp> {
        let count = self.below(4);
        let mut ops = Vec::new();
        for _ in 0..count {
            let request = match self.below(8) {
                0..3 => Op::RequestPut(self.put_inside()),
                3..5 => Op::RequestRange(self.range()),
                5 => Op::RequestDeleteRange(self.delete_inside()),
                _ if depth > 0 => Op::RequestTxn(self.txn(depth - 1)),
                _ => Op::RequestPut(self.put_inside()),
            };
            let request = (!self.one_in(100)).then_some(request);
            ops.push(pb::RequestOp { request });
        }
        ops
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let compare = (0..self.below(3)).map(|_| self.compare()).collect();
        pb::TxnRequest {
            compare,
            success: self.ops(depth),
            failure: self.ops(depth),
        }
    }

    fn request(&mut self) -> Request {
        match self.below(40) {
            0..10 => self.put().into(),
            10..14 => self.delete().into(),
            14..24 => self.range().into(),
            24..36 => {
                self.open_deletes = self.rng.random();
                self.txn(2).into()
            }
            36 => {
                let revision = self.revision - 20 + self.below(30);
                pb::CompactionRequest {
                    revision: revision.max(0),
                    physical: self.rng.random(),
                }
                .into()
            }
            37 => pb::LeaseGrantRequest {
                ttl: 3_600,
                id: 1 + self.below(5),
            }
            .into(),
            38 => pb::LeaseRevokeRequest {
                id: 1 + self.below(5),
            }
            .into(),
            _ => pb::LeaseTimeToLiveRequest {
                id: 1 + self.below(5),
                keys: true,
            }
            .into(),
        }
    }
}

/// A watch of everything, with previous pairs.
struct Watched(Streaming<pb::WatchResponse>);

impl Watched {
    async fn begin(connection: &Connection) -> Watched {
        let create = pb::WatchCreateRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            prev_kv: true,
            start_revision: 2,
            ..Default::default()
        };
        let create = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        let requests = stream::iter([create]).chain(stream::pending());
        let mut client = WatchClient::new(connection.calls());
        let responses = client.watch(requests).await.expect("a watch stream");
        let mut watched = Watched(responses.into_inner());
        assert!(watched.next().await.created);
        watched
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let response = self.0.message().await.expect("the stream goes on");
        response.expect("the stream goes on")
    }

    /// The next events, as many.
    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            let response = self.next().await;
            assert!(!response.canceled, "a watch that keeps up is not cancelled");
            events.extend(response.events);
        }
        events
    }
}

/// One session; how many requests were answered, and how many refused.
async fn compare_with_etcd(binary: &PathBuf, seed: u64, requests: u32) -> (u32, u32) {
    let env = quorate::runtime::tokio::env();
    let etcd = start(&env, binary).await;
    let connection = connect(&env, &etcd.address).await;
    let mut watched = Watched::begin(&connection).await;
    let mut model = Model::strict();
    let mut draw = Draw {
        rng: ChaCha8Rng::seed_from_u64(seed),
        revision: 1,
        leases: vec![1, 2, 3],
        open_deletes: false,
    };
    let (mut answered, mut refused) = (0, 0);
    for number in 0..requests {
        let request = draw.request();
        let outcome = call(&env, &connection, &request, TIMEOUT).await;
        let applied = model.apply(&request, outcome.answer());
        draw.revision = model.revision();
        let same = match (&outcome, &applied.result) {
            (Outcome::Ok(actual), Ok(expected)) => {
                answered += 1;
                same_answer(&request, expected, actual)
            }
            (Outcome::Denied { code, text }, Err(refusal)) => {
                refused += 1;
                (*code, text.as_str()) == (refusal.code, refusal.text)
            }
            _ => false,
        };
        assert!(
            same,
            "request {number} of seed {seed}: {request:?}\netcd:  {outcome:?}\nmodel: {:?}",
            applied.result
        );
        let events = env.timeout(TIMEOUT, watched.events(applied.events.len())).await;
        assert_eq!(
            events.as_ref(),
            Ok(&applied.events),
            "events of request {number} of seed {seed}: {request:?}"
        );
    }
    (answered, refused)
}

#[tokio::test]
async fn the_model_answers_as_etcd_does() {
    let Some(binary) = server() else {
        eprintln!("skipped: no etcd 3.7 on the PATH to compare the model with");
        return;
    };
    let requests = std::env::var(REQUESTS_VARIABLE).ok();
    let requests = requests.map_or(REQUESTS, |text| text.parse().expect("a number of requests"));
    let (mut answered, mut refused) = (0, 0);
    for seed in 0..requests.div_ceil(SESSION) {
        let session = SESSION.min(requests - seed * SESSION);
        let (some, others) = compare_with_etcd(&binary, seed.into(), session).await;
        (answered, refused) = (answered + some, refused + others);
    }
    eprintln!("{answered} requests answered and {refused} refused as the model says");
    assert!(
        answered > requests / 2 && refused > requests / 50,
        "{answered} answered, {refused} refused"
    );
}
