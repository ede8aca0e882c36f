//! The conformance suite on each disk and engine, and what crashes do to the simulator's engine.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::engine::Engine;
use super::fake_disk::{self, FakeDisk};
use super::store::Store;
use super::{EngineKind, conformance};
use crate::base::kv::{Batch, Read, Space};
use crate::base::{Broken, RevisionAt};

#[tokio::test]
async fn the_file_system_conforms() {
    let root = tempfile::tempdir().unwrap();
    conformance::disk(&fake_disk::real_env(), root.path()).await;
}

#[tokio::test]
async fn the_tests_disk_conforms() {
    conformance::disk(&fake_disk::env(&FakeDisk::default()), Path::new("/root")).await;
}

#[tokio::test]
async fn fjall_conforms() {
    let root = tempfile::tempdir().unwrap();
    conformance::engine(&fake_disk::real_env(), root.path(), EngineKind::Fjall).await;
}

#[tokio::test]
async fn the_journal_conforms() {
    let root = Path::new("/data/store");
    conformance::engine(&fake_disk::env(&FakeDisk::default()), root, EngineKind::Journal).await;
}

#[tokio::test]
async fn the_journal_conforms_on_the_file_system() {
    let root = tempfile::tempdir().unwrap();
    conformance::engine(&fake_disk::real_env(), root.path(), EngineKind::Journal).await;
}

#[tokio::test]
async fn fjall_survives_a_power_loss() {
    let root = tempfile::tempdir().unwrap();
    conformance::power::power_loss(&fake_disk::real_env(), root.path(), EngineKind::Fjall).await;
}

#[tokio::test]
async fn the_journal_survives_a_power_loss() {
    let disk = fake_disk::env(&FakeDisk::default());
    conformance::power::power_loss(&disk, Path::new("/data"), EngineKind::Journal).await;
}

const STORE: &str = "/data/store";

async fn open(disk: &FakeDisk) -> Result<Store, Broken> {
    Store::open(&fake_disk::env(disk), Path::new(STORE), EngineKind::Journal).await
}

async fn refusal(disk: &FakeDisk) -> String {
    match open(disk).await {
        Ok(_) => panic!("a damaged store was opened"),
        Err(broken) => broken.to_string(),
    }
}

/// A batch with this number under a few keys.
fn numbered(number: u64) -> Batch {
    let mut batch = Batch::default();
    let value = number.to_string();
    batch.put(Space::Meta, &b"applied"[..], value.clone());
    batch.put(Space::Leases, (number % 7).to_string(), value.clone());
    batch.put(
        Space::Records,
        RevisionAt::new(number as i64, 0).to_bytes().to_vec(),
        value.repeat(100),
    );
    batch
}

fn write(engine: &dyn Engine, number: u64) {
    engine.write(numbered(number)).unwrap();
}

fn applied(read: &dyn Read) -> u64 {
    let value = read.get(Space::Meta, b"applied").unwrap();
    value.map_or(0, |value| String::from_utf8_lossy(&value).parse().unwrap())
}

/// Panics unless the store is exactly what the first `number` writes left.
fn check(read: &dyn Read, number: u64) {
    let mut records = Vec::new();
    let visit = &mut |key: &[u8], value: bytes::Bytes| {
        records.push((RevisionAt::from_bytes(key).unwrap().main as u64, value));
        crate::base::kv::Visit::Continue
    };
    read.scan(Space::Records, &[], None, visit).unwrap();
    let expected = (1..=number).map(|number| (number, number.to_string().repeat(100).into()));
    assert_eq!(records, expected.collect::<Vec<_>>());
    for slot in 0..7 {
        let newest = (1..=number)
            .rev()
            .find(|number| number % 7 == slot)
            .map(|number| number.to_string().into());
        assert_eq!(
            read.get(Space::Leases, slot.to_string().as_bytes()).unwrap(),
            newest
        );
    }
}

fn journals(disk: &FakeDisk) -> Vec<PathBuf> {
    let journal = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with("journal-")
    };
    disk.paths().into_iter().filter(journal).collect()
}

async fn sample() -> FakeDisk {
    let disk = FakeDisk::default();
    let engine = open(&disk).await.unwrap().engine();
    for number in 1..=10 {
        write(&*engine, number);
        engine.sync().await.unwrap();
    }
    disk
}

#[tokio::test]
async fn a_flipped_byte_in_the_middle_of_a_journal_is_refused_with_file_and_offset() {
    let disk = sample().await;
    disk.damage(&journals(&disk)[0], |bytes| bytes[512 + 40] ^= 1);
    let text = refusal(&disk).await;
    assert!(
        text.contains("/data/store/engine-1/journal-0000000000000001 is damaged at offset 512"),
        "{text}"
    );
}

#[tokio::test]
async fn a_torn_tail_of_a_journal_is_cut() {
    let disk = sample().await;
    let engine = open(&disk).await.unwrap().engine();
    let synced = disk.used();
    write(&*engine, 11);
    while disk.used() == synced {
        tokio::task::yield_now().await;
    }
    drop(engine);
    disk.damage(&journals(&disk)[0], |bytes| bytes.truncate(bytes.len() - 300));
    let engine = open(&disk).await.unwrap().engine();
    check(&*engine, 10);
    write(&*engine, 11);
    engine.sync().await.unwrap();
    check(&*open(&disk).await.unwrap().engine(), 11);
}

