//! Three members under load, `kill -9` of one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;

use super::support::{Client, Cluster, PATIENCE, connect, run};

const ROUNDS: usize = 20;
/// Entries applied while a follower is dead: more than are kept for those that are behind.
const MISSED_ENTRIES: u64 = 300;
/// Between two writes of one writer, so that the test measures waiting and not the machine.
const PACE: Duration = Duration::from_millis(2);
/// A machine that does much else may take longer than the two seconds that the median has to keep.
const LEADERLESS_MAX: Duration = Duration::from_secs(5);
const LEADERLESS_MEDIAN_MAX: Duration = Duration::from_secs(2);
/// What a write that was in flight at a follower may wait for its answer.
const IN_FLIGHT_MAX: Duration = Duration::from_secs(3);

/// What one writer, which speaks to one member only, has seen.
#[derive(Default)]
struct Written {
    acknowledged: Vec<String>,
    /// The longest wait for an answer, whichever it was, of a member that was alive.
    longest: Duration,
}

/// Writes one key after the other at one member, until it is told to stop.
async fn write(env: Env, name: usize, address: String, stop: Arc<AtomicBool>) -> Written {
    let mut written = Written::default();
    let mut client = connect(&env, &address).await;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{name}/{n:06}");
        let start = env.now();
        match client.try_put(&env, &key, "a value").await {
            Ok(_) => {
                written.longest = written.longest.max(env.now() - start);
                written.acknowledged.push(key);
            }
            // etcd's own refusals come with its name; everything else is the death of the member itself.
            Err(error) if error.message().starts_with("etcdserver:") => {
                written.longest = written.longest.max(env.now() - start);
            }
            Err(_) => client = connect(&env, &address).await,
        }
        env.sleep(PACE).await;
    }
    written
}

/// All keys, at one member, linearizably.
async fn keys(env: &Env, client: &mut Client) -> BTreeSet<String> {
    let request = pb::RangeRequest {
        key: "w".into(),
        range_end: "x".into(),
        keys_only: true,
        ..Default::default()
    };
    let answer = client.range(env, request).await.expect("a range succeeds");
    let key = |kv: quorate::proto::mvccpb::KeyValue| String::from_utf8_lossy(&kv.key).into_owned();
    answer.kvs.into_iter().map(key).collect()
}

/// Waits until a member knows a leader that is not `dead`; how long it took.
async fn leaderless(env: &Env, asked: &mut Client, dead: u64) -> Duration {
    let start = env.now();
    loop {
        let leader = asked.status(env).await.leader;
        if leader != 0 && leader != dead {
            return env.now() - start;
        }
        assert!(env.now() - start < PATIENCE, "no leader");
        env.sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until a member has applied so much.
async fn reaches(env: &Env, member: &mut Client, index: u64) {
    let start = env.now();
    while member.status(env).await.raft_applied_index < index {
        assert!(env.now() - start < PATIENCE, "the member does not reach {index}");
        env.sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn twenty_kills_under_load_lose_nothing() {
    run(async |env| {
        // etcd's default timings. So few entries are kept that some of the killed need a snapshot.
        let mut cluster = Cluster::start(3, &["--snapshot-count=100", "--snapshot-catchup-entries=50"]);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = |(name, member): (usize, &super::support::Member)| {
            env.spawn(write(env.clone(), name, member.address.clone(), stop.clone()))
        };
        let writers: Vec<_> = cluster.members.iter().enumerate().map(writer).collect();

        let mut waits = Vec::new();
        for round in 0..ROUNDS {
            let leader = cluster.leader(&env, round % 3).await;
            // Every other victim leads; the others take turns.
            let victim = if round % 2 == 0 {
                leader
            } else {
                (leader + 1 + round / 2 % 2) % 3
            };
            let mut survivor = cluster.members[(victim + 1) % 3].connect(&env).await;
            let dead = survivor.status(&env).await.leader;
            cluster.members[victim].kill();
            if victim == leader {
                waits.push(leaderless(&env, &mut survivor, dead).await);
            } else {
                // Long enough for the log to be purged behind its back.
                let missed = survivor.status(&env).await.raft_applied_index + MISSED_ENTRIES;
                reaches(&env, &mut survivor, missed).await;
            }
            cluster.members[victim].start();
            let mut restarted = cluster.members[victim].connect(&env).await;
            let applied = survivor.status(&env).await.raft_applied_index;
            reaches(&env, &mut restarted, applied).await;
            cluster.assert_equal_hashes(&env).await;
        }

        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = BTreeSet::new();
        for (member, writer) in writers.into_iter().enumerate() {
            let written = writer.await.expect("a writer ends");
            eprintln!(
                "member {member}: {} writes acknowledged, longest wait {:?}",
                written.acknowledged.len(),
                written.longest
            );
            assert!(
                written.longest < IN_FLIGHT_MAX,
                "a write waited {:?}",
                written.longest
            );
            acknowledged.extend(written.acknowledged);
        }
        for member in &cluster.members {
            let held = keys(&env, &mut member.connect(&env).await).await;
            let lost: Vec<_> = acknowledged.difference(&held).take(5).collect();
            assert!(
                lost.is_empty(),
                "{} lost acknowledged writes: {lost:?} …",
                member.name
            );
        }
        cluster.assert_equal_hashes(&env).await;

        waits.sort();
        eprintln!("without a leader after its death: {waits:?}");
        assert!(waits[waits.len() / 2] < LEADERLESS_MEDIAN_MAX, "{waits:?}");
        assert!(waits[waits.len() - 1] < LEADERLESS_MAX, "{waits:?}");
        let snapshots = cluster.members.iter().map(|member| member.log());
        let snapshots: usize = snapshots
            .map(|log| log.matches("receiving a snapshot").count())
            .sum();
        eprintln!("snapshots received: {snapshots}");
        assert!(snapshots > 0, "nobody needed a snapshot");
    });
}
