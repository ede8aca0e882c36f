//! Counters and gauges under etcd's names, with etcd's meaning.
//!
//! Counting must cost nothing that matters: every counter that a request touches is resolved once and found
//! by number. What raft and the store know anyway is read only when somebody asks for `/metrics`
//! ([`Metrics::render`]), and so are the process's figures from `/proc`.
//!
//! Other layers get plain counters and histograms (the log its fsync histogram) and know nothing of this
//! module.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::rpc::{CODES, Rpc};

/// Versions of the client API that get a label of their own; a client must not fill our memory with names.
const CLIENT_VERSIONS_MAX: usize = 16;

/// Counters of one gRPC method.
pub struct RpcMetrics {
    pub started: IntCounter,
    pub msg_received: IntCounter,
    pub msg_sent: IntCounter,
    handled: [OnceLock<IntCounter>; CODES.len()],
    rpc: Rpc,
    handled_vec: IntCounterVec,
    /// Set with `--metrics=extensive`.
    seconds: OnceLock<Histogram>,
}

impl RpcMetrics {
    /// Counts the end of a call that took so long.
    pub fn handled(&self, code: tonic::Code, took: Duration) {
        if let Some(seconds) = self.seconds.get() {
            seconds.observe(took.as_secs_f64());
        }
        let number = (code as i32).unsigned_abs() as usize % CODES.len();
        let (service, method, kind) = self.rpc.describe();
        let labels = [CODES[number], method, service, kind.label()];
        self.handled[number]
            .get_or_init(|| self.handled_vec.with_label_values(&labels))
            .inc();
    }
}

/// Requests by version of the client's API.
struct ClientRequests {
    vec: IntCounterVec,
    /// Version, unary counter, stream counter.
    known: Mutex<Vec<(Box<str>, [IntCounter; 2])>>,
}

impl ClientRequests {
    fn count(&self, version: &str, stream: bool) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = match known.iter().position(|(name, _)| **name == *version) {
            Some(place) => place,
            None if known.len() >= CLIENT_VERSIONS_MAX => 0,
            None => {
                let counter = |kind| self.vec.with_label_values(&[kind, version]);
                known.push((version.into(), [counter("unary"), counter("stream")]));
                known.len() - 1
            }
        };
        known[place].1[usize::from(stream)].inc();
    }
}

/// What is read from raft and the store when somebody asks.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    pub has_leader: bool,
    pub is_leader: bool,
    pub is_learner: bool,
    pub committed: u64,
    pub applied: u64,
    pub revision: i64,
    pub compact_revision: i64,
    pub keys: i64,
    pub db_bytes: i64,
    pub db_bytes_in_use: i64,
    pub quota_bytes: i64,
    pub cluster_version: Option<String>,
    pub member: u64,
    /// Watchers that read history.
    pub slow_watchers: usize,
    pub pending_events: usize,
}

