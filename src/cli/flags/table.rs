//! Every flag of etcd v3.7.1: name, kind of value, default, and how far this server honours it.
//!
//! The names, kinds and defaults are etcd's contract with start scripts; the sentences are ours. A flag
//! is never silently without effect:
//!
//! * [`Support::Built`]: it works as in etcd.
//! * [`Support::Inert`]: it tunes a mechanism that this server does not have (bbolt's pages, the number
//!   of snapshot files). A value other than the default is accepted with a warning.
//! * [`Support::Gone`]: etcd itself accepts and ignores it.

/// What a flag's value looks like. The parsers are in [`super::value`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    Int,
    Uint,
    Uint32,
    Duration,
    Text,
    /// Comma-separated URLs, without repetition.
    Urls,
    /// As `Urls`, and `*` for "any".
    UrlsOrAny,
    /// Comma-separated texts, without repetition.
    Texts,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Some of these, comma-separated.
    Choices(&'static [&'static str]),
    /// `Gate=true,Gate=false`.
    Gates,
    /// A level of the log.
    Level,
    /// Anything: the value is thrown away.
    Ignored,
}

/// How far a flag is honoured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Support {
    Built,
    Inert,
    Gone,
}

/// One flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub support: Support,
    pub help: &'static str,
}

/// A heading of `--help`, and the flags below it.
pub struct Section {
    pub title: &'static str,
    pub flags: &'static [Flag],
}

use Kind::*;
use Support::*;

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    support: Support,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        support,
        help,
    }
}

/// The flag with this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// Every flag, those that etcd ignores included.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    SECTIONS.iter().flat_map(|section| section.flags).chain(GONE)
}

// The tables below keep one flag to a line, whatever its length: they are read down, not across.

pub const SECTIONS: &[Section] = &[
    Section {
        title: "Member",
        flags: MEMBER,
    },
    Section {
        title: "Clustering",
        flags: CLUSTERING,
    },
    Section {
        title: "Compaction",
        flags: COMPACTION,
    },
    Section {
        title: "Security",
        flags: SECURITY,
    },
    Section {
        title: "Auth",
        flags: AUTH,
    },
    Section {
        title: "Logging",
        flags: LOGGING,
    },
    Section {
        title: "Profiling and monitoring",
        flags: MONITORING,
    },
    Section {
        title: "Checks and features",
        flags: FEATURES,
    },
];

