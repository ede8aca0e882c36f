//! Command lines to configurations and refusals. The texts are what etcd 3.7.1 logs as the `error` of
//! `failed to verify flags` (or of `discovery failed`); `tests/flags.rs` compares with the real one.

use proptest::prelude::*;

use super::super::flags::{Parsed, parse};
use super::*;

fn flags(line: &str) -> Flags {
    let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    match parse(&arguments) {
        Parsed::Flags(flags) => flags,
        other => panic!("{line}: {other:?}"),
    }
}

fn configure(line: &str) -> Result<Config, String> {
    let flags = flags(line);
    verify_early(&flags)?;
    verify(&flags)?;
    let mut config = build(&flags)?;
    // Without data.
    config.initial_cluster_error.take().map_or(Ok(config), Err)
}

fn check_refusals(table: &[(&str, &str)]) {
    for (line, expected) in table {
        assert_eq!(configure(line).err().as_deref(), Some(*expected), "{line}");
    }
}

#[test]
fn no_flags_are_the_defaults_of_the_node() {
    let built = configure("").unwrap();
    // The gates are a matter of flags alone.
    let node = Config {
        feature_gates: built.feature_gates.clone(),
        ..Config::default()
    };
    assert_eq!(format!("{built:?}"), format!("{node:?}"));
}

