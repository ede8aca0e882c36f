//! Nothing is applied twice: keys that are put once have version 1, whatever happens to leaders and members; and a
//! client that sends calls again as clientv3 does never meets its own write.
//!
//! The two loads run for a few seconds. For longer:
//! `QUORATE_ONCE_SECONDS=600 QUORATE_ONCE_CLIENTS=96 cargo test --release --test process once:: -- --nocapture --test-threads=1`

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::runtime::Env;
use rustix::process::Signal;
use tonic::{Code, Status};

use super::support::{Client, Cluster, Member, connect, run, wait_for};

/// How long each load runs.
const SECONDS: u64 = 12;
/// Clients of all members together.
const CLIENTS: u64 = 24;
const MOVE_EVERY: Duration = Duration::from_millis(250);
/// Between a kill and the restart, and between a restart and the next kill.
const KILL_PAUSE: Duration = Duration::from_millis(400);
/// Keys looked at in one range.
const PAGE: i64 = 5_000;

fn from_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().expect("a number"))
}

/// What one client did.
#[derive(Default)]
struct Written {
    /// Numbers of the keys whose put was acknowledged.
    acknowledged: Vec<u64>,
    attempted: u64,
    errors: BTreeMap<String, u64>,
}

/// Puts each key once, and never looks back.
async fn write(env: Env, name: u64, address: String, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut client = connect(&env, &address).await;
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        written.attempted += 1;
        match client.try_put(&env, &key(name, number), "a value").await {
            Ok(_) => written.acknowledged.push(number),
            Err(status) => {
                let text = format!("{:?}: {}", status.code(), status.message());
                *written.errors.entry(text).or_default() += 1;
                if !status.message().starts_with("etcdserver:") {
                    client = connect(&env, &address).await;
                }
            }
        }
    }
    written
}

fn key(name: u64, number: u64) -> String {
    format!("once/{name:03}/{number:08}")
}

/// The versions of all keys that were put, by one member's linearizable reads.
async fn versions(env: &Env, member: &Member) -> BTreeMap<String, i64> {
    let mut client = member.connect(env).await;
    let mut found = BTreeMap::new();
    let mut from = String::from("once/");
    loop {
        let request = pb::RangeRequest {
            key: from.clone().into(),
            range_end: "once0".into(),
            limit: PAGE,
            ..Default::default()
        };
        let answer = client.range(env, request).await.expect("a range succeeds");
        for kv in answer.kvs {
            found.insert(String::from_utf8_lossy(&kv.key).into_owned(), kv.version);
        }
        match found.last_key_value() {
            Some((last, _)) if answer.more => from = format!("{last}\0"),
            _ => return found,
        }
    }
}

/// Runs the load beside `disturb`, which says what it did, and counts.
async fn every_key_has_one_version(
    env: &Env,
    cluster: &mut Cluster,
    disturb: impl AsyncFnOnce(&mut Cluster, Duration) -> String,
) {
    let stop = Arc::new(AtomicBool::new(false));
    let clients = from_environment("QUORATE_ONCE_CLIENTS", CLIENTS);
    let writer = |name: u64| {
        let member = &cluster.members[name as usize % cluster.members.len()];
        env.spawn(write(env.clone(), name, member.address.clone(), stop.clone()))
    };
    let writers: Vec<_> = (0..clients).map(writer).collect();
    let seconds = from_environment("QUORATE_ONCE_SECONDS", SECONDS);
    let disturbed = disturb(cluster, Duration::from_secs(seconds)).await;
    stop.store(true, Ordering::Relaxed);

    let (mut attempted, mut acknowledged) = (0, Vec::new());
    let mut errors = BTreeMap::<String, u64>::new();
    for (writer, name) in writers.into_iter().zip(0..) {
        let written = writer.await.expect("a writer ends");
        attempted += written.attempted;
        acknowledged.extend(written.acknowledged.into_iter().map(|number| key(name, number)));
        for (text, count) in written.errors {
            *errors.entry(text).or_default() += count;
        }
    }
    let found = versions(env, &cluster.members[0]).await;
    let others: Vec<_> = found.iter().filter(|(_, version)| **version != 1).collect();
    eprintln!(
        "{disturbed}; {attempted} keys put once, {} acknowledged, {} there, {} with a version other than 1; errors: {errors:?}",
        acknowledged.len(),
        found.len(),
        others.len(),
    );
    assert!(
        others.is_empty(),
        "applied more than once: {:?}",
        &others[..others.len().min(5)]
    );
    let lost: Vec<_> = acknowledged
        .iter()
        .filter(|key| !found.contains_key(*key))
        .take(5)
        .collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(acknowledged.len() > 20, "hardly anything was written");
    cluster.assert_equal_hashes(env).await;
}

