//! Damage, full disks, and starts that must not happen: each gives a clear error and exit code 1.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use quorate::proto::etcdserverpb as pb;
use quorate::runtime::Env;
use rustix::process::Signal;

use super::small_disk::SmallDisk;
use super::support::{Cluster, Member, READY, files_below, free_port, run, wait_for};

/// A node that has written `count` keys and was killed.
fn stopped_after(count: usize) -> Cluster {
    let mut cluster = Cluster::start(1, &[]);
    run(async |env| {
        let mut client = cluster.members[0].connect(&env).await;
        for n in 0..count {
            client
                .put(&env, &format!("key-{n}"), &format!("value-number-{n}-of-the-log"))
                .await;
        }
    });
    cluster.members[0].kill();
    cluster
}

/// The log's files: those that contain a value that was written early.
fn place_in_log(member: &Member, text: &str) -> (PathBuf, u64) {
    let log = files_below(&member.data_dir)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "log"));
    place_in(log, text).expect("the value is in the log")
}

fn place_in(mut files: impl Iterator<Item = PathBuf>, text: &str) -> Option<(PathBuf, u64)> {
    files.find_map(|path| {
        // It may be gone by now.
        let content = fs::read(&path).ok()?;
        let at = content
            .windows(text.len())
            .position(|window| window == text.as_bytes())?;
        Some((path, at as u64))
    })
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    let file = file.expect("the file can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("the file can be read");
    file.write_all_at(&[byte[0] ^ 1], at)
        .expect("the file can be written");
}

/// Checks that a process has ended with exit code 1, and that the log says why.
fn assert_fatal((code, log): (Option<i32>, &str), words: &[&str]) {
    assert_eq!(code, Some(1), "{log}");
    let last = log.lines().rfind(|line| line.contains("\"level\":\"fatal\""));
    let last = last.unwrap_or_else(|| panic!("no fatal line:\n{log}"));
    for word in words {
        assert!(last.contains(word), "no {word:?} in {last}");
    }
}

/// Starts a member that must refuse, and checks that the log says why.
fn assert_refuses(member: &mut Member, words: &[&str]) {
    let (code, log) = member.run_to_end();
    assert_fatal((code, &log), words);
    assert!(!log.contains(super::support::READY), "it served:\n{log}");
}

#[test]
fn a_flipped_byte_in_the_middle_of_the_log_is_refused() {
    let mut cluster = stopped_after(40);
    let (path, at) = place_in_log(&cluster.members[0], "value-number-7-of-the-log");
    flip(&path, at + 3);
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_refuses(&mut cluster.members[0], &[&name, "offset"]);
}

/// Below the caches: an old revision of a key is in a table of the engine alone.
#[test]
fn a_flipped_byte_under_a_running_member_stops_it() {
    let mut cluster = Cluster::start(1, &[]);
    let member = &mut cluster.members[0];
    let old = "a value that nobody has asked for since";
    let (path, at) = run(async |env| {
        let mut client = member.connect(&env).await;
        client.put(&env, "victim", old).await;
        client.put(&env, "victim", "new").await;
        // More than the engine keeps in memory before it makes a table.
        for n in 0..40 {
            client.put(&env, &format!("key-{n}"), &value(n)).await;
        }
        wait_for("a table with the old value", || {
            let files = files_below(&member.data_dir).into_iter();
            let tables = files.filter(|path| path.parent().is_some_and(|folder| folder.ends_with("tables")));
            place_in(tables, old)
        })
    });
    flip(&path, at);
    let answer = run(async |env| {
        let mut client = member.connect(&env).await;
        let request = pb::RangeRequest {
            key: "victim".into(),
            revision: 2,
            ..Default::default()
        };
        client.range(&env, request).await
    });
    // The process may be gone before its answer is.
    answer.expect_err("what is damaged is not served");
    let engine = path.ancestors().nth(2).unwrap().to_str().unwrap().to_owned();
    let (code, log) = member.end();
    assert_fatal((code, &log), &["could not read the store", &engine, "Checksum"]);
    assert_refuses(member, &["could not read the store", &engine, "Checksum"]);
}

/// A mebibyte that cannot be compressed.
fn noise(n: u64) -> String {
    let mut state = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'!' + ((state >> 33) % 90) as u8)
    };
    (0..1 << 20).map(|_| letter()).collect()
}

