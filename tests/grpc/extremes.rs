//! Requests at the limits and beyond, well-formed or not, to two members: both live, agree on the digest, and agree again
//! after they have applied all of it once more from their logs.
//!
//! `QUORATE_EXTREMES=150 cargo test --release --test grpc extremes` draws so many sessions (about four seconds each);
//! what fails is cut down, and printed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Cases, TestRunner};
use prost::Message;
use quorate::base::limits;
use quorate::client::Channel;
use quorate::config::Config;
use quorate::node::Node;
use quorate::proto::authpb;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};
use quorate::runtime::Env;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::{PATIENCE, RUNTIME};

const SESSIONS: u32 = 2;
const SESSIONS_VARIABLE: &str = "QUORATE_EXTREMES";
const REQUESTS_MAX: usize = 120;

/// Calls of this process, and those of them that were served.
static SENT: AtomicU32 = AtomicU32::new(0);
static SERVED: AtomicU32 = AtomicU32::new(0);

/// A call: any bytes to a method.
#[derive(Clone)]
struct Call {
    method: &'static str,
    message: Vec<u8>,
    member: usize,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.message[..self.message.len().min(300)];
        write!(
            f,
            "{} at {}: {} bytes, {shown:02x?}",
            self.method,
            self.member,
            self.message.len()
        )
    }
}

/// Bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        4 => -2_i64..20,
        1 => select(vec![i64::MIN, i64::MIN + 1, i64::MAX - 1, i64::MAX, limits::LEASE_TTL_SECONDS_MAX]),
        1 => any::<i64>(),
    ]
}

/// Of an enumeration, known or not.
fn variant() -> impl Strategy<Value = i32> {
    prop_oneof![60 => 0_i32..3, 1 => select(vec![-1, 4, 7, i32::MIN, i32::MAX])]
}

fn bytes_of(length: usize) -> bytes::Bytes {
    vec![b'x'; length].into()
}

fn key() -> impl Strategy<Value = bytes::Bytes> {
    prop_oneof![
        // Enough of them that few operations of a transaction meet.
        100 => (0_u8..60).prop_map(|number| format!("k{number}").into()),
        2 => select(vec![&b""[..], b"\0", b"\xff\xff"]).prop_map(|key| key.into()),
        1 => select(vec![255_usize, 256, 65_535, 65_536, 70_000]).prop_map(bytes_of),
    ]
}

fn value() -> impl Strategy<Value = bytes::Bytes> {
    let near = limits::REQUEST_BYTES_MAX;
    prop_oneof![
        20 => (0_usize..30).prop_map(bytes_of),
        1 => select(vec![65_536, near - 40, near - 20, near, near + 400_000]).prop_map(bytes_of),
    ]
}

fn seldom() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.03)
}

fn put() -> impl Strategy<Value = pb::PutRequest> {
    let flags = (any::<bool>(), seldom(), seldom());
    let lease = prop_oneof![20 => Just(0), 1 => 0_i64..3];
    (key(), value(), lease, flags).prop_map(|(key, value, lease, (prev_kv, ignore_value, ignore_lease))| {
        pb::PutRequest {
            key,
            value: if ignore_value { Default::default() } else { value },
            lease: if ignore_lease { 0 } else { lease },
            prev_kv,
            ignore_value,
            ignore_lease,
        }
    })
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    let bounds = (number(), number(), number(), number(), number(), number());
    (key(), key(), bounds, variant(), variant(), any::<[bool; 4]>()).prop_map(
        |(key, range_end, bounds, sort_order, sort_target, flags)| pb::RangeRequest {
            key,
            range_end: if flags[0] { range_end } else { Default::default() },
            limit: bounds.0,
            // The future is refused.
            revision: bounds.1.min(0),
            sort_order,
            sort_target,
            serializable: flags[1],
            keys_only: flags[2],
            count_only: flags[3],
            min_mod_revision: bounds.2,
            max_mod_revision: bounds.3,
            min_create_revision: bounds.4,
            max_create_revision: bounds.5,
        },
    )
}

