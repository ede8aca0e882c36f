//! From what was typed to what a member needs: [`Flags`] to [`config::Config`](crate::config::Config).
//!
//! The checks are etcd's, in its order and its words, so that an operator finds the same answer to the
//! same mistake. After them comes a check that etcd does not need: a flag that asks for something this
//! server does not do yet ends the start ([`unsupported`]), one that tunes what this server does not have
//! is told about ([`inert`]).
//!
//! Differences on purpose: host names are not looked up when `--initial-cluster` is compared with
//! `--initial-advertise-peer-urls` (only `localhost` is known to be 127.0.0.1), and the comparison is made
//! on every start, not only the first: a member that is started with the flags of another one must not run.
//! etcd replaces the default advertised host by that of the default route when it listens on 0.0.0.0; here
//! it has to be given.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing::{info, warn};

use super::auth_token;
use super::discovery;
use super::flags::{DEFAULT_INITIAL_CLUSTER, Flags, Support, gates, value};
use super::tls;
use crate::base::limits;
use crate::base::urls::{self, Url};
use crate::config::{AutoCompaction, Config, CorruptionChecks, Keepalive, Listen, Slow, TracingOptions};

/// etcd's answer if clients would be told a URL at which nobody listens.
pub const UNSET_ADVERTISE: &str =
    "--advertise-client-urls is required when --listen-client-urls is set explicitly";

const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
const QUOTA_BYTES_DEFAULT: i64 = 2 << 30;
const BCRYPT_COST_DEFAULT: u32 = 10;
/// Above these, etcd warns.
const QUOTA_BYTES_RECOMMENDED: i64 = 8 << 30;
const REQUEST_BYTES_RECOMMENDED: u64 = 10 << 20;
const WATCH_PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Checks that come before the log is set up as the flags ask.
pub fn verify_early(flags: &Flags) -> Result<(), String> {
    if flags.text("discovery-fallback") == "proxy" {
        let text = "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"";
        return Err(text.to_owned());
    }
    match flags.text("logger").as_str() {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".to_owned()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let outputs = flags.text("log-outputs");
    let files = outputs.split(',').filter(|output| !is_stream(output)).count();
    if flags.boolean("enable-log-rotation") && files != 1 {
        let text = "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        return Err(text.to_owned());
    }
    Ok(())
}

fn is_stream(output: &str) -> bool {
    matches!(output, "default" | "stderr" | "stdout" | "systemd/journal")
}

/// The rest of etcd's checks.
pub fn verify(flags: &Flags) -> Result<(), String> {
    for name in [
        "listen-peer-urls",
        "listen-client-urls",
        "listen-client-http-urls",
        "listen-metrics-urls",
    ] {
        url_list(flags, name).iter().try_for_each(Url::check_bind)?;
    }
    for (name, form) in [
        ("initial-advertise-peer-urls", "must be \"host:port\""),
        (
            "advertise-client-urls",
            "must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"",
        ),
    ] {
        let checked = url_list(flags, name).iter().try_for_each(Url::check_host);
        checked.map_err(|error| format!("--{name} {:?} {form} ({error})", flags.text(name)))?;
    }
    verify_bootstrap_method(flags)?;
    verify_times(flags)?;
    if flags.is_given("listen-client-urls") && !flags.is_given("advertise-client-urls") {
        return Err(UNSET_ADVERTISE.to_owned());
    }
    verify_compaction(flags)?;
    let set = gates_of(flags);
    gates::verify(&set)?;
    let check_time = flags.duration("compact-hash-check-time");
    if check_time <= 0 {
        let shown = value::format_duration(check_time);
        return Err(format!("--compact-hash-check-time must be >0 (set to {shown})"));
    }
    verify_tracing(flags)?;
    tls::verify(flags)
}

fn verify_bootstrap_method(flags: &Flags) -> Result<(), String> {
    let methods = [
        !initial_cluster(flags).is_empty(),
        !flags.text("discovery-srv").is_empty(),
        !flags.text("discovery-endpoints").is_empty(),
    ];
    if methods.iter().filter(|method| **method).count() > 1 {
        return Err(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
                    \"discovery-endpoints\" or \"discovery-srv\""
                .to_owned(),
        );
    }
    let endpoints = flags.text("discovery-endpoints");
    if flags.text("discovery-token").is_empty() != endpoints.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".to_owned());
    }
    if !endpoints.is_empty() && endpoints.split(',').any(|endpoint| endpoint.trim().is_empty()) {
        return Err("--discovery-endpoints must not contain empty endpoints".to_owned());
    }
    Ok(())
}

