//! Three members.

use std::time::Duration;

use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;

use super::support::{Cluster, Member, PATIENCE, run};

/// Longest time that a write in flight at a follower may wait when the leader dies; etcd takes 7 s.
const IN_FLIGHT_MAX: Duration = Duration::from_secs(3);

/// Reads a key at every running member, linearizably.
async fn assert_everywhere(env: &Env, cluster: &Cluster, running: &[usize], key: &str, value: &str) {
    for &member in running {
        let mut client = cluster.members[member].connect(env).await;
        assert_eq!(
            client.get(env, key).await.as_deref(),
            Some(value),
            "{key} at member {member}"
        );
    }
}

#[test]
fn a_write_at_any_member_is_read_at_every_member() {
    run(async |env| {
        let cluster = Cluster::start(3, &[]);
        for writer in 0..3 {
            let mut client = cluster.members[writer].connect(&env).await;
            for round in 0..10 {
                let (key, value) = (format!("key-{writer}"), format!("{round}"));
                client.put(&env, &key, &value).await;
                assert_everywhere(&env, &cluster, &[0, 1, 2], &key, &value).await;
            }
        }
        cluster.assert_equal_hashes(&env).await;

        let mut client = cluster.members[0].connect(&env).await;
        let request = quorate::proto::etcdserverpb::MemberListRequest { linearizable: true };
        let list = client.cluster.member_list(request).await.unwrap().into_inner();
        let mut names: Vec<_> = list.members.iter().map(|member| member.name.as_str()).collect();
        names.sort();
        assert_eq!(names, ["m0", "m1", "m2"]);
        assert!(list.members.iter().all(|member| member.client_ur_ls.len() == 1));
    });
}

#[test]
fn writes_go_on_after_the_leader_is_killed() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &[]);
        for round in 0..2 {
            let leader = cluster.leader(&env, 0).await;
            let running: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
            let mut client = cluster.members[running[0]].connect(&env).await;
            client.put(&env, "before", &format!("{round}")).await;

            // A write that is in flight at a follower when the leader dies.
            let (mut in_flight, env_of_writer) = (client.clone(), env.clone());
            let writer = env.spawn(async move {
                for n in 0.. {
                    let start = env_of_writer.now();
                    let answer = in_flight.try_put(&env_of_writer, "flight", &n.to_string()).await;
                    let took = env_of_writer.now() - start;
                    if answer.is_err() || took > Duration::from_millis(500) {
                        return took;
                    }
                }
                unreachable!("the numbers do not end")
            });
            while client.get(&env, "flight").await.is_none() {}
            cluster.members[leader].kill();
            let took = writer.await.expect("the writer ends");
            assert!(took < IN_FLIGHT_MAX, "a write in flight waited {took:?}");

            client.put_eventually(&env, "after", &format!("{round}")).await;
            assert_everywhere(&env, &cluster, &running, "before", &format!("{round}")).await;
            assert_everywhere(&env, &cluster, &running, "after", &format!("{round}")).await;
            assert_ne!(cluster.leader(&env, running[0]).await, leader);

            cluster.members[leader].start();
            assert_everywhere(&env, &cluster, &[0, 1, 2], "after", &format!("{round}")).await;
            cluster.assert_equal_hashes(&env).await;
            delete(&env, &mut client, "flight").await;
        }
    });
}

async fn delete(env: &Env, client: &mut super::support::Client, key: &'static str) {
    let request = quorate::proto::etcdserverpb::DeleteRangeRequest {
        key: key.into(),
        ..Default::default()
    };
    let deleted = env
        .timeout(super::support::PATIENCE, client.kv.delete_range(request))
        .await;
    deleted.expect("an answer in time").expect("a delete succeeds");
}

