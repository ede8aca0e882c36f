//! What every disk and every engine has to do: one suite for production's and the simulator's.
//!
//! Each check panics with what is wrong.

pub mod power;

use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::EngineKind;
use super::engine::Engine;
use super::store::Store;
use crate::base::RevisionAt;
use crate::base::kv::{Batch, Read, Space, Visit};
use crate::runtime::{Disk, Env, File};

/// Checks the environment's disk in `root`, an empty directory or none.
pub async fn disk(env: &Env, root: &Path) {
    let disk = env.disk();
    directories(&*disk, root).await;
    files(&*disk, root).await;
    renames(&*disk, root).await;
    absent(&*disk, root).await;
}

async fn directories(disk: &dyn Disk, root: &Path) {
    let inner = root.join("b/inner");
    disk.create_dir_all(&inner).await.expect("creates parents");
    disk.create_dir_all(&inner)
        .await
        .expect("is content with what exists");
    for name in ["c", "a"] {
        disk.create(&root.join(name)).await.expect("creates");
    }
    disk.sync_dir(root).await.expect("syncs a directory");
    assert_eq!(
        disk.read_dir(root).await.expect("lists"),
        ["a", "b", "c"],
        "sorted names"
    );
    disk.create(&inner.join("file")).await.expect("creates");
    disk.remove_dir_all(&root.join("b"))
        .await
        .expect("removes with content");
    assert_eq!(disk.read_dir(root).await.expect("lists"), ["a", "c"]);
    for name in ["a", "c"] {
        disk.remove_file(&root.join(name)).await.expect("removes");
    }
    assert!(disk.read_dir(root).await.expect("lists").is_empty());
}

async fn read(file: &dyn File, offset: u64, length: usize) -> Bytes {
    file.read_at(offset, length).await.expect("reads")
}

async fn files(disk: &dyn Disk, root: &Path) {
    let path = root.join("file");
    let file = disk.create(&path).await.expect("creates");
    assert_eq!(file.len().await.expect("has a length"), 0);
    file.write_at(3, Bytes::from_static(b"defg"))
        .await
        .expect("writes behind the end");
    assert_eq!(file.len().await.expect("has a length"), 7);
    assert_eq!(
        &read(&*file, 0, 100).await[..],
        b"\0\0\0defg",
        "zeros in the gap, a short read at the end"
    );
    file.write_and_sync(0, Bytes::from_static(b"abc"))
        .await
        .expect("writes and syncs");
    assert_eq!(&read(&*file, 2, 3).await[..], b"cde");
    assert!(read(&*file, 7, 1).await.is_empty(), "nothing behind the end");
    assert!(
        read(&*file, 1000, 1).await.is_empty(),
        "nothing far behind the end"
    );
    file.set_len(3).await.expect("cuts");
    file.set_len(2000).await.expect("extends");
    let bytes = read(&*file, 0, 4000).await;
    assert_eq!(bytes.len(), 2000);
    assert!(
        bytes.starts_with(b"abc") && bytes[3..].iter().all(|byte| *byte == 0),
        "extended with zeros"
    );
    file.sync().await.expect("syncs");
    let again = disk.open(&path).await.expect("opens");
    file.write_at(1, Bytes::from_static(b"B")).await.expect("writes");
    assert_eq!(
        &read(&*again, 0, 3).await[..],
        b"aBc",
        "one file through two handles"
    );
    let large = Bytes::from(vec![9; 3 * 1024 * 1024]);
    file.write_at(5, large.clone()).await.expect("writes megabytes");
    assert_eq!(read(&*again, 5, large.len()).await, large);
    disk.create(&path).await.expect("creates again");
    assert_eq!(
        again.len().await.expect("has a length"),
        0,
        "an existing file is emptied"
    );
    disk.remove_file(&path).await.expect("removes");
    again
        .write_at(0, Bytes::from_static(b"x"))
        .await
        .expect("an open file outlives its name");
    assert_eq!(&read(&*again, 0, 9).await[..], b"x");
}