/// `--initial-cluster`, whose default counts only where nothing is discovered.
fn initial_cluster(flags: &Flags) -> String {
    let discovery = ["discovery-srv", "discovery-srv-name", "discovery-endpoints"];
    let discovers = discovery.iter().any(|name| !flags.text(name).is_empty());
    match discovers && !flags.is_given("initial-cluster") {
        true => String::new(),
        false => flags.text("initial-cluster"),
    }
}

fn verify_times(flags: &Flags) -> Result<(), String> {
    let heartbeat = flags.unsigned("heartbeat-interval");
    let election = flags.unsigned("election-timeout");
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".to_owned());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".to_owned());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_TIMEOUT_MS_MAX {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MS_MAX}ms"
        ));
    }
    Ok(())
}

fn verify_compaction(flags: &Flags) -> Result<(), String> {
    match flags.text("auto-compaction-mode").as_str() {
        "periodic" | "revision" => {}
        "" => return Err("undefined auto-compaction-mode".to_owned()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    }
    auto_compaction(flags).map(drop)
}

/// etcd's words about flags that it will give up.
pub fn deprecated(flags: &Flags) -> Vec<&'static str> {
    let words = |name| match name {
        "max-snapshots" => Some("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8."),
        "v2-deprecation" => Some(
            "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, \
             ignoring user input.",
        ),
        _ => None,
    };
    flags.given().filter_map(|(flag, _)| words(flag.name)).collect()
}

/// Names of flags that were changed and have no effect here.
pub fn inert(flags: &Flags) -> Vec<&'static str> {
    let inert = flags.given().filter(|(flag, _)| flag.support == Support::Gone);
    let changed = flags.changed().filter(|(flag, _)| flag.support == Support::Inert);
    let flags_named = inert.chain(changed).map(|(flag, _)| flag.name);
    flags_named.chain(gates::inert(&gates_of(flags))).collect()
}