#[rustfmt::skip]
const MEMBER: &[Flag] = &[
    flag("name", Text, "default", Built, "Name of this member; it has to appear in --initial-cluster."),
    flag("data-dir", Text, "", Built, "Data directory; '${name}.etcd' unless given."),
    flag("wal-dir", Text, "", Built, "Directory of the log, if it should not be inside the data directory."),
    flag("snapshot-count", Uint, "10000", Built, "Applied entries between two snapshots of the log."),
    flag("snapshot-catchup-entries", Uint, "5000", Built, "Log entries kept for slow followers after a snapshot."),
    flag("heartbeat-interval", Uint, "100", Built, "Milliseconds between two heartbeats of the leader."),
    flag("election-timeout", Uint, "1000", Built, "Milliseconds without a leader before an election."),
    flag("initial-election-tick-advance", Bool, "true", Inert, "Shorten the wait for the first election."),
    flag("listen-peer-urls", Urls, "http://localhost:2380", Built, "URLs on which to listen for other members."),
    flag("listen-client-urls", Urls, "http://localhost:2379", Built, "URLs on which to listen for clients, gRPC and HTTP."),
    flag("listen-client-http-urls", Urls, "", Built, "URLs for HTTP alone; the client URLs then serve gRPC alone."),
    flag("max-snapshots", Uint, "5", Inert, "Snapshot files to keep."),
    flag("max-wals", Uint, "5", Inert, "Log files to keep."),
    flag("memory-mlock", Bool, "false", Inert, "Lock the mapped database in memory: there is none."),
    flag("quota-backend-bytes", Int, "0", Built, "Size of the store at which writes are refused; 0: 2 GiB, negative: none."),
    flag("backend-bbolt-freelist-type", Text, "map", Inert, "Layout of bbolt's list of free pages."),
    flag("backend-batch-interval", Duration, "0s", Inert, "Longest time between two commits of bbolt."),
    flag("backend-batch-limit", Int, "0", Inert, "Most operations between two commits of bbolt."),
    flag("max-txn-ops", Uint, "128", Built, "Most operations in a transaction."),
    flag("max-request-bytes", Uint, "1572864", Built, "Largest request of a client, in bytes."),
    flag("max-concurrent-streams", Uint32, "4294967295", Built, "Most concurrent streams of a client connection."),
    flag("grpc-keepalive-min-time", Duration, "5s", Inert, "Shortest interval at which a client may ping: any is fine here."),
    flag("grpc-keepalive-interval", Duration, "2h", Built, "Interval at which the server pings idle clients."),
    flag("grpc-keepalive-timeout", Duration, "20s", Built, "Time after which an unanswered ping ends the connection."),
    flag("socket-reuse-port", Bool, "false", Built, "Set SO_REUSEPORT on listeners."),
    flag("socket-reuse-address", Bool, "false", Inert, "Set SO_REUSEADDR on listeners (always set here)."),
    flag("raft-read-timeout", Duration, "5s", Inert, "Read limit of a connection between members."),
    flag("raft-write-timeout", Duration, "5s", Inert, "Write limit of a connection between members."),
    flag("bootstrap-defrag-threshold-megabytes", Uint, "0", Inert, "Defragment at start if that much would be freed."),
    flag("config-file", Text, "", Built, "A file that replaces all flags and variables."),
    flag("version", Bool, "false", Built, "Print the version and exit."),
];

#[rustfmt::skip]
const CLUSTERING: &[Flag] = &[
    flag("initial-advertise-peer-urls", Urls, "http://localhost:2380", Built, "URLs at which other members reach this one."),
    flag("initial-cluster", Text, super::DEFAULT_INITIAL_CLUSTER, Built, "First members of the cluster: name=url, comma-separated."),
    flag("initial-cluster-state", Choice(&["new", "existing"]), "new", Built, "'new', or 'existing' to join a running cluster. Ignored once the member has data."),
    flag("initial-cluster-token", Text, "etcd-cluster", Built, "Keeps clusters with the same URLs apart."),
    flag("advertise-client-urls", Urls, "http://localhost:2379", Built, "URLs at which clients reach this member."),
    flag("force-new-cluster", Bool, "false", Built, "Unsafe: make a cluster of one from existing data."),
    flag("pre-vote", Bool, "true", Built, "Ask whether an election could be won before starting it."),
    flag("strict-reconfig-check", Bool, "true", Built, "Refuse changes of membership that would lose the quorum."),
    flag("max-learners", Int, "1", Built, "Most learners in the cluster."),
    flag("discovery-srv", Text, "", Built, "Domain whose SRV records list the members."),
    flag("discovery-srv-name", Text, "", Built, "Suffix of the SRV records' service name."),
    flag("discovery-fallback", Choice(&["exit", "proxy"]), "exit", Built, "What to do when discovery fails: 'exit'."),
    flag("discovery-token", Text, "", Built, "Discovery service: token of the cluster."),
    flag("discovery-endpoints", Texts, "", Built, "Discovery service: its endpoints."),
    flag("discovery-dial-timeout", Duration, "2s", Built, "Discovery service: time to connect."),
    flag("discovery-request-timeout", Duration, "5s", Built, "Discovery service: time for a request."),
    flag("discovery-keepalive-time", Duration, "2s", Built, "Discovery service: interval of pings."),
    flag("discovery-keepalive-timeout", Duration, "6s", Built, "Discovery service: time for a ping's answer."),
    flag("discovery-insecure-transport", Bool, "true", Built, "Discovery service: without TLS."),
    flag("discovery-insecure-skip-tls-verify", Bool, "false", Built, "Discovery service: do not verify it."),
    flag("discovery-cert", Text, "", Built, "Discovery service: client certificate."),
    flag("discovery-key", Text, "", Built, "Discovery service: client key."),
    flag("discovery-cacert", Text, "", Built, "Discovery service: certificate authority."),
    flag("discovery-user", Text, "", Built, "Discovery service: user[:password]."),
    flag("discovery-password", Text, "", Built, "Discovery service: password."),
];

