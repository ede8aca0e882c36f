//! One node: its services, and what it keeps.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb;
use quorate::runtime::Env;
use rustix::process::Signal;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

use super::support::{Client, Cluster, PATIENCE, files_below, run};

#[test]
fn keys_are_written_read_and_deleted() {
    run(async |env| {
        let cluster = Cluster::start(1, &[]);
        let mut client = cluster.members[0].connect(&env).await;
        assert_eq!(client.put(&env, "a", "1").await, 2);
        assert_eq!(client.put(&env, "a", "2").await, 3);
        assert_eq!(client.put(&env, "b", "3").await, 4);
        assert_eq!(client.get(&env, "a").await.as_deref(), Some("2"));

        let old = pb::RangeRequest {
            key: "a".into(),
            revision: 2,
            serializable: true,
            ..Default::default()
        };
        let old = client.range(&env, old).await.unwrap();
        assert_eq!((old.count, &old.kvs[0].value[..]), (1, &b"1"[..]));

        let delete = pb::DeleteRangeRequest {
            key: "a".into(),
            range_end: "c".into(),
            prev_kv: true,
        };
        let deleted = client.kv.delete_range(delete).await.unwrap().into_inner();
        assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (2, 2));
        assert_eq!(deleted.header.unwrap().revision, 5);
        assert_eq!(client.get(&env, "a").await, None);

        let (status, health) = cluster.members[0].http_get("/health");
        assert_eq!(
            (status, health.as_str()),
            (200, r#"{"health":"true","reason":""}"#)
        );
    });
}

#[test]
fn a_transaction_compares_and_writes_at_once() {
    run(async |env| {
        let cluster = Cluster::start(1, &[]);
        let mut client = cluster.members[0].connect(&env).await;
        client.put(&env, "a", "1").await;
        let put = |value: &'static str| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: "a".into(),
                value: value.into(),
                ..Default::default()
            })),
        };
        let txn = pb::TxnRequest {
            compare: vec![pb::Compare {
                result: pb::compare::CompareResult::Equal as i32,
                target: pb::compare::CompareTarget::Mod as i32,
                key: "a".into(),
                target_union: Some(pb::compare::TargetUnion::ModRevision(2)),
                ..Default::default()
            }],
            success: vec![put("success")],
            failure: vec![put("failure")],
        };
        for (succeeded, value) in [(true, "success"), (false, "failure")] {
            let answer = client.kv.txn(txn.clone()).await.unwrap().into_inner();
            assert_eq!(answer.succeeded, succeeded);
            assert_eq!(client.get(&env, "a").await.as_deref(), Some(value));
        }
    });
}

/// Opens a watch; the sender keeps it open.
async fn watch(
    client: &mut Client,
    create: pb::WatchCreateRequest,
) -> (
    tokio::sync::mpsc::Sender<pb::WatchRequest>,
    tonic::Streaming<pb::WatchResponse>,
) {
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let request = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    sender.send(request).await.expect("the receiver is here");
    let answers = client
        .watch
        .watch(ReceiverStream::new(receiver))
        .await
        .expect("a watch stream opens")
        .into_inner();
    (sender, answers)
}

/// The next `count` events.
async fn events(
    env: &Env,
    answers: &mut tonic::Streaming<pb::WatchResponse>,
    count: usize,
) -> Vec<mvccpb::Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let answer = env
            .timeout(PATIENCE, answers.next())
            .await
            .expect("an event in time");
        events.extend(answer.expect("the watch goes on").expect("no error").events);
    }
    events
}