/// The configuration of the member.
pub fn build(flags: &Flags) -> Result<Config, String> {
    let name = flags.text("name");
    let data_dir = PathBuf::from(match flags.text("data-dir") {
        dir if dir.is_empty() => format!("{name}.etcd"),
        dir => dir,
    });
    let wal_dir = Some(flags.text("wal-dir")).filter(|dir| !dir.is_empty());
    let advertise_peer = url_list(flags, "initial-advertise-peer-urls");
    let (initial_cluster, initial_cluster_error) = match cluster(flags, &name, &advertise_peer) {
        Ok(members) => (members, None),
        Err(error) => (Members::new(), Some(error)),
    };
    let discovery = discovery::options(flags)?;
    let milliseconds = |name| Duration::from_millis(flags.unsigned(name));
    Ok(Config {
        wal_dir: wal_dir.map(PathBuf::from),
        listen_client: listens(flags, "listen-client-urls")?,
        listen_client_http: listens(flags, "listen-client-http-urls")?,
        listen_peer: listens(flags, "listen-peer-urls")?,
        listen_metrics: listens(flags, "listen-metrics-urls")?,
        client_tls: tls::of_clients(flags, &data_dir)?,
        peer_tls: tls::of_peers(flags, &data_dir)?,
        client_cert_auth: flags.boolean("client-cert-auth"),
        advertise_client_urls: texts(&url_list(flags, "advertise-client-urls")),
        peer_local_address: peer_local_address(flags, &advertise_peer),
        advertise_peer_urls: texts(&advertise_peer),
        initial_cluster: initial_cluster
            .into_iter()
            .map(|(name, urls)| (name, texts(&urls)))
            .collect(),
        initial_cluster_error,
        initial_cluster_token: match &discovery {
            Some(discovery) => discovery.token.clone(),
            None => flags.text("initial-cluster-token"),
        },
        discovery,
        discovery_srv: discovery::srv_options(flags),
        strict_reconfig: flags.boolean("strict-reconfig-check"),
        max_learners: max_learners(flags)?,
        trace_http2: std::env::var("GODEBUG").is_ok_and(|debug| debug.contains("http2debug=")),
        corruption: corruption(flags),
        downgrade_check_interval: span(flags, "downgrade-check-time"),
        join: flags.text("initial-cluster-state") == "existing",
        force_new_cluster: flags.boolean("force-new-cluster"),
        heartbeat_interval: milliseconds("heartbeat-interval"),
        election_timeout: milliseconds("election-timeout"),
        pre_vote: flags.boolean("pre-vote"),
        snapshot_count: or_default(flags, "snapshot-count", 10_000),
        snapshot_catchup_entries: or_default(flags, "snapshot-catchup-entries", 5_000),
        quota_bytes: quota(flags),
        max_request_bytes: request_bytes(flags)?,
        max_txn_ops: size(flags, "max-txn-ops")?,
        max_concurrent_streams: u32::try_from(flags.unsigned("max-concurrent-streams")).unwrap_or(u32::MAX),
        keepalive: keepalive(flags),
        watch_progress_interval: watch_progress_interval(flags),
        slow: Slow {
            call: span(flags, "warning-unary-request-duration"),
            apply: span(flags, "warning-apply-duration"),
        },
        lease_checkpoints: gates::is_on(&gates_of(flags), "LeaseCheckpoint"),
        tracing: tracing_options(flags),
        feature_gates: gates::told(&gates_of(flags)),
        extensive_metrics: flags.text("metrics") == "extensive",
        unsafe_no_fsync: flags.boolean("unsafe-no-fsync"),
        auto_compaction: auto_compaction(flags)?,
        gateway: flags.boolean("enable-grpc-gateway"),
        cors: list(flags, "cors"),
        host_whitelist: list(flags, "host-whitelist"),
        auth_jwt: auth_token::parse(&flags.text("auth-token"))?,
        auth_token_ttl: Duration::from_secs(or_default(flags, "auth-token-ttl", 300)),
        bcrypt_cost: bcrypt_cost(flags),
        name,
        data_dir,
        // What no flag decides.
        ..Config::default()
    })
}

fn tracing_options(flags: &Flags) -> Option<TracingOptions> {
    let rate = flags.signed("distributed-tracing-sampling-rate");
    flags
        .boolean("enable-distributed-tracing")
        .then(|| TracingOptions {
            address: flags.text("distributed-tracing-address"),
            service_name: flags.text("distributed-tracing-service-name"),
            instance_id: flags.text("distributed-tracing-instance-id"),
            sampled_per_million: u32::try_from(rate).expect("it is verified"),
        })
}

fn verify_tracing(flags: &Flags) -> Result<(), String> {
    let reason = match flags.signed("distributed-tracing-sampling-rate") {
        _ if !flags.boolean("enable-distributed-tracing") => return Ok(()),
        ..0 => "tracing sampling rate must be positive",
        0..=1_000_000 => return Ok(()),
        _ => "tracing sampling rate must be less than 1000000",
    };
    Err(format!(
        "distributed tracing configurition is not valid: ({reason})"
    ))
}

/// With the gate `SetMemberLocalAddr`, others are called from the first address at which they reach this member: it is the one
/// that its certificate is for.
fn peer_local_address(flags: &Flags, advertised: &[Url]) -> Option<IpAddr> {
    if !gates::is_on(&gates_of(flags), "SetMemberLocalAddr") {
        return None;
    }
    let addresses = advertised
        .iter()
        .filter_map(|url| url.host().parse::<IpAddr>().ok());
    let found = addresses
        .into_iter()
        .find(|address| !address.is_loopback() && !address.is_unspecified());
    match found {
        Some(address) => info!(LocalAddr = %address, "setting member local address"),
        None => warn!(
            "advertise-peer-urls" = ?texts(advertised),
            "unable to set a member local address due to lack of suitable local addresses"
        ),
    }
    found
}

fn gates_of(flags: &Flags) -> Vec<(String, bool)> {
    gates::parse(&flags.text("feature-gates")).expect("values are checked when they are set")
}