#[tokio::test]
async fn a_journal_that_ends_before_what_was_synced_is_refused() {
    let disk = sample().await;
    disk.damage(&journals(&disk)[0], |bytes| bytes.truncate(bytes.len() - 300));
    let text = refusal(&disk).await;
    assert!(
        text.contains("batch 10 cannot be read, and 10 were synced"),
        "{text}"
    );
    disk.lose(&journals(&disk)[0]);
    assert!(refusal(&disk).await.contains("a file of it is gone"));
}

#[tokio::test]
async fn a_damaged_header_or_pointer_is_refused() {
    let disk = sample().await;
    disk.damage(&journals(&disk)[0], |bytes| bytes[9] ^= 1);
    assert!(refusal(&disk).await.contains("damaged at offset 0"));
    disk.damage(&journals(&disk)[0], |bytes| bytes[9] ^= 1);
    let pointer = Path::new(STORE).join("current");
    disk.damage(&pointer, |bytes| bytes[8] ^= 1);
    assert!(
        refusal(&disk)
            .await
            .contains("file /data/store/current is damaged")
    );
    disk.lose(&pointer);
    assert!(refusal(&disk).await.contains("has lost its file current"));
}

#[tokio::test]
async fn a_failed_sync_poisons_the_journal() {
    let disk = sample().await;
    let engine = open(&disk).await.unwrap().engine();
    disk.fail_syncs_after(0);
    write(&*engine, 11);
    let broken = engine.sync().await.unwrap_err();
    disk.fail_syncs_after(u64::MAX);
    assert_eq!(engine.sync().await.unwrap_err(), broken);
    assert_eq!(engine.write(Batch::default()).unwrap_err(), broken);
    check(&*open(&disk).await.unwrap().engine(), 10);
}

#[tokio::test]
async fn a_journal_of_outdated_rows_is_rewritten() {
    let disk = FakeDisk::default();
    let engine = open(&disk).await.unwrap().engine();
    for number in 1..=2000u64 {
        let mut batch = Batch::default();
        batch.put(Space::Meta, (number % 3).to_string(), number.to_string());
        engine.write(batch).unwrap();
        engine.sync().await.unwrap();
    }
    assert!(disk.used() < 100 * 1024, "{}", disk.used());
    assert_ne!(
        journals(&disk),
        [Path::new(STORE).join("engine-1/journal-0000000000000001")]
    );
    let again = open(&disk).await.unwrap().engine();
    assert_eq!(again.get(Space::Meta, b"0").unwrap().unwrap(), "1998");
    assert_eq!(again.get(Space::Meta, b"2").unwrap().unwrap(), "2000");
}

#[derive(Clone, Debug)]
enum Verb {
    Write,
    Sync,
    /// A snapshot this far ahead is installed.
    Install(u64),
}

fn any_verb() -> impl Strategy<Value = Verb> {
    prop_oneof![5 => Just(Verb::Write), 3 => Just(Verb::Sync), 1 => (0..9u64).prop_map(Verb::Install)]
}

/// Runs verbs until the disk crashes; keeps (written, durable) up to date.
async fn live(disk: &FakeDisk, verbs: &[Verb], progress: &std::sync::Mutex<(u64, u64)>) {
    let store = open(disk).await.expect("a crash never makes a store unreadable");
    let mut engine = store.engine();
    let mut number = applied(&*engine);
    for verb in verbs {
        match verb {
            Verb::Write => {
                number += 1;
                write(&*engine, number);
                progress.lock().unwrap().0 = number;
            }
            Verb::Sync => {
                engine.sync().await.unwrap();
                progress.lock().unwrap().1 = number;
            }
            Verb::Install(ahead) => {
                number += ahead;
                let install = store.begin_install().await.unwrap();
                for row in 1..=number {
                    install.write(numbered(row)).unwrap();
                }
                progress.lock().unwrap().0 = number;
                engine = install.commit().await.unwrap();
                progress.lock().unwrap().1 = number;
            }
        }
    }
}

/// Each life is what is done in it, after how many steps of the disk the power fails, and what that leaves.
fn survives(lives: Vec<(Vec<Verb>, u64, u64)>) {
    let disk = FakeDisk::default();
    let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut found = 0;
    for (verbs, steps, power) in lives {
        disk.crash_after(steps);
        let progress = std::sync::Mutex::new((found, found));
        runtime().block_on(async {
            let life = Box::pin(live(&disk, &verbs, &progress));
            let _ = futures_util::future::select(life, Box::pin(disk.crashed())).await;
        });
        disk.power_fail(power);
        let (written, durable) = *progress.lock().unwrap();
        found = runtime().block_on(async {
            let engine = open(&disk)
                .await
                .expect("a crash never makes a store unreadable")
                .engine();
            let found = applied(&*engine);
            check(&*engine, found);
            found
        });
        assert!(
            (durable..=written).contains(&found),
            "{durable} <= {found} <= {written}"
        );
    }
}

#[test]
fn a_generation_whose_removal_was_lost_is_removed_again() {
    let install = |rows| vec![Verb::Install(rows)];
    survives(vec![
        (install(7), 24, 0),
        (vec![], 0, 4_553_696_203_422_723_796),
        (install(0), 16, 0),
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_store_survives_any_crash_as_a_prefix(
        lives in prop::collection::vec((prop::collection::vec(any_verb(), 0..20), 0..60u64, any::<u64>()), 1..4),
    ) {
        survives(lives);
    }
}