macro_rules! metrics {
    (
        counters { $($counter:ident = $counter_name:literal $counter_help:literal;)* }
        gauges { $($gauge:ident = $gauge_name:literal $gauge_help:literal;)* }
        vectors { $($vec:ident = $vec_name:literal [$label:literal] $vec_help:literal;)* }
    ) => {
        /// Everything that is counted.
        pub struct Metrics {
            registry: Registry,
            rpcs: Vec<RpcMetrics>,
            client_requests: ClientRequests,
            /// Seconds of an fdatasync of the write-ahead log.
            pub wal_fsync_seconds: Histogram,
            $(#[doc = $counter_help] pub $counter: IntCounter,)*
            $(#[doc = $gauge_help] pub $gauge: IntGauge,)*
            $(#[doc = $vec_help] $vec: IntGaugeVec,)*
        }

        impl Metrics {
            pub fn new() -> Arc<Metrics> {
                let registry = Registry::new();
                Arc::new(Metrics {
                    rpcs: rpc_metrics(&registry),
                    client_requests: client_requests(&registry),
                    wal_fsync_seconds: register(&registry, wal_fsync_seconds()),
                    $($counter: register(&registry, named(IntCounter::new($counter_name, $counter_help))),)*
                    $($gauge: register(&registry, named(IntGauge::new($gauge_name, $gauge_help))),)*
                    $($vec: register(
                        &registry,
                        named(IntGaugeVec::new(Opts::new($vec_name, $vec_help), &[$label])),
                    ),)*
                    registry,
                })
            }
        }
    };
}

metrics! {
    counters {
        leader_changes = "etcd_server_leader_changes_seen_total" "The number of leader changes seen.";
        proposals_failed = "etcd_server_proposals_failed_total" "The total number of failed proposals seen.";
        read_indexes_failed = "etcd_server_read_indexes_failed_total" "The total number of failed read indexes seen.";
        puts = "etcd_mvcc_put_total" "Total number of puts seen by this member.";
        deletes = "etcd_mvcc_delete_total" "Total number of deletes seen by this member.";
        ranges = "etcd_mvcc_range_total" "Total number of ranges seen by this member.";
        txns = "etcd_mvcc_txn_total" "Total number of txns seen by this member.";
        events = "etcd_debugging_mvcc_events_total" "Total number of events sent by this member.";
        leases_granted = "etcd_debugging_lease_granted_total" "The total number of granted leases.";
        leases_revoked = "etcd_debugging_lease_revoked_total" "The total number of revoked leases.";
        leases_renewed = "etcd_debugging_lease_renewed_total" "The number of renewed leases seen by the leader.";
        bytes_received = "etcd_network_client_grpc_received_bytes_total"
            "The total number of bytes received from grpc clients.";
        bytes_sent = "etcd_network_client_grpc_sent_bytes_total" "The total number of bytes sent to grpc clients.";
        health_success = "etcd_server_health_success" "The total number of successful health checks";
        health_failures = "etcd_server_health_failures" "The total number of failed health checks";
    }
    gauges {
        has_leader = "etcd_server_has_leader" "Whether or not a leader exists. 1 is existence, 0 is not.";
        is_leader = "etcd_server_is_leader" "Whether or not this member is a leader. 1 if is, 0 otherwise.";
        is_learner = "etcd_server_is_learner"
            "Whether or not this member is a learner. 1 if is, 0 otherwise.";
        proposals_committed = "etcd_server_proposals_committed_total"
            "The total number of consensus proposals committed.";
        proposals_applied = "etcd_server_proposals_applied_total" "The total number of consensus proposals applied.";
        proposals_pending = "etcd_server_proposals_pending" "The current number of pending proposals to commit.";
        current_revision = "etcd_debugging_mvcc_current_revision" "The current revision of store.";
        compact_revision = "etcd_debugging_mvcc_compact_revision" "The revision of the last compaction in store.";
        keys = "etcd_debugging_mvcc_keys_total" "Total number of keys.";
        watch_streams = "etcd_debugging_mvcc_watch_stream_total" "Total number of watch streams.";
        watchers = "etcd_debugging_mvcc_watcher_total" "Total number of watchers.";
        slow_watchers = "etcd_debugging_mvcc_slow_watcher_total" "Total number of unsynced slow watchers.";
        pending_events = "etcd_debugging_mvcc_pending_events_total" "Total number of pending events to be sent.";
        db_bytes = "etcd_mvcc_db_total_size_in_bytes" "Total size of the underlying database physically allocated in bytes.";
        db_bytes_in_use = "etcd_mvcc_db_total_size_in_use_in_bytes"
            "Total size of the underlying database logically in use in bytes.";
        quota_bytes = "etcd_server_quota_backend_bytes" "Current backend storage quota size in bytes.";
    }
    vectors {
        server_version = "etcd_server_version" ["server_version"]
            "Which version is running. 1 for 'server_version' label with current version.";
        cluster_version = "etcd_cluster_version" ["cluster_version"]
            "Which version is running. 1 for 'cluster_version' label with current cluster version";
        server_id = "etcd_server_id" ["server_id"]
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.";
    }
}

fn named<T>(metric: prometheus::Result<T>) -> T {
    metric.expect("names and labels are constants that follow Prometheus's rules")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> C {
    registry
        .register(Box::new(metric.clone()))
        .expect("each name is registered once");
    metric
}

/// Powers of two from a millisecond: the buckets that etcd's dashboards expect.
fn wal_fsync_seconds() -> Histogram {
    let buckets = (0..14).map(|power| 0.001 * f64::from(1 << power)).collect();
    let help = "The latency distributions of fsync called by WAL.";
    let opts = HistogramOpts::new("etcd_disk_wal_fsync_duration_seconds", help).buckets(buckets);
    named(Histogram::with_opts(opts))
}

fn rpc_metrics(registry: &Registry) -> Vec<RpcMetrics> {
    let vec = |name: &str, help: &str, labels: &[&str]| {
        register(registry, named(IntCounterVec::new(Opts::new(name, help), labels)))
    };
    let labels = ["grpc_method", "grpc_service", "grpc_type"];
    let started = vec(
        "grpc_server_started_total",
        "Total number of RPCs started on the server.",
        &labels,
    );
    let received = vec(
        "grpc_server_msg_received_total",
        "Total number of RPC stream messages received on the server.",
        &labels,
    );
    let sent = vec(
        "grpc_server_msg_sent_total",
        "Total number of gRPC stream messages sent by the server.",
        &labels,
    );
    let handled = vec(
        "grpc_server_handled_total",
        "Total number of RPCs completed on the server, regardless of success or failure.",
        &["grpc_code", "grpc_method", "grpc_service", "grpc_type"],
    );
    let resolve = |&rpc: &Rpc| {
        let (service, method, kind) = rpc.describe();
        let labels = [method, service, kind.label()];
        RpcMetrics {
            started: started.with_label_values(&labels),
            msg_received: received.with_label_values(&labels),
            msg_sent: sent.with_label_values(&labels),
            handled: Default::default(),
            rpc,
            handled_vec: handled.clone(),
            seconds: OnceLock::new(),
        }
    };
    Rpc::ALL.iter().map(resolve).collect()
}

fn client_requests(registry: &Registry) -> ClientRequests {
    let opts = Opts::new(
        "etcd_server_client_requests_total",
        "The total number of client requests per client version.",
    );
    let vec = register(
        registry,
        named(IntCounterVec::new(opts, &["type", "client_api_version"])),
    );
    let requests = ClientRequests {
        vec,
        known: Mutex::default(),
    };
    let unknown = ["unary", "stream"].map(|kind| requests.vec.with_label_values(&[kind, "unknown"]));
    requests
        .known
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(("unknown".into(), unknown));
    requests
}

impl Metrics {
    /// From now on the calls of each method are measured.
    pub fn measure_calls(&self) {
        let name = "grpc_server_handling_seconds";
        let help = "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.";
        let labels = ["grpc_method", "grpc_service", "grpc_type"];
        let vec = named(HistogramVec::new(HistogramOpts::new(name, help), &labels));
        for metrics in &self.rpcs {
            let (service, method, kind) = metrics.rpc.describe();
            // Set once: a server is started once.
            let _ = metrics
                .seconds
                .set(vec.with_label_values(&[method, service, kind.label()]));
        }
        register(&self.registry, vec);
    }

    /// The counters of a method.
    pub fn rpc(&self, rpc: Rpc) -> &RpcMetrics {
        &self.rpcs[rpc as usize]
    }

    /// Counts a request by the version its client announces.
    pub fn client_request(&self, version: Option<&str>, stream: bool) {
        self.client_requests.count(version.unwrap_or("unknown"), stream);
    }

    /// Everything as Prometheus's text.
    pub fn render(&self, sample: &Sample, version: &str) -> Vec<u8> {
        self.set(sample, version);
        let mut families = self.registry.gather();
        // Built here, since it reads /proc at once: nobody else needs it, the simulator least of all.
        families.extend(ProcessCollector::for_self().collect());
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("writing to memory cannot fail");
        text
    }

    /// One of the figures about the process, by the name it has in [`render`](Self::render)'s text; 0 if unknown.
    pub fn process_figure(&self, name: &str) -> u64 {
        let families = ProcessCollector::for_self().collect();
        let family = families.iter().find(|family| family.name() == name);
        let metric = family.and_then(|family| family.get_metric().first());
        metric.map_or(0, |metric| metric.get_gauge().get_value() as u64)
    }

    fn set(&self, sample: &Sample, version: &str) {
        self.has_leader.set(sample.has_leader.into());
        self.is_leader.set(sample.is_leader.into());
        self.is_learner.set(sample.is_learner.into());
        self.proposals_committed.set(signed(sample.committed));
        self.proposals_applied.set(signed(sample.applied));
        self.current_revision.set(sample.revision);
        self.compact_revision.set(sample.compact_revision);
        self.keys.set(sample.keys);
        self.db_bytes.set(sample.db_bytes);
        self.db_bytes_in_use.set(sample.db_bytes_in_use);
        self.quota_bytes.set(sample.quota_bytes);
        self.slow_watchers.set(sample.slow_watchers as i64);
        self.pending_events.set(sample.pending_events as i64);
        self.server_version.with_label_values(&[version]).set(1);
        self.server_id
            .with_label_values(&[&format!("{:x}", sample.member)])
            .set(1);
        self.cluster_version.reset();
        if let Some(version) = &sample.cluster_version {
            // "3.7", not "3.7.0": etcd's dashboards know the minor version.
            let minor = version
                .rsplit_once('.')
                .map_or(version.as_str(), |(minor, _)| minor);
            self.cluster_version.with_label_values(&[minor]).set(1);
        }
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics, sample: &Sample) -> String {
        String::from_utf8(metrics.render(sample, "3.7.1")).expect("text")
    }

    #[test]
    fn counters_appear_under_the_names_of_etcd() {
        let metrics = Metrics::new();
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
        let metrics = Metrics::new();
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
}