#[test]
fn checks_are_etcds() {
    check_refusals(&[
        (
            "--discovery-fallback=proxy",
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
        ),
        ("--logger=foo", "unknown logger option \"foo\""),
        (
            "--enable-distributed-tracing --distributed-tracing-sampling-rate=-1",
            "distributed tracing configurition is not valid: (tracing sampling rate must be positive)",
        ),
        (
            "--enable-distributed-tracing --distributed-tracing-sampling-rate=1000001",
            "distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)",
        ),
        (
            "--enable-log-rotation",
            "--log-outputs requires a single file path when --log-rotate-config-json is defined",
        ),
        (
            "--heartbeat-interval=0",
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (
            "--election-timeout=400",
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            "--election-timeout=60000",
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        ("--listen-client-urls=http://127.0.0.1:1", UNSET_ADVERTISE),
        ("--listen-client-urls=", UNSET_ADVERTISE),
        (
            "--listen-peer-urls=http://example.com:2380",
            "expected IP in URL for binding (http://example.com:2380)",
        ),
        (
            "--listen-metrics-urls=http://foo.bar:333",
            "expected IP in URL for binding (http://foo.bar:333)",
        ),
        (
            "--auto-compaction-mode=foo",
            "unknown auto-compaction-mode \"foo\"",
        ),
        (
            "--auto-compaction-retention=foo",
            "error parsing CompactionRetention: time: invalid duration \"foo\"",
        ),
        (
            "--compact-hash-check-time=0",
            "--compact-hash-check-time must be >0 (set to 0s)",
        ),
        (
            "--tls-min-version=foo",
            "unexpected TLS version \"foo\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            "--tls-min-version=TLS1.3 --tls-max-version=TLS1.2",
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            "--tls-min-version=TLS1.3 --cipher-suites=x",
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (
            "--discovery-token=a",
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            "--discovery-endpoints=a",
            "both --discovery-token and --discovery-endpoints must be set",
        ),
        (
            "--discovery-token=t --discovery-endpoints=a,,b",
            "--discovery-endpoints must not contain empty endpoints",
        ),
        (
            "--discovery-token=t --discovery-endpoints=a --discovery-srv=b",
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (
            "--discovery-srv=a --initial-cluster=a=http://localhost:2380",
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
        ),
        (
            "--feature-gates=LeaseCheckpointPersist=true",
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
        ),
        (
            "--initial-cluster=a=http://localhost:2380",
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            "--initial-cluster=",
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            "--name=",
            "couldn't find local name \"\" in the initial cluster configuration",
        ),
        (
            "--initial-cluster=foo",
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            "--name a --initial-cluster=a=http://localhost:2380,b=http://localhost:2380",
            "initial cluster a=http://localhost:2380,b=http://localhost:2380 has duplicate url",
        ),
        (
            "--initial-cluster=default=http://localhost:3380",
            "--initial-cluster has default=http://localhost:3380 but missing from --initial-advertise-peer-urls=http://localhost:2380",
        ),
    ]);
}

#[test]
fn what_is_missing_stops_the_start() {
    check_refusals(&[
        (
            "--peer-cert-file=/x",
            "KeyFile and CertFile must both be present[key: , cert: /x]",
        ),
        (
            "--peer-cert-file=/x --peer-key-file=/y --peer-client-cert-file=/z",
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: /z]",
        ),
        (
            "--discovery-srv-name=x",
            "couldn't find local name \"default\" in the initial cluster configuration",
        ),
        (
            "--listen-client-urls=http://127.0.0.1:99999 --advertise-client-urls=http://127.0.0.1:1",
            "--listen-client-urls: address 99999: invalid port",
        ),
    ]);
}

#[test]
fn requests_are_as_large_as_asked_up_to_what_members_can_send_each_other() {
    for (asked, served) in [
        ("1000", 1000),
        ("33554432", 32 << 20),
        ("33554433", 32 << 20),
        ("4294967296", 32 << 20),
    ] {
        let config = configure(&format!("--max-request-bytes={asked}")).unwrap();
        assert_eq!(config.max_request_bytes, served, "{asked}");
    }
}

#[test]
fn defaults_and_zeros_ask_for_nothing_that_is_missing() {
    for line in [
        "--cert-file= --client-cert-auth=false --auth-token=simple --bcrypt-cost=10 --cors=*",
        "--auto-compaction-mode=revision --auto-compaction-retention=0h",
        "--auto-compaction-mode=revision --auto-compaction-retention=1000",
        "--auto-compaction-retention=72",
        "--auto-compaction-retention=5m",
        "--feature-gates=FastLeaseKeepAlive=true,InitialCorruptCheck=false",
    ] {
        assert!(configure(line).is_ok(), "{line}");
    }
}

#[test]
fn flags_without_effect_are_told() {
    let line = "--max-wals=3 --backend-batch-limit=0 --v --snapshot-count=5";
    assert_eq!(inert(&flags(line)), ["v", "max-wals"]);
    assert!(configure(line).is_ok());
}

#[test]
fn a_name_alone_is_a_cluster_of_that_name() {
    let config = configure("--name a").unwrap();
    assert_eq!(config.data_dir, PathBuf::from("a.etcd"));
    assert_eq!(
        config.initial_cluster,
        [("a".to_owned(), vec!["http://localhost:2380".to_owned()])]
    );
}

#[test]
fn who_discovers_knows_itself_alone() {
    let config = configure(
        "--name a --discovery-token=t --discovery-endpoints=b:1,c:1 --initial-cluster-token=u \
         --initial-advertise-peer-urls=http://127.0.0.1:2,http://127.0.0.1:1 --listen-peer-urls=http://127.0.0.1:1",
    )
    .unwrap();
    let own = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(str::to_owned);
    assert_eq!(config.initial_cluster, [("a".to_owned(), own.to_vec())]);
    assert_eq!(config.initial_cluster_token, "t");
    assert_eq!(config.discovery.unwrap().endpoints, ["b:1", "c:1"]);
}

#[test]
fn others_are_called_from_the_first_address_that_is_one() {
    let check = |urls: &str, expected: Option<&str>| {
        let line = format!(
            "--feature-gates=SetMemberLocalAddr=true --initial-advertise-peer-urls={urls} \
             --initial-cluster={}",
            urls.split(',')
                .map(|url| format!("default={url}"))
                .collect::<Vec<_>>()
                .join(",")
        );
        let found = configure(&line).unwrap().peer_local_address;
        assert_eq!(found, expected.map(|address| address.parse().unwrap()), "{urls}");
    };
    check("http://localhost:2380", None);
    check(
        "http://127.0.0.1:2380,http://a.example:2380,http://0.0.0.0:2380",
        None,
    );
    check(
        "http://a.example:2380,http://10.0.0.1:2380,http://10.0.0.2:2380",
        Some("10.0.0.1"),
    );
    check("https://[fd00::2]:2380", Some("fd00::2"));
    let without =
        "--initial-advertise-peer-urls=http://10.0.0.1:2380 --initial-cluster=default=http://10.0.0.1:2380";
    assert_eq!(configure(without).unwrap().peer_local_address, None);
}

#[test]
fn a_member_of_three() {
    let config = configure(
        "--name b --data-dir /d --wal-dir /w --initial-cluster-token t --initial-cluster-state=new \
         --initial-cluster c=http://10.0.0.3:2380,a=http://10.0.0.1:2380,b=http://10.0.0.2:2380 \
         --initial-advertise-peer-urls http://10.0.0.2:2380 --listen-peer-urls http://0.0.0.0:2380 \
         --listen-client-urls http://0.0.0.0:2379,http://[::1]:2379 --advertise-client-urls http://10.0.0.2:2379 \
         --listen-metrics-urls http://127.0.0.1:0 --heartbeat-interval=50 --election-timeout=500 \
         --quota-backend-bytes=-1 --watch-progress-notify-interval=5s --snapshot-count=0",
    )
    .unwrap();
    let names: Vec<_> = config
        .initial_cluster
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(
        config.listen_client,
        ["0.0.0.0:2379", "[::1]:2379"].map(Listen::from)
    );
    assert_eq!(config.listen_peer, [Listen::from("0.0.0.0:2380")]);
    assert_eq!(config.listen_metrics, [Listen::from("127.0.0.1:0")]);
    assert_eq!(config.wal_dir, Some(PathBuf::from("/w")));
    assert_eq!(config.election_timeout, Duration::from_millis(500));
    assert_eq!(config.watch_progress_interval, Duration::from_secs(5));
    assert_eq!((config.quota_bytes, config.snapshot_count), (-1, 10_000));
}

#[test]
fn localhost_is_an_address() {
    let line = "--initial-advertise-peer-urls=http://127.0.0.1:2380";
    assert!(configure(line).is_ok());
}

/// Values that are at the edge of something.
const EDGES: &[&str] = &[
    "",
    "0",
    "-1",
    "1",
    "true",
    "18446744073709551615",
    "9223372036854775807",
    "-9223372036854775808",
    "99999999999999999999999",
    "0x7fffffff",
    "1e9",
    "2562047h47m16.854775807s",
    "-1ns",
    "3h",
    "http://localhost:2380",
    "https://[::1]:0,unix://a:1",
    "http://[::1",
    "//:",
    "a=http://127.0.0.1:1,a=http://127.0.0.1:1,b=",
    "*",
    ",,,",
    "jwt,sign-method=HS256,ttl=-1s",
    "periodic",
    "CompactHashCheck=true,AllBeta=false",
    "{\"maxsize\": -1}",
    "TLS1.3",
    "/dev/null",
    "\u{0}",
    "é\u{301}\u{202e}",
];

fn edge() -> impl Strategy<Value = String> {
    prop_oneof![3 => prop::sample::select(EDGES).prop_map(str::to_owned), 1 => ".{0,40}"]
}

fn take_or_refuse(arguments: &[String]) {
    if let Parsed::Flags(flags) = parse(arguments) {
        let _ = verify_early(&flags)
            .and_then(|()| verify(&flags))
            .and_then(|()| build(&flags));
    }
}

#[test]
fn a_negative_count_of_learners_is_refused() {
    assert_eq!(
        configure("--max-learners=-1 --initial-advertise-peer-urls=http://127.0.0.1:2380").unwrap_err(),
        "--max-learners[-1] must not be negative"
    );
}

#[test]
fn each_edge_of_each_flag_is_taken_or_refused() {
    for flag in crate::cli::flags::table::all() {
        for value in EDGES {
            take_or_refuse(&[format!("--{}={value}", flag.name)]);
        }
    }
}

proptest! {
    #[test]
    fn any_values_of_any_flags_are_taken_or_refused(
        values in prop::collection::vec((any::<prop::sample::Index>(), edge()), 1..8),
    ) {
        let all: Vec<_> = crate::cli::flags::table::all().collect();
        let arguments: Vec<String> = values
            .iter()
            .map(|(flag, value)| format!("--{}={value}", flag.get(&all).name))
            .collect();
        take_or_refuse(&arguments);
    }
}
