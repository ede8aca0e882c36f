//! etcd's own tool against this server, and one session of it compared with a real etcd.
//!
//! Both need what the Rust toolchain does not bring: without `etcdctl` (and `etcd`) on the PATH the tests
//! say so and pass. Any etcdctl of 3.4 or later will do.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use super::support::{Cluster, Member, connect, free_port, run};

/// Finds a program on the PATH, or says that a test is skipped for want of it.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file());
    if found.is_none() {
        eprintln!("skipped: no {program} on the PATH");
    }
    found
}

/// Runs etcdctl against an address, with something on its standard input.
fn etcdctl(address: &str, arguments: &[&str], input: &str) -> Output {
    let program = find("etcdctl").expect("checked by the caller");
    let mut command = Command::new(program);
    command
        .arg(format!("--endpoints=http://{address}"))
        .args(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("etcdctl can be started");
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    // It may end before it has read everything.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("etcdctl ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The standard output of a command that succeeds.
fn succeeds(address: &str, arguments: &[&str]) -> String {
    let output = etcdctl(address, arguments, "");
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn every_basic_command_works() {
    if find("etcdctl").is_none() {
        return;
    }
    let cluster = Cluster::start(3, &[]);
    let addresses: Vec<_> = cluster
        .members
        .iter()
        .map(|member| member.address.clone())
        .collect();
    let (first, all) = (&addresses[0], addresses.join(",http://"));
    assert_eq!(succeeds(first, &["put", "a", "1"]), "OK\n");
    assert_eq!(succeeds(&addresses[1], &["get", "a"]), "a\n1\n");
    assert_eq!(succeeds(first, &["get", "a", "--print-value-only"]), "1\n");
    assert_eq!(succeeds(first, &["del", "a"]), "1\n");

    let watch = {
        let mut command = Command::new(find("etcdctl").expect("checked above"));
        command.arg(format!("--endpoints=http://{first}"));
        command
            .args(["watch", "w", "--rev=1", "--prev-kv"])
            .stdout(Stdio::piped());
        command.spawn().expect("etcdctl can be started")
    };
    let watch = read_lines(watch, 8, || {
        succeeds(&addresses[1], &["put", "w", "1"]);
        succeeds(&addresses[2], &["put", "w", "2"]);
    });
    assert_eq!(watch, ["PUT", "w", "1", "PUT", "w", "1", "w", "2"]);

    let granted = succeeds(first, &["lease", "grant", "300"]);
    let lease = granted
        .split(' ')
        .nth(1)
        .expect("lease ID granted with TTL(300s)")
        .to_owned();
    succeeds(first, &["put", "leased", "x", &format!("--lease={lease}")]);
    let ttl = succeeds(&addresses[1], &["lease", "timetolive", "--keys", &lease]);
    assert!(
        ttl.contains("granted with TTL(300s)") && ttl.contains("leased"),
        "{ttl}"
    );
    assert!(succeeds(first, &["lease", "list"]).contains(&lease));
    assert!(succeeds(first, &["lease", "keep-alive", "--once", &lease]).contains("keepalived with TTL(300)"));
    assert_eq!(
        succeeds(first, &["lease", "revoke", &lease]),
        format!("lease {lease} revoked\n")
    );
    assert_eq!(succeeds(first, &["get", "leased"]), "");
    assert!(succeeds(first, &["compaction", "4"]).starts_with("compacted revision 4"));

    let members = succeeds(first, &["member", "list"]);
    assert_eq!(
        members
            .lines()
            .filter(|line| line.contains(", started, m"))
            .count(),
        3,
        "{members}"
    );
    assert_eq!(
        succeeds(&all, &["endpoint", "health"])
            .lines()
            .filter(|line| line.contains("is healthy"))
            .count(),
        3
    );
    let status: Value =
        serde_json::from_str(&succeeds(&all, &["endpoint", "status", "-w", "json"])).expect("JSON");
    let leaders: Vec<_> = status
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| &one["Status"]["leader"])
        .collect();
    assert_eq!(leaders.len(), 3);
    assert!(
        leaders
            .iter()
            .all(|leader| leader == &leaders[0] && leader.as_u64() > Some(0)),
        "{leaders:?}"
    );
}

/// Starts reading a process's output, does something, and gives the first lines; then kills the process.
fn read_lines(mut child: std::process::Child, count: usize, act: impl FnOnce()) -> Vec<String> {
    use std::io::{BufRead, BufReader};
    let output = child.stdout.take().expect("standard output is a pipe");
    act();
    let lines = BufReader::new(output).lines().take(count);
    let lines = lines.map(|line| line.expect("the output is text")).collect();
    let _ = child.kill();
    let _ = child.wait();
    lines
}

/// A command of the session, with its standard input.
type Step = (&'static [&'static str], &'static str);

/// Everything whose output is decided by the requests alone.
const SESSION: &[Step] = &[
    (&["get", "absent"], ""),
    (&["put", "a", "1"], ""),
    (&["put", "a", "2", "--prev-kv"], ""),
    (&["put", "b", "3", "-w", "json"], ""),
    (&["put", "c/1", "4"], ""),
    (&["put", "c/2", "5", "-w", "fields"], ""),
    (&["get", "a", "-w", "json"], ""),
    (&["get", "a", "--rev=2"], ""),
    (&["get", "a", "--rev=1000"], ""),
    (&["get", "c", "--prefix"], ""),
    (&["get", "c", "--prefix", "--keys-only"], ""),
    (&["get", "a", "z", "--limit=2", "-w", "json"], ""),
    (&["get", "a", "z", "--count-only", "-w", "fields"], ""),
    (&["get", "a", "z", "--sort-by=MODIFY", "--order=DESCEND"], ""),
    (&["get", "a", "z", "--sort-by=VALUE", "--order=ASCEND"], ""),
    (&["get", "--from-key", "b"], ""),
    (&["get", "a", "--consistency=s", "-w", "json"], ""),
    (&["txn"], "mod(\"a\") = \"3\"\n\nput a 6\nget a\n\nput a 7\n\n"),
    (
        &["txn", "-w", "json"],
        "value(\"a\") = \"no\"\n\nput a 8\n\ndel b\nget c --prefix\n\n",
    ),
    (
        &["txn"],
        "ver(\"absent\") = \"0\"\ncreate(\"a\") > \"1\"\n\nput d 9\n\n\n",
    ),
    (&["txn"], "\nput twice 1\nput twice 2\n\n\n"),
    (&["put", "a", "--ignore-value"], ""),
    (&["put", "absent", "--ignore-value"], ""),
    (&["put", "a", "x", "--lease=123"], ""),
    (&["del", "c", "--prefix", "--prev-kv"], ""),
    (&["del", "absent", "-w", "json"], ""),
    (&["lease", "grant", "1000", "-w", "json"], ""),
    (&["lease", "timetolive", "7b"], ""),
    (&["lease", "revoke", "7b"], ""),
    (&["compaction", "5"], ""),
    (&["compaction", "5"], ""),
    (&["compaction", "1000"], ""),
    (&["get", "a", "--rev=3"], ""),
    (&["watch", "a", "--rev=2"], ""),
    (&["alarm", "list"], ""),
    (&["put", "", "x"], ""),
    (&["get", "a", "-w", "json", "--rev=0"], ""),
];

/// One step's exit code, output and errors, without what differs between any two clusters.
fn perform(address: &str, (arguments, input): &Step) -> String {
    let output = etcdctl(address, arguments, input);
    let errors = text(&output.stderr);
    // A log line of the client library names ports and times; the error itself is its last field.
    let errors: Vec<String> = errors.lines().map(normal_error).collect();
    let answer = match serde_json::from_slice::<Value>(&output.stdout) {
        Ok(mut value) => {
            strip(&mut value);
            value.to_string()
        }
        Err(_) => normal_text(&text(&output.stdout)),
    };
    format!(
        "{arguments:?}\ncode {:?}\n{answer}\n{}",
        output.status.code(),
        errors.join("\n")
    )
}

/// Fields that are a cluster's own. Lease ids are chosen by the server.
const OWN: [&str; 4] = ["cluster_id", "member_id", "raft_term", "ID"];

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !OWN.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

fn normal_text(text: &str) -> String {
    let own = ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""];
    let kept = text
        .lines()
        .filter(|line| !own.iter().any(|field| line.starts_with(field)));
    kept.collect::<Vec<_>>().join("\n")
}

fn normal_error(line: &str) -> String {
    match line.split_once("\"error\":") {
        Some((_, error)) => error.to_owned(),
        None => line.to_owned(),
    }
}

#[test]
fn a_session_reads_as_with_etcd() {
    let (Some(_), Some(etcd)) = (find("etcdctl"), find("etcd")) else {
        return;
    };
    let cluster = Cluster::start(1, &[]);
    let reference = Reference::start(etcd);
    let ours: &Member = &cluster.members[0];
    let differing: Vec<String> = SESSION
        .iter()
        .filter_map(|step| {
            let (expected, got) = (perform(&reference.address, step), perform(&ours.address, step));
            (expected != got).then(|| format!("---- etcd: {expected}\n---- here: {got}"))
        })
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n\n"));
}

/// A real etcd.
struct Reference {
    address: String,
    process: std::process::Child,
    _dir: tempfile::TempDir,
}

impl Reference {
    fn start(program: PathBuf) -> Reference {
        let dir = tempfile::TempDir::new().expect("a temporary directory can be made");
        let (client, peer) = (free_port(), free_port());
        let (client, peer) = (
            format!("http://127.0.0.1:{client}"),
            format!("http://127.0.0.1:{peer}"),
        );
        let process = Command::new(program)
            .arg(format!("--data-dir={}", dir.path().display()))
            .args([
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
            ])
            .args([
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
            ])
            .arg(format!("--initial-cluster=default={peer}"))
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd can be started");
        let address = client.trim_start_matches("http://").to_owned();
        run(async |env| {
            let mut client = connect(&env, &address).await;
            // Answered as soon as it serves.
            client.linearizable_revision(&env).await;
        });
        Reference {
            address,
            process,
            _dir: dir,
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
