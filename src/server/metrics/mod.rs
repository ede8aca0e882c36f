//! Counters and gauges under etcd's names, with etcd's meaning.
//!
//! Counting must cost nothing that matters: every counter that a request touches is resolved once and found
//! by number. What raft and the store know anyway is read only when somebody asks for `/metrics`
//! ([`Metrics::render`]), and so are the process's metrics from `/proc`.
//!
//! What the layers below count is plain numbers ([`MemberMetrics`]): they know nothing of this module, and
//! [`layers`] gives them their names. What only the server sees is counted here.

mod families;
mod layers;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::wire::health_checks::Check;
use super::wire::rpc::{CODES, Rpc};
use crate::base::metrics::{Gauge, Histogram as Durations, MemberMetrics};
use crate::base::{FeatureGate, MemberId};
use families::{Families, labels};

/// Versions of the client API that get a label of their own; a client must not fill our memory with names.
const CLIENT_VERSIONS_MAX: usize = 16;

/// Counters of one gRPC method.
pub struct RpcMetrics {
    pub started: IntCounter,
    pub msg_received: IntCounter,
    pub msg_sent: IntCounter,
    /// By code. All are there from the start, as in etcd: the first error of a kind is then seen to be one more.
    handled: [IntCounter; CODES.len()],
    rpc: Rpc,
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
        self.handled[number].inc();
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
    pub auth_revision: u64,
    /// Member and type of each alarm that is raised.
    pub alarms: Vec<(MemberId, &'static str)>,
    pub members: Vec<MemberId>,
    /// They were, and never will be again.
    pub removed_members: Vec<MemberId>,
    pub feature_gates: Vec<FeatureGate>,
}

/// How long watch streams are busy with what they do at a time.
pub struct WatchDurations {
    /// Making responses of events: in all, and for each event.
    pub events: Durations,
    pub per_event: Durations,
    /// A request of the client.
    pub control: Durations,
    /// The ticker of progress.
    pub progress: Durations,
}

impl Default for WatchDurations {
    fn default() -> Self {
        let fine = || Durations::seconds(Duration::from_millis(1), 14);
        WatchDurations {
            events: fine(),
            per_event: fine(),
            control: fine(),
            progress: fine(),
        }
    }
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
            member_metrics: Arc<MemberMetrics>,
            pub watch: WatchDurations,
            pub defragmentation: Durations,
            pub defragmenting: Gauge,
            stream_failures: IntCounterVec,
            check_results: IntGaugeVec,
            checks: IntCounterVec,
            scrapes: IntCounterVec,
            /// Alarms that were ever shown: those that are over are shown as 0.
            alarms_seen: Mutex<BTreeSet<(MemberId, &'static str)>>,
            $(#[doc = $counter_help] pub $counter: IntCounter,)*
            $(#[doc = $gauge_help] pub $gauge: IntGauge,)*
            $(#[doc = $vec_help] $vec: IntGaugeVec,)*
        }

        impl Metrics {
            pub fn new(member_metrics: Arc<MemberMetrics>) -> Arc<Metrics> {
                let registry = Registry::new();
                Arc::new(Metrics {
                    rpcs: rpc_metrics(&registry),
                    client_requests: client_requests(&registry),
                    member_metrics,
                    watch: WatchDurations::default(),
                    defragmentation: Durations::seconds(Duration::from_millis(100), 13),
                    defragmenting: Gauge::default(),
                    stream_failures: counters(
                        &registry,
                        "etcd_network_server_stream_failures_total",
                        "The total number of stream failures from the local server.",
                        &["Type", "API"],
                    ),
                    check_results: register(&registry, check_results()),
                    checks: counters(
                        &registry,
                        "etcd_server_healthchecks_total",
                        "The total number of each kind of healthcheck.",
                        &["type", "name", "status"],
                    ),
                    scrapes: scrapes(&registry),
                    alarms_seen: Mutex::default(),
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
        events = "etcd_debugging_mvcc_events_total" "Total number of events sent by this member.";
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
        auth_revision = "etcd_debugging_auth_revision" "The current revision of auth store.";
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

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, named(IntCounterVec::new(Opts::new(name, help), labels)))
}

fn check_results() -> IntGaugeVec {
    let opts = Opts::new(
        "etcd_server_healthcheck",
        "The result of each kind of healthcheck.",
    );
    named(IntGaugeVec::new(opts, &["type", "name"]))
}

/// As Go's handler shows it, which names these three codes from the start.
fn scrapes(registry: &Registry) -> IntCounterVec {
    let scrapes = counters(
        registry,
        "promhttp_metric_handler_requests_total",
        "Total number of scrapes by HTTP status code.",
        &["code"],
    );
    for code in ["200", "500", "503"] {
        scrapes.with_label_values(&[code]);
    }
    scrapes
}

fn rpc_metrics(registry: &Registry) -> Vec<RpcMetrics> {
    let vec = |name: &str, help: &str, labels: &[&str]| counters(registry, name, help, labels);
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
            handled: CODES.map(|code| handled.with_label_values(&[code, method, service, kind.label()])),
            rpc,
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

    /// What the layers below count.
    pub fn member_metrics(&self) -> &MemberMetrics {
        &self.member_metrics
    }

    /// A stream of requests broke off that its client did not give up. `api`: as in etcd's label.
    pub fn request_failed(&self, api: &str, code: tonic::Code) {
        if !matches!(code, tonic::Code::Cancelled | tonic::Code::DeadlineExceeded) {
            self.stream_failures.with_label_values(&["receive", api]).inc();
        }
    }

    /// A check of `/livez` or `/readyz` was made.
    pub fn checked(&self, endpoint: &str, check: Check, passed: bool) {
        let result = self.check_results.with_label_values(&[endpoint, check.name()]);
        result.set(passed.into());
        let status = if passed { "success" } else { "error" };
        self.checks
            .with_label_values(&[endpoint, check.name(), status])
            .inc();
    }

    /// Everything as Prometheus's text, by name.
    pub fn render(&self, sample: &Sample, version: &str) -> Vec<u8> {
        self.set(sample, version);
        let mut families = self.registry.gather();
        // Built here, since it reads /proc at once: nobody else needs it, the simulator least of all.
        let process = ProcessCollector::for_self().collect();
        families.extend(self.files(&process));
        families.extend(process);
        families.extend(layers::families(&self.member_metrics, sample.member));
        families.extend(self.sampled(sample));
        families.sort_by(|one, other| one.name().cmp(other.name()));
        self.scrapes.with_label_values(&["200"]).inc();
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&families, &mut text)
            .expect("writing to memory cannot fail");
        text
    }

    /// One of the metrics about the process, by the name it has in [`render`](Self::render)'s text; 0 if unknown.
    pub fn process_figure(&self, name: &str) -> u64 {
        process_figure(&ProcessCollector::for_self().collect(), name)
    }

    /// etcd's own names for what the process collector knows.
    fn files(&self, process: &[MetricFamily]) -> Vec<MetricFamily> {
        let mut out = Families::default();
        let figure = |name: &str| process_figure(process, name) as i64;
        out.gauge(
            "os_fd_used",
            "The number of used file descriptors.",
            figure("process_open_fds"),
        );
        out.gauge(
            "os_fd_limit",
            "The file descriptor limit.",
            figure("process_max_fds"),
        );
        out.0
    }

    /// What has labels of the moment, and the server's own durations.
    fn sampled(&self, sample: &Sample) -> Vec<MetricFamily> {
        let mut out = Families::default();
        let local = format!("{:x}", sample.member);
        let known = sample.members.iter().map(|id| (id, 1));
        let gone = sample.removed_members.iter().map(|id| (id, 0));
        out.gauges(
            "etcd_network_known_peers",
            "The current number of known peers.",
            known.chain(gone).map(|(id, value)| {
                let remote = format!("{id:x}");
                (labels(&[("Local", &local), ("Remote", &remote)]), value)
            }),
        );
        let gate = |gate: &FeatureGate| {
            let pairs = [("name", gate.name), ("stage", gate.stage)];
            (labels(&pairs), i64::from(gate.on))
        };
        out.gauges(
            "etcd_server_feature_enabled",
            "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
            sample.feature_gates.iter().map(gate),
        );
        let mut seen = self.alarms_seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.extend(sample.alarms.iter().copied());
        out.gauges(
            "etcd_debugging_server_alarms",
            "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm",
            seen.iter().map(|alarm| {
                let (member, kind) = (format!("{:x}", alarm.0), alarm.1);
                let pairs = [("alarm_type", kind), ("server_id", &*member)];
                (labels(&pairs), i64::from(sample.alarms.contains(alarm)))
            }),
        );
        out.gauge(
            "promhttp_metric_handler_requests_in_flight",
            "Current number of scrapes being served.",
            1,
        );
        self.durations(&mut out);
        out.0
    }

    fn durations(&self, out: &mut Families) {
        for (name, help, durations) in [
            (
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
                "The total duration in seconds of running through the send loop watch stream response all events.",
                &self.watch.events,
            ),
            (
                "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
                "The average duration in seconds of running through the send loop watch stream response, per event.",
                &self.watch.per_event,
            ),
            (
                "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
                "The total duration in seconds of running through the send loop control stream response.",
                &self.watch.control,
            ),
            (
                "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
                "The total duration in seconds of running through the progress loop control stream response.",
                &self.watch.progress,
            ),
            (
                "etcd_disk_backend_defrag_duration_seconds",
                "The latency distribution of backend defragmentation.",
                &self.defragmentation,
            ),
        ] {
            out.histogram(name, help, durations);
        }
        out.gauge(
            "etcd_disk_defrag_inflight",
            "Whether or not defrag is active on the member. 1 means active, 0 means not.",
            self.defragmenting.get(),
        );
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
        self.auth_revision.set(signed(sample.auth_revision));
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

fn process_figure(families: &[MetricFamily], name: &str) -> u64 {
    let family = families.iter().find(|family| family.name() == name);
    let metric = family.and_then(|family| family.get_metric().first());
    metric.map_or(0, |metric| metric.get_gauge().get_value() as u64)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
