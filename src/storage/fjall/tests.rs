use super::*;
use crate::storage::fake_disk;

fn key(main: i64) -> [u8; 16] {
    RevisionAt::new(main, 0).to_bytes()
}

async fn filled(directory: &Path) -> FjallEngine {
    let engine = FjallEngine::open(&fake_disk::real_env(), directory)
        .await
        .unwrap();
    for main in 1..=100 {
        let mut batch = Batch::default();
        batch.put(Space::Records, key(main).to_vec(), vec![7; 100]);
        engine.write(batch).unwrap();
    }
    engine
}

fn count(read: &dyn Read) -> usize {
    let mut count = 0;
    let visit = &mut |_: &[u8], _| {
        count += 1;
        Visit::Continue
    };
    read.scan(Space::Records, &[], None, visit).unwrap();
    count
}

fn discarded() -> Vec<RevisionAt> {
    (1..=50).map(|main| RevisionAt::new(main, 0)).collect()
}

#[tokio::test]
async fn the_filter_removes_what_is_durably_dead_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let engine = filled(directory.path()).await;
    let before = engine.view();
    engine.discard(discarded());
    engine.shared.rewrite().unwrap();
    assert_eq!(count(&engine), 100, "the discard was not synced");
    engine.sync().await.unwrap();
    engine.shared.rewrite().unwrap();
    assert_eq!(count(&engine), 50);
    assert_eq!(engine.get(Space::Records, &key(50)).unwrap(), None);
    assert!(engine.get(Space::Records, &key(51)).unwrap().is_some());
    assert_eq!(count(&*before), 100, "the view was taken before the discard");
    assert!(engine.shared.graveyard.lock().dead.is_empty());
    drop(before);
    drop(engine);
    let engine = FjallEngine::open(&fake_disk::real_env(), directory.path())
        .await
        .unwrap();
    assert_eq!(count(&engine), 50);
}

#[tokio::test]
async fn closing_ends_a_rewrite_without_effect() {
    let directory = tempfile::tempdir().unwrap();
    let engine = filled(directory.path()).await;
    engine.discard(discarded());
    engine.sync().await.unwrap();
    engine.shared.graveyard.closing.store(true, Ordering::Relaxed);
    engine.shared.rewrite().unwrap_err();
    drop(engine);
    let engine = FjallEngine::open(&fake_disk::real_env(), directory.path())
        .await
        .unwrap();
    assert_eq!(count(&engine), 100);
}

#[tokio::test]
async fn a_flipped_byte_in_a_table_is_an_error_not_a_miss() {
    let directory = tempfile::tempdir().unwrap();
    let engine = filled(directory.path()).await;
    engine.shared.rewrite().unwrap();
    let tables = engine.shared.spaces.get(Space::Records).path().join("tables");
    drop(engine);
    for entry in std::fs::read_dir(tables).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[300] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let Ok(engine) = FjallEngine::open(&fake_disk::real_env(), directory.path()).await else {
        return;
    };
    let mut seen = 0;
    let visit = &mut |_: &[u8], _| {
        seen += 1;
        Visit::Continue
    };
    let result = engine.scan(Space::Records, &[], None, visit);
    assert!(result.is_err(), "{seen} rows were read");
}

/// The directory of a store with a hundred batches.
async fn store(is_synced: bool) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let engine = filled(directory.path()).await;
    if is_synced {
        engine.sync().await.unwrap();
    }
    directory
}

#[tokio::test]
async fn a_store_that_was_never_synced_is_begun_anew_if_it_cannot_be_opened() {
    for gone in ["version", "0.jnl", "keyspaces/1/current", "keyspaces/4/current"] {
        let directory = store(false).await;
        std::fs::remove_file(directory.path().join(gone)).unwrap();
        let opened = FjallEngine::open(&fake_disk::real_env(), directory.path()).await;
        let engine = opened.unwrap_or_else(|broken| panic!("{gone}: {broken}"));
        assert_eq!(count(&engine), 0, "{gone}");
        drop(engine);
        let engine = filled(directory.path()).await;
        engine.sync().await.unwrap();
        assert_eq!(count(&engine), 100, "{gone}");
    }
}

#[tokio::test]
async fn a_file_of_a_synced_store_that_is_gone_is_noticed() {
    for gone in ["version", "0.jnl", "keyspaces/1/current", "keyspaces/4/current"] {
        let directory = store(true).await;
        std::fs::remove_file(directory.path().join(gone)).unwrap();
        let opened = FjallEngine::open(&fake_disk::real_env(), directory.path()).await;
        let broken = opened.map(drop).expect_err(gone);
        assert!(
            broken
                .to_string()
                .contains(&directory.path().display().to_string()),
            "{broken}"
        );
    }
}

/// Its journal is gone with what it held, rightly: tables have it.
#[tokio::test]
async fn a_store_without_its_first_journals_opens() {
    let directory = tempfile::tempdir().unwrap();
    let engine = filled(directory.path()).await;
    engine.sync().await.unwrap();
    for keyspace in engine.shared.keyspaces() {
        engine.shared.rotate(keyspace).unwrap();
    }
    while engine
        .shared
        .keyspaces()
        .any(|keyspace| keyspace.tree.sealed_memtable_count() > 0)
    {
        tokio::task::yield_now().await;
    }
    drop(engine);
    // As if all had been written before the journal was begun.
    let path = directory.path();
    std::fs::remove_file(path.join("0.jnl")).unwrap();
    std::fs::write(path.join("1.jnl"), [0; 4096]).unwrap();
    let engine = FjallEngine::open(&fake_disk::real_env(), path).await.unwrap();
    assert_eq!(count(&engine), 100);
}

/// Neither counted its batches nor recorded its syncs.
#[tokio::test]
async fn a_store_of_an_older_version_is_taken_over() {
    let directory = store(true).await;
    let path = directory.path();
    std::fs::remove_file(path.join("synced")).unwrap();
    let env = fake_disk::real_env();
    for _ in 0..3 {
        let engine = FjallEngine::open(&env, path).await.unwrap();
        assert_eq!(count(&engine), 100);
        engine.sync().await.unwrap();
    }
    std::fs::remove_file(path.join("0.jnl")).unwrap();
    FjallEngine::open(&env, path).await.map(drop).unwrap_err();
}
