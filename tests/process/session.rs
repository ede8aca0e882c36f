//! One session of `etcdctl` with this server, and the same with a real etcd: every answer has to be the same.
//!
//! For every `etcdctl` on the PATH; without one, or without an `etcd`, the test says so and passes. What differs
//! between any two clusters (ids, terms, sizes, ports, durations) is taken out before answers are compared.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::etcdctl::{Etcdctl, find_all, text};
use super::support::{Cluster, PATIENCE, connect, free_port, lines_of, run};

/// A command of the session. In its arguments, LEASE is the lease that was granted last.
struct Step {
    arguments: &'static [&'static str],
    talk: Talk,
}

/// What goes through a command's standard streams.
enum Talk {
    /// Everything it reads; it ends by itself.
    Input(&'static str),
    /// By turns: what it reads, and how many lines it then answers. It would go on; it is killed.
    Turns(&'static [(&'static str, usize)]),
}

const fn step(arguments: &'static [&'static str]) -> Step {
    fed(arguments, "")
}

const fn fed(arguments: &'static [&'static str], input: &'static str) -> Step {
    Step {
        arguments,
        talk: Talk::Input(input),
    }
}

const fn turns(arguments: &'static [&'static str], turns: &'static [(&'static str, usize)]) -> Step {
    Step {
        arguments,
        talk: Talk::Turns(turns),
    }
}