#[rustfmt::skip]
const COMPACTION: &[Flag] = &[
    flag("auto-compaction-mode", Text, "periodic", Built, "What --auto-compaction-retention means: 'periodic' (time) or 'revision'."),
    flag("auto-compaction-retention", Text, "0", Built, "History to keep: hours, a duration, or revisions; 0: all."),
    flag("compaction-batch-limit", Int, "1000", Inert, "Most revisions removed in a batch."),
    flag("compaction-sleep-interval", Duration, "10ms", Inert, "Pause between two batches."),
];

#[rustfmt::skip]
const SECURITY: &[Flag] = &[
    flag("cert-file", Text, "", Built, "Certificate shown to clients."),
    flag("key-file", Text, "", Built, "Its key."),
    flag("client-cert-file", Text, "", Built, "Certificate of this server as a client."),
    flag("client-key-file", Text, "", Built, "Its key."),
    flag("client-cert-auth", Bool, "false", Built, "Demand certificates of clients."),
    flag("client-crl-file", Text, "", Built, "Revoked certificates of clients."),
    flag("client-cert-allowed-hostname", Text, "", Built, "Host names allowed in clients' certificates."),
    flag("trusted-ca-file", Text, "", Built, "Authority of clients' certificates."),
    flag("auto-tls", Bool, "false", Built, "TLS for clients with a self-signed certificate."),
    flag("peer-cert-file", Text, "", Built, "Certificate shown to other members."),
    flag("peer-key-file", Text, "", Built, "Its key."),
    flag("peer-client-cert-file", Text, "", Built, "Certificate used when dialling other members."),
    flag("peer-client-key-file", Text, "", Built, "Its key."),
    flag("peer-client-cert-auth", Bool, "false", Built, "Demand certificates of other members."),
    flag("peer-trusted-ca-file", Text, "", Built, "Authority of members' certificates."),
    flag("peer-cert-allowed-cn", Text, "", Built, "Common names allowed in members' certificates."),
    flag("peer-cert-allowed-hostname", Text, "", Built, "Host names allowed in members' certificates."),
    flag("peer-skip-client-san-verification", Bool, "false", Built, "Do not compare a member's certificate with its address."),
    flag("peer-auto-tls", Bool, "false", Built, "TLS between members with self-signed certificates."),
    flag("peer-crl-file", Text, "", Built, "Revoked certificates of members."),
    flag("self-signed-cert-validity", Uint, "1", Built, "Years for which self-signed certificates are valid."),
    flag("cipher-suites", Text, "", Built, "Cipher suites of TLS 1.2."),
    flag("tls-min-version", Text, "TLS1.2", Built, "Lowest version of TLS."),
    flag("tls-max-version", Text, "", Built, "Highest version of TLS."),
    flag("cors", UrlsOrAny, "*", Built, "Origins allowed to use the HTTP endpoints."),
    flag("host-whitelist", Texts, "*", Built, "Host names allowed in HTTP requests without TLS."),
];

#[rustfmt::skip]
const AUTH: &[Flag] = &[
    flag("auth-token", Text, "simple", Built, "Kind of token: 'simple', or 'jwt' and its options."),
    flag("auth-token-ttl", Uint, "300", Built, "Seconds for which a simple token lives."),
    flag("bcrypt-cost", Uint, "10", Built, "Cost of hashing a password, 4 to 31."),
];

