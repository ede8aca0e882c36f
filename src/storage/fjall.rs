//! The engine of production: fjall, a log-structured merge tree. The only file that names it.
//!
//! ```text
//!   write ---> fjall's journal (page cache) + memtable        sync ---> fdatasync of the journal
//!                        |  flush
//!                        v
//!                     tables --- compaction, filter: is this revision dead? ---> tables
//! ```
//!
//! What we rely on, and checked in fjall 3.1's source:
//! * a batch is atomic over keyspaces, and kept in the journal's order;
//! * the journal is synced before a memtable that it covers is flushed, so no table is ever ahead of it;
//! * a block with a bad checksum is an error, not a miss;
//! * a view keeps the tables it was taken on, so a compaction does not change it.
//!
//! Dead revisions go by a compaction filter, not by tombstones, which would be written, read and compacted
//! for each of them. The filter may only destroy what is *durably* dead: were a revision gone when a power
//! failure takes the state back to before the compaction, the replay would miss it and diverge. So
//! `discard` counts from the next completed `sync` on.

use std::collections::BTreeSet;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable, Snapshot};
use futures_util::future::BoxFuture;

use super::engine::{Engine, View};
use super::{failed, fjall_log};
use crate::base::kv::{Batch, Read, Space, Visit};
use crate::base::{Broken, RevisionAt, limits};
use crate::runtime::Env;

/// Values from this size on are not copied out of the block they were read in.
const SHARED_VALUE_BYTES: usize = 16 * 1024;

fn name(space: Space) -> &'static str {
    match space {
        Space::Records => "records",
        Space::Leases => "leases",
        Space::Meta => "meta",
    }
}

/// Turns fjall's error into what the operator reads: "could not read the store /path: why".
fn broken<'a>(what: &'a str, path: &'a Path) -> impl Fn(fjall::Error) -> Broken + use<'a> {
    move |error| {
        let error = match error {
            fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => error,
            fjall::Error::Poisoned | fjall::Error::Unrecoverable => fjall_log::last_error(),
            other => io::Error::other(other.to_string()),
        };
        failed(what, path)(error)
    }
}

/// The keyspaces, in the order of [`Space::ALL`].
#[derive(Clone)]
struct Spaces([Keyspace; 3]);

impl Spaces {
    fn get(&self, space: Space) -> &Keyspace {
        let [records, leases, meta] = &self.0;
        match space {
            Space::Records => records,
            Space::Leases => leases,
            Space::Meta => meta,
        }
    }
}

/// Which revisions are dead, shared with the compaction filter.
#[derive(Default)]
struct Graveyard {
    graves: Mutex<Graves>,
    /// The engine is being closed: compactions end.
    closing: AtomicBool,
}

#[derive(Default)]
struct Graves {
    /// Dead in the state that is visible, but perhaps not in the one that a crash would leave.
    awaiting_sync: Vec<RevisionAt>,
    dead: BTreeSet<RevisionAt>,
}

impl Graveyard {
    fn lock(&self) -> MutexGuard<'_, Graves> {
        self.graves
            .lock()
            .expect("no code that panics runs under this lock")
    }
}

struct FilterFactory(Arc<Graveyard>);

impl Factory for FilterFactory {
    fn name(&self) -> &str {
        "dead revisions"
    }

    fn make_filter(&self, _context: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter(self.0.clone()))
    }
}

struct Filter(Arc<Graveyard>);

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _context: &Context) -> CompactionFilterResult {
        if self.0.closing.load(Ordering::Relaxed) {
            // There is no other way to end a compaction early; nothing of it takes effect.
            return Err(LsmError::Io(std::io::ErrorKind::Interrupted.into()));
        }
        let dead = RevisionAt::from_bytes(item.key()).is_some_and(|at| self.0.lock().dead.remove(&at));
        // A revision is written once, so no older version can come to light: no tombstone is needed.
        Ok(if dead { Verdict::Destroy } else { Verdict::Keep })
    }
}