fn journal_of_store(member: &Member) -> impl Iterator<Item = PathBuf> {
    let files = files_below(&member.data_dir).into_iter();
    files.filter(|path| path.extension().is_some_and(|end| end == "jnl"))
}

/// What the store had not synced is in the log, so a power loss may leave anything of it.
#[test]
fn a_page_that_a_power_loss_took_from_the_store_is_replayed_from_the_log() {
    let mut cluster = Cluster::start(1, &[]);
    let member = &mut cluster.members[0];
    run(async |env| {
        let mut client = member.connect(&env).await;
        for n in 0..5 {
            client.put(&env, &format!("key-{n}"), &noise(n)).await;
        }
    });
    // The answer does not wait for the store: what is applied is queued for it.
    let last = noise(4);
    let (path, at) = wait_for("the last value in the store's journal", || {
        place_in(journal_of_store(member), &last[500_000..500_064])
    });
    member.kill();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4096], at / 4096 * 4096).unwrap();
    member.start();
    let log = member.log();
    assert!(log.contains("is not whole behind offset"), "{log}");
    run(async |env| {
        let mut client = member.connect(&env).await;
        for n in 0..5 {
            assert_eq!(
                client.get(&env, &format!("key-{n}")).await,
                Some(noise(n)),
                "key-{n}"
            );
        }
        client.put(&env, "more", "x").await;
    });
}

/// What it had synced need not be in the log any more.
#[test]
fn a_flipped_byte_in_what_the_store_has_synced_is_refused() {
    let mut cluster = Cluster::start(1, &[]);
    let member = &mut cluster.members[0];
    run(async |env| {
        let mut client = member.connect(&env).await;
        for n in 0..10 {
            client
                .put(
                    &env,
                    &format!("key-{n}"),
                    &format!("value-number-{n}-of-the-store"),
                )
                .await;
        }
    });
    // A stop in good order syncs.
    member.stop(Signal::TERM);
    let (path, at) = place_in(journal_of_store(member), "value-number-3-of-the-store").expect("a value");
    flip(&path, at);
    assert_refuses(member, &["engine-1/0.jnl", "damaged at offset"]);
}

#[test]
fn a_truncated_segment_is_refused() {
    let mut cluster = stopped_after(40);
    let (path, at) = place_in_log(&cluster.members[0], "value-number-20-of-the-log");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(at).unwrap();
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    assert_refuses(&mut cluster.members[0], &[&name]);
}

#[test]
fn a_torn_tail_is_cut_and_nothing_acknowledged_is_lost() {
    let mut cluster = stopped_after(40);
    // A group of which only the start reached the disk, right behind the last: bytes that are no group.
    let (path, at) = place_in_log(&cluster.members[0], "value-number-39-of-the-log");
    let content = fs::read(&path).unwrap();
    let end = at as usize + content[at as usize..].iter().position(|byte| *byte == 0).unwrap();
    let next_sector = end.next_multiple_of(512) as u64;
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"QGRP and no more", next_sector + 512).unwrap();
    cluster.members[0].start();
    run(async |env| {
        let mut client = cluster.members[0].connect(&env).await;
        for n in 0..40 {
            let value = client.get(&env, &format!("key-{n}")).await;
            assert_eq!(value, Some(format!("value-number-{n}-of-the-log")));
        }
        client.put(&env, "more", "x").await;
    });
}

/// The vote was in the log: a member without it could vote twice in one term. This also is what a forgotten
/// `--wal-dir` looks like.
#[test]
fn a_log_that_is_gone_is_refused() {
    let mut cluster = stopped_after(5);
    let (path, _) = place_in_log(&cluster.members[0], "value-number-2-of-the-log");
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert_refuses(&mut cluster.members[0], &["log"]);
}