async fn renames(disk: &dyn Disk, root: &Path) {
    let (from, to) = (root.join("from"), root.join("to"));
    let new = disk.create(&from).await.expect("creates");
    new.write_at(0, Bytes::from_static(b"new")).await.expect("writes");
    disk.create(&to).await.expect("creates");
    disk.rename(&from, &to).await.expect("renames over a file");
    let found = disk.open(&to).await.expect("opens");
    assert_eq!(&read(&*found, 0, 9).await[..], b"new");
    new.write_at(0, Bytes::from_static(b"now"))
        .await
        .expect("writes under the new name");
    assert_eq!(&read(&*found, 0, 9).await[..], b"now");
    assert_eq!(disk.read_dir(root).await.expect("lists"), ["to"]);
    disk.remove_file(&to).await.expect("removes");
}

async fn absent(disk: &dyn Disk, root: &Path) {
    let path = root.join("absent/file");
    let kinds = [
        disk.open(&path).await.err(),
        disk.create(&path).await.err(),
        disk.rename(&path, root).await.err(),
        disk.remove_file(&path).await.err(),
        disk.remove_dir_all(&path).await.err(),
        disk.read_dir(&path).await.err(),
    ];
    for (at, error) in kinds.into_iter().enumerate() {
        let kind = error.map(|error| error.kind());
        assert_eq!(
            kind,
            Some(io::ErrorKind::NotFound),
            "operation {at} on what is not there"
        );
    }
}

/// Checks an engine in `root`, an empty directory or none.
pub async fn engine(env: &Env, root: &Path, kind: EngineKind) {
    let store = Store::open(env, root, kind).await.expect("opens");
    let engine = store.engine();
    batches(&*engine);
    scans(&*engine);
    views(&*engine).await;
    let before = rows(&*engine);
    engine.sync().await.expect("syncs");
    drop(engine);
    drop(store);
    let store = Store::open(env, root, kind).await.expect("opens again");
    assert_eq!(rows(&*store.engine()), before, "after a restart");
    discards(&*store.engine()).await;
    installs(env, root, kind, store).await;
}

fn put(batch: &mut Batch, space: Space, key: &str, value: &str) {
    batch.put(space, key.to_owned(), value.to_owned());
}

fn text(read: &dyn Read, space: Space, key: &str) -> Option<String> {
    let value = read.get(space, key.as_bytes()).expect("reads")?;
    Some(String::from_utf8_lossy(&value).into_owned())
}

/// Every row of every space.
fn rows(read: &dyn Read) -> Vec<(Space, Bytes, Bytes)> {
    let mut rows = Vec::new();
    for space in Space::ALL {
        let visit = &mut |key: &[u8], value| {
            rows.push((space, Bytes::copy_from_slice(key), value));
            Visit::Continue
        };
        read.scan(space, &[], None, visit).expect("scans");
    }
    rows
}

fn batches(engine: &dyn Engine) {
    assert!(rows(engine).is_empty(), "a new engine is empty");
    let mut batch = Batch::default();
    put(&mut batch, Space::Records, "a", "record");
    put(&mut batch, Space::Meta, "a", "old");
    put(&mut batch, Space::Meta, "a", "meta");
    put(&mut batch, Space::Leases, "gone", "x");
    batch.delete(Space::Leases, &b"gone"[..]);
    put(&mut batch, Space::Meta, "empty", "");
    engine.write(batch).expect("writes");
    assert_eq!(
        text(engine, Space::Records, "a").as_deref(),
        Some("record"),
        "spaces are apart"
    );
    assert_eq!(
        text(engine, Space::Meta, "a").as_deref(),
        Some("meta"),
        "the later change wins"
    );
    assert_eq!(
        text(engine, Space::Leases, "gone"),
        None,
        "deleted in the same batch"
    );
    assert_eq!(
        text(engine, Space::Meta, "empty").as_deref(),
        Some(""),
        "an empty value is a value"
    );
    engine.write(Batch::default()).expect("an empty batch is fine");
    let mut batch = Batch::default();
    batch.delete(Space::Records, &b"a"[..]);
    batch.delete(Space::Records, &b"never there"[..]);
    engine.write(batch).expect("writes");
    assert_eq!(text(engine, Space::Records, "a"), None);
}