/// The engine of production.
pub struct FjallEngine {
    env: Env,
    directory: PathBuf,
    database: Database,
    spaces: Spaces,
    graveyard: Arc<Graveyard>,
    /// Held while tables are rewritten in the background.
    rewriting: Arc<Mutex<()>>,
}

impl FjallEngine {
    /// Opens the database in `directory`, or makes one.
    pub async fn open(env: &Env, directory: &Path) -> Result<Self, Broken> {
        let (blocking_env, directory) = (env.clone(), directory.to_owned());
        let opened = env.run_blocking(move || Self::open_blocking(blocking_env, &directory));
        opened.await
    }

    fn open_blocking(env: Env, directory: &Path) -> Result<Self, Broken> {
        fjall_log::listen();
        let cannot = broken("could not open the store", directory);
        let graveyard = Arc::new(Graveyard::default());
        let filter: Arc<dyn Factory> = Arc::new(FilterFactory(graveyard.clone()));
        let assign = move |keyspace: &str| (keyspace == name(Space::Records)).then(|| filter.clone());
        let database = Database::builder(directory)
            // We say when: the raft log is what makes writes durable.
            .manual_journal_persist(true)
            .cache_size(limits::ENGINE_CACHE_BYTES)
            .max_cached_files(Some(limits::ENGINE_FILES_MAX))
            .max_journaling_size(limits::ENGINE_JOURNAL_BYTES)
            .with_compaction_filter_factories(Arc::new(assign))
            .open()
            .map_err(&cannot)?;
        let open = |space| {
            let options = || {
                KeyspaceCreateOptions::default()
                    .manual_journal_persist(true)
                    .max_memtable_size(limits::ENGINE_WRITE_BUFFER_BYTES)
                    .data_block_compression_policy(CompressionPolicy::disabled())
            };
            database.keyspace(name(space), options).map_err(&cannot)
        };
        let spaces = Spaces([open(Space::Records)?, open(Space::Leases)?, open(Space::Meta)?]);
        Ok(FjallEngine {
            env,
            directory: directory.to_owned(),
            database,
            spaces,
            graveyard,
            rewriting: Arc::default(),
        })
    }

    /// Starts to rewrite the tables, if that would free much.
    fn rewrite_if_worthwhile(&self) {
        let dead = self.graveyard.lock().dead.len();
        let records = self.spaces.get(Space::Records);
        if dead < limits::ENGINE_DISCARDED_MIN || dead * 4 < records.approximate_len() {
            return;
        }
        let (records, rewriting) = (records.clone(), self.rewriting.clone());
        // Nobody waits: the lock tells when it is over.
        drop(self.env.run_blocking(move || {
            if let Ok(_guard) = rewriting.try_lock() {
                rewrite(&records);
            }
        }));
    }
}

/// Rewrites every table of a keyspace, the newest writes included.
fn rewrite(keyspace: &Keyspace) {
    let done = keyspace
        .rotate_memtable_and_wait()
        .and_then(|()| keyspace.major_compact());
    if let Err(error) = done {
        // It frees space only; if the store itself is broken, the next write says so.
        tracing::warn!("the store's tables could not be rewritten: {error}");
    }
}

impl Drop for FjallEngine {
    fn drop(&mut self) {
        self.graveyard.closing.store(true, Ordering::Relaxed);
        // The rewriting task has a keyspace in its hands: the directory is free when it has ended.
        drop(self.rewriting.lock());
    }
}

fn to_bytes(value: fjall::UserValue) -> Bytes {
    if value.len() >= SHARED_VALUE_BYTES {
        Bytes::from_owner(value)
    } else {
        // A small value must not keep a whole block in memory.
        Bytes::copy_from_slice(&value)
    }
}

