//! The way in and out: snapshots as etcd's file, restored here and by etcd's own tool, and directories of etcd's taken
//! over. Parts that need etcd's programs are skipped, and say so, where these are not on the PATH.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;

use super::support::{Cluster, run};

fn tool(program: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(program).args(arguments).output() {
        Ok(output) => Some(output),
        Err(_) => {
            eprintln!("skipped: {program} is not on the PATH");
            None
        }
    }
}

/// Runs a command of the tested binary: its exit code, and what it printed.
fn quorate(arguments: &[&str]) -> (Option<i32>, String) {
    let output = tool(env!("CARGO_BIN_EXE_quorate"), arguments).expect("the binary is there");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Something of everything; the hash of all keys.
async fn live_in(cluster: &Cluster, env: &Env) -> u32 {
    let mut client = cluster.members[0].connect(env).await;
    let lease = pb::LeaseGrantRequest { id: 7, ttl: 900 };
    client.lease.lease_grant(lease).await.unwrap();
    for n in 0..200 {
        client
            .put(env, &format!("k{}", n % 50), &"v".repeat(n * 20))
            .await;
    }
    let delete = pb::DeleteRangeRequest {
        key: "k1".into(),
        range_end: "k2".into(),
        ..Default::default()
    };
    client.kv.delete_range(delete).await.unwrap();
    let compaction = pb::CompactionRequest {
        revision: 100,
        physical: true,
    };
    client.kv.compact(compaction).await.unwrap();
    cluster.assert_equal_hashes(env).await
}

/// A prepared member whose data directory is to be filled first.
fn prepared() -> (Cluster, Vec<String>) {
    let cluster = Cluster::new(1, &[]);
    let member = &cluster.members[0];
    let wanted = [
        "--name",
        "--data-dir",
        "--initial-cluster",
        "--initial-advertise-peer-urls",
    ];
    let named = |flag: &&String| wanted.contains(&flag.split('=').next().unwrap_or_default());
    let flags = member.flags.iter().filter(named).cloned().collect();
    (cluster, flags)
}

fn restore(file: &Path, flags: &[String], more: &[&str]) -> (Option<i32>, String) {
    let file = file.display().to_string();
    let flags = flags.iter().map(String::as_str);
    let arguments: Vec<&str> = ["snapshot", "restore", &file]
        .into_iter()
        .chain(flags)
        .chain(more.iter().copied())
        .collect();
    quorate(&arguments)
}

#[test]
fn a_snapshot_is_saved_checked_and_restored() {
    run(async |env| {
        let cluster = Cluster::start(3, &[]);
        let hash = live_in(&cluster, &env).await;
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("saved.db");
        let shown = file.display().to_string();
        let endpoint = format!("--endpoints={}", cluster.members[1].address);
        assert_eq!(quorate(&["snapshot", "save", &shown, &endpoint]).0, Some(0));
        let (code, status) = quorate(&["snapshot", "status", &shown]);
        assert_eq!(code, Some(0), "{status}");
        assert!(status.contains(", 202, 39, "), "{status}");
        let (_, offline) = quorate(&["hashkv", &shown]);
        assert!(
            offline.starts_with(&format!("{hash}, 202, 100")),
            "{offline} {hash}"
        );

        let (mut fresh, flags) = prepared();
        let (code, text) = restore(&file, &flags, &[]);
        assert_eq!(code, Some(0), "{text}");
        let (code, text) = restore(&file, &flags, &[]);
        assert!(code == Some(1) && text.contains("not empty"), "{text}");
        fresh.members[0].start();
        assert_eq!(fresh.assert_equal_hashes(&env).await, hash);
        let mut client = fresh.members[0].connect(&env).await;
        assert_eq!(client.put(&env, "after", "1").await, 203);
        fresh.members[0].kill();
        let data = fresh.members[0].data_dir.display().to_string();
        let (code, text) = quorate(&["verify", &data]);
        assert!(code == Some(0) && text.contains("no damage found"), "{text}");

        let (mut raised, flags) = prepared();
        assert_eq!(restore(&file, &flags, &["--bump-revision=1000"]).0, Some(1));
        let (code, text) = restore(&file, &flags, &["--bump-revision=1000", "--mark-compacted"]);
        assert_eq!(code, Some(0), "{text}");
        raised.members[0].start();
        let mut client = raised.members[0].connect(&env).await;
        assert_eq!(client.put(&env, "after", "1").await, 1203);

        let mut bytes = fs::read(&file).unwrap();
        bytes[9_000] ^= 1;
        fs::write(&file, bytes).unwrap();
        let (_, flags) = prepared();
        let (code, text) = restore(&file, &flags, &[]);
        assert!(code == Some(1) && text.contains("expected sha256"), "{text}");
    });
}

#[test]
fn etcdutl_restores_what_is_saved_here_and_its_directory_is_taken_over() {
    run(async |env| {
        let cluster = Cluster::start(1, &[]);
        let hash = live_in(&cluster, &env).await;
        let dir = tempfile::TempDir::new().unwrap();
        let shown = dir.path().join("saved.db").display().to_string();
        let endpoint = format!("--endpoints={}", cluster.members[0].address);
        assert_eq!(quorate(&["snapshot", "save", &shown, &endpoint]).0, Some(0));
        let Some(status) = tool("etcdutl", &["snapshot", "status", &shown]) else {
            return;
        };
        assert_eq!(
            String::from_utf8_lossy(&status.stdout),
            quorate(&["snapshot", "status", &shown]).1
        );
        let (mut theirs, flags) = prepared();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let made = tool(
            "etcdutl",
            &[&["snapshot", "restore", &shown], &flags[..]].concat(),
        )
        .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        theirs.members[0].start();
        assert_eq!(theirs.assert_equal_hashes(&env).await, hash);
        let mut client = theirs.members[0].connect(&env).await;
        assert_eq!(client.put(&env, "after", "1").await, 203);
        // Taken over once: the next start finds its own data.
        theirs.members[0].kill();
        theirs.members[0].start();
        let mut client = theirs.members[0].connect(&env).await;
        assert_eq!(client.get(&env, "after").await.as_deref(), Some("1"));
    });
}

#[test]
fn a_stopped_etcds_directory_is_taken_over() {
    run(async |env| {
        let (mut cluster, _) = prepared();
        let member = &mut cluster.members[0];
        member.launcher = vec![
            "sh".into(),
            "-c".into(),
            "shift; exec etcd \"$@\"".into(),
            "sh".into(),
        ];
        if tool("etcd", &["--version"]).is_none() {
            return;
        }
        member.start();
        let hash = live_in(&cluster, &env).await;
        let member = &mut cluster.members[0];
        member.stop(rustix::process::Signal::TERM);
        member.launcher.clear();
        member.start();
        assert_eq!(cluster.assert_equal_hashes(&env).await, hash);
    });
}
