//! What the log does when nothing crashes, and what it says when something is damaged.

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::segment::segment_number;
use super::*;
use crate::storage::fake_disk::{self, FakeDisk};

const SEGMENT: u64 = 4096;

pub(super) fn options() -> WalOptions {
    WalOptions {
        segment_bytes: SEGMENT,
        cache_bytes: 200,
        sync: true,
        identity: *b"one member's own",
    }
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 5, index }
}

pub(super) fn record(term: u64, index: u64, length: usize) -> LogRecord {
    LogRecord {
        term,
        node: 5,
        index,
        payload: Bytes::from(format!("{term}/{index}/").repeat(length)),
    }
}

fn directory() -> &'static Path {
    Path::new("/data/wal")
}

async fn open(disk: &FakeDisk) -> Result<Wal, Broken> {
    start(&fake_disk::env(disk), directory(), options()).await
}

pub(super) async fn start(env: &Env, directory: &Path, options: WalOptions) -> Result<Wal, Broken> {
    Ok(Wal::recover(env, directory, options).await?.start())
}

async fn append(wal: &Wal, term: u64, indices: std::ops::Range<u64>) {
    for index in indices {
        wal.append(vec![record(term, index, 20)]).await.unwrap();
    }
}

async fn all(wal: &Wal) -> Vec<LogRecord> {
    wal.read(0, u64::MAX, None).await.unwrap()
}

fn records(term: u64, indices: std::ops::Range<u64>) -> Vec<LogRecord> {
    indices.map(|index| record(term, index, 20)).collect()
}

/// The segment files, oldest first.
fn segments(disk: &FakeDisk) -> Vec<PathBuf> {
    let named = |path: &PathBuf| segment_number(path.file_name().unwrap().to_str().unwrap()).is_some();
    disk.paths().into_iter().filter(named).collect()
}

/// A log of 60 entries over several segments.
async fn sample() -> FakeDisk {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    wal.save_vote(Bytes::from_static(b"term 1")).await.unwrap();
    append(&wal, 1, 0..60).await;
    wal.close().await;
    assert!(segments(&disk).len() > 4);
    disk
}

async fn refusal(disk: &FakeDisk) -> String {
    match open(disk).await {
        Ok(_) => panic!("a damaged log was opened"),
        Err(broken) => broken.to_string(),
    }
}

#[tokio::test(flavor = "local")]
async fn what_was_appended_is_read_at_once_and_after_a_restart() {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    assert_eq!(wal.state(), WalState::default());
    let first = wal.append(records(1, 0..3));
    let second = wal.append(records(1, 3..5));
    assert_eq!(all(&wal).await, records(1, 0..5));
    second.await.unwrap();
    first.await.unwrap();
    wal.save_committed(id(1, 3));
    wal.save_vote(Bytes::from_static(b"me")).await.unwrap();
    let state = WalState {
        vote: Some(Bytes::from_static(b"me")),
        committed: Some(id(1, 3)),
        purged: None,
        last: Some(id(1, 4)),
    };
    assert_eq!(wal.state(), state);
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(wal.state(), state);
    assert_eq!(all(&wal).await, records(1, 0..5));
}

#[tokio::test(flavor = "local")]
async fn a_log_over_many_segments_is_read_from_disk_and_memory() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(wal.state().vote.as_deref(), Some(&b"term 1"[..]));
    assert_eq!(all(&wal).await, records(1, 0..60));
    append(&wal, 2, 60..70).await;
    assert_eq!(
        wal.read(55, 65, None).await.unwrap(),
        [records(1, 55..60), records(2, 60..65)].concat()
    );
    assert_eq!(wal.read(3, 9, Some(300)).await.unwrap().len(), 3);
    assert_eq!(wal.read(70, 90, None).await.unwrap(), vec![]);
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, [records(1, 0..60), records(2, 60..70)].concat());
}

#[tokio::test(flavor = "local")]
async fn a_truncated_suffix_is_replaced() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    let truncated = wal.truncate_after(Some(id(1, 9)));
    let appended = wal.append(records(2, 10..20));
    truncated.await.unwrap();
    appended.await.unwrap();
    let expected = [records(1, 0..10), records(2, 10..20)].concat();
    assert_eq!(all(&wal).await, expected);
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, expected);
    wal.truncate_after(None).await.unwrap();
    append(&wal, 3, 0..2).await;
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, records(3, 0..2));
}

#[tokio::test(flavor = "local")]
async fn what_is_held_is_durable_when_that_is_said() {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    let queued = wal.append(records(1, 0..3));
    assert!(wal.holds(id(1, 2)).await.unwrap());
    assert!(!wal.holds(id(2, 2)).await.unwrap());
    assert!(!wal.holds(id(1, 3)).await.unwrap());
    let look = wal.witness().look(0);
    assert_eq!(look.durable_end, 3);
    queued.await.unwrap();
    disk.fail_syncs_after(0);
    let queued = wal.append(records(1, 3..4));
    assert!(wal.holds(id(1, 3)).await.is_err());
    assert!(queued.await.is_err());
}