fn scans(engine: &dyn Engine) {
    let mut batch = Batch::default();
    for key in ["k3", "k1", "k2", "k10", "l"] {
        put(&mut batch, Space::Records, key, key);
    }
    engine.write(batch).expect("writes");
    let scan = |from: &str, to: Option<&str>, limit: usize| {
        let mut keys = Vec::new();
        let visit = &mut |key: &[u8], value: Bytes| {
            assert_eq!(key, &value[..]);
            keys.push(String::from_utf8_lossy(key).into_owned());
            if keys.len() == limit {
                Visit::Stop
            } else {
                Visit::Continue
            }
        };
        engine
            .scan(Space::Records, from.as_bytes(), to.map(str::as_bytes), visit)
            .expect("scans");
        keys
    };
    assert_eq!(scan("", None, 99), ["k1", "k10", "k2", "k3", "l"], "ascending");
    assert_eq!(
        scan("k10", Some("k3"), 99),
        ["k10", "k2"],
        "from included, to excluded"
    );
    assert_eq!(scan("", None, 2), ["k1", "k10"], "stops when told");
    assert!(scan("k3", Some("k3"), 99).is_empty(), "an empty range");
    assert!(scan("l", Some("k"), 99).is_empty(), "a range backwards");
    assert!(scan("m", None, 99).is_empty(), "behind the end");
}

async fn views(engine: &dyn Engine) {
    let (view, before) = (engine.view(), rows(engine));
    let mut batch = Batch::default();
    put(&mut batch, Space::Records, "k1", "changed");
    put(&mut batch, Space::Leases, "new", "new");
    batch.delete(Space::Meta, &b"a"[..]);
    engine.write(batch).expect("writes");
    engine.sync().await.expect("syncs");
    assert_eq!(rows(&*view), before, "a view does not change");
    assert_eq!(text(&*view, Space::Records, "k1").as_deref(), Some("k1"));
    assert_eq!(text(&*view, Space::Leases, "new"), None);
    assert_eq!(text(engine, Space::Records, "k1").as_deref(), Some("changed"));
    let large = "x".repeat(2 * 1024 * 1024);
    let mut batch = Batch::default();
    put(&mut batch, Space::Records, "large", &large);
    engine.write(batch).expect("writes megabytes");
    assert_eq!(text(engine, Space::Records, "large"), Some(large));
}

async fn discards(engine: &dyn Engine) {
    let revisions: Vec<_> = (1..=10).map(|main| RevisionAt::new(main, 0)).collect();
    let mut batch = Batch::default();
    for at in &revisions {
        batch.put(Space::Records, at.to_bytes().to_vec(), &b"a revision"[..]);
    }
    engine.write(batch).expect("writes");
    let view = engine.view();
    let (dead, live) = revisions.split_at(6);
    engine.discard(dead.to_vec());
    engine.sync().await.expect("syncs");
    let has =
        |read: &dyn Read, at: &RevisionAt| read.get(Space::Records, &at.to_bytes()).expect("reads").is_some();
    assert!(
        live.iter().all(|at| has(engine, at)),
        "what was not discarded stays"
    );
    assert!(
        revisions.iter().all(|at| has(&*view, at)),
        "an older view keeps what is discarded"
    );
}

async fn installs(env: &Env, root: &Path, kind: EngineKind, store: Store) {
    let old = store.engine();
    let (view, before) = (old.view(), rows(&*old));
    let abandoned = store.begin_install().await.expect("begins");
    let mut batch = Batch::default();
    put(&mut batch, Space::Meta, "abandoned", "x");
    abandoned.write(batch).expect("writes");
    drop(abandoned);
    let install = store.begin_install().await.expect("begins");
    let mut batch = Batch::default();
    put(&mut batch, Space::Meta, "installed", "y");
    install.write(batch).expect("writes");
    assert_eq!(rows(&*store.engine()), before, "nothing counts before the commit");
    let new = install.commit().await.expect("commits");
    let expected = vec![(Space::Meta, Bytes::from("installed"), Bytes::from("y"))];
    assert_eq!(rows(&*new), expected);
    assert!(
        Arc::ptr_eq(&new, &store.engine()),
        "the committed engine is the current one"
    );
    assert_eq!(rows(&*old), before, "who holds the old one still reads it");
    drop(old);
    assert_eq!(rows(&*view), before, "and so does a view of it");
    drop((new, view, store));
    let store = Store::open(env, root, kind).await.expect("opens");
    assert_eq!(rows(&*store.engine()), expected, "after a restart");
    let names = env.disk().read_dir(root).await.expect("lists");
    let engines = names.iter().filter(|name| name.starts_with("engine-"));
    assert_eq!(
        engines.count(),
        1,
        "only the current generation is left: {names:?}"
    );
}
