//! What members tell of themselves on `/metrics`: under load every figure has to move, by plausible amounts, and with a
//! real etcd 3.7 beside them every name, label, bound and help text is compared (skipped without one).

mod page;

use std::time::Duration;

use futures_util::{StreamExt, stream};
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::watch_request::RequestUnion;
use quorate::runtime::Env;

use super::etcdctl::find_all;
use super::support::{Client, Cluster, PATIENCE, run};
use page::Page;

const PUTS: usize = 200;
const POLL: Duration = Duration::from_millis(50);

/// Families of etcd's that have no meaning here, each group with its reason in the README.
const LEFT_OUT: &[&str] = &[
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds",
    "etcd_debugging_store_",
    "etcd_grpc_proxy_",
    "etcd_server_go_version",
    "go_",
    "process_network_",
    "process_virtual_memory_max_bytes",
];

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

/// A bit of everything that clients do to one member.
async fn load(env: &Env, client: &mut Client) {
    for n in 0..PUTS {
        client.put(env, &format!("key-{}", n % 20), "0123456789").await;
    }
    for _ in 0..10 {
        client.get(env, "key-1").await;
    }
    let read = pb::TxnRequest {
        success: vec![op(Op::RequestRange(pb::RangeRequest {
            key: "key-2".into(),
            ..Default::default()
        }))],
        ..Default::default()
    };
    client.kv.txn(read).await.expect("a transaction that reads");
    let put = |key: &'static str| {
        op(Op::RequestPut(pb::PutRequest {
            key: key.into(),
            ..Default::default()
        }))
    };
    let write = pb::TxnRequest {
        success: vec![put("key-3"), put("key-4")],
        ..Default::default()
    };
    client.kv.txn(write).await.expect("a transaction that writes");
    let all = pb::DeleteRangeRequest {
        key: "key-5".into(),
        range_end: "key-7".into(),
        ..Default::default()
    };
    client.kv.delete_range(all).await.expect("a delete");
    leases(client).await;
    watch(env, client).await;
    let revision = client.linearizable_revision(env).await;
    let compaction = pb::CompactionRequest {
        revision,
        physical: true,
    };
    client.kv.compact(compaction).await.expect("a compaction");
    maintenance(client).await;
}

async fn leases(client: &mut Client) {
    for id in [1, 2] {
        let grant = pb::LeaseGrantRequest { id, ttl: 60 };
        client.lease.lease_grant(grant).await.expect("a lease");
    }
    let renewals = stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
    let answers = client.lease.lease_keep_alive(renewals).await.expect("a stream");
    let renewed = answers.into_inner().next().await.expect("an answer");
    assert_eq!(renewed.expect("a renewal").ttl, 60);
    let revoke = pb::LeaseRevokeRequest { id: 2 };
    client.lease.lease_revoke(revoke).await.expect("a revoke");
}

/// A watch sees one put.
async fn watch(env: &Env, client: &mut Client) {
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: "watched".into(),
            ..Default::default()
        })),
    };
    let requests = stream::iter([create]).chain(stream::pending());
    let mut responses = client.watch.watch(requests).await.expect("a stream").into_inner();
    let created = responses.next().await.expect("a response").expect("a watch");
    assert!(created.created);
    client.put(env, "watched", "1").await;
    let seen = responses.next().await.expect("a response").expect("an event");
    assert_eq!(seen.events.len(), 1);
}

async fn maintenance(client: &mut Client) {
    let maintenance = &mut client.maintenance;
    maintenance.hash(pb::HashRequest {}).await.expect("a hash");
    let now = pb::HashKvRequest::default();
    maintenance.hash_kv(now).await.expect("a hash");
    maintenance
        .defragment(pb::DefragmentRequest {})
        .await
        .expect("a defragmentation");
    let snapshot = maintenance.snapshot(pb::SnapshotRequest {}).await;
    let mut parts = snapshot.expect("a snapshot").into_inner();
    while let Some(part) = parts.next().await {
        part.expect("a part of a snapshot");
    }
}