#[tokio::test(flavor = "local")]
async fn holes_and_impossible_truncations_are_refused() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    assert!(wal.append(records(1, 61..62)).await.is_err());
    assert!(wal.append(records(1, 59..60)).await.is_err());
    assert!(wal.truncate_after(Some(id(2, 9))).await.is_err());
    wal.purge(id(1, 20)).await.unwrap();
    assert!(wal.truncate_after(Some(id(1, 19))).await.is_err());
    assert!(wal.truncate_after(None).await.is_err());
    wal.truncate_after(Some(id(1, 20))).await.unwrap();
    assert_eq!(wal.state().last, Some(id(1, 20)));
    // A refusal breaks nothing.
    append(&wal, 2, 21..22).await;
}

#[tokio::test(flavor = "local")]
async fn a_purge_drops_whole_segments_and_keeps_the_vote() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    let before = segments(&disk);
    wal.purge(id(1, 40)).await.unwrap();
    append(&wal, 1, 60..70).await;
    let after = segments(&disk);
    assert!(
        !after.contains(&before[0]) && !after.contains(&before[3]),
        "{after:?}"
    );
    assert_eq!(all(&wal).await, records(1, 41..70));
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    let state = wal.state();
    assert_eq!((state.purged, state.last), (Some(id(1, 40)), Some(id(1, 69))));
    assert_eq!(state.vote.as_deref(), Some(&b"term 1"[..]));
    assert_eq!(all(&wal).await, records(1, 41..70));
}

#[tokio::test(flavor = "local")]
async fn segments_are_recycled_and_their_old_groups_are_not_taken_for_new() {
    let disk = FakeDisk::default();
    let mut wal = open(&disk).await.unwrap();
    let mut used = Vec::new();
    for round in 0..12 {
        append(&wal, 1, round * 20..(round + 1) * 20).await;
        wal.purge(id(1, round * 20 + 14)).await.unwrap();
        wal.close().await;
        used.push(disk.used());
        wal = open(&disk).await.unwrap();
        assert_eq!(all(&wal).await, records(1, round * 20 + 15..(round + 1) * 20));
    }
    // The same few files all the time.
    assert!(
        used.iter().all(|bytes| *bytes <= 9 * SEGMENT as usize),
        "{used:?}"
    );
}

#[tokio::test(flavor = "local")]
async fn a_purge_beyond_the_end_makes_the_log_go_on_there() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    wal.purge(id(3, 500)).await.unwrap();
    assert_eq!(wal.state().last, Some(id(3, 500)));
    append(&wal, 3, 501..504).await;
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(wal.state().purged, Some(id(3, 500)));
    assert_eq!(all(&wal).await, records(3, 501..504));
}

#[tokio::test(flavor = "local")]
async fn a_purge_at_an_entry_of_another_term_drops_the_conflicting_rest() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    wal.purge(id(2, 30)).await.unwrap();
    assert_eq!(all(&wal).await, vec![]);
    append(&wal, 2, 31..33).await;
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(wal.state().purged, Some(id(2, 30)));
    assert_eq!(all(&wal).await, records(2, 31..33));
}

#[tokio::test(flavor = "local")]
async fn an_entry_larger_than_a_segment_gets_a_larger_one() {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    let large = |index| record(1, index, 5000);
    for index in 0..3 {
        wal.append(vec![large(2 * index), record(1, 2 * index + 1, 1)])
            .await
            .unwrap();
    }
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    let found = all(&wal).await;
    assert_eq!(found.len(), 6);
    assert_eq!(found[4], large(4));
    wal.purge(id(1, 5)).await.unwrap();
    append(&wal, 1, 6..9).await;
    wal.close().await;
    assert_eq!(all(&open(&disk).await.unwrap()).await, records(1, 6..9));
}

#[tokio::test(flavor = "local")]
async fn a_flipped_byte_in_the_middle_is_refused_with_file_and_offset() {
    let disk = sample().await;
    let victim = segments(&disk)[1].clone();
    disk.damage(&victim, |bytes| bytes[1024 + 100] ^= 1);
    let text = refusal(&disk).await;
    assert!(
        text.contains("0000000000000002.log is damaged at offset 1024"),
        "{text}"
    );
    assert!(text.contains("new member"), "{text}");
}