#[test]
fn another_clusters_data_is_refused() {
    let cluster = stopped_after(1);
    let (client, peer) = (free_port(), free_port());
    let mut intruder = cluster.intruder(|flag| match flag.split_once('=') {
        Some((name @ ("--listen-client-urls" | "--advertise-client-urls"), _)) => {
            format!("{name}=http://127.0.0.1:{client}")
        }
        Some((name @ ("--listen-peer-urls" | "--initial-advertise-peer-urls"), _)) => {
            format!("{name}=http://127.0.0.1:{peer}")
        }
        Some(("--name", _)) => "--name=intruder".into(),
        Some(("--initial-cluster", _)) => format!("--initial-cluster=intruder=http://127.0.0.1:{peer}"),
        _ => flag.to_owned(),
    });
    assert_refuses(&mut intruder, &["is another member's: that of m0", "cluster"]);
}

#[test]
fn a_second_process_on_the_same_data_is_refused() {
    let cluster = Cluster::start(1, &[]);
    let (client, peer) = (free_port(), free_port());
    let mut intruder = cluster.intruder(|flag| match flag.split_once('=') {
        // The same member, so that only the directory is in its way.
        Some(("--listen-client-urls", _)) => format!("--listen-client-urls=http://127.0.0.1:{client}"),
        Some(("--listen-peer-urls", _)) => format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        _ => flag.to_owned(),
    });
    assert_refuses(&mut intruder, &["another process uses this data directory"]);
    run(async |env| {
        let mut client = cluster.members[0].connect(&env).await;
        client.put(&env, "still", "served").await;
    });
}

#[test]
fn a_port_in_use_is_refused() {
    let cluster = Cluster::start(1, &[]);
    let elsewhere = cluster.members[0].data_dir.with_extension("elsewhere");
    let mut intruder = cluster.intruder(|flag| match flag.split_once('=') {
        Some(("--data-dir", _)) => format!("--data-dir={}", elsewhere.display()),
        _ => flag.to_owned(),
    });
    assert_refuses(&mut intruder, &["ddress", "in use"]);
}

/// Puts until one is not acknowledged: how many were.
async fn fill(env: &Env, member: &Member) -> usize {
    let mut client = member.connect(env).await;
    for n in 0..200 {
        if client.try_put(env, &format!("key-{n}"), &value(n)).await.is_err() {
            return n;
        }
    }
    panic!("the disk does not get full");
}

/// A mebibyte that tells its number.
fn value(n: usize) -> String {
    format!("{n:08}").repeat(1 << 17)
}

/// Fills the disk of the log or of the store, expects the member to stop with a reason, and that with more room it
/// has everything that it acknowledged.
fn full_disk(mebibytes: u32, directory_flag: &str, words: &[&str]) {
    let mut cluster = Cluster::new(1, &[]);
    let member = &mut cluster.members[0];
    let directory = member.data_dir.with_extension("small");
    let Some(disk) = SmallDisk::mount(&directory, mebibytes) else {
        return;
    };
    member.launcher = disk.launcher();
    let log = member.data_dir.with_extension("log-files");
    member.flags.push(format!("--wal-dir={}", log.display()));
    member
        .flags
        .push(format!("{directory_flag}={}", directory.join("in").display()));
    member.start();
    let acknowledged = run(async |env| fill(&env, member).await);
    assert!(acknowledged > 0);
    let (code, log) = member.end();
    assert_fatal((code, &log), words);
    // Without more room it may start or not, but must not lose what it has.
    member.spawn();
    wait_for("a start or a reason", || {
        let log = member.log();
        (log.contains(READY) || log.contains("\"level\":\"fatal\"")).then_some(())
    });
    member.kill();
    disk.resize(mebibytes * 4);
    member.start();
    run(async |env| {
        let mut client = member.connect(&env).await;
        for n in 0..acknowledged {
            assert_eq!(
                client.get(&env, &format!("key-{n}")).await,
                Some(value(n)),
                "key-{n}"
            );
        }
        client.put(&env, "more", "x").await;
    });
}

#[test]
fn a_full_disk_under_the_log_is_named_and_loses_nothing() {
    full_disk(
        100,
        "--wal-dir",
        &["could not make a log segment", "disk is full"],
    );
}

#[test]
fn a_full_disk_under_the_store_is_named_and_loses_nothing() {
    full_disk(20, "--data-dir", &["disk is full"]);
}