#[rustfmt::skip]
const LOGGING: &[Flag] = &[
    flag("logger", Text, "zap", Built, "'zap': the form of etcd's log."),
    flag("log-format", Text, "json", Built, "'json' or 'console'."),
    flag("log-outputs", Texts, "default", Built, "'default' (stderr), 'stderr', 'stdout', or paths of files."),
    flag("log-level", Level, "info", Built, "debug, info, warn, error, panic or fatal."),
    flag("enable-log-rotation", Bool, "false", Built, "Rotate the one file in --log-outputs."),
    flag("log-rotation-config-json", Text, super::DEFAULT_LOG_ROTATION, Built, "How to rotate it."),
    flag("warning-apply-duration", Duration, "100ms", Built, "Log an apply that takes longer."),
    flag("warning-unary-request-duration", Duration, "300ms", Built, "Log a request that takes longer."),
];

#[rustfmt::skip]
const MONITORING: &[Flag] = &[
    flag("metrics", Text, "basic", Built, "'extensive' adds latencies of each gRPC method."),
    flag("listen-metrics-urls", Urls, "", Built, "URLs on which to listen for /metrics and health alone."),
    flag("enable-pprof", Bool, "false", Inert, "Go's profiles, which a Rust program does not have."),
    flag("enable-distributed-tracing", Bool, "false", Built, "Send spans to an OpenTelemetry collector."),
    flag("distributed-tracing-address", Text, "localhost:4317", Built, "Address of the collector."),
    flag("distributed-tracing-service-name", Text, "etcd", Built, "Name of the service in spans."),
    flag("distributed-tracing-instance-id", Text, "", Built, "Name of this member in spans."),
    flag("distributed-tracing-sampling-rate", Int, "0", Built, "Calls traced of each million whose client does not say; 0: only those whose client traces them."),
];

#[rustfmt::skip]
const FEATURES: &[Flag] = &[
    flag("enable-grpc-gateway", Bool, "true", Built, "Serve the JSON gateway."),
    flag("corrupt-check-time", Duration, "0s", Built, "Interval at which members' hashes are compared; 0: never."),
    flag("compact-hash-check-time", Duration, "1m", Built, "Interval of the gate CompactHashCheck."),
    flag("downgrade-check-time", Duration, "5s", Built, "Interval at which a running downgrade is looked at."),
    flag("watch-progress-notify-interval", Duration, "10m", Built, "Interval of progress notices on idle watches."),
    flag("unsafe-no-fsync", Bool, "false", Built, "Unsafe: never sync, lose data at a power failure."),
    flag("v2-deprecation", Choices(&[ "write-only", "write-only-skip-check", "write-only-drop-data", "gone", ]), "write-only", Inert, "Stage of a store that does not exist any more."),
    flag("feature-gates", Gates, "", Built, "Gate=true|false, comma-separated."),
];

/// Accepted and ignored, by etcd too: remains of its past and of Go's test binaries.
#[rustfmt::skip]
const GONE: &[Flag] = &[
    flag("cluster-active-size", Ignored, "", Gone, ""),
    flag("cluster-remove-delay", Ignored, "", Gone, ""),
    flag("cluster-sync-interval", Ignored, "", Gone, ""),
    flag("config", Ignored, "", Gone, ""),
    flag("force", Ignored, "", Gone, ""),
    flag("max-result-buffer", Ignored, "", Gone, ""),
    flag("max-retry-attempts", Ignored, "", Gone, ""),
    flag("peer-heartbeat-interval", Ignored, "", Gone, ""),
    flag("peer-election-timeout", Ignored, "", Gone, ""),
    flag("retry-interval", Ignored, "", Gone, ""),
    flag("snapshot", Ignored, "", Gone, ""),
    flag("v", Ignored, "", Gone, ""),
    flag("vv", Ignored, "", Gone, ""),
    flag("test.coverprofile", Ignored, "", Gone, ""),
    flag("test.outputdir", Ignored, "", Gone, ""),
];