fn delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    let flags = (prop::bool::weighted(0.2), any::<bool>());
    (key(), key(), flags).prop_map(|(key, range_end, (ranged, prev_kv))| pb::DeleteRangeRequest {
        key,
        range_end: if ranged { range_end } else { Default::default() },
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = pb::Compare> {
    use pb::compare::TargetUnion as Union;
    let union = prop_oneof![
        Just(None),
        number().prop_map(|n| Some(Union::Version(n))),
        number().prop_map(|n| Some(Union::ModRevision(n))),
        number().prop_map(|n| Some(Union::Lease(n))),
        value().prop_map(|value| Some(Union::Value(value))),
    ];
    (variant(), variant(), key(), key(), any::<bool>(), union).prop_map(
        |(result, target, key, range_end, ranged, target_union)| pb::Compare {
            result,
            target,
            key,
            range_end: if ranged { range_end } else { Default::default() },
            target_union,
        },
    )
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn leaf() -> impl Strategy<Value = pb::RequestOp> {
    prop_oneof![
        60 => put().prop_map(|put| op(Op::RequestPut(put))),
        40 => range().prop_map(|range| op(Op::RequestRange(range))),
        30 => delete().prop_map(|delete| op(Op::RequestDeleteRange(delete))),
        1 => Just(pb::RequestOp { request: None }),
    ]
}

fn txn_of(ops: impl Strategy<Value = pb::RequestOp> + Clone) -> impl Strategy<Value = pb::TxnRequest> {
    let branch = proptest::collection::vec(ops, 0..4);
    (proptest::collection::vec(compare(), 0..3), branch.clone(), branch).prop_map(
        |(compare, success, failure)| pb::TxnRequest {
            compare,
            success,
            failure,
        },
    )
}

/// A tree, a chain that is as deep as may be or deeper, or as many operations as may be and more.
fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    let tree = leaf().boxed().prop_recursive(5, 40, 4, |inner| {
        txn_of(inner.boxed()).prop_map(|txn| op(Op::RequestTxn(txn)))
    });
    let depth = select(vec![
        1_usize, 2, 48, 49, 50, 51, 99, 100, 126, 127, 128, 129, 255, 256, 257, 300,
    ]);
    let chain = (txn_of(leaf().boxed()), depth, any::<u64>()).prop_map(|(mut txn, depth, branches)| {
        for level in 0..depth {
            let inner = vec![op(Op::RequestTxn(txn))];
            txn = pb::TxnRequest::default();
            match branches >> (level % 64) & 1 {
                0 => txn.success = inner,
                _ => txn.failure = inner,
            }
        }
        txn
    });
    let wide = (put(), range(), select(vec![0_usize, 1, 126, 127, 128, 129, 1000])).prop_map(
        |(put, range, count)| {
            let mut success = vec![op(Op::RequestRange(range)); count];
            success.push(op(Op::RequestPut(put)));
            pb::TxnRequest {
                success,
                ..Default::default()
            }
        },
    );
    prop_oneof![3 => txn_of(tree), 3 => chain, 1 => wide]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(vec!["", "u", "v", "root"]).prop_map(str::to_owned),
        1 => select(vec![32_767_usize, 32_768, 32_769, 65_535, 65_536, 200_000]).prop_map(|length| "n".repeat(length)),
    ]
}

fn encoded<M: Message + 'static>(
    method: &'static str,
    message: impl Strategy<Value = M> + 'static,
) -> BoxedStrategy<(&'static str, Vec<u8>)> {
    message
        .prop_map(move |message| (method, message.encode_to_vec()))
        .boxed()
}