#[test]
fn without_a_quorum_nothing_is_acknowledged() {
    run(async |env| {
        // Short time-outs, so that the refusal comes soon: 5 s and two election time-outs.
        let mut cluster = Cluster::start(3, &["--heartbeat-interval=20", "--election-timeout=200"]);
        let mut client = cluster.members[0].connect(&env).await;
        client.put_eventually(&env, "a", "1").await;
        cluster.members[1].kill();
        cluster.members[2].kill();
        assert!(client.try_put(&env, "a", "2").await.is_err());
        let serializable = quorate::proto::etcdserverpb::RangeRequest {
            key: "a".into(),
            serializable: true,
            ..Default::default()
        };
        let read = client.range(&env, serializable).await.unwrap();
        assert_eq!(&read.kvs[0].value[..], b"1");

        cluster.members[1].start();
        client.put_eventually(&env, "a", "3").await;
        assert_everywhere(&env, &cluster, &[0, 1], "a", "3").await;
    });
}

#[test]
fn a_member_that_is_far_behind_catches_up_by_a_snapshot() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &["--snapshot-count=50", "--snapshot-catchup-entries=10"]);
        let leader = cluster.leader(&env, 0).await;
        let behind = (leader + 1) % 3;
        let mut client = cluster.members[leader].connect(&env).await;
        client.put(&env, "kept", "1").await;
        cluster.members[behind].kill();
        for n in 0..400 {
            client
                .put_eventually(&env, &format!("key-{}", n % 100), &n.to_string())
                .await;
        }
        cluster.members[behind].start();
        assert_everywhere(&env, &cluster, &[behind], "kept", "1").await;
        assert_everywhere(&env, &cluster, &[behind], "key-99", "399").await;
        cluster.assert_equal_hashes(&env).await;

        // What it received is durable: it starts again from its own disk.
        cluster.members[behind].kill();
        cluster.members[behind].start();
        assert_everywhere(&env, &cluster, &[behind], "key-0", "300").await;
        cluster.assert_equal_hashes(&env).await;
    });
}

/// etcd's second check: what other members let in.
#[test]
fn a_member_with_the_smaller_quota_raises_the_alarm_for_all() {
    for leads in [false, true] {
        smaller_quota(leads);
    }
}

fn smaller_quota(leads: bool) {
    run(async |env| {
        let mut cluster = Cluster::new(3, &[]);
        cluster.members[2]
            .flags
            .push("--quota-backend-bytes=1000000".into());
        cluster.members.iter_mut().for_each(Member::spawn);
        cluster.members.iter_mut().for_each(Member::wait_ready);
        let mut client = cluster.members[0].connect(&env).await;
        let status = cluster.members[2].connect(&env).await.status(&env).await;
        let small = status.header.expect("a header").member_id;
        let heir = if leads { 2 } else { 0 };
        let leader = cluster.leader(&env, 0).await;
        if leader != heir {
            let status = cluster.members[heir].connect(&env).await.status(&env).await;
            let target_id = status.header.expect("a header").member_id;
            let request = pb::MoveLeaderRequest { target_id };
            let mut leader = cluster.members[leader].connect(&env).await;
            leader
                .maintenance
                .move_leader(request)
                .await
                .expect("it hands over");
        }
        let value = "v".repeat(100_000);
        let deadline = env.now() + PATIENCE;
        let refused = loop {
            match client.try_put(&env, "a", &value).await {
                Ok(_) => assert!(env.now() < deadline, "nobody raises the alarm"),
                Err(refused) => break refused,
            }
            env.sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
        // A leader refuses at once, and then tells all.
        let alarms = loop {
            let request = pb::AlarmRequest::default();
            let alarms = client.maintenance.alarm(request).await.expect("a list");
            let alarms = alarms.into_inner().alarms;
            if !alarms.is_empty() {
                break alarms;
            }
            assert!(env.now() < deadline, "nobody raises the alarm");
            env.sleep(Duration::from_millis(50)).await;
        };
        assert_eq!(alarms.len(), 1);
        assert_eq!(
            (alarms[0].member_id, alarms[0].alarm()),
            (small, pb::AlarmType::Nospace)
        );

        // Who disarms and makes room is not alarmed again.
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            member_id: small,
            alarm: pb::AlarmType::Nospace.into(),
        };
        client.maintenance.alarm(request).await.expect("it is disarmed");
        let revision = client.linearizable_revision(&env).await;
        let request = pb::CompactionRequest {
            revision,
            physical: true,
        };
        client.kv.compact(request).await.expect("a compaction");
        env.sleep(Duration::from_millis(2500)).await;
        client.put(&env, "b", "1").await;
    });
}