/// A duration; none if it is negative.
pub(super) fn span(flags: &Flags, name: &str) -> Duration {
    Duration::from_nanos(u64::try_from(flags.duration(name)).unwrap_or(0))
}

/// As in etcd, both have to be positive to count.
fn keepalive(flags: &Flags) -> Keepalive {
    let (interval, timeout) = (
        span(flags, "grpc-keepalive-interval"),
        span(flags, "grpc-keepalive-timeout"),
    );
    match interval.is_zero() || timeout.is_zero() {
        true => Keepalive::default(),
        false => Keepalive { interval, timeout },
    }
}

fn corruption(flags: &Flags) -> CorruptionChecks {
    let gates = gates_of(flags);
    let compaction = match gates::is_on(&gates, "CompactHashCheck") {
        true => span(flags, "compact-hash-check-time"),
        false => Duration::ZERO,
    };
    CorruptionChecks {
        initial: gates::is_on(&gates, "InitialCorruptCheck"),
        interval: span(flags, "corrupt-check-time"),
        compaction_interval: compaction,
    }
}

/// Names and their peer URLs.
type Members = BTreeMap<String, Vec<Url>>;

/// The first members; the URLs listed for this member's name have to be its own. A member that joins has told the cluster
/// its URLs before.
fn cluster(flags: &Flags, name: &str, advertised: &[Url]) -> Result<Members, String> {
    if !flags.text("discovery-endpoints").is_empty() {
        // Until the service tells the others.
        return Ok(BTreeMap::from([(name.to_owned(), advertised.to_vec())]));
    }
    if !flags.text("discovery-srv").is_empty() {
        // Until DNS tells them.
        return Ok(BTreeMap::new());
    }
    let mut text = initial_cluster(flags);
    if !matches!(name, "default" | "") && text == DEFAULT_INITIAL_CLUSTER {
        // `--name a` alone means a cluster of one with that name.
        let own = advertised.iter().map(|url| format!("{name}={url}"));
        text = own.collect::<Vec<_>>().join(",");
    }
    let cluster =
        urls::parse_cluster(&text).map_err(|error| format!("error setting up initial cluster: {error}"))?;
    let shown = urls::format_cluster(&cluster);
    let Some(listed) = cluster.get(name) else {
        return Err(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        ));
    };
    let mut all: Vec<&Url> = cluster.values().flatten().collect();
    let count = all.len();
    all.sort();
    all.dedup();
    if all.len() != count {
        return Err(format!("initial cluster {shown} has duplicate url"));
    }
    let joins = flags.text("initial-cluster-state") == "existing";
    if !joins && resolved(listed) != resolved(advertised) {
        return Err(format!(
            "--initial-cluster has {name}={} but missing from --initial-advertise-peer-urls={}",
            texts(listed).join(","),
            texts(advertised).join(","),
        ));
    }
    Ok(cluster)
}

/// URLs to compare: `localhost` is 127.0.0.1.
fn resolved(urls: &[Url]) -> Vec<String> {
    let mut texts: Vec<String> = urls
        .iter()
        .map(|url| url.text.replace("//localhost:", "//127.0.0.1:"))
        .collect();
    texts.sort();
    texts
}

fn url_list(flags: &Flags, name: &str) -> Vec<Url> {
    match flags.text(name).as_str() {
        "" => Vec::new(),
        text => urls::parse_list(text).expect("values are checked when they are set"),
    }
}

fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(|url| url.text.clone()).collect()
}

/// Ports to bind; one that is named with and without TLS is one.
fn listens(flags: &Flags, name: &str) -> Result<Vec<Listen>, String> {
    let mut listens: Vec<Listen> = Vec::new();
    for url in url_list(flags, name) {
        let address = url.bind_address().map_err(|error| format!("--{name}: {error}"))?;
        let (plain, tls) = (!url.is_secure(), url.is_secure());
        match listens.iter_mut().find(|known| known.address == address) {
            Some(known) => (known.plain, known.tls) = (known.plain | plain, known.tls | tls),
            None => listens.push(Listen { address, plain, tls }),
        }
    }
    Ok(listens)
}

