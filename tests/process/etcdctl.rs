//! etcd's own tool against this server: every `etcdctl` on the PATH, since releases differ in what they send.
//!
//! It is what the Rust toolchain does not bring: without one the tests say so and pass. Any of 3.4 or later
//! will do.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::support::{Cluster, PATIENCE, lines_of};

/// Every program of that name on the PATH, each once; none: says that a test is skipped.
pub fn find_all(program: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path)
        .filter_map(|dir| dir.join(program).canonicalize().ok())
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.dedup();
    if found.is_empty() {
        eprintln!("skipped: no {program} on the PATH");
    }
    found
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One of the programs.
pub struct Etcdctl {
    pub program: PathBuf,
}

impl Etcdctl {
    pub fn all() -> Vec<Etcdctl> {
        let programs = find_all("etcdctl").into_iter();
        programs.map(|program| Etcdctl { program }).collect()
    }

    /// Starts it against an address ("host:port", or several with ",http://" in between).
    pub fn spawn(&self, address: &str, arguments: &[&str]) -> Child {
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--endpoints=http://{address}"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("etcdctl can be started")
    }

    /// Runs it to its end, with something on its standard input.
    pub fn run(&self, address: &str, arguments: &[&str], input: &str) -> Output {
        let mut child = self.spawn(address, arguments);
        let mut stdin = child.stdin.take().expect("standard input is a pipe");
        // It may end before it has read everything.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("etcdctl ends")
    }

    /// The standard output of a command that succeeds.
    fn succeeds(&self, address: &str, arguments: &[&str]) -> String {
        let output = self.run(address, arguments, "");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }
}

#[test]
fn every_basic_command_works() {
    for etcdctl in Etcdctl::all() {
        basic_commands(&etcdctl);
    }
}

fn basic_commands(etcdctl: &Etcdctl) {
    let cluster = Cluster::start(3, &[]);
    let succeeds = |address: &str, arguments: &[&str]| etcdctl.succeeds(address, arguments);
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

    let watch = etcdctl.spawn(first, &["watch", "w", "--rev=1", "--prev-kv"]);
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
    let health = etcdctl.run(&all, &["endpoint", "health"], "");
    // 3.4 says it on standard error.
    let health = text(&health.stdout) + &text(&health.stderr);
    assert_eq!(health.matches("is healthy").count(), 3, "{health}");
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
fn read_lines(mut child: Child, count: usize, act: impl FnOnce()) -> Vec<String> {
    let output = child.stdout.take().expect("standard output is a pipe");
    act();
    let lines = lines_of(output);
    let read = (0..count)
        .map_while(|_| lines.recv_timeout(PATIENCE).ok())
        .collect();
    let _ = child.kill();
    let _ = child.wait();
    read
}