#[test]
fn keys_put_once_have_version_1_while_leaders_move() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &[]);
        let moves = async |cluster: &mut Cluster, time: Duration| {
            let end = env.now() + time;
            let mut clients = Vec::new();
            for member in &cluster.members {
                clients.push(member.connect(&env).await);
            }
            let mut moved = 0;
            while env.now() < end {
                env.sleep(MOVE_EVERY).await;
                moved += u64::from(move_leader(&env, &mut clients).await);
            }
            assert!(moved > 2, "the leader hardly ever moved");
            format!("the leader moved {moved} times")
        };
        every_key_has_one_version(&env, &mut cluster, moves).await;
    });
}

/// Tells whoever leads to hand over to the next member; whether it did.
async fn move_leader(env: &Env, clients: &mut [Client]) -> bool {
    let mut ids = Vec::new();
    let mut leader = None;
    for (at, client) in clients.iter_mut().enumerate() {
        let status = client.status(env).await;
        let id = status.header.unwrap_or_default().member_id;
        ids.push(id);
        leader = leader.or((status.leader == id).then_some(at));
    }
    let Some(leader) = leader else { return false };
    let target_id = ids[(leader + 1) % ids.len()];
    let request = pb::MoveLeaderRequest { target_id };
    clients[leader].maintenance.move_leader(request).await.is_ok()
}

#[test]
fn keys_put_once_have_version_1_while_members_are_killed() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &["--snapshot-count=1000", "--snapshot-catchup-entries=100"]);
        let kills = async |cluster: &mut Cluster, time: Duration| {
            let end = env.now() + time;
            let mut killed = 0;
            while env.now() < end {
                // Every other victim leads.
                let leader = cluster.leader(&env, killed % 3).await;
                let victim = (leader + killed % 2 * (1 + killed / 2 % 2)) % 3;
                cluster.members[victim].kill();
                killed += 1;
                env.sleep(KILL_PAUSE).await;
                cluster.members[victim].start();
                env.sleep(KILL_PAUSE).await;
            }
            format!("{killed} kills")
        };
        every_key_has_one_version(&env, &mut cluster, kills).await;
    });
}

/// A binary of the release before, whose level is lower: without one there is nothing to upgrade from.
const OLDER_BINARY_VARIABLE: &str = "QUORATE_OLDER_BINARY";

/// One member after another is upgraded, the first of them goes back in between; when all are of the next release the
/// cluster counts on it, and no member goes back any more.
#[test]
fn keys_put_once_have_version_1_while_members_are_upgraded() {
    let Some(older) = std::env::var_os(OLDER_BINARY_VARIABLE) else {
        return eprintln!("skipped: {OLDER_BINARY_VARIABLE} names no binary of the release before");
    };
    run(async |env| {
        let mut cluster = Cluster::new(3, &["--snapshot-count=1000", "--snapshot-catchup-entries=100"]);
        let newer = cluster.members[0].binary.clone();
        let become_of = |member: &mut Member, binary: &OsString| {
            member.stop(Signal::TERM);
            member.binary = binary.clone();
            member.start();
        };
        for member in &mut cluster.members {
            member.binary = older.clone();
            member.spawn();
        }
        cluster.members.iter_mut().for_each(Member::wait_ready);
        let upgrade = async |cluster: &mut Cluster, time: Duration| {
            for (member, binary) in [(0, &newer), (0, &older), (1, &newer), (0, &newer), (2, &newer)] {
                become_of(&mut cluster.members[member], binary);
                env.sleep(time / 6).await;
            }
            wait_for("the cluster's level to rise", || {
                let raised = |member: &Member| member.log().contains("updated cluster level");
                cluster.members.iter().any(raised).then_some(())
            });
            // Now it is counted on.
            env.sleep(time / 6).await;
            "5 restarts".into()
        };
        every_key_has_one_version(&env, &mut cluster, upgrade).await;
        let behind = &mut cluster.members[1];
        behind.stop(Signal::TERM);
        behind.binary = older.clone();
        let (_, log) = behind.run_to_end();
        assert!(log.contains("start a newer release"), "{log}");
        behind.binary = newer.clone();
        behind.start();
    });
}

