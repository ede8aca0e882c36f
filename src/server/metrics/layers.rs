//! The metrics of the layers below, under etcd's names: one line each.
//!
//! Names, kinds, labels and help texts are those of etcd v3.7.1 (its `metrics.go` files), a counter that etcd calls a
//! gauge included.

use prometheus::proto::{LabelPair, MetricFamily};

use super::families::{Families, labels};
use crate::base::MemberId;
use crate::base::metrics::{
    ByKind, ByOutcome, EngineMetrics, Histogram, LogMetrics, MemberMetrics, PeerMetrics, RequestKind,
    SnapshotMetrics, StateMetrics, StoreMetrics, Transfers,
};

/// All of them, as `local` sees them.
pub fn families(member_metrics: &MemberMetrics, local: MemberId) -> Vec<MetricFamily> {
    let mut out = Families::default();
    log(&mut out, &member_metrics.log);
    engine(&mut out, &member_metrics.engine);
    snapshots(&mut out, &member_metrics.snapshots);
    state(&mut out, &member_metrics.state);
    store(&mut out, &member_metrics.store);
    leases(&mut out, member_metrics);
    agreement(&mut out, member_metrics);
    requests(&mut out, member_metrics);
    peers(&mut out, member_metrics, local);
    out.0
}

fn amount(counter: &crate::base::metrics::Counter) -> i64 {
    i64::try_from(counter.get()).unwrap_or(i64::MAX)
}

fn log(out: &mut Families, log: &LogMetrics) {
    out.histogram(
        "etcd_disk_wal_fsync_duration_seconds",
        "The latency distributions of fsync called by WAL.",
        &log.sync,
    );
    out.histogram(
        "etcd_disk_wal_write_duration_seconds",
        "The latency distributions of write called by WAL.",
        &log.write,
    );
    out.gauge(
        "etcd_disk_wal_write_bytes_total",
        "Total number of bytes written in WAL.",
        amount(&log.written_bytes),
    );
}

fn engine(out: &mut Families, engine: &EngineMetrics) {
    out.histogram(
        "etcd_disk_backend_commit_duration_seconds",
        "The latency distributions of commit called by backend.",
        &engine.commit,
    );
    out.histogram(
        "etcd_debugging_disk_backend_commit_write_duration_seconds",
        "The latency distributions of commit.write called by bboltdb backend.",
        &engine.write,
    );
    out.gauge(
        "etcd_mvcc_db_open_read_transactions",
        "The number of currently open read transactions",
        engine.views.get(),
    );
}

fn snapshots(out: &mut Families, snapshots: &SnapshotMetrics) {
    out.histogram(
        "etcd_debugging_snap_save_marshalling_duration_seconds",
        "The marshalling cost distributions of save called by snapshot.",
        &snapshots.naming,
    );
    out.histogram(
        "etcd_debugging_snap_save_total_duration_seconds",
        "The total latency distributions of save called by snapshot.",
        &snapshots.save,
    );
    out.histogram(
        "etcd_snap_fsync_duration_seconds",
        "The latency distributions of fsync called by snap.",
        &snapshots.sync,
    );
    out.histogram(
        "etcd_snap_db_save_total_duration_seconds",
        "The total latency distributions of v3 snapshot save",
        &snapshots.install,
    );
    out.histogram(
        "etcd_snap_db_fsync_duration_seconds",
        "The latency distributions of fsyncing .snap.db file",
        &snapshots.install_sync,
    );
    out.histogram(
        "etcd_disk_backend_snapshot_duration_seconds",
        "The latency distribution of backend snapshots.",
        &snapshots.read_out,
    );
    out.gauge(
        "etcd_server_snapshot_apply_in_progress_total",
        "1 if the server is applying the incoming snapshot. 0 if none.",
        snapshots.installing.get(),
    );
}

/// Not etcd's: what one client's work costs all others.
fn state(out: &mut Families, state: &StateMetrics) {
    let sides = [("apply", &state.apply), ("read", &state.read)];
    out.histograms(
        "quorate_state_held_seconds",
        "How long the state was locked at a time, to apply commands or to look at it.",
        sides.map(|(by, held)| (labels(&[("by", by)]), &held.seconds)),
    );
    out.histograms(
        "quorate_state_held_entries",
        "How many entries of the index and records of the store were looked at while the state was locked.",
        sides.map(|(by, held)| (labels(&[("by", by)]), &held.entries)),
    );
}