fn well_formed() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let permission = (variant(), key(), key()).prop_map(|(perm_type, key, range_end)| authpb::Permission {
        perm_type,
        key,
        range_end,
    });
    let grant = (name(), proptest::option::of(permission));
    prop_oneof![
        6 => encoded("/etcdserverpb.KV/Put", put()),
        3 => encoded("/etcdserverpb.KV/Range", range()),
        3 => encoded("/etcdserverpb.KV/DeleteRange", delete()),
        10 => encoded("/etcdserverpb.KV/Txn", txn()),
        1 => encoded("/etcdserverpb.KV/Compact", (number(), any::<bool>()).prop_map(
            |(revision, physical)| pb::CompactionRequest { revision, physical })),
        2 => encoded("/etcdserverpb.Lease/LeaseGrant", (number(), number()).prop_map(
            |(ttl, id)| pb::LeaseGrantRequest { ttl, id })),
        1 => encoded("/etcdserverpb.Lease/LeaseRevoke", number().prop_map(|id| pb::LeaseRevokeRequest { id })),
        1 => encoded("/etcdserverpb.Lease/LeaseTimeToLive", (number(), any::<bool>()).prop_map(
            |(id, keys)| pb::LeaseTimeToLiveRequest { id, keys })),
        // Not raised: nothing could be written any more.
        1 => encoded("/etcdserverpb.Maintenance/Alarm", (select(vec![0, 2, 3, -1, i32::MAX]), any::<u64>(), variant())
            .prop_map(|(action, member_id, alarm)| pb::AlarmRequest { action, member_id, alarm })),
        1 => encoded("/etcdserverpb.Maintenance/HashKV", number().prop_map(|revision| pb::HashKvRequest { revision })),
        1 => encoded("/etcdserverpb.Auth/UserAdd", name().prop_map(|name| pb::AuthUserAddRequest {
            name,
            options: Some(authpb::UserAddOptions { no_password: true }),
            ..Default::default()
        })),
        1 => encoded("/etcdserverpb.Auth/RoleAdd", name().prop_map(|name| pb::AuthRoleAddRequest { name })),
        1 => encoded("/etcdserverpb.Auth/RoleGrantPermission", grant.prop_map(
            |(name, perm)| pb::AuthRoleGrantPermissionRequest { name, perm })),
        1 => encoded("/etcdserverpb.Auth/UserGrantRole", (name(), name()).prop_map(
            |(user, role)| pb::AuthUserGrantRoleRequest { user, role })),
        1 => encoded("/etcdserverpb.Auth/RoleDelete", name().prop_map(|role| pb::AuthRoleDeleteRequest { role })),
        1 => encoded("/etcdserverpb.Cluster/MemberUpdate", (any::<u64>(), name()).prop_map(
            |(id, url)| pb::MemberUpdateRequest { id, peer_ur_ls: vec![url] })),
        1 => encoded("/etcdserverpb.Maintenance/Downgrade", (variant(), name()).prop_map(
            |(action, version)| pb::DowngradeRequest { action: action.min(1), version })),
    ]
}

/// As it is, with some bytes replaced, cut off, or with unknown fields behind it.
fn call() -> impl Strategy<Value = Call> {
    let noise = proptest::collection::vec(any::<u8>(), 0..40);
    let place = (any::<prop::sample::Index>(), any::<prop::sample::Index>());
    (well_formed(), 0..10, noise, place, 0_usize..2).prop_map(
        |((method, mut message), change, noise, (from, to), member)| {
            let from = from.index(message.len() + 1);
            let to = from + to.index(message.len() - from + 1);
            match change {
                0 => drop(message.splice(from..to, noise)),
                1 => message.truncate(from),
                2 => message.extend(noise),
                3 => message.extend([0xfa, 0x7f, 3, 1, 2, 3, 0xf0, 0x7f, 1]),
                _ => {}
            }
            Call {
                method,
                message,
                member,
            }
        },
    )
}

/// Two members that can be stopped and started.
struct Pair {
    env: Env,
    configs: Vec<Config>,
    nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

impl Pair {
    #[allow(clippy::disallowed_types, reason = "ports that the system knows to be free")]
    async fn start() -> Pair {
        let env = quorate::runtime::tokio::env();
        let dir = tempfile::tempdir().unwrap();
        let held: Vec<_> = (0..2)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let peers: Vec<String> = held
            .iter()
            .map(|held| held.local_addr().unwrap().to_string())
            .collect();
        drop(held);
        let url = |at: usize| vec![format!("http://{}", peers[at])];
        let configs = (0..2).map(|at| Config {
            name: format!("m{at}"),
            data_dir: dir.path().join(format!("data{at}")),
            wal_dir: Some(dir.path().join(format!("wal{at}"))),
            listen_client: vec!["127.0.0.1:0".into()],
            listen_peer: vec![peers[at].clone().into()],
            advertise_client_urls: vec!["http://localhost:1".into()],
            advertise_peer_urls: url(at),
            initial_cluster: vec![("m0".into(), url(0)), ("m1".into(), url(1))],
            log_segment_bytes: 4 << 20,
            ..Config::default()
        });
        let mut pair = Pair {
            configs: configs.collect(),
            nodes: Vec::new(),
            env,
            _dir: dir,
        };
        pair.start_nodes().await;
        pair
    }

    async fn start_nodes(&mut self) {
        for config in &self.configs {
            let node = Node::start(self.env.clone(), config.clone()).await.unwrap();
            self.nodes.push(node);
        }
        for node in &self.nodes {
            let ready = self.env.timeout(PATIENCE, node.ready()).await;
            ready.expect("ready in time").unwrap();
        }
    }

    async fn stop_nodes(&mut self) {
        for node in self.nodes.drain(..) {
            node.stop().await;
        }
    }

    async fn channel(&self, at: usize) -> Channel {
        let address = &self.nodes[at].client_addresses()[0];
        Channel::connect(&self.env, address, PATIENCE).await.unwrap()
    }

