//! Three members in one process, on loopback and real files: agreement without the client-facing server.

// Tests may panic; clippy counts only the functions marked as tests.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use prost::Message;
use quorate::base::{Denied, ids};
use quorate::consensus::{Consensus, Observer, Options, Peer, PeerListener, Renewal, Status};
use quorate::proto::command::{Command, MemberRemoveCommand, command::Request};
use quorate::proto::etcdserverpb::{self as pb, request_op};
use quorate::runtime::{BoxFuture, Env, Listener, tls::Security, tokio::env};
use quorate::state::State;
use quorate::storage::wal::{LogRecord, Recovered, Wal, WalOptions};
use quorate::storage::{EngineKind, Store};
use quorate::transport::{DialOptions, Identity};

struct Cluster {
    env: Env,
    dir: tempfile::TempDir,
    options: Vec<Options>,
    addresses: Vec<String>,
    members: Vec<Option<Consensus>>,
}

async fn listen(env: &Env, address: &str) -> Box<dyn Listener> {
    // A port that was just closed may need a moment.
    for _ in 0..100 {
        match env.listen(address).await {
            Ok(listener) => return listener,
            Err(_) => env.sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("cannot listen on {address}");
}

impl Cluster {
    async fn start(size: usize, snapshot_count: u64) -> Cluster {
        Cluster::start_within(size, snapshot_count, None).await
    }

    async fn start_within(size: usize, snapshot_count: u64, quota: Option<u64>) -> Cluster {
        let env = env();
        let mut listeners = Vec::new();
        for _ in 0..size {
            listeners.push(listen(&env, "127.0.0.1:0").await);
        }
        let addresses: Vec<String> = listeners
            .iter()
            .map(|listener| listener.local_address())
            .collect();
        let peer = |(at, address): (usize, &String)| {
            let urls = vec![format!("http://{address}")];
            (
                ids::member_id(&urls, "test", None),
                Peer {
                    name: format!("m{at}"),
                    peer_urls: urls,
                },
            )
        };
        let initial_members: BTreeMap<u64, Peer> = addresses.iter().enumerate().map(peer).collect();
        let cluster = ids::cluster_id(initial_members.keys().copied());
        let options = addresses.iter().map(|address| Options {
            quota,
            identity: Identity {
                cluster,
                member: ids::member_id(&[format!("http://{address}")], "test", None),
            },
            initial_members: initial_members.clone(),
            known_peers: Vec::new(),
            server_version: "3.7.1".into(),
            level: quorate::base::Level::NEWEST,
            heartbeat_interval: Duration::from_millis(50),
            election_timeout: Duration::from_millis(500),
            request_timeout: Duration::from_secs(6),
            pre_vote: true,
            snapshot_count,
            snapshot_catchup_entries: snapshot_count / 2,
            token_ttl: Duration::from_secs(300),
            lease_checkpoints: true,
            slow_apply: Duration::from_secs(1),
            force_new_cluster: None,
            probe_interval: Duration::ZERO,
        });
        let options = options.collect();
        let dir = tempfile::tempdir().unwrap();
        let mut this = Cluster {
            env,
            dir,
            options,
            addresses,
            members: (0..size).map(|_| None).collect(),
        };
        for (at, listener) in listeners.into_iter().enumerate() {
            this.start_member(at, listener).await;
        }
        this
    }

    async fn start_member(&mut self, at: usize, listener: Box<dyn Listener>) {
        let dir = self.dir.path().join(at.to_string());
        let (log, store) = open(&self.env, &dir).await;
        let options = self.options[at].clone();
        let identity = options.identity;
        let started = Consensus::start(
            self.env.clone(),
            options,
            log,
            store,
            PeerListener::open(&self.env, identity, false, vec![(listener, Security::plain())]),
            DialOptions::default(),
            |_: &Env| Rc::new(()) as Rc<dyn Observer>,
        )
        .await;
        self.members[at] = Some(started.unwrap());
    }

    fn member(&self, at: usize) -> &Consensus {
        self.members[at].as_ref().unwrap()
    }

    async fn leader(&self) -> usize {
        for _ in 0..500 {
            let leads = |(at, member): (usize, &Option<Consensus>)| {
                let member = member.as_ref()?;
                (member.status().leader == Some(member.member_id())).then_some(at)
            };
            if let Some(leader) = self.members.iter().enumerate().find_map(leads) {
                return leader;
            }
            self.env.sleep(Duration::from_millis(20)).await;
        }
        panic!("no leader: {:?}", self.statuses());
    }

    fn statuses(&self) -> Vec<Option<Status>> {
        self.members
            .iter()
            .map(|member| member.as_ref().map(Consensus::status))
            .collect()
    }

    async fn stop(&mut self, at: usize) {
        self.members[at].take().unwrap().stop().await;
    }

    async fn digests_agree(&self) {
        let mut seen = Vec::new();
        for _ in 0..500 {
            seen.clear();
            for member in self.members.iter().flatten() {
                let look = |state: &State| (state.position(), state.revision(), state.digest());
                seen.push(member.read(look).await);
            }
            if seen.iter().all(|one| Some(one) == seen.first()) {
                return;
            }
            self.env.sleep(Duration::from_millis(20)).await;
        }
        panic!("digests differ: {seen:?} {:?}", self.statuses());
    }
}

async fn open(env: &Env, dir: &Path) -> (Recovered, Store) {
    let options = WalOptions {
        segment_bytes: 1 << 20,
        ..WalOptions::new([7; 16])
    };
    let log = Wal::recover(env, &dir.join("wal"), options).await.unwrap();
    // What a member did aside when it was stopped (a piece of a sweep) holds its engine for a moment still.
    for _ in 0..250 {
        match Store::open(env, dir, EngineKind::Fjall).await {
            Err(error) if error.to_string().contains("Locked") => env.sleep(Duration::from_millis(20)).await,
            opened => return (log, opened.unwrap()),
        }
    }
    panic!("the engine of a stopped member is in use");
}

fn put(key: &str, value: &str) -> Request {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    Request::Put(pb::PutRequest {
        key,
        value,
        ..pb::PutRequest::default()
    })
}

async fn get(member: &Consensus, key: &str) -> Option<String> {
    let request = pb::RangeRequest {
        key: key.to_owned().into(),
        ..pb::RangeRequest::default()
    };
    let response = member
        .look(move |state, store| state.range(&request, &*store()))
        .await
        .unwrap()
        .unwrap();
    response
        .kvs
        .first()
        .map(|kv| String::from_utf8(kv.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_keeps_what_it_acknowledged() {
    let mut cluster = Cluster::start(1, 1000).await;
    cluster.leader().await;
    for round in 0..50 {
        let outcome = cluster
            .member(0)
            .propose(put("k", &round.to_string()))
            .await
            .unwrap();
        assert_eq!(outcome.revision, round + 2);
    }
    cluster.stop(0).await;
    let listener = listen(&cluster.env, &cluster.addresses[0].clone()).await;
    cluster.start_member(0, listener).await;
    cluster.member(0).read_barrier().await.unwrap();
    assert_eq!(get(cluster.member(0), "k").await.as_deref(), Some("49"));
}

/// A put inside so many transactions, as it lies in the log.
fn nested_command(levels: usize, key: &str) -> Bytes {
    let mut operation = request_op::Request::RequestPut(pb::PutRequest {
        key: key.to_owned().into(),
        value: "value".into(),
        ..pb::PutRequest::default()
    });
    for _ in 0..levels {
        let inner = pb::RequestOp {
            request: Some(operation),
        };
        operation = request_op::Request::RequestTxn(pb::TxnRequest {
            success: vec![inner],
            ..pb::TxnRequest::default()
        });
    }
    let request_op::Request::RequestTxn(txn) = operation else {
        panic!("at least one level");
    };
    let request = Some(Request::Txn(txn));
    Command {
        header: None,
        request,
    }
    .encode_to_vec()
    .into()
}

/// An entry as `consensus::raft::format::entry` draws it: version, kind, level, one command of member 3's fourth incarnation.
fn batch_of(command: &[u8]) -> Vec<u8> {
    let length = u32::try_from(command.len()).unwrap();
    let mut batch = vec![1, 1, 1, 0];
    batch.extend(1_u32.to_le_bytes());
    batch.extend([3_u64, 4, 5, 6].iter().flat_map(|number| number.to_le_bytes()));
    batch.extend([0, length].iter().flat_map(|number| number.to_le_bytes()));
    batch.extend(command);
    batch
}

/// Older versions committed such entries, and could not apply them: their logs are read.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_older_versions_could_not_apply_are_applied() {
    let mut cluster = Cluster::start(1, 1000).await;
    cluster.leader().await;
    cluster.member(0).propose(put("k", "v")).await.unwrap();
    cluster.stop(0).await;
    let (log, store) = open(&cluster.env, &cluster.dir.path().join("0")).await;
    let last = log.state().last.unwrap();
    let depths = [50, 51, 129];
    let records: Vec<LogRecord> = depths
        .iter()
        .zip(last.index + 1..)
        .map(|(&levels, index)| LogRecord {
            term: last.term,
            node: last.node,
            index,
            payload: batch_of(&nested_command(levels, &format!("n{levels}"))).into(),
        })
        .collect();
    let appended = cluster.env.on_core(move || async move {
        let wal = log.start();
        wal.append(records).await.unwrap();
        wal.close().await;
    });
    appended.await.unwrap();
    drop(store);
    let listener = listen(&cluster.env, &cluster.addresses[0].clone()).await;
    cluster.start_member(0, listener).await;
    cluster.member(0).read_barrier().await.unwrap();
    for levels in depths {
        assert_eq!(
            get(cluster.member(0), &format!("n{levels}")).await.as_deref(),
            Some("value")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_member_writes_and_reads() {
    let cluster = Cluster::start(3, 1000).await;
    cluster.leader().await;
    for round in 0..30 {
        let (writer, reader) = (round % 3, (round + 1) % 3);
        let value = round.to_string();
        cluster.member(writer).propose(put("k", &value)).await.unwrap();
        cluster.member(reader).read_barrier().await.unwrap();
        assert_eq!(get(cluster.member(reader), "k").await, Some(value));
    }
    let refused = cluster
        .member(0)
        .propose(Request::LeaseRevoke(pb::LeaseRevokeRequest { id: 1 }))
        .await;
    assert_eq!(refused.unwrap().answer, Err(Denied::LeaseNotFound));
    cluster.digests_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_survive_the_leader_and_a_lagging_member_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, 100).await;
    let leader = cluster.leader().await;
    cluster
        .member((leader + 1) % 3)
        .propose(put("a", "1"))
        .await
        .unwrap();
    cluster.stop(leader).await;
    let survivor = (leader + 1) % 3;
    // In flight while nobody leads: answered by the next leader.
    cluster.member(survivor).propose(put("b", "2")).await.unwrap();
    for round in 0..500 {
        cluster
            .member(survivor)
            .propose(put(&format!("k{}", round % 40), &round.to_string()))
            .await
            .unwrap();
    }
    let listener = listen(&cluster.env, &cluster.addresses[leader].clone()).await;
    cluster.start_member(leader, listener).await;
    cluster.member(leader).read_barrier().await.unwrap();
    assert_eq!(get(cluster.member(leader), "b").await.as_deref(), Some("2"));
    cluster.digests_agree().await;
}

/// Each for itself: one compacts, one stops in the middle, one gets a snapshot behind it all.
#[tokio::test(flavor = "multi_thread")]
async fn every_member_sweeps_what_was_compacted() {
    let mut cluster = Cluster::start(3, 100).await;
    let leader = cluster.leader().await;
    let (stopped, behind) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut revision = 1;
    cluster.stop(behind).await;
    for round in 0..2 {
        for n in 0..200 {
            let write = put(&format!("k{}", n % (90 - round)), &n.to_string());
            revision = cluster.member(leader).propose(write).await.unwrap().revision;
        }
        let compaction = Request::Compaction(pb::CompactionRequest {
            revision,
            physical: true,
        });
        let compacted = cluster.member(leader).propose(compaction).await.unwrap();
        assert!(compacted.answer.is_ok());
        if round == 0 {
            cluster.stop(stopped).await;
            let listener = listen(&cluster.env, &cluster.addresses[stopped].clone()).await;
            cluster.start_member(stopped, listener).await;
        }
        cluster.member(leader).swept(revision).await.unwrap();
    }
    let listener = listen(&cluster.env, &cluster.addresses[behind].clone()).await;
    cluster.start_member(behind, listener).await;
    cluster.digests_agree().await;
    let mut seen = Vec::new();
    for at in 0..3 {
        let member = cluster.member(at);
        member.swept(revision).await.unwrap();
        let look = |state: &State| (state.swept_revision(), state.logical_bytes(), state.count_keys());
        seen.push((member.read(look).await, member.hash_now(0).await.unwrap()));
    }
    assert_eq!(seen[0].0.0, revision);
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}

/// Whatever asks for a quorum is refused by the member's own clock: a caller need not have one.
async fn every_call_ends_without_a_quorum(led: bool) {
    let mut cluster = Cluster::start(3, 1000).await;
    let leader = cluster.leader().await;
    let grant = Request::LeaseGrant(pb::LeaseGrantRequest { id: 7, ttl: 600 });
    cluster.member(leader).propose(grant).await.unwrap();
    let left = if led { leader } else { (leader + 1) % 3 };
    cluster.member(left).read_barrier().await.unwrap();
    for other in (0..3).filter(|other| *other != left) {
        cluster.stop(other).await;
    }
    let member = cluster.member(left);
    while member.status().leader.is_some() {
        cluster.env.sleep(Duration::from_millis(20)).await;
    }
    let id = cluster.options[(left + 1) % 3].identity.member;
    let remove = Request::MemberRemove(MemberRemoveCommand { id });
    let calls: Vec<(&str, BoxFuture<'_, Result<(), Denied>>)> = vec![
        ("put", Box::pin(member.propose(put("k", "v")).map_ok(drop))),
        ("barrier", Box::pin(member.read_barrier())),
        ("range", Box::pin(member.look_linearizable(1, |_, _| ()))),
        ("keep-alive", Box::pin(member.renew_leases(vec![7]).map_ok(drop))),
        (
            "time to live",
            Box::pin(member.lease_time_to_live(7, true).map_ok(drop)),
        ),
        ("lease ended", Box::pin(member.lease_ended(7).map_ok(drop))),
        (
            "member remove",
            Box::pin(member.change_members(remove).map_ok(drop)),
        ),
        ("move leader", Box::pin(member.move_leader(member.member_id()))),
    ];
    let in_time = cluster.options[left].request_timeout + Duration::from_secs(3);
    let timed = calls.into_iter().map(async |(name, call)| {
        let ended = cluster.env.timeout(in_time, call).await;
        let refused = ended.unwrap_or_else(|_| panic!("{name} did not end"));
        refused.expect_err(name);
    });
    futures_util::future::join_all(timed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_to_a_leader_ends_without_a_quorum() {
    every_call_ends_without_a_quorum(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_to_a_follower_ends_without_a_quorum() {
    every_call_ends_without_a_quorum(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request() {
    let cluster = Cluster::start(3, 1000).await;
    let leader = cluster.leader().await;
    let target = cluster.member((leader + 1) % 3).member_id();
    assert_eq!(
        cluster.member((leader + 1) % 3).move_leader(target).await,
        Err(Denied::NotLeader)
    );
    assert_eq!(
        cluster.member(leader).move_leader(4711).await,
        Err(Denied::BadLeaderTransferee)
    );
    cluster.member(leader).move_leader(target).await.unwrap();
    cluster.member(leader).propose(put("k", "v")).await.unwrap();
    assert_eq!(cluster.member(leader).status().leader, Some(target));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_on_the_leaders_clock_and_takes_its_keys_along() {
    let cluster = Cluster::start(3, 1000).await;
    let leader = cluster.leader().await;
    let follower = cluster.member((leader + 1) % 3);
    follower
        .propose(Request::LeaseGrant(pb::LeaseGrantRequest { id: 7, ttl: 1 }))
        .await
        .unwrap();
    let key: bytes::Bytes = "leased".into();
    follower
        .propose(Request::Put(pb::PutRequest {
            key: key.clone(),
            lease: 7,
            ..pb::PutRequest::default()
        }))
        .await
        .unwrap();
    let renewals = vec![Renewal::Renewed(1), Renewal::Unknown];
    assert_eq!(follower.renew_leases(vec![7, 8]).await, Ok(renewals));
    let ttl = follower.lease_time_to_live(7, true).await.unwrap().unwrap();
    assert_eq!((ttl.granted, ttl.keys), (1, vec![key]));
    for _ in 0..500 {
        follower.read_barrier().await.unwrap();
        if get(follower, "leased").await.is_none() {
            assert_eq!(follower.lease_time_to_live(7, true).await, Ok(None));
            return;
        }
        cluster.env.sleep(Duration::from_millis(20)).await;
    }
    panic!("the lease never ended");
}

/// Puts without a pause until there is no space; bytes that were acknowledged.
async fn fill(member: &Consensus, writer: &str) -> usize {
    const VALUE_BYTES: usize = 16 << 10;
    let value = "x".repeat(VALUE_BYTES);
    for number in 0.. {
        match member.propose(put(&format!("{writer}-{number}"), &value)).await {
            Ok(outcome) => outcome.answer.map(drop).unwrap(),
            Err(Denied::NoSpace) => return number * VALUE_BYTES,
            Err(Denied::TooManyRequests) => {}
            Err(denied) => panic!("{denied}"),
        }
    }
    unreachable!("the quota is never reached")
}

#[tokio::test(flavor = "multi_thread")]
async fn members_together_do_not_pass_the_quota() {
    const QUOTA: u64 = 4 << 20;
    const WRITERS: usize = 16;
    let cluster = Cluster::start_within(3, 1000, Some(QUOTA)).await;
    cluster.leader().await;
    let names: Vec<String> = (0..3 * WRITERS).map(|writer| format!("w{writer:02}")).collect();
    let filling = names.iter().enumerate();
    let filling = filling.map(|(at, name)| fill(cluster.member(at % 3), name));
    let acknowledged: usize = futures_util::future::join_all(filling).await.into_iter().sum();
    let used = |at| cluster.member(at).read(|state| state.logical_bytes().0);
    cluster.digests_agree().await;
    assert!(
        acknowledged as u64 <= QUOTA && used(0).await <= QUOTA,
        "{acknowledged} of {QUOTA}"
    );
    assert!(acknowledged as u64 > QUOTA / 2, "only {acknowledged} of {QUOTA}");
    // What needs no space is served on, and makes some.
    let delete = Request::DeleteRange(pb::DeleteRangeRequest {
        key: "w".into(),
        range_end: "x".into(),
        ..pb::DeleteRangeRequest::default()
    });
    for at in 0..3 {
        let deleted = cluster.member(at).propose(delete.clone()).await.unwrap();
        deleted.answer.unwrap();
    }
}
