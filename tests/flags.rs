//! The built binary's answers to command lines and variables that end at once: exit code, stream and text.
//!
//! Each row states what etcd 3.7.1 does. With a real `etcd` on the PATH its answers are compared, too, so
//! that the table cannot drift from the truth; without it the test says so.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Arguments, variables, exit code, and the text that says why.
type Row = (
    &'static str,
    &'static [(&'static str, &'static str)],
    i32,
    &'static str,
);

/// Here and in etcd alike.
const ROWS: &[Row] = &[
    ("--xyz", &[], 2, "flag provided but not defined: -xyz"),
    ("-xyz=1", &[], 2, "flag provided but not defined: -xyz"),
    (
        "--discovery=x",
        &[],
        2,
        "flag provided but not defined: -discovery",
    ),
    (
        "--experimental-initial-corrupt-check=true",
        &[],
        2,
        "flag provided but not defined: -experimental-initial-corrupt-check",
    ),
    ("--name", &[], 2, "flag needs an argument: -name"),
    ("---x", &[], 2, "bad flag syntax: ---x"),
    (
        "--snapshot-count=-1",
        &[],
        2,
        "invalid value \"-1\" for flag -snapshot-count: parse error",
    ),
    (
        "--snapshot-count 0x",
        &[],
        2,
        "invalid value \"0x\" for flag -snapshot-count: parse error",
    ),
    (
        "--max-learners=99999999999999999999",
        &[],
        2,
        "invalid value \"99999999999999999999\" for flag -max-learners: value out of range",
    ),
    (
        "--pre-vote=maybe",
        &[],
        2,
        "invalid boolean value \"maybe\" for -pre-vote: parse error",
    ),
    (
        "--corrupt-check-time=5x",
        &[],
        2,
        "invalid value \"5x\" for flag -corrupt-check-time: parse error",
    ),
    (
        "--initial-cluster-state=foo",
        &[],
        2,
        "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
    ),
    (
        "--v2-deprecation=foo",
        &[],
        2,
        "invalid value \"foo\" for flag -v2-deprecation: invalid value \"foo\"",
    ),
    (
        "--listen-client-urls=foo",
        &[],
        2,
        "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
    ),
    (
        "--listen-client-urls=http://127.0.0.1",
        &[],
        2,
        "invalid value \"http://127.0.0.1\" for flag -listen-client-urls: URL address does not have the form \"host:port\": http://127.0.0.1",
    ),
    (
        "--listen-peer-urls=http://127.0.0.1:1/x",
        &[],
        2,
        "invalid value \"http://127.0.0.1:1/x\" for flag -listen-peer-urls: URL must not contain a path: http://127.0.0.1:1/x",
    ),
    (
        "--feature-gates=Foo=true",
        &[],
        2,
        "invalid value \"Foo=true\" for flag -feature-gates: unrecognized feature gate: Foo",
    ),
    (
        "--feature-gates=Foo",
        &[],
        2,
        "invalid value \"Foo\" for flag -feature-gates: missing bool value for Foo",
    ),
    ("--pre-vote true", &[], 1, "\"true\" is not a valid flag"),
    ("foo --xyz", &[], 1, "\"foo\" is not a valid flag"),
    ("-- --foo", &[], 1, "\"--foo\" is not a valid flag"),
    ("--logger=foo", &[], 1, "unknown logger option \"foo\""),
    (
        "--log-format=foo",
        &[],
        1,
        "unknown log format: foo, supported values json, console",
    ),
    (
        "--log-outputs=default,stdout",
        &[],
        1,
        "multi logoutput for \"default\" is not supported yet",
    ),
    (
        "--discovery-fallback=proxy",
        &[],
        1,
        "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\"",
    ),
    (
        "--election-timeout=400",
        &[],
        1,
        "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    ),
    (
        "--election-timeout=60000",
        &[],
        1,
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
    ),
    (
        "--heartbeat-interval=0",
        &[],
        1,
        "--heartbeat-interval must be >0 (set to 0ms)",
    ),
    (
        "--listen-client-urls=http://127.0.0.1:1",
        &[],
        1,
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    ),
    (
        "--listen-peer-urls=http://example.com:1",
        &[],
        1,
        "expected IP in URL for binding (http://example.com:1)",
    ),
    (
        "--compact-hash-check-time=0",
        &[],
        1,
        "--compact-hash-check-time must be >0 (set to 0s)",
    ),
    (
        "--auto-compaction-mode=foo",
        &[],
        1,
        "unknown auto-compaction-mode \"foo\"",
    ),
    (
        "--tls-min-version=foo",
        &[],
        1,
        "unexpected TLS version \"foo\" (must be one of: TLS1.2, TLS1.3)",
    ),
    (
        "--discovery-token=a",
        &[],
        1,
        "both --discovery-token and --discovery-endpoints must be set",
    ),
    (
        "--feature-gates=LeaseCheckpointPersist=true",
        &[],
        1,
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
    ),
    (
        "--name=",
        &[],
        1,
        "couldn't find local name \"\" in the initial cluster configuration",
    ),
    (
        "--name=a --initial-cluster=b=http://localhost:2380",
        &[],
        1,
        "couldn't find local name \"a\" in the initial cluster configuration",
    ),
    (
        "--initial-cluster=default=http://localhost:2380,b=http://localhost:2380",
        &[],
        1,
        "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url",
    ),
    (
        "",
        &[("ETCD_SNAPSHOT_COUNT", "abc")],
        1,
        "invalid value \"abc\" for ETCD_SNAPSHOT_COUNT: parse error",
    ),
    (
        "",
        &[("ETCD_PRE_VOTE", "maybe")],
        1,
        "invalid value \"maybe\" for ETCD_PRE_VOTE: parse error",
    ),
    (
        "",
        &[("ETCD_LISTEN_CLIENT_URLS", "foo")],
        1,
        "invalid value \"foo\" for ETCD_LISTEN_CLIENT_URLS: URL scheme must be http, https, unix, or unixs: foo",
    ),
    (
        "--name b",
        &[("ETCD_NAME", "a")],
        1,
        "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))",
    ),
    (
        "--name b",
        &[("ETCD_NAME", "")],
        1,
        "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))",
    ),
];

/// Only here: what etcd does is not there yet.
const OURS: &[Row] = &[
    (
        "--log-level=loud",
        &[],
        2,
        "invalid value \"loud\" for flag -log-level: unrecognized level: \"loud\"",
    ),
    (
        "",
        &[("ETCD_CONFIG_FILE", "/x")],
        1,
        "--config-file /x: No such file or directory (os error 2)",
    ),
    ("--auth-token=jwt", &[], 1, "auth: invalid auth signature method"),
    (
        "--listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://127.0.0.1:1 \
         --client-cert-auth --cert-file=/x --key-file=/y",
        &[],
        1,
        "client certificates are demanded, but no trusted CA file is given",
    ),
    (
        "--initial-cluster-state=existing --initial-cluster=default=http://localhost:2380,b=http://127.0.0.1:1 \
         --listen-peer-urls=http://127.0.0.1:0 --listen-client-urls=http://127.0.0.1:0 \
         --advertise-client-urls=http://localhost:1",
        &[],
        1,
        "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
    ),
];

fn answer(program: &Path, line: &str, variables: &[(&str, &str)]) -> Output {
    let dir = tempfile::TempDir::new().expect("a temporary directory can be made");
    let mut command = Command::new(program);
    command.current_dir(dir.path()).args(line.split_whitespace());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command
        .envs(variables.iter().copied())
        .output()
        .expect("the program runs")
}

/// Why a process ended: the first line of its misuse message, or the error that the log ends with.
fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(2) {
        return text.lines().next().unwrap_or_default().to_owned();
    }
    let lines = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut serious = lines.filter(|line| line["error"].is_string() || line["level"] == "fatal");
    match serious.next_back() {
        Some(line) => line["error"]
            .as_str()
            .or(line["msg"].as_str())
            .unwrap_or_default()
            .to_owned(),
        None => text.into_owned(),
    }
}