#[test]
fn a_member_measures_what_it_does() {
    run(async |env| {
        let cluster = Cluster::start(1, &["--snapshot-count=50", "--metrics=extensive"]);
        let member = &cluster.members[0];
        let before = Page::of(member);
        load(&env, &mut member.connect(&env).await).await;
        for path in ["/livez", "/readyz", "/health"] {
            assert_eq!(member.http_get(path).0, 200, "{path}");
        }
        let page = Page::of(member);

        let grown = |name: &str| page.total(name) - before.total(name);
        for (name, exactly) in [
            ("etcd_mvcc_put_total", PUTS + 3),
            ("etcd_mvcc_delete_total", 1),
            // The read-only transaction reads one key.
            ("etcd_mvcc_range_total", 10 + 1 + 1),
            ("etcd_mvcc_txn_total", 1),
            ("etcd_debugging_lease_granted_total", 2),
            ("etcd_debugging_lease_revoked_total", 1),
            ("etcd_debugging_lease_renewed_total", 1),
            ("etcd_debugging_mvcc_events_total", 1),
            ("etcd_server_health_success", 1),
            ("etcd_server_proposals_failed_total", 0),
            ("promhttp_metric_handler_requests_total", 1),
        ] {
            // Checks of health read, too.
            let least = exactly as f64;
            let found = grown(name);
            let most = if name == "etcd_mvcc_range_total" {
                least + 4.0
            } else {
                least
            };
            assert!(
                (least..=most).contains(&found),
                "{name} grew by {found}, not {exactly}"
            );
        }
        assert!(grown("etcd_disk_wal_write_bytes_total") > (PUTS * 15) as f64);
        assert!(grown("etcd_debugging_mvcc_total_put_size_in_bytes") > (PUTS * 15) as f64);
        assert!(grown("etcd_debugging_mvcc_db_compaction_keys_total") >= (PUTS - 20) as f64);
        assert!(grown("etcd_network_client_grpc_received_bytes_total") > (PUTS * 15) as f64);
        assert!(grown("etcd_network_client_grpc_sent_bytes_total") > 0.0);
        assert!(page.total("etcd_debugging_mvcc_db_compaction_last") > 1.7e9);
        assert_eq!(page.total("etcd_mvcc_db_open_read_transactions"), 0.0);
        assert_eq!(page.total("etcd_server_proposals_pending"), 0.0);

        for histogram in [
            "etcd_disk_wal_fsync_duration_seconds",
            "etcd_disk_wal_write_duration_seconds",
            "etcd_disk_backend_commit_duration_seconds",
            "etcd_debugging_disk_backend_commit_write_duration_seconds",
            "etcd_debugging_snap_save_total_duration_seconds",
            "etcd_snap_fsync_duration_seconds",
            "etcd_disk_backend_snapshot_duration_seconds",
            "etcd_disk_backend_defrag_duration_seconds",
            "etcd_mvcc_hash_duration_seconds",
            "etcd_mvcc_hash_rev_duration_seconds",
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "etcd_debugging_lease_ttl_total",
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
            "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
            "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
            "etcd_server_range_duration_seconds",
            "grpc_server_handling_seconds",
        ] {
            assert!(page.count(histogram) > 0.0, "{histogram} has seen nothing");
            assert!(page.sum(histogram) > 0.0, "{histogram} took no time at all");
        }
        assert_eq!(page.sum("etcd_debugging_lease_ttl_total"), 120.0);
        // Puts that come one after another are synced one by one.
        assert!(page.count("etcd_disk_wal_fsync_duration_seconds") >= PUTS as f64);
        let put = r#"op="Put",success="true",version="v3""#;
        let applied = page.value(&format!("etcd_server_apply_duration_seconds_count{{{put}}}"));
        assert_eq!(applied, Some(PUTS as f64 + 1.0));
        for (kind, count) in [
            ("Put", PUTS + 1),
            ("Txn", 1),
            ("ReadonlyTxn", 1),
            ("Compaction", 1),
        ] {
            let series =
                format!(r#"etcd_server_request_duration_seconds_count{{success="true",type="{kind}"}}"#);
            assert_eq!(page.value(&series), Some(count as f64), "{kind}");
        }
        for (endpoint, check) in [("livez", "serializable_read"), ("readyz", "non_learner")] {
            let labels = format!(r#"name="{check}",status="success",type="{endpoint}""#);
            let series = format!("etcd_server_healthchecks_total{{{labels}}}");
            assert_eq!(page.value(&series), Some(1.0), "{series}");
        }
        let gate = r#"etcd_server_feature_enabled{name="FastLeaseKeepAlive",stage="BETA"}"#;
        assert_eq!(page.value(gate), Some(1.0));
        assert!(page.total("os_fd_used") > 5.0 && page.total("os_fd_limit") > 5.0);
        assert!(page.total("process_resident_memory_bytes") > 1e6);
    });
}

/// Looks at a member until it shows what is wanted.
async fn eventually(env: &Env, cluster: &Cluster, member: usize, what: &str, wanted: impl Fn(&Page) -> bool) {
    let deadline = env.now() + PATIENCE;
    while !wanted(&Page::of(&cluster.members[member])) {
        assert!(env.now() < deadline, "member {member} does not show {what}");
        env.sleep(POLL).await;
    }
}

async fn ids(env: &Env, cluster: &Cluster) -> Vec<String> {
    let mut ids = Vec::new();
    for member in &cluster.members {
        let status = member.connect(env).await.status(env).await;
        ids.push(format!("{:x}", status.header.expect("a header").member_id));
    }
    ids
}

#[test]
fn members_measure_one_another() {
    run(async |env| {
        let mut cluster = Cluster::start(3, &["--snapshot-count=50", "--snapshot-catchup-entries=10"]);
        let ids = ids(&env, &cluster).await;
        let leader = cluster.leader(&env, 0).await;
        let mut client = cluster.members[leader].connect(&env).await;
        for n in 0..50 {
            client.put(&env, &format!("key-{n}"), "value").await;
        }
        for (member, own) in ids.iter().enumerate() {
            for other in ids.iter().filter(|other| *other != own) {
                let pair = format!(r#"Local="{own}",Remote="{other}""#);
                let positive = [
                    format!("etcd_network_active_peers{{{pair}}}"),
                    format!("etcd_network_known_peers{{{pair}}}"),
                    format!(r#"etcd_network_peer_sent_bytes_total{{To="{other}"}}"#),
                    format!(r#"etcd_network_peer_received_bytes_total{{From="{other}"}}"#),
                    format!(r#"etcd_network_peer_round_trip_time_seconds_count{{To="{other}"}}"#),
                    format!(r#"etcd_network_peer_round_trip_time_seconds_sum{{To="{other}"}}"#),
                ];
                eventually(&env, &cluster, member, &positive.join(", "), |page| {
                    positive
                        .iter()
                        .all(|series| page.value(series).is_some_and(|value| value > 0.0))
                })
                .await;
            }
            let known = Page::of(&cluster.members[member]).total("etcd_network_known_peers");
            assert_eq!(known, 3.0);
        }

        let behind = (leader + 1) % 3;
        let (own, other) = (&ids[leader], &ids[behind]);
        cluster.members[behind].kill();
        let pair = format!(r#"Local="{own}",Remote="{other}""#);
        eventually(&env, &cluster, leader, "a lost member", |page| {
            let lost = page.value(&format!("etcd_network_disconnected_peers_total{{{pair}}}"));
            let failed = page.value(&format!(
                r#"etcd_network_peer_sent_failures_total{{To="{other}"}}"#
            ));
            let active = page.value(&format!("etcd_network_active_peers{{{pair}}}"));
            lost > Some(0.0) && failed > Some(0.0) && active == Some(0.0)
        })
        .await;
        for n in 0..400 {
            client
                .put_eventually(&env, &format!("key-{}", n % 100), "again")
                .await;
        }
        cluster.members[behind].start();
        let to = format!(r#"{{To="{other}"}}"#);
        eventually(&env, &cluster, leader, "a snapshot that was sent", |page| {
            let sent = page.value(&format!("etcd_network_snapshot_send_success{to}"));
            let took = page.value(&format!(
                "etcd_network_snapshot_send_total_duration_seconds_sum{to}"
            ));
            let under_way = page.value(&format!("etcd_network_snapshot_send_inflights_total{to}"));
            sent > Some(0.0) && took > Some(0.0) && under_way == Some(0.0)
        })
        .await;
        let page = Page::of(&cluster.members[behind]);
        let from = format!(r#"{{From="{own}"}}"#);
        assert!(page.value(&format!("etcd_network_snapshot_receive_success{from}")) > Some(0.0));
        for histogram in [
            "etcd_network_snapshot_receive_total_duration_seconds",
            "etcd_snap_db_save_total_duration_seconds",
            "etcd_snap_db_fsync_duration_seconds",
        ] {
            assert!(page.sum(histogram) > 0.0, "{histogram}");
        }
        assert_eq!(page.total("etcd_server_snapshot_apply_in_progress_total"), 0.0);
        eventually(&env, &cluster, leader, "a member that is back", |page| {
            page.value(&format!("etcd_network_active_peers{{{pair}}}")) == Some(1.0)
        })
        .await;
    });
}

#[test]
fn the_leader_tells_why_it_promotes_nobody() {
    run(async |env| {
        let cluster = Cluster::start(1, &[]);
        let member = &cluster.members[0];
        let mut client = member.connect(&env).await;
        let unknown = pb::MemberPromoteRequest { id: 7 };
        client.cluster.member_promote(unknown).await.unwrap_err();
        let page = Page::of(member);
        assert_eq!(page.total("etcd_server_learner_promote_successes"), 0.0);
        let refused = r#"etcd_server_learner_promote_failures{Reason="membership: ID not found"}"#;
        assert_eq!(page.value(refused), Some(1.0));
    });
}

/// A page of a cluster of three that has worked, from the member that leads and knows how far away the others are.
async fn page_of(env: &Env, mut cluster: Cluster) -> Page {
    cluster.members.iter_mut().for_each(|member| member.spawn());
    cluster.members.iter_mut().for_each(|member| member.wait_ready());
    let leader = cluster.leader(env, 0).await;
    load(env, &mut cluster.members[leader].connect(env).await).await;
    for path in ["/livez", "/readyz", "/health"] {
        assert_eq!(cluster.members[leader].http_get(path).0, 200, "{path}");
    }
    let round_trips = "etcd_network_peer_round_trip_time_seconds_count";
    let measured = |page: &Page| page.families.contains_key(round_trips.trim_end_matches("_count"));
    eventually(env, &cluster, leader, round_trips, measured).await;
    Page::of(&cluster.members[leader])
}

#[test]
fn names_labels_bounds_and_texts_are_those_of_etcd() {
    let version = |path: &std::path::PathBuf| {
        let output = std::process::Command::new(path).arg("--version").output();
        output.is_ok_and(|output| super::etcdctl::text(&output.stdout).contains("etcd Version: 3.7"))
    };
    let Some(etcd) = find_all("etcd").into_iter().find(version) else {
        eprintln!("skipped: no etcd 3.7 on the PATH");
        return;
    };
    run(async |env| {
        let flags = ["--snapshot-count=50", "--metrics=extensive"];
        let ours = page_of(&env, Cluster::new(3, &flags)).await;
        let mut theirs = Cluster::new(3, &flags);
        for member in &mut theirs.members {
            member.binary = etcd.clone().into();
        }
        let theirs = page_of(&env, theirs).await;
        let is_left_out = |name: &str| LEFT_OUT.iter().any(|left_out| name.starts_with(left_out));
        let compared = theirs.families.keys().filter(|name| !is_left_out(name));
        assert!(compared.count() > 70, "etcd has shown what it has");
        let mut wrong = Vec::new();
        for (name, expected) in theirs.families.iter().filter(|(name, _)| !is_left_out(name)) {
            match ours.families.get(name) {
                None => wrong.push(format!("{name} is missing")),
                Some(found) if found != expected => {
                    wrong.push(format!("{name}: {found:?}\n  instead of {expected:?}"));
                }
                Some(_) => {}
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let needless = LEFT_OUT
            .iter()
            .filter(|name| ours.families.keys().any(|found| found.starts_with(**name)));
        assert_eq!(
            needless.collect::<Vec<_>>(),
            Vec::<&&str>::new(),
            "exported, and said not to be"
        );
    });
}