    async fn send(&self, channel: &Channel, call: &Call) {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = call.method.parse().unwrap();
        let request = tonic::Request::new(call.message.clone());
        // Whatever the answer.
        let sent = grpc.unary(request, path, Raw);
        let answer = self.env.timeout(PATIENCE, sent).await.expect("an answer");
        SENT.fetch_add(1, Relaxed);
        SERVED.fetch_add(u32::from(answer.is_ok()), Relaxed);
    }

    /// Waits until both stand at the same index, and compares digests and hashes: the hash of all keys.
    async fn agreed(&self) -> Result<(i64, u32), TestCaseError> {
        for _ in 0..2_000 {
            let probes: Vec<_> = self.nodes.iter().map(Node::probe).collect();
            for probe in &probes {
                prop_assert!(probe.status.fatal.is_none(), "{:?}", probe.status);
            }
            if probes[0].digest_index != probes[1].digest_index {
                self.env.sleep(Duration::from_millis(10)).await;
                continue;
            }
            prop_assert_eq!(probes[0].digest, probes[1].digest);
            let mut hashes = Vec::new();
            for at in 0..2 {
                let mut maintenance = MaintenanceClient::new(self.channel(at).await);
                let request = pb::HashKvRequest {
                    revision: probes[0].revision,
                };
                hashes.push(maintenance.hash_kv(request).await.unwrap().into_inner().hash);
            }
            prop_assert_eq!(hashes[0], hashes[1]);
            return Ok((probes[0].revision, hashes[0]));
        }
        Err(TestCaseError::fail("the members do not come to the same index"))
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target: PathBuf = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &target)?,
            false => drop(std::fs::copy(entry.path(), target)?),
        }
    }
    Ok(())
}

/// Every file below a directory, with its size and when it was written.
fn files(directory: &Path) -> std::io::Result<BTreeMap<PathBuf, (u64, SystemTime)>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            let data = entry.metadata()?;
            found.insert(entry.path(), (data.len(), data.modified()?));
        }
    }
    Ok(found)
}

/// The engine's threads tidy up for a moment after its member has stopped: a copy counts if nothing changed meanwhile.
async fn copy_at_rest(env: &Env, from: &Path, to: &Path) {
    for _ in 0..200 {
        let before = files(from).ok();
        let copied = copy(from, to);
        if copied.is_ok() && before.is_some() && before == files(from).ok() {
            return;
        }
        std::fs::remove_dir_all(to).unwrap();
        env.sleep(Duration::from_millis(50)).await;
    }
    panic!("{} does not come to rest", from.display());
}

async fn session(calls: Vec<Call>) -> Result<(), TestCaseError> {
    let mut pair = Pair::start().await;
    // The stores as they are now, put back below: then all that comes is applied again.
    pair.stop_nodes().await;
    let stores: Vec<_> = pair
        .configs
        .iter()
        .map(|config| config.data_dir.clone())
        .collect();
    for store in &stores {
        copy_at_rest(&pair.env, store, &store.with_extension("before")).await;
    }
    pair.start_nodes().await;
    let channels = [pair.channel(0).await, pair.channel(1).await];
    for call in &calls {
        pair.send(&channels[call.member], call).await;
    }
    let before = pair.agreed().await?;
    pair.stop_nodes().await;
    for store in &stores {
        std::fs::remove_dir_all(store).unwrap();
        copy(&store.with_extension("before"), store).unwrap();
    }
    pair.start_nodes().await;
    let after = pair.agreed().await?;
    prop_assert_eq!(before, after);
    pair.stop_nodes().await;
    Ok(())
}

#[test]
fn whatever_the_front_accepts_is_applied_by_all_and_again() {
    let sessions = std::env::var(SESSIONS_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok());
    let cases = Cases {
        cases: sessions.unwrap_or(SESSIONS),
        max_shrink_iters: 200,
        failure_persistence: None,
        ..Cases::default()
    };
    let calls = proptest::collection::vec(call(), 1..REQUESTS_MAX);
    let outcome = TestRunner::new(cases).run(&calls, |calls| {
        let session = RUNTIME.spawn(session(calls));
        RUNTIME
            .block_on(session)
            .unwrap_or_else(|panic| Err(TestCaseError::fail(panic.to_string())))
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    let (sent, served) = (SENT.load(Relaxed), SERVED.load(Relaxed));
    println!("{served} of {sent} calls were served");
    assert!(
        served > sent / 5,
        "{served} of {sent} calls: hardly anything reaches apply"
    );
}