/// Whether clientv3 sends a transaction again that ended so, while its user still waits (`retry_interceptor.go`:
/// `isContextError`; `retry.go`: `isSafeRetryMutableRPC`).
fn clientv3_sends_again(status: &Status) -> bool {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => true,
        Code::Unavailable => {
            let nothing_sent = [
                "there is no address available",
                "there is no connection available",
            ];
            nothing_sent.contains(&status.message())
        }
        _ => false,
    }
}

/// "If it does not exist, put it", as clientv3 calls it: how it ended, and after how many attempts.
async fn create_as_clientv3(
    env: &Env,
    client: &mut Client,
    key: &str,
) -> (Result<pb::TxnResponse, Status>, u32) {
    let put = pb::PutRequest {
        key: key.to_owned().into(),
        value: "mine".into(),
        ..Default::default()
    };
    let absent = pb::Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    };
    let request = pb::TxnRequest {
        compare: vec![absent],
        success: vec![pb::RequestOp {
            request: Some(Op::RequestPut(put)),
        }],
        failure: Vec::new(),
    };
    for attempt in 1.. {
        match client.kv.txn(request.clone()).await {
            Ok(answer) => return (Ok(answer.into_inner()), attempt),
            Err(status) if !clientv3_sends_again(&status) || attempt == 100 => return (Err(status), attempt),
            // One endpoint is a quorum: there is a pause after each attempt.
            Err(_) => env.sleep(Duration::from_millis(25)).await,
        }
    }
    unreachable!("the attempts are bounded")
}

#[test]
fn a_guarded_write_whose_quorum_comes_back_late_never_fails_on_itself() {
    const ROUNDS: usize = 3;
    run(async |env| {
        let mut cluster = Cluster::start(3, &[]);
        let mut ended = Vec::new();
        for round in 0..ROUNDS {
            let leader = cluster.leader(&env, round % 3).await;
            let mut client = cluster.members[leader].connect(&env).await;
            let followers: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
            for &follower in &followers {
                cluster.members[follower].pause();
            }
            let key = format!("guarded/{round}");
            let task = {
                let (env, key) = (env.clone(), key.clone());
                async move { create_as_clientv3(&env, &mut client, &key).await }
            };
            let call = env.spawn(task);
            // Longer than a request may take, and than the members' patience with one another.
            env.sleep(Duration::from_secs(9)).await;
            for &follower in &followers {
                cluster.members[follower].resume();
            }
            let (answer, attempts) = call.await.expect("the call ends");
            if let Ok(answer) = &answer {
                assert!(
                    answer.succeeded,
                    "it read its own write, after {attempts} attempts"
                );
            }
            let is_etcds = |status: &Status| {
                status.code() == Code::Unavailable
                    && status.message().starts_with("etcdserver: request timed out")
            };
            // A machine that is so slow that the leader has stepped down before it is asked may refuse, and take it later.
            if attempts == 1 && answer.as_ref().is_err_and(is_etcds) {
                return;
            }
            ended.push(format!(
                "{:?} after {attempts} attempts",
                answer.map(|answer| answer.succeeded)
            ));
        }
        panic!("the first attempt never ended as etcd's does: {ended:?}");
    });
}