/// A bare number is hours, or revisions.
fn auto_compaction(flags: &Flags) -> Result<Option<AutoCompaction>, String> {
    let text = flags.text("auto-compaction-retention");
    let number = text.parse::<u32>().ok();
    let mode = flags.text("auto-compaction-mode");
    let nanos = value::duration(&text).and_then(|nanos| u64::try_from(nanos).ok());
    let compaction = match (mode.as_str(), number, nanos) {
        (_, Some(0), _) | (_, None, Some(0)) => return Ok(None),
        ("revision", Some(revisions), _) => AutoCompaction::Revision(revisions.into()),
        ("revision", None, _) => {
            return Err(format!(
                "error parsing CompactionRetention: {text:?} is no number of revisions"
            ));
        }
        (_, Some(hours), _) => AutoCompaction::Periodic(Duration::from_secs(u64::from(hours) * 3600)),
        (_, None, Some(nanos)) => AutoCompaction::Periodic(Duration::from_nanos(nanos)),
        (_, None, None) => {
            return Err(format!(
                "error parsing CompactionRetention: time: invalid duration {text:?}"
            ));
        }
    };
    Ok(Some(compaction))
}

/// Comma-separated texts.
pub(super) fn list(flags: &Flags, name: &str) -> Vec<String> {
    let text = flags.text(name);
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

fn size(flags: &Flags, name: &str) -> Result<usize, String> {
    usize::try_from(flags.unsigned(name)).map_err(|_| format!("--{name} is too large"))
}

/// A negative one ends etcd, too: there are too many learners then.
fn max_learners(flags: &Flags) -> Result<u32, String> {
    match flags.signed("max-learners") {
        count if count < 0 => Err(format!("--max-learners[{count}] must not be negative")),
        count => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
    }
}

/// A count of which 0 means the default.
fn or_default(flags: &Flags, name: &str, default: u64) -> u64 {
    match flags.unsigned(name) {
        0 => {
            info!(
                "flag-name" = name,
                "updated-value" = default,
                "0 means the default"
            );
            default
        }
        count => count,
    }
}

fn quota(flags: &Flags) -> i64 {
    let quota = flags.signed("quota-backend-bytes");
    if quota > QUOTA_BYTES_RECOMMENDED {
        warn!(
            "quota-size-bytes" = quota,
            "quota-maximum-size-bytes" = QUOTA_BYTES_RECOMMENDED,
            "quota exceeds the maximum value"
        );
    }
    if quota == 0 { QUOTA_BYTES_DEFAULT } else { quota }
}

fn request_bytes(flags: &Flags) -> Result<usize, String> {
    let bytes = flags.unsigned("max-request-bytes");
    if bytes > REQUEST_BYTES_RECOMMENDED {
        warn!(
            "max-request-bytes" = bytes,
            "recommended-request-bytes" = REQUEST_BYTES_RECOMMENDED,
            "exceeded recommended request limit"
        );
    }
    // A request has to fit into a frame between members.
    let most = limits::PEER_FRAME_BYTES_MAX / 2;
    let bytes = size(flags, "max-request-bytes")?;
    if bytes > most {
        warn!(
            "max-request-bytes" = bytes,
            "served-request-bytes" = most,
            "requests above the latter are refused, whatever --max-request-bytes says"
        );
    }
    Ok(bytes.min(most))
}

fn bcrypt_cost(flags: &Flags) -> u32 {
    let cost = flags.unsigned("bcrypt-cost");
    match u32::try_from(cost) {
        Ok(cost @ 4..=31) => cost,
        _ => {
            warn!(
                "given-cost" = cost,
                "default-cost" = BCRYPT_COST_DEFAULT,
                "use default bcrypt cost instead of the invalid given cost"
            );
            BCRYPT_COST_DEFAULT
        }
    }
}

fn watch_progress_interval(flags: &Flags) -> Duration {
    let asked = span(flags, "watch-progress-notify-interval");
    if asked < WATCH_PROGRESS_INTERVAL_MIN {
        warn!(
            "min-watch-progress-notify-interval" = ?WATCH_PROGRESS_INTERVAL_MIN,
            "adjusting watch progress notify interval to minimum period"
        );
    }
    asked.max(WATCH_PROGRESS_INTERVAL_MIN)
}

#[cfg(test)]
mod tests;