fn store(out: &mut Families, store: &StoreMetrics) {
    for (name, help, counter) in [
        (
            "etcd_mvcc_range_total",
            "Total number of ranges seen by this member.",
            &store.ranges,
        ),
        (
            "etcd_mvcc_put_total",
            "Total number of puts seen by this member.",
            &store.puts,
        ),
        (
            "etcd_mvcc_delete_total",
            "Total number of deletes seen by this member.",
            &store.deletes,
        ),
        (
            "etcd_mvcc_txn_total",
            "Total number of txns seen by this member.",
            &store.txns,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_keys_total",
            "Total number of db keys compacted.",
            &store.compacted_records,
        ),
    ] {
        out.counter(name, help, counter);
    }
    for (name, help, histogram) in [
        (
            "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
            "Bucketed histogram of index compaction pause duration.",
            &store.index_compaction_pause,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
            "Bucketed histogram of db compaction pause duration.",
            &store.compaction_pause,
        ),
        (
            "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
            "Bucketed histogram of db compaction total duration.",
            &store.compaction,
        ),
        (
            "etcd_mvcc_hash_duration_seconds",
            "The latency distribution of storage hash operation.",
            &store.hash,
        ),
        (
            "etcd_mvcc_hash_rev_duration_seconds",
            "The latency distribution of storage hash by revision operation.",
            &store.hash_at_revision,
        ),
    ] {
        out.histogram(name, help, histogram);
    }
    out.gauge(
        "etcd_debugging_mvcc_total_put_size_in_bytes",
        "The total size of put kv pairs seen by this member.",
        amount(&store.put_bytes),
    );
    out.gauge(
        "etcd_debugging_mvcc_db_compaction_last",
        "The unix time of the last db compaction. Resets to 0 on start.",
        store.last_compaction.get(),
    );
}

fn leases(out: &mut Families, member_metrics: &MemberMetrics) {
    let leases = &member_metrics.leases;
    for (name, help, counter) in [
        (
            "etcd_debugging_lease_granted_total",
            "The total number of granted leases.",
            &leases.granted,
        ),
        (
            "etcd_debugging_lease_revoked_total",
            "The total number of revoked leases.",
            &leases.revoked,
        ),
        (
            "etcd_debugging_lease_renewed_total",
            "The number of renewed leases seen by the leader.",
            &leases.renewed,
        ),
        (
            "etcd_debugging_server_lease_expired_total",
            "The total number of expired leases.",
            &leases.expired,
        ),
    ] {
        out.counter(name, help, counter);
    }
    out.histogram(
        "etcd_debugging_lease_ttl_total",
        "Bucketed histogram of lease TTLs.",
        &leases.ttl,
    );
}

fn agreement(out: &mut Families, member_metrics: &MemberMetrics) {
    let agreement = &member_metrics.agreement;
    for (name, help, counter) in [
        (
            "etcd_server_slow_apply_total",
            "The total number of slow apply requests (likely overloaded from slow disk).",
            &agreement.slow_applies,
        ),
        (
            "quorate_duplicate_commands_total",
            "The total number of commands that were applied before and not again: a fault of this program.",
            &agreement.duplicates,
        ),
        (
            "etcd_server_slow_read_indexes_total",
            "The total number of pending read indexes not in sync with leader's or timed out read index requests.",
            &agreement.slow_read_indexes,
        ),
        (
            "etcd_server_read_indexes_failed_total",
            "The total number of failed read indexes seen.",
            &agreement.failed_read_indexes,
        ),
        (
            "etcd_server_heartbeat_send_failures_total",
            "The total number of leader heartbeat send failures (likely overloaded from slow disk).",
            &agreement.late_heartbeats,
        ),
        (
            "etcd_server_learner_promote_successes",
            "The total number of successful learner promotions while this member is leader.",
            &agreement.promotions,
        ),
    ] {
        out.counter(name, help, counter);
    }
    let refused = agreement.refused_promotions.all();
    out.counters(
        "etcd_server_learner_promote_failures",
        "The total number of failed learner promotions (likely learner not ready) while this member is leader.",
        refused
            .iter()
            .map(|(reason, count)| (labels(&[("Reason", reason)]), *count)),
    );
}

fn requests(out: &mut Families, member_metrics: &MemberMetrics) {
    let requests = &member_metrics.requests;
    out.histograms(
        "etcd_server_apply_duration_seconds",
        "The latency distributions of v2 apply called by backend.",
        by_kind(&requests.apply, |op, success| {
            labels(&[("op", op), ("success", success), ("version", "v3")])
        }),
    );
    out.histograms(
        "etcd_server_request_duration_seconds",
        "Response latency distribution in seconds for each type.",
        by_kind(&requests.whole, |kind, success| {
            labels(&[("success", success), ("type", kind)])
        }),
    );
    let range = by_outcome(&requests.range, |success| labels(&[("success", success)]));
    out.histograms(
        "etcd_server_range_duration_seconds",
        "The latency distributions of txn.Range",
        range,
    );
    out.counter(
        "quorate_server_request_panics_total",
        "The total number of requests that ended in a panic.",
        &requests.panics,
    );
}