#[test]
fn a_watch_tells_history_and_what_follows() {
    run(async |env| {
        let cluster = Cluster::start(1, &[]);
        let mut client = cluster.members[0].connect(&env).await;
        client.put(&env, "k1", "old").await;
        let create = pb::WatchCreateRequest {
            key: "k".into(),
            range_end: "l".into(),
            start_revision: 2,
            prev_kv: true,
            ..Default::default()
        };
        let (_open, mut answers) = watch(&mut client, create).await;
        client.put(&env, "k1", "new").await;
        client.put(&env, "elsewhere", "x").await;
        client.put(&env, "k2", "x").await;
        let seen = events(&env, &mut answers, 3).await;
        let seen: Vec<_> = seen
            .iter()
            .map(|event| {
                let kv = event.kv.as_ref().unwrap();
                let previous = event.prev_kv.as_ref().map(|kv| kv.value.clone());
                (kv.mod_revision, kv.key.clone(), kv.value.clone(), previous)
            })
            .collect();
        let expected: [(i64, Bytes, Bytes, Option<Bytes>); 3] = [
            (2, "k1".into(), "old".into(), None),
            (3, "k1".into(), "new".into(), Some("old".into())),
            (5, "k2".into(), "x".into(), None),
        ];
        assert_eq!(seen, expected);
    });
}

#[test]
fn a_lease_takes_its_keys_with_it() {
    run(async |env| {
        let cluster = Cluster::start(1, &[]);
        let mut client = cluster.members[0].connect(&env).await;
        let grant = async |client: &mut Client, ttl| {
            let request = pb::LeaseGrantRequest { ttl, id: 0 };
            client.lease.lease_grant(request).await.unwrap().into_inner().id
        };
        let (short, long) = (grant(&mut client, 1).await, grant(&mut client, 600).await);
        for (key, lease) in [("short", short), ("long", long)] {
            let request = pb::PutRequest {
                key: key.into(),
                lease,
                ..Default::default()
            };
            client.kv.put(request).await.unwrap();
        }
        // The deletion by expiry is an event like any other.
        let create = pb::WatchCreateRequest {
            key: "short".into(),
            filters: vec![pb::watch_create_request::FilterType::Noput as i32],
            start_revision: 2,
            ..Default::default()
        };
        let (_open, mut answers) = watch(&mut client, create).await;
        let deletion = events(&env, &mut answers, 1).await;
        assert_eq!(deletion[0].r#type, mvccpb::event::EventType::Delete as i32);

        let ask = pb::LeaseTimeToLiveRequest { id: long, keys: true };
        let ttl = client.lease.lease_time_to_live(ask).await.unwrap().into_inner();
        assert_eq!((ttl.granted_ttl, ttl.keys), (600, vec![Bytes::from("long")]));
        assert!(ttl.ttl > 0 && ttl.ttl <= 600);
        client
            .lease
            .lease_revoke(pb::LeaseRevokeRequest { id: long })
            .await
            .unwrap();
        assert_eq!(client.get(&env, "long").await, None);
    });
}

#[test]
fn a_signal_stops_it_and_a_restart_has_everything() {
    run(async |env| {
        let mut cluster = Cluster::start(1, &["--snapshot-count=20", "--snapshot-catchup-entries=5"]);
        for (round, signal) in [Signal::TERM, Signal::INT].into_iter().enumerate() {
            let mut client = cluster.members[0].connect(&env).await;
            for n in 0..30 {
                client.put(&env, &format!("{round}/{n}"), "x").await;
            }
            let before = client.linearizable_revision(&env).await;
            let member = &mut cluster.members[0];
            let status = member.stop(signal);
            assert_eq!(status.signal(), Some(signal.as_raw()), "{}", member.log());
            assert!(member.log().contains("received signal; shutting down"));

            member.start();
            let mut client = member.connect(&env).await;
            assert_eq!(client.linearizable_revision(&env).await, before);
            assert_eq!(
                client.get(&env, &format!("{round}/29")).await.as_deref(),
                Some("x")
            );
            assert_eq!(client.put(&env, "next", "x").await, before + 1);
        }
    });
}

#[test]
fn kill_keeps_what_was_acknowledged() {
    run(async |env| {
        let mut cluster = Cluster::start(1, &["--snapshot-count=100"]);
        let acknowledged: Arc<Mutex<BTreeMap<String, i64>>> = Arc::default();
        for round in 0..3 {
            let enough = acknowledged.lock().unwrap().len() + 200;
            let mut writers = Vec::new();
            for writer in 0..8 {
                let mut client = cluster.members[0].connect(&env).await;
                let (env_of_writer, acknowledged) = (env.clone(), acknowledged.clone());
                writers.push(env.spawn(async move {
                    for n in 0.. {
                        let key = format!("{round}/{writer}/{n}");
                        let Ok(revision) = client.try_put(&env_of_writer, &key, &key).await else {
                            return;
                        };
                        acknowledged.lock().unwrap().insert(key, revision);
                    }
                }));
            }
            let acknowledged_now = || acknowledged.lock().unwrap().len();
            while acknowledged_now() < enough {
                env.sleep(std::time::Duration::from_millis(1)).await;
            }
            cluster.members[0].kill();
            for writer in writers {
                writer.await.expect("a writer ends with its connection");
            }
            cluster.members[0].start();
        }
        let all = pb::RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            ..Default::default()
        };
        let mut client = cluster.members[0].connect(&env).await;
        let stored = client.range(&env, all).await.unwrap().kvs;
        let stored: BTreeMap<String, i64> = stored
            .into_iter()
            .map(|kv| {
                assert_eq!(kv.key, kv.value);
                (String::from_utf8(kv.key.to_vec()).unwrap(), kv.mod_revision)
            })
            .collect();
        for (key, revision) in acknowledged.lock().unwrap().iter() {
            assert_eq!(stored.get(key), Some(revision), "{key} was acknowledged");
        }
    });
}