fn scan(
    snapshot: &Snapshot,
    keyspace: &Keyspace,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
) -> Result<(), Broken> {
    if to.is_some_and(|to| to <= from) {
        return Ok(());
    }
    let range: (Bound<&[u8]>, Bound<&[u8]>) = (
        Bound::Included(from),
        to.map_or(Bound::Unbounded, Bound::Excluded),
    );
    for row in snapshot.range::<&[u8], _>(keyspace, range) {
        let (key, value) = row
            .into_inner()
            .map_err(broken("could not read the store", keyspace.path()))?;
        if visit(&key, to_bytes(value)) == Visit::Stop {
            break;
        }
    }
    Ok(())
}

impl Read for FjallEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        let keyspace = self.spaces.get(space);
        let value = keyspace.get(key);
        let value = value.map_err(broken("could not read the store", keyspace.path()))?;
        Ok(value.map(to_bytes))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        scan(&self.database.snapshot(), self.spaces.get(space), from, to, visit)
    }
}

impl Engine for FjallEngine {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        // Into the page cache: a killed process loses nothing.
        let batch_in = batch.changes;
        let mut out = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), batch_in.len())
            .durability(Some(PersistMode::Buffer));
        for change in batch_in {
            let keyspace = self.spaces.get(change.space);
            match change.value {
                Some(value) => out.insert(keyspace, &change.key[..], &value[..]),
                None => out.remove(keyspace, &change.key[..]),
            }
        }
        out.commit()
            .map_err(broken("could not write the store", &self.directory))
    }

    fn discard(&self, dead: Vec<RevisionAt>) {
        self.graveyard.lock().awaiting_sync.extend(dead);
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>> {
        Box::pin(async {
            // What is discarded while the sync is under way waits for the next.
            let dead = std::mem::take(&mut self.graveyard.lock().awaiting_sync);
            let database = self.database.clone();
            let synced = self
                .env
                .run_blocking(move || database.persist(PersistMode::SyncData));
            synced
                .await
                .map_err(broken("could not sync the store", &self.directory))?;
            if !dead.is_empty() {
                self.graveyard.lock().dead.extend(dead);
                self.rewrite_if_worthwhile();
            }
            Ok(())
        })
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(FjallView {
            snapshot: self.database.snapshot(),
            spaces: self.spaces.clone(),
        })
    }

    fn bytes(&self) -> (u64, u64) {
        let tables: u64 = self.spaces.0.iter().map(Keyspace::disk_space).sum();
        let in_use = tables + self.database.write_buffer_size();
        // A journal that is just being removed has no size.
        let allocated = self.database.disk_space().unwrap_or(in_use);
        (allocated.max(in_use), in_use)
    }
}

struct FjallView {
    snapshot: Snapshot,
    spaces: Spaces,
}

impl Read for FjallView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        let keyspace = self.spaces.get(space);
        let value = self.snapshot.get(keyspace, key);
        let value = value.map_err(broken("could not read the store", keyspace.path()))?;
        Ok(value.map(to_bytes))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        scan(&self.snapshot, self.spaces.get(space), from, to, visit)
    }
}

impl View for FjallView {}

#[cfg(test)]
mod tests {
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
        rewrite(engine.spaces.get(Space::Records));
        assert_eq!(count(&engine), 100, "the discard was not synced");
        engine.sync().await.unwrap();
        rewrite(engine.spaces.get(Space::Records));
        assert_eq!(count(&engine), 50);
        assert_eq!(engine.get(Space::Records, &key(50)).unwrap(), None);
        assert!(engine.get(Space::Records, &key(51)).unwrap().is_some());
        assert_eq!(count(&*before), 100, "the view was taken before the discard");
        assert!(engine.graveyard.lock().dead.is_empty());
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
        engine.graveyard.closing.store(true, Ordering::Relaxed);
        rewrite(engine.spaces.get(Space::Records));
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
        rewrite(engine.spaces.get(Space::Records));
        let tables = engine.spaces.get(Space::Records).path().join("tables");
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
}