fn check(program: &Path, rows: &[Row]) {
    let mut wrong = Vec::new();
    for (line, variables, code, text) in rows {
        let output = answer(program, line, variables);
        let (got_code, got) = (output.status.code(), reason(&output));
        if got_code != Some(*code) || got != *text {
            wrong.push(format!(
                "{line} {variables:?}\n  expected {code}: {text}\n  got {got_code:?}: {got}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn quorate() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_quorate"))
}

fn etcd() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join("etcd"))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no etcd on the PATH to compare with");
    }
    found
}

#[test]
fn refusals_are_etcds() {
    check(quorate(), ROWS);
}

#[test]
fn what_is_missing_is_refused() {
    check(quorate(), OURS);
}

#[test]
fn the_table_is_true_of_etcd() {
    if let Some(etcd) = etcd() {
        check(&etcd, ROWS);
    }
}

#[test]
fn version_and_help_go_to_stdout() {
    let version = answer(quorate(), "--version", &[]);
    assert_eq!(version.status.code(), Some(0));
    let text = String::from_utf8_lossy(&version.stdout);
    let starts = ["etcd Version: 3.7.1", "Git SHA: ", "Go Version: ", "Go OS/Arch: "];
    assert_eq!(text.lines().count(), starts.len());
    assert!(
        text.lines()
            .zip(starts)
            .all(|(line, start)| line.starts_with(start)),
        "{text}"
    );

    let help = answer(quorate(), "--help", &[]);
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8_lossy(&help.stdout);
    assert!(
        text.contains("--listen-client-urls 'http://localhost:2379'"),
        "{text}"
    );
}

/// Whether a default in etcd's help is a duration in another form, or a name of Go's.
fn is_expression(default: &str) -> bool {
    let duration = default.starts_with(|c: char| c.is_ascii_digit()) && default.ends_with(['s', 'm', 'h']);
    duration || default.contains('$') || default.starts_with("math.")
}

/// Every flag that etcd's help names is in ours, with the same default.
#[test]
fn the_help_has_every_flag_and_default_of_etcd() {
    let Some(etcd) = etcd() else {
        return;
    };
    let ours = answer(quorate(), "--help", &[]);
    let ours = String::from_utf8_lossy(&ours.stdout).into_owned();
    let theirs = answer(&etcd, "--help", &[]);
    let theirs = String::from_utf8_lossy(&theirs.stdout).into_owned();
    // Named in the help, but not registered.
    let unregistered = ["--discovery", "--discovery-proxy"];
    let mut wrong = Vec::new();
    for line in theirs
        .lines()
        .filter_map(|line| line.trim().strip_prefix("--").map(|_| line.trim()))
    {
        let (name, default) = line.split_once(' ').unwrap_or((line, ""));
        let default = default.trim_matches('\'');
        if unregistered.contains(&name) {
            continue;
        }
        match ours
            .lines()
            .find_map(|line| line.trim().strip_prefix(&format!("{name} ")))
        {
            None => wrong.push(format!("{name} is not in the help")),
            Some(_) if default.is_empty() || is_expression(default) => {}
            Some(ours) if ours.trim_matches('\'') == default => {}
            Some(ours) => wrong.push(format!("{name}: {default} in etcd, {ours} here")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