#[test]
fn a_configuration_file_replaces_flags_and_a_full_log_file_is_put_aside() {
    run(async |env| {
        let mut cluster = Cluster::new(1, &[]);
        let member = &mut cluster.members[0];
        let url = |flag: &str| {
            let prefix = format!("--{flag}=");
            let found = member.flags.iter().find_map(|flag| flag.strip_prefix(&prefix));
            found.expect("the flag is given").to_owned()
        };
        let folder = member.data_dir.parent().expect("a folder").to_owned();
        let log = folder.join("rotated.log");
        let text = format!(
            "name: m0\ndata-dir: {}\nlisten-client-urls: {}\nadvertise-client-urls: {}\nlisten-peer-urls: {}\n\
             initial-advertise-peer-urls: {}\ninitial-cluster: {}\nmax-txn-ops: 3\nunknown-key: 1\nmetrics: extensive\n\
             warning-unary-request-duration: 0\nlog-outputs: [stderr, {}]\nenable-log-rotation: true\n\
             log-rotation-config-json: '{{\"maxsize\": 1}}'\n",
            member.data_dir.display(),
            url("listen-client-urls"),
            url("advertise-client-urls"),
            url("listen-peer-urls"),
            url("initial-advertise-peer-urls"),
            url("initial-cluster"),
            log.display(),
        );
        let file = folder.join("quorate.yml");
        std::fs::write(&file, text).expect("the file can be written");
        // The other flag is not looked at.
        member.flags = vec![
            format!("--config-file={}", file.display()),
            "--max-txn-ops=1000".into(),
        ];
        member.start();
        assert!(
            member.log().contains("\"key\":\"unknown-key\""),
            "{}",
            member.log()
        );
        let mut client = member.connect(&env).await;
        let puts = |count: usize| {
            let put = pb::PutRequest {
                key: "a".into(),
                ..Default::default()
            };
            let op = |_| pb::RequestOp {
                request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                    key: put.key.clone(),
                    ..Default::default()
                })),
            };
            pb::TxnRequest {
                success: (0..count).map(op).collect(),
                ..Default::default()
            }
        };
        client.kv.txn(puts(3)).await.expect("three are allowed");
        let refused = client.kv.txn(puts(4)).await.expect_err("four are not");
        assert_eq!(
            refused.message(),
            "etcdserver: too many operations in txn request"
        );
        let metrics = member.http_get("/metrics").1;
        assert!(
            metrics.contains("grpc_server_handling_seconds_count"),
            "{metrics}"
        );
        // Each call is slow enough to be told, and a megabyte of lines is soon full.
        let is_put_aside = || {
            files_below(&folder).iter().any(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("rotated-20")
            })
        };
        let deadline = env.now() + PATIENCE;
        while !is_put_aside() {
            assert!(env.now() < deadline, "no second log file");
            for _ in 0..200 {
                client.get(&env, "a").await;
            }
        }
    });
}