/// Everything whose output is decided by the requests alone.
const SESSION: &[Step] = &[
    // Puts.
    step(&["get", "absent"]),
    step(&["put", "a", "1"]),
    step(&["put", "a", "2", "--prev-kv"]),
    step(&["put", "b", "3", "-w", "json"]),
    step(&["put", "c/1", "4"]),
    step(&["put", "c/2", "5", "-w", "fields"]),
    fed(&["put", "fed"], "by standard input"),
    step(&["put", "", "x"]),
    step(&["put", "a", "--ignore-value"]),
    step(&["put", "absent", "--ignore-value"]),
    step(&["put", "a", "x", "--lease=123"]),
    // Gets.
    step(&["get", "a", "-w", "json"]),
    step(&["get", "a", "-w", "json", "--rev=0"]),
    step(&["get", "a", "-w", "fields"]),
    step(&["get", "a", "--hex"]),
    step(&["get", "a", "--print-value-only"]),
    step(&["get", "a", "--rev=2"]),
    step(&["get", "a", "--rev=1000"]),
    step(&["get", "a", "--rev=-1"]),
    step(&["get", "a", "--consistency=s", "-w", "json"]),
    step(&["get", ""]),
    step(&["get", "", "--prefix", "--keys-only"]),
    step(&["get", "", "--from-key"]),
    step(&["get", "c", "--prefix"]),
    step(&["get", "c", "--prefix", "--keys-only"]),
    step(&["get", "c", "--prefix", "--rev=5", "-w", "json"]),
    step(&["get", "--from-key", "b"]),
    step(&["get", "--from-key", "b", "--limit=1", "-w", "json"]),
    step(&["get", "a", "c"]),
    step(&["get", "z", "a"]),
    step(&["get", "a", "z", "--limit=2", "-w", "json"]),
    step(&["get", "a", "z", "--limit=2", "--rev=4", "-w", "json"]),
    step(&["get", "a", "z", "--limit=-1", "-w", "json"]),
    step(&["get", "a", "z", "--count-only"]),
    step(&["get", "a", "z", "--count-only", "-w", "fields"]),
    step(&["get", "a", "z", "--count-only", "-w", "json", "--rev=3"]),
    step(&["get", "a", "z", "--count-only", "-w", "json", "--limit=1"]),
    step(&["get", "a", "z", "--sort-by=MODIFY", "--order=DESCEND"]),
    step(&[
        "get",
        "a",
        "z",
        "--sort-by=CREATE",
        "--order=DESCEND",
        "--limit=2",
    ]),
    step(&["get", "a", "z", "--sort-by=VALUE", "--order=ASCEND"]),
    step(&["get", "a", "z", "--sort-by=VERSION", "-w", "json"]),
    step(&[
        "get",
        "a",
        "z",
        "--sort-by=KEY",
        "--order=DESCEND",
        "--limit=3",
        "-w",
        "json",
    ]),
    step(&["get", "a", "z", "--order=DESCEND"]),
    step(&[
        "get",
        "a",
        "z",
        "--min-mod-rev=3",
        "--max-mod-rev=5",
        "-w",
        "json",
    ]),
    step(&[
        "get",
        "a",
        "z",
        "--min-create-rev=3",
        "--max-create-rev=5",
        "--limit=1",
        "-w",
        "json",
    ]),
    step(&["get", "a", "z", "--stream"]),
    step(&["get", "a", "z", "--stream", "--limit=2", "-w", "json"]),
    step(&["get", "a", "z", "--stream", "--order=DESCEND"]),
    // Transactions.
    fed(&["txn"], "mod(\"a\") = \"3\"\n\nput a 6\nget a\n\nput a 7\n\n"),
    fed(
        &["txn", "-w", "json"],
        "value(\"a\") = \"no\"\n\nput a 8\n\ndel b\nget c --prefix\n\n",
    ),
    fed(
        &["txn", "-w", "fields"],
        "value(\"a\") != \"no\"\n\nput a 8 --prev-kv\nget a\n\n\n",
    ),
    fed(
        &["txn"],
        "ver(\"absent\") = \"0\"\ncreate(\"a\") > \"1\"\n\nput d 9\n\n\n",
    ),
    fed(
        &["txn"],
        "ver(\"a\") > \"3\"\nmod(\"a\") < \"3\"\n\nput d 9\n\nget d\nget none\n\n",
    ),
    fed(
        &["txn"],
        "lease(\"a\") = \"0\"\nvalue(\"a\") > \"7\"\nvalue(\"a\") < \"9\"\n\nget a --rev=2\n\nget b\n\n",
    ),
    fed(
        &["txn"],
        "create(\"absent\") = \"0\"\nmod(\"absent\") = \"0\"\nlease(\"absent\") = \"0\"\n\nget a\n\n\n",
    ),
    fed(&["txn"], "value(\"absent\") = \"\"\n\nget a\n\nget b\n\n"),
    fed(&["txn"], "value(\"absent\") != \"x\"\n\nget a\n\nget b\n\n"),
    fed(&["txn"], "\nput twice 1\nput twice 2\n\n\n"),
    fed(&["txn"], "\nput c/1 1\ndel c --prefix\n\n\n"),
    fed(&["txn"], "\nput once 1\n\nput twice 1\nput twice 2\n\n"),
    fed(&["txn"], "\n\n\n"),
    fed(&["txn"], "\nget a --rev=1000\n\n\n"),
    fed(&["txn"], "\nput a x --lease=123\n\n\n"),
    fed(&["txn"], "no compare\n\n\n"),
    // Deletions.
    step(&["del", "c", "--prefix", "--prev-kv"]),
    step(&["del", "absent", "-w", "json"]),
    step(&["del", "d", "-w", "json", "--prev-kv"]),
    step(&["del", "e", "g", "-w", "fields"]),
    step(&["del", "", "--from-key", "--prev-kv", "--rev=1"]),
    step(&["put", "z1", "x"]),
    step(&["put", "z2", "y"]),
    step(&["del", "z1", "--from-key"]),
    step(&["get", "", "--prefix", "-w", "json"]),
    // Hashes; before leases, whose ids are in the values.
    step(&["endpoint", "hashkv"]),
    step(&["endpoint", "hashkv", "-w", "json"]),
    step(&["endpoint", "hashkv", "--rev=5"]),
    step(&["endpoint", "hashkv", "--rev=1000"]),
    // History.
    turns(&["watch", "a", "--rev=2"], &[("", 12)]),
    turns(&["watch", "a", "--rev=2", "--prev-kv"], &[("", 18)]),
    turns(&["watch", "c", "--prefix", "--rev=1", "--prev-kv"], &[("", 16)]),
    turns(&["watch", "a", "zz", "--rev=10"], &[("", 21)]),
    turns(&["watch", "c", "--prefix", "--rev=5", "-w", "json"], &[("", 1)]),
    turns(&["watch", "a", "--rev=3", "-w", "fields"], &[("", 32)]),
    turns(
        &["watch", "-i"],
        &[
            ("watch a --rev=3\n", 12),
            ("progress\n", 1),
            ("watch b --rev=1\n", 6),
            ("progress\n", 2),
        ],
    ),
    turns(
        &["watch", "-i"],
        &[("watch c --prefix --rev=1 --prev-kv\n", 16), ("progress\n", 1)],
    ),
    turns(&["watch", "", "--prefix", "--rev=13"], &[("", 6)]),
    // Leases.
    step(&["lease", "list"]),
    step(&["lease", "grant", "1000"]),
    step(&["lease", "list"]),
    step(&["lease", "list", "-w", "json"]),
    step(&["lease", "keep-alive", "--once", "LEASE"]),
    step(&["lease", "keep-alive", "--once", "LEASE", "-w", "json"]),
    turns(&["lease", "keep-alive", "LEASE"], &[("", 1)]),
    step(&["put", "leased", "x", "--lease=LEASE"]),
    step(&["put", "leased", "y", "--ignore-lease"]),
    step(&["get", "leased", "-w", "json"]),
    step(&["lease", "timetolive", "LEASE"]),
    step(&["lease", "timetolive", "LEASE", "--keys"]),
    step(&["lease", "timetolive", "LEASE", "--keys", "-w", "json"]),
    step(&["lease", "timetolive", "LEASE", "-w", "fields"]),
    step(&["put", "leased/too", "y", "--lease=LEASE"]),
    fed(
        &["txn"],
        "lease(\"leased\") > \"0\"\n\nput leased z --ignore-lease\n\nget leased\n\n",
    ),
    step(&["lease", "revoke", "LEASE", "-w", "json"]),
    step(&["lease", "revoke", "LEASE"]),
    step(&["lease", "timetolive", "LEASE"]),
    step(&["lease", "keep-alive", "--once", "LEASE"]),
    step(&["get", "leased", "--prefix", "--count-only", "-w", "json"]),
    step(&["lease", "grant", "1000", "-w", "json"]),
    step(&["lease", "grant", "0"]),
    step(&["lease", "grant", "-5"]),
    step(&["lease", "grant", "9000000001"]),
    step(&["lease", "timetolive", "7b"]),
    step(&["lease", "revoke", "7b"]),
    // What builds on the rest.
    step(&["lock", "l", "echo", "held"]),
    turns(&["elect", "e", "me"], &[("", 2)]),
    // Compaction.
    step(&["compaction", "5"]),
    step(&["compaction", "5"]),
    step(&["compaction", "0"]),
    step(&["compaction", "-1"]),
    step(&["compaction", "1000"]),
    step(&["compaction", "8", "--physical"]),
    step(&["get", "a", "--rev=3"]),
    step(&["get", "a", "z", "--rev=8", "-w", "json"]),
    fed(&["txn"], "\nget a --rev=3\n\n\n"),
    step(&["watch", "a", "--rev=2"]),
    step(&["watch", "a", "--rev=7", "-w", "json"]),
    turns(&["watch", "a", "--rev=8"], &[("", 6)]),
    step(&["endpoint", "hashkv", "--rev=7"]),
    // At 8 itself, etcd names the compaction before as long as it has not been restarted.
    step(&["endpoint", "hashkv", "--rev=9", "-w", "json"]),
    // The cluster and its members.
    step(&["endpoint", "health"]),
    step(&["endpoint", "health", "-w", "json"]),
    step(&["endpoint", "health", "--cluster"]),
    step(&["endpoint", "status", "-w", "json"]),
    step(&["endpoint", "status", "--cluster", "-w", "fields"]),
    step(&["member", "list"]),
    step(&["member", "list", "-w", "json"]),
    step(&["member", "list", "-w", "fields"]),
    step(&["alarm", "list"]),
    step(&["alarm", "disarm"]),
    step(&["defrag"]),
    step(&["move-leader", "1"]),
];