#[tokio::test(flavor = "local")]
async fn every_flipped_byte_before_the_last_group_is_refused() {
    let disk = sample().await;
    let files = segments(&disk);
    for file in &files[..files.len() - 2] {
        // Up to here: groups. The padding behind a group's records is covered by nothing and means nothing.
        for at in (0..SEGMENT as usize).filter(|at| at % 512 < 52).step_by(13) {
            let damage = |bytes: &mut Vec<u8>| bytes[at] ^= 0x40;
            let used = std::cell::Cell::new(true);
            disk.damage(file, |bytes| {
                used.set(bytes[at / 512 * 512..][..512].iter().any(|byte| *byte != 0))
            });
            disk.damage(file, damage);
            if used.get() {
                let text = refusal(&disk).await;
                assert!(text.contains("is damaged at offset"), "{at}: {text}");
            }
            disk.damage(file, damage);
        }
    }
    open(&disk).await.unwrap();
}

#[tokio::test(flavor = "local")]
async fn a_damaged_last_group_is_a_torn_tail() {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    append(&wal, 1, 0..3).await;
    wal.close().await;
    let file = segments(&disk)[0].clone();
    disk.damage(&file, |bytes| bytes[512 * 3 + 90] ^= 1);
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, records(1, 0..2));
    append(&wal, 2, 2..5).await;
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, [records(1, 0..2), records(2, 2..5)].concat());
}

#[tokio::test(flavor = "local")]
async fn a_truncated_segment_is_refused_by_name() {
    let disk = sample().await;
    let victim = segments(&disk)[2].clone();
    disk.damage(&victim, |bytes| bytes.truncate(1700));
    let text = refusal(&disk).await;
    assert!(
        text.contains("0000000000000003.log is truncated: it has 1700 bytes instead of 4096"),
        "{text}"
    );
}

#[tokio::test(flavor = "local")]
async fn a_missing_segment_is_refused_by_name() {
    let count = segments(&sample().await).len();
    for victim in 0..count - 1 {
        let disk = sample().await;
        let path = segments(&disk)[victim].clone();
        disk.lose(&path);
        let text = refusal(&disk).await;
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(text.contains(&format!("{name} is missing")), "{victim}: {text}");
    }
}

#[tokio::test(flavor = "local")]
async fn a_left_over_of_a_purge_is_put_away() {
    let disk = sample().await;
    let old = segments(&disk)[0].clone();
    let mut content = Vec::new();
    disk.damage(&old, |bytes| content = bytes.clone());
    let wal = open(&disk).await.unwrap();
    wal.purge(id(1, 40)).await.unwrap();
    append(&wal, 1, 60..61).await;
    wal.close().await;
    assert!(!segments(&disk).contains(&old));
    // The removal was lost, those of its successors were not.
    let env = fake_disk::env(&disk);
    let file = env.disk().create(&old).await.unwrap();
    file.write_and_sync(0, content.into()).await.unwrap();
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, records(1, 41..61));
    assert!(!segments(&disk).contains(&old));
}

#[tokio::test(flavor = "local")]
async fn another_members_log_is_refused() {
    let disk = sample().await;
    let env = fake_disk::env(&disk);
    let mut foreign = options();
    foreign.identity = *b"another member's";
    let text = match start(&env, directory(), foreign).await {
        Ok(_) => panic!("opened"),
        Err(broken) => broken.to_string(),
    };
    assert!(text.contains("/data/wal/0000000000000001.log"), "{text}");
    assert!(text.contains("6f6e65206d656d6265722773206f776e"), "{text}");
    assert!(text.contains("616e6f74686572206d656d6265722773"), "{text}");
}

#[tokio::test(flavor = "local")]
async fn a_failed_sync_poisons_the_log() {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    append(&wal, 1, 0..2).await;
    tokio::task::yield_now().await;
    disk.fail_syncs_after(0);
    let first = wal.append(records(1, 2..3)).await.unwrap_err();
    assert!(
        first
            .to_string()
            .contains("could not write log segment /data/wal/0000000000000001.log"),
        "{first}"
    );
    // The disk would work again: nobody asks it.
    disk.fail_syncs_after(u64::MAX);
    assert_eq!(wal.append(records(1, 3..4)).await.unwrap_err(), first);
    assert_eq!(wal.save_vote(Bytes::new()).await.unwrap_err(), first);
    assert_eq!(wal.read(0, 1, None).await.unwrap_err(), first);
    wal.close().await;
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, records(1, 0..2));
}

#[tokio::test(flavor = "local")]
async fn a_full_disk_is_named_and_loses_nothing() {
    let disk = FakeDisk::default();
    disk.set_capacity(Some(3 * SEGMENT as usize));
    let wal = open(&disk).await.unwrap();
    let mut index = 0;
    let broken = loop {
        match wal.append(records(1, index..index + 1)).await {
            Ok(()) => index += 1,
            Err(broken) => break broken,
        }
    };
    assert!(broken.to_string().contains("the disk is full"), "{broken}");
    assert!(index > 10);
    wal.close().await;
    disk.set_capacity(None);
    let wal = open(&disk).await.unwrap();
    assert_eq!(all(&wal).await, records(1, 0..index));
    append(&wal, 1, index..index + 20).await;
}

