//! The page as a whole: what is on it, under which names.

use super::*;

fn text(metrics: &Metrics, sample: &Sample) -> String {
    String::from_utf8(metrics.render(sample, "3.7.1")).expect("text")
}

#[test]
fn counters_appear_under_the_names_of_etcd() {
    let metrics = Metrics::new(Arc::default());
    metrics.rpc(Rpc::Put).started.inc();
    metrics.rpc(Rpc::Put).handled(tonic::Code::Ok, Duration::ZERO);
    metrics
        .rpc(Rpc::Put)
        .handled(tonic::Code::OutOfRange, Duration::ZERO);
    metrics.client_request(Some("3.7.1"), false);
    metrics.client_request(None, true);
    let sample = Sample {
        member: 0x8e9e,
        cluster_version: Some("3.7.0".into()),
        has_leader: true,
        ..Sample::default()
    };
    let text = text(&metrics, &sample);
    for line in [
        r#"grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#,
        r#"grpc_server_handled_total{grpc_code="OutOfRange",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"} 1"#,
        r#"grpc_server_started_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 0"#,
        r#"etcd_server_client_requests_total{client_api_version="3.7.1",type="unary"} 1"#,
        r#"etcd_server_client_requests_total{client_api_version="unknown",type="stream"} 1"#,
        r#"etcd_server_version{server_version="3.7.1"} 1"#,
        r#"etcd_cluster_version{cluster_version="3.7"} 1"#,
        r#"etcd_server_id{server_id="8e9e"} 1"#,
        "etcd_server_has_leader 1",
        r#"etcd_disk_wal_fsync_duration_seconds_bucket{le="8.192"} 0"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    }
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
}

#[test]
fn clients_cannot_make_names_without_end() {
    let metrics = Metrics::new(Arc::default());
    for number in 0..100 {
        metrics.client_request(Some(&format!("3.{number}")), false);
    }
    let text = text(&metrics, &Sample::default());
    let names = text
        .lines()
        .filter(|line| line.starts_with("etcd_server_client_requests_total{"))
        .count();
    assert_eq!(names, 2 * CLIENT_VERSIONS_MAX);
    assert!(
        text.contains(r#"{client_api_version="unknown",type="unary"} 85"#),
        "{text}"
    );
}

/// Name, kind and labels of every family that etcd v3.7.1 registers itself and that has a meaning here.
#[rustfmt::skip]
const FAMILIES: &[(&str, &str, &[&str])] = &[
    ("etcd_cluster_version", "gauge", &["cluster_version"]),
    ("etcd_debugging_auth_revision", "gauge", &[]),
    ("etcd_debugging_disk_backend_commit_write_duration_seconds", "histogram", &[]),
    ("etcd_debugging_lease_granted_total", "counter", &[]),
    ("etcd_debugging_lease_renewed_total", "counter", &[]),
    ("etcd_debugging_lease_revoked_total", "counter", &[]),
    ("etcd_debugging_lease_ttl_total", "histogram", &[]),
    ("etcd_debugging_mvcc_compact_revision", "gauge", &[]),
    ("etcd_debugging_mvcc_current_revision", "gauge", &[]),
    ("etcd_debugging_mvcc_db_compaction_keys_total", "counter", &[]),
    ("etcd_debugging_mvcc_db_compaction_last", "gauge", &[]),
    ("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "histogram", &[]),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "histogram", &[]),
    ("etcd_debugging_mvcc_events_total", "counter", &[]),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "histogram", &[]),
    ("etcd_debugging_mvcc_keys_total", "gauge", &[]),
    ("etcd_debugging_mvcc_pending_events_total", "gauge", &[]),
    ("etcd_debugging_mvcc_slow_watcher_total", "gauge", &[]),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", "gauge", &[]),
    ("etcd_debugging_mvcc_watch_stream_total", "gauge", &[]),
    ("etcd_debugging_mvcc_watcher_total", "gauge", &[]),
    ("etcd_debugging_server_alarms", "gauge", &["alarm_type", "server_id"]),
    ("etcd_debugging_server_lease_expired_total", "counter", &[]),
    ("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "histogram", &[]),
    ("etcd_debugging_server_watch_send_loop_progress_duration_seconds", "histogram", &[]),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "histogram", &[]),
    ("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "histogram", &[]),
    ("etcd_debugging_snap_save_marshalling_duration_seconds", "histogram", &[]),
    ("etcd_debugging_snap_save_total_duration_seconds", "histogram", &[]),
    ("etcd_disk_backend_commit_duration_seconds", "histogram", &[]),
    ("etcd_disk_backend_defrag_duration_seconds", "histogram", &[]),
    ("etcd_disk_backend_snapshot_duration_seconds", "histogram", &[]),
    ("etcd_disk_defrag_inflight", "gauge", &[]),
    ("etcd_disk_wal_fsync_duration_seconds", "histogram", &[]),
    ("etcd_disk_wal_write_bytes_total", "gauge", &[]),
    ("etcd_disk_wal_write_duration_seconds", "histogram", &[]),
    ("etcd_mvcc_db_open_read_transactions", "gauge", &[]),
    ("etcd_mvcc_db_total_size_in_bytes", "gauge", &[]),
    ("etcd_mvcc_db_total_size_in_use_in_bytes", "gauge", &[]),
    ("etcd_mvcc_delete_total", "counter", &[]),
    ("etcd_mvcc_hash_duration_seconds", "histogram", &[]),
    ("etcd_mvcc_hash_rev_duration_seconds", "histogram", &[]),
    ("etcd_mvcc_put_total", "counter", &[]),
    ("etcd_mvcc_range_total", "counter", &[]),
    ("etcd_mvcc_txn_total", "counter", &[]),
    ("etcd_network_active_peers", "gauge", &["Local", "Remote"]),
    ("etcd_network_client_grpc_received_bytes_total", "counter", &[]),
    ("etcd_network_client_grpc_sent_bytes_total", "counter", &[]),
    ("etcd_network_disconnected_peers_total", "counter", &["Local", "Remote"]),
    ("etcd_network_known_peers", "gauge", &["Local", "Remote"]),
    ("etcd_network_peer_received_bytes_total", "counter", &["From"]),
    ("etcd_network_peer_received_failures_total", "counter", &["From"]),
    ("etcd_network_peer_round_trip_time_seconds", "histogram", &["To"]),
    ("etcd_network_peer_sent_bytes_total", "counter", &["To"]),
    ("etcd_network_peer_sent_failures_total", "counter", &["To"]),
    ("etcd_network_server_stream_failures_total", "counter", &["API", "Type"]),
    ("etcd_network_snapshot_receive_failures", "counter", &["From"]),
    ("etcd_network_snapshot_receive_inflights_total", "gauge", &["From"]),
    ("etcd_network_snapshot_receive_success", "counter", &["From"]),
    ("etcd_network_snapshot_receive_total_duration_seconds", "histogram", &["From"]),
    ("etcd_network_snapshot_send_failures", "counter", &["To"]),
    ("etcd_network_snapshot_send_inflights_total", "gauge", &["To"]),
    ("etcd_network_snapshot_send_success", "counter", &["To"]),
    ("etcd_network_snapshot_send_total_duration_seconds", "histogram", &["To"]),
    ("etcd_server_apply_duration_seconds", "histogram", &["op", "success", "version"]),
    ("etcd_server_client_requests_total", "counter", &["client_api_version", "type"]),
    ("etcd_server_feature_enabled", "gauge", &["name", "stage"]),
    ("etcd_server_has_leader", "gauge", &[]),
    ("etcd_server_health_failures", "counter", &[]),
    ("etcd_server_health_success", "counter", &[]),
    ("etcd_server_healthcheck", "gauge", &["name", "type"]),
    ("etcd_server_healthchecks_total", "counter", &["name", "status", "type"]),
    ("etcd_server_heartbeat_send_failures_total", "counter", &[]),
    ("etcd_server_id", "gauge", &["server_id"]),
    ("etcd_server_is_leader", "gauge", &[]),
    ("etcd_server_is_learner", "gauge", &[]),
    ("etcd_server_leader_changes_seen_total", "counter", &[]),
    ("etcd_server_learner_promote_failures", "counter", &["Reason"]),
    ("etcd_server_learner_promote_successes", "counter", &[]),
    ("etcd_server_proposals_applied_total", "gauge", &[]),
    ("etcd_server_proposals_committed_total", "gauge", &[]),
    ("etcd_server_proposals_failed_total", "counter", &[]),
    ("etcd_server_proposals_pending", "gauge", &[]),
    ("etcd_server_quota_backend_bytes", "gauge", &[]),
    ("etcd_server_range_duration_seconds", "histogram", &["success"]),
    ("etcd_server_read_indexes_failed_total", "counter", &[]),
    ("etcd_server_request_duration_seconds", "histogram", &["success", "type"]),
    ("etcd_server_slow_apply_total", "counter", &[]),
    ("etcd_server_slow_read_indexes_total", "counter", &[]),
    ("etcd_server_snapshot_apply_in_progress_total", "gauge", &[]),
    ("etcd_server_version", "gauge", &["server_version"]),
    ("etcd_snap_db_fsync_duration_seconds", "histogram", &[]),
    ("etcd_snap_db_save_total_duration_seconds", "histogram", &[]),
    ("etcd_snap_fsync_duration_seconds", "histogram", &[]),
    ("os_fd_limit", "gauge", &[]),
    ("os_fd_used", "gauge", &[]),
];

/// Everything has happened once.
fn busy() -> (Arc<Metrics>, Sample) {
    let member_metrics = Arc::new(MemberMetrics::default());
    member_metrics.peers.of(2).reached();
    member_metrics.agreement.refused_promotions.count("not ready");
    for kind in crate::base::metrics::RequestKind::ALL {
        member_metrics
            .requests
            .apply
            .observe(*kind, true, Duration::from_millis(1));
        member_metrics
            .requests
            .whole
            .observe(*kind, false, Duration::from_millis(1));
    }
    member_metrics.requests.range.observe(true, Duration::ZERO);
    let metrics = Metrics::new(member_metrics);
    metrics.request_failed("watch", tonic::Code::Unknown);
    metrics.checked("livez", Check::SerializableRead, true);
    let sample = Sample {
        member: 1,
        members: vec![1, 2],
        removed_members: vec![3],
        alarms: vec![(2, "NOSPACE")],
        cluster_version: Some("3.7.0".into()),
        feature_gates: vec![FeatureGate {
            name: "A",
            stage: "ALPHA",
            on: true,
        }],
        ..Sample::default()
    };
    (metrics, sample)
}

#[test]
fn every_family_of_etcd_has_its_kind_and_its_labels() {
    let (metrics, sample) = busy();
    let text = text(&metrics, &sample);
    for (name, kind, labels) in FAMILIES {
        let declared = format!("# TYPE {name} {kind}");
        assert!(text.lines().any(|line| line == declared), "no {declared}");
        let series = if *kind == "histogram" {
            format!("{name}_sum")
        } else {
            (*name).to_owned()
        };
        let line = text.lines().find(|line| {
            let rest = line.strip_prefix(&series);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let line = line.unwrap_or_else(|| panic!("no value of {series}"));
        let found: Vec<&str> = match line.split_once('{') {
            Some((_, pairs)) => pairs
                .split("\",")
                .filter_map(|pair| Some(pair.split_once('=')?.0))
                .collect(),
            None => Vec::new(),
        };
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, *labels, "{line}");
    }
}

#[test]
fn a_family_stands_there_once_and_in_order() {
    let (metrics, sample) = busy();
    let text = text(&metrics, &sample);
    let names: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(names, sorted);
}

#[test]
fn who_is_gone_and_what_is_over_is_told_as_nothing() {
    let (metrics, mut sample) = busy();
    let has = |sample: &Sample, line: &str| {
        let text = text(&metrics, sample);
        assert!(
            text.lines().any(|found| found == line),
            "{line}\nis not in\n{text}"
        );
    };
    has(&sample, r#"etcd_network_known_peers{Local="1",Remote="2"} 1"#);
    has(&sample, r#"etcd_network_known_peers{Local="1",Remote="3"} 0"#);
    has(
        &sample,
        r#"etcd_debugging_server_alarms{alarm_type="NOSPACE",server_id="2"} 1"#,
    );
    sample.alarms.clear();
    has(
        &sample,
        r#"etcd_debugging_server_alarms{alarm_type="NOSPACE",server_id="2"} 0"#,
    );
}

#[test]
fn what_a_client_gave_up_is_no_failure() {
    let metrics = Metrics::new(Arc::default());
    metrics.request_failed("watch", tonic::Code::Cancelled);
    assert!(!text(&metrics, &Sample::default()).contains("stream_failures_total"));
    metrics.request_failed("lease-keepalive", tonic::Code::Internal);
    let failure = r#"etcd_network_server_stream_failures_total{API="lease-keepalive",Type="receive"} 1"#;
    assert!(text(&metrics, &Sample::default()).contains(failure));
}