/// One step's exit code, output and errors, without what differs between any two clusters.
fn perform(etcdctl: &Etcdctl, address: &str, lease: &mut String, step: &Step) -> String {
    let arguments: Vec<String> = step
        .arguments
        .iter()
        .map(|argument| argument.replace("LEASE", lease))
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (code, output, errors) = match &step.talk {
        Talk::Input(input) => {
            let output = etcdctl.run(address, &arguments, input);
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        }
        Talk::Turns(turns) => {
            let (output, errors) = take_turns(etcdctl.spawn(address, &arguments), turns);
            (None, output, errors)
        }
    };
    if let Some(granted) = output
        .strip_prefix("lease ")
        .and_then(|rest| rest.split_once(" granted"))
    {
        *lease = granted.0.to_owned();
    }
    // The tool itself can panic (over compares of leases): only its reason is compared.
    let errors = errors.split("goroutine").next().unwrap_or_default();
    // A log line of the client library names ports and times; the error itself is its last field.
    let errors: Vec<String> = errors.lines().map(normal_error).collect();
    let output: Vec<String> = output.lines().map(normal_output).collect();
    let (output, errors) = (output.join("\n"), errors.join("\n"));
    format!("{:?}\ncode {code:?}\n{output}\n{errors}", step.arguments)
}