#[tokio::test(flavor = "local")]
async fn a_damaged_entry_is_noticed_when_it_is_read() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    let victim = segments(&disk)[1].clone();
    disk.damage(&victim, |bytes| bytes[512 + 180] ^= 1);
    let broken = wal.read(0, 60, None).await.unwrap_err();
    assert!(
        broken
            .to_string()
            .contains("0000000000000002.log is damaged at offset"),
        "{broken}"
    );
}

#[tokio::test(flavor = "local")]
async fn the_log_works_on_the_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("member/wal");
    let env = fake_disk::real_env();
    for round in 0..3 {
        let wal = start(&env, &path, options()).await.unwrap();
        assert_eq!(all(&wal).await, records(1, 0..round * 30));
        append(&wal, 1, round * 30..round * 30 + 30).await;
        wal.close().await;
    }
}

#[tokio::test(flavor = "local")]
async fn a_flipped_byte_in_the_newest_segment_is_refused_if_a_group_follows() {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    append(&wal, 1, 0..4).await;
    wal.close().await;
    let file = segments(&disk)[0].clone();
    for group in 0..3 {
        let damage = |bytes: &mut Vec<u8>| bytes[512 + 512 * group + 70] ^= 1;
        disk.damage(&file, damage);
        let text = refusal(&disk).await;
        let offset = 512 + 512 * group;
        assert!(
            text.contains(&format!("0000000000000001.log is damaged at offset {offset}:")),
            "{text}"
        );
        assert!(
            text.contains(&format!("a whole group follows at offset {}", offset + 512)),
            "{text}"
        );
        disk.damage(&file, damage);
    }
    assert_eq!(all(&open(&disk).await.unwrap()).await, records(1, 0..4));
}

#[tokio::test(flavor = "local")]
async fn a_purged_segment_is_not_rewritten_under_a_reader() {
    let disk = sample().await;
    let wal = open(&disk).await.unwrap();
    let (stored, _, held) = wal.plan(0, 2, None).unwrap();
    wal.purge(id(1, 59)).await.unwrap();
    // Long enough to need every spare segment.
    append(&wal, 1, 60..120).await;
    let mut entries = Vec::new();
    let run = &stored[..run_len(&stored)];
    read_run(&held[&run[0].place.segment], run, &mut entries)
        .await
        .unwrap();
    assert_eq!(entries, records(1, 0..run.len() as u64));
}

#[tokio::test(flavor = "local")]
async fn a_large_append_is_split_into_groups_and_stays_whole() {
    let disk = FakeDisk::default();
    let wal = open(&disk).await.unwrap();
    wal.append(records(1, 0..100)).await.unwrap();
    assert!(segments(&disk).len() > 2);
    wal.close().await;
    assert_eq!(all(&open(&disk).await.unwrap()).await, records(1, 0..100));
}

#[tokio::test(flavor = "local")]
async fn without_sync_no_append_waits_for_the_disk() {
    let disk = FakeDisk::default();
    let options = WalOptions {
        sync: false,
        ..options()
    };
    let env = fake_disk::env(&disk);
    let wal = start(&env, directory(), options.clone()).await.unwrap();
    wal.append(records(1, 0..3)).await.unwrap();
    wal.close().await;
    disk.restart();
    assert_eq!(
        all(&start(&env, directory(), options).await.unwrap()).await,
        records(1, 0..3)
    );
    disk.power_fail(1);
    assert_eq!(
        all(&open(&disk).await.unwrap()).await,
        vec![],
        "that is what it costs"
    );
}

#[tokio::test(flavor = "local")]
async fn groups_are_measured() {
    let disk = FakeDisk::default();
    let env = fake_disk::env(&disk);
    let wal = start(&env, directory(), options()).await.unwrap();
    assert_eq!(env.metrics().log.sync.count(), 0, "opening writes no group");
    append(&wal, 1, 0..10).await;
    let log = &env.metrics().log;
    assert_eq!((log.sync.count(), log.write.count()), (10, 10));
    assert_eq!(log.sync.sum(), 10.0 * fake_disk::SYNC_TIME.as_secs_f64());
    let payloads: usize = (0..10).map(|index| record(1, index, 20).payload.len()).sum();
    assert!(log.written_bytes.get() > payloads as u64);
    wal.close().await;

    let unsynced = WalOptions {
        sync: false,
        ..options()
    };
    let env = env.counting_anew();
    let wal = start(&env, directory(), unsynced).await.unwrap();
    append(&wal, 1, 10..12).await;
    let log = &env.metrics().log;
    assert_eq!((log.sync.count(), log.write.count()), (0, 2));
}