type Labelled<'a> = Vec<(Vec<LabelPair>, &'a Histogram)>;

/// What has been seen: as in etcd, labels appear with their first value.
fn by_outcome(outcomes: &ByOutcome, labels: impl Fn(&str) -> Vec<LabelPair>) -> Labelled<'_> {
    let seen = [true, false].map(|success| (success, outcomes.get(success)));
    let seen = seen.into_iter().filter(|(_, histogram)| histogram.count() > 0);
    let named = seen.map(|(success, histogram)| (labels(if success { "true" } else { "false" }), histogram));
    named.collect()
}

fn by_kind(kinds: &ByKind, labels: impl Fn(&str, &str) -> Vec<LabelPair>) -> Labelled<'_> {
    let of = |kind: &RequestKind| by_outcome(kinds.get(*kind), |success| labels(kind.name(), success));
    RequestKind::ALL.iter().flat_map(of).collect()
}

fn peers(out: &mut Families, member_metrics: &MemberMetrics, local: MemberId) {
    let peers = member_metrics.peers.all();
    let peers: Vec<(String, &PeerMetrics)> = peers
        .iter()
        .map(|(id, peer)| (format!("{id:x}"), &**peer))
        .collect();
    let local = format!("{local:x}");
    let pair = |remote: &str| labels(&[("Local", &local), ("Remote", remote)]);
    out.gauges(
        "etcd_network_active_peers",
        "The current number of active peer connections.",
        peers
            .iter()
            .map(|(id, peer)| (pair(id), i64::from(peer.is_active()))),
    );
    out.counters(
        "etcd_network_disconnected_peers_total",
        "The total number of disconnected peers.",
        peers.iter().map(|(id, peer)| (pair(id), peer.disconnects.get())),
    );
    let to = |id: &String| labels(&[("To", id)]);
    let from = |id: &String| labels(&[("From", id)]);
    out.counters(
        "etcd_network_peer_sent_bytes_total",
        "The total number of bytes sent to peers.",
        peers.iter().map(|(id, peer)| (to(id), peer.sent_bytes.get())),
    );
    out.counters(
        "etcd_network_peer_received_bytes_total",
        "The total number of bytes received from peers.",
        peers
            .iter()
            .map(|(id, peer)| (from(id), peer.received_bytes.get())),
    );
    out.counters(
        "etcd_network_peer_sent_failures_total",
        "The total number of send failures from peers.",
        peers.iter().map(|(id, peer)| (to(id), peer.sent_failures.get())),
    );
    out.counters(
        "etcd_network_peer_received_failures_total",
        "The total number of receive failures from peers.",
        peers
            .iter()
            .map(|(id, peer)| (from(id), peer.received_failures.get())),
    );
    out.histograms(
        "etcd_network_peer_round_trip_time_seconds",
        "Round-Trip-Time histogram between peers",
        peers.iter().map(|(id, peer)| (to(id), &peer.round_trip)),
    );
    transfers(out, "send", &peers, to, |peer| &peer.snapshots_sent);
    transfers(out, "receive", &peers, from, |peer| &peer.snapshots_received);
}

fn transfers(
    out: &mut Families,
    dial: &str,
    peers: &[(String, &PeerMetrics)],
    labels: impl Fn(&String) -> Vec<LabelPair>,
    of: impl Fn(&PeerMetrics) -> &Transfers,
) {
    out.counters(
        &format!("etcd_network_snapshot_{dial}_success"),
        &format!("Total number of successful snapshot {dial}s"),
        peers
            .iter()
            .map(|(id, peer)| (labels(id), of(peer).successes.get())),
    );
    out.counters(
        &format!("etcd_network_snapshot_{dial}_failures"),
        &format!("Total number of snapshot {dial} failures"),
        peers
            .iter()
            .map(|(id, peer)| (labels(id), of(peer).failures.get())),
    );
    out.gauges(
        &format!("etcd_network_snapshot_{dial}_inflights_total"),
        &format!("Total number of inflight snapshot {dial}s"),
        peers
            .iter()
            .map(|(id, peer)| (labels(id), of(peer).under_way.get())),
    );
    out.histograms(
        &format!("etcd_network_snapshot_{dial}_total_duration_seconds"),
        &format!("Total latency distributions of v3 snapshot {dial}s"),
        peers.iter().map(|(id, peer)| (labels(id), &of(peer).duration)),
    );
}