/// Writes and reads by turns, then kills the process; its output and its errors.
fn take_turns(mut child: Child, turns: &[(&str, usize)]) -> (String, String) {
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let stdout = lines_of(child.stdout.take().expect("standard output is a pipe"));
    let (mut output, mut errors) = (Vec::new(), String::new());
    for (input, count) in turns {
        let _ = stdin.write_all(input.as_bytes());
        output.extend((0..*count).map_while(|_| stdout.recv_timeout(PATIENCE).ok()));
    }
    let _ = child.kill();
    let mut stderr = child.stderr.take().expect("standard error is a pipe");
    let _ = stderr.read_to_string(&mut errors);
    let _ = child.wait();
    (output.join("\n"), errors)
}

/// Fields that are a cluster's own.
const OWN: [&str; 7] = [
    "raft_term",
    "raftTerm",
    "raftIndex",
    "raftAppliedIndex",
    "dbSize",
    "dbSizeInUse",
    "took",
];

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

fn normal_output(line: &str) -> String {
    if let Ok(mut value @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(line) {
        strip(&mut value);
        return normal_words(&value.to_string());
    }
    let is_own = |field: &&str| {
        line.to_lowercase()
            .starts_with(&format!("\"{}\"", field.to_lowercase()))
    };
    match OWN.into_iter().find(is_own) {
        Some(field) => field.to_owned(),
        None => normal_words(line),
    }
}

fn normal_error(line: &str) -> String {
    match line.split_once("\"error\":") {
        Some((_, error)) => normal_words(error),
        None => normal_words(line),
    }
}

/// Takes out ids (words of 14 and more digits), ports of this machine, and durations.
fn normal_words(line: &str) -> String {
    let line = line.split_once("took").map_or(line, |(before, _)| before);
    let mut words = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let is_word = |c: char| c.is_ascii_alphanumeric();
        let end = rest.find(|c: char| !is_word(c)).unwrap_or(rest.len()).max(1);
        let (word, tail) = rest.split_at(rest.ceil_char_boundary(end));
        let digits = word.len() >= 14 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        let port = words.ends_with("127.0.0.1:");
        words.push_str(if digits {
            "ID"
        } else if port {
            "PORT"
        } else {
            word
        });
        rest = tail;
    }
    words
}

#[test]
fn a_session_reads_as_with_etcd() {
    let (Some(etcd), tools) = (find_all("etcd").pop(), Etcdctl::all()) else {
        return;
    };
    for etcdctl in tools {
        let cluster = Cluster::start(1, &[]);
        let reference = Reference::start(etcd.clone());
        let (mut here, mut there) = (String::new(), String::new());
        let differing: Vec<String> = SESSION
            .iter()
            .filter_map(|step| {
                let expected = perform(&etcdctl, &reference.address, &mut there, step);
                let got = perform(&etcdctl, &cluster.members[0].address, &mut here, step);

                (expected != got).then(|| format!("---- etcd: {expected}\n---- here: {got}"))
            })
            .collect();
        assert!(
            differing.is_empty(),
            "{}:\n{}",
            etcdctl.program.display(),
            differing.join("\n\n")
        );
    }
}

/// A real etcd.
struct Reference {
    address: String,
    process: Child,
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
            .arg("--name=m0")
            .arg(format!("--data-dir={}", dir.path().display()))
            .args([
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
            ])
            .args([
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
            ])
            .arg(format!("--initial-cluster=m0={peer}"))
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
