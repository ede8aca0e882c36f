//! The engine of production: fjall, a log-structured merge tree. Nothing else names it.
//!
//! ```text
//!   write ---> fjall's journal (page cache) + memtable        sync ---> fdatasync of the journal, record of what it covers
//!                        |  rotate: seal, sync                start ---> journals against the record, cut, open
//!                        v
//!                     tables --- compaction, filter: is this revision dead? ---> tables
//! ```
//!
//! What we rely on, and checked in the source of fjall 3.1.13 and lsm-tree 3.1.10:
//! * a batch is atomic over keyspaces, and kept in the journal's order;
//! * a journal is synced whole before the next is made, and is removed when tables hold all of it;
//! * tables, the lists of them and their directories are synced before they count;
//! * a block with a bad checksum is an error, not a miss;
//! * a view keeps the tables it was taken on, so a compaction does not change it.
//!
//! What fjall does not promise, and we see to:
//! * *No table holds what a power loss may take from the journal.* fjall syncs the journal before it flushes, but then waits
//!   its turn and flushes what was sealed meanwhile, too. So memtables are sealed here alone ([`Shared::rotate`]), under
//!   the lock that a flush takes, and synced before it is released.
//! * *A journal that a power loss left damaged does not keep a member from starting.* What is not recorded as synced
//!   ([`synced`](super::synced)) is in the raft log; the start cuts it where it stops being whole ([`fjall_journal`](super::fjall_journal)).
//! * *What was synced is there.* Each batch counts itself in a keyspace of its own; a store that holds fewer than
//!   were synced is refused, as is a journal with other bytes than the synced ones.
//! * A store that was never synced may be in any state, half made for example, and is begun anew.
//!
//! Dead revisions go by a compaction filter, not by tombstones, which would be written, read and compacted
//! for each of them. The filter may only destroy what is *durably* dead: were a revision gone when a power
//! failure takes the state back to before the compaction, the replay would miss it and diverge. So
//! `discard` counts from the next completed `sync` on.

mod filter;

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use fjall::compaction::filter::Factory;
use fjall::config::CompressionPolicy;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable, Snapshot,
};
use futures_util::future::BoxFuture;

use self::filter::{FilterFactory, Graveyard};
use super::engine::{Engine, View};
use super::synced::{Extent, Synced};
use super::{fjall_journal as journal, fjall_log};
use crate::base::kv::{Batch, Read, Space, Visit};
use crate::base::{Broken, RevisionAt, limits};
use crate::runtime::Env;
use crate::runtime::panics::poisoned;

/// The keyspace in which the batches are counted.
const COUNT_KEYSPACE: &str = "batches";
/// Time between two looks whether a flush is done.
const FLUSH_LOOK_EVERY: Duration = Duration::from_millis(10);
/// Revisions that are marked as dead under one hold of the lock.
const BURIED_AT_ONCE: usize = 1_000;
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
fn broken(doing: &'static str, path: &Path) -> impl Fn(fjall::Error) -> Broken {
    move |error| {
        let error = match error {
            fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => error,
            fjall::Error::Poisoned | fjall::Error::Unrecoverable => fjall_log::last_error(),
            other => io::Error::other(other.to_string()),
        };
        Broken::io(doing, path, &error)
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

/// What writers, syncs and the work in the background share.
struct Shared {
    directory: PathBuf,
    database: Database,
    spaces: Spaces,
    count_keyspace: Keyspace,
    /// How many batches were written.
    batches: AtomicU64,
    /// Whoever holds it may write the next.
    writing: Mutex<()>,
    /// What the last sync covers; `None` in a store of an older version that was not synced yet. Whoever holds it may sync.
    synced: Mutex<Option<Synced>>,
    /// Why nothing can be written any more.
    broken: OnceLock<Broken>,
    graveyard: Arc<Graveyard>,
    /// A memtable is about to be sealed.
    is_rotating: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(poisoned)
}

impl Shared {
    fn check(&self) -> Result<(), Broken> {
        self.broken.get().map_or(Ok(()), |broken| Err(broken.clone()))
    }

    /// Makes all that was written durable, and records that.
    fn sync(&self) -> Result<(), Broken> {
        let mut synced = lock(&self.synced);
        self.check()?;
        let batches = self.batches.load(Ordering::SeqCst);
        if synced.as_ref().is_none_or(|synced| synced.batches < batches) {
            self.sync_more(&mut synced)?;
        }
        Ok(())
    }

    fn sync_more(&self, synced: &mut Option<Synced>) -> Result<(), Broken> {
        let known = synced.as_ref().map_or(&[][..], |synced| &synced.journals);
        match self.sync_behind(known) {
            Ok(now) => *synced = Some(now),
            Err(broken) => return Err(self.broken.get_or_init(|| broken).clone()),
        }
        Ok(())
    }

    fn sync_behind(&self, known: &[Extent]) -> Result<Synced, Broken> {
        let cannot = broken("could not sync the store", &self.directory);
        let batches = self.batches.load(Ordering::SeqCst);
        // Before the sync: what is written from here on need not be covered.
        let journals = journal::reach(&self.directory, known).map_err(|error| cannot(error.into()))?;
        // Without any, tables hold everything.
        let last = journals.iter().map(|journal| journal.batches).max().unwrap_or(0);
        if (1..batches).contains(&last) {
            let text = format!("its journal ends at batch {last} of {batches}");
            return Err(cannot(io::Error::other(text).into()));
        }
        self.database.persist(PersistMode::SyncData).map_err(&cannot)?;
        let synced = Synced {
            batches: batches.max(last),
            journals,
        };
        journal::record(&self.directory, &synced)?;
        Ok(synced)
    }

    fn keyspaces(&self) -> impl Iterator<Item = &Keyspace> {
        self.spaces.0.iter().chain([&self.count_keyspace])
    }

    /// Seals what a keyspace has in memory, for tables to be made of it. No flush begins before it is synced.
    fn rotate(&self, keyspace: &Keyspace) -> Result<(), Broken> {
        // A journal goes when every keyspace has tables of its part.
        let all = self.database.journal_count() > limits::ENGINE_JOURNALS_MAX;
        for candidate in self.keyspaces().filter(|candidate| all || *candidate == keyspace) {
            let _flush = candidate.tree.get_flush_lock();
            let is_rotated = candidate.rotate_memtable();
            if is_rotated.map_err(broken("could not write the store", &self.directory))? {
                // Whatever it holds was in a journal before; its writer need not have counted it yet.
                self.sync_more(&mut lock(&self.synced))?;
            }
        }
        Ok(())
    }

    /// Rewrites every table of the records, the newest writes included.
    fn rewrite(&self) -> Result<(), Broken> {
        let records = self.spaces.get(Space::Records);
        let cannot = broken("could not rewrite the store", records.path());
        self.rotate(records)?;
        while records.tree.sealed_memtable_count() > 0 {
            // An error if the flush has failed.
            self.database.persist(PersistMode::Buffer).map_err(&cannot)?;
            #[allow(clippy::disallowed_methods)]
            // a thread that may block, of an engine that no simulation runs
            std::thread::sleep(FLUSH_LOOK_EVERY);
        }
        records.major_compact().map_err(cannot)
    }
}

/// The engine of production.
pub struct FjallEngine {
    env: Env,
    shared: Arc<Shared>,
    /// Held by the work in the background.
    rotating: Arc<Mutex<()>>,
    rewriting: Arc<Mutex<()>>,
}

impl FjallEngine {
    /// Opens the database in `directory`, or makes one.
    ///
    /// # Errors
    /// What was synced is damaged, or cannot be read.
    pub async fn open(env: &Env, directory: &Path) -> Result<Self, Broken> {
        let directory = directory.to_owned();
        let opened = env.run_blocking(move || open(&directory));
        Ok(FjallEngine {
            env: env.clone(),
            shared: Arc::new(opened.await?),
            rotating: Arc::default(),
            rewriting: Arc::default(),
        })
    }

    /// Starts work that nobody waits for but the engine's drop.
    fn start(&self, busy: &Arc<Mutex<()>>, work: impl FnOnce(&Shared) + Send + 'static) {
        let (shared, busy) = (Arc::downgrade(&self.shared), busy.clone());
        drop(self.env.run_blocking(move || {
            let Ok(_guard) = busy.try_lock() else { return };
            if let Some(shared) = shared.upgrade()
                && !shared.graveyard.closing.load(Ordering::Relaxed)
            {
                work(&shared);
            }
        }));
    }

    /// Starts to rewrite the tables, if that would free much.
    fn rewrite_if_worthwhile(&self) {
        let dead = self.shared.graveyard.lock().dead.len();
        let records = self.shared.spaces.get(Space::Records);
        if dead < limits::ENGINE_DISCARDED_MIN || dead * 4 < records.approximate_len() {
            return;
        }
        let rewrite = |shared: &Shared| {
            if let Err(error) = shared.rewrite() {
                // It frees space only; if the store itself is broken, the next write says so.
                tracing::warn!("the store's tables could not be rewritten: {error}");
            }
        };
        self.start(&self.rewriting, rewrite);
    }

    /// Has tables made of what is in memory, if that is much.
    fn rotate_if_large(&self) -> Result<(), Broken> {
        let shared = &self.shared;
        for keyspace in shared.keyspaces() {
            let bytes = keyspace.tree.active_memtable().size();
            if bytes > limits::ENGINE_WRITE_BUFFER_BYTES_MAX {
                // Tables are made more slowly than there is written.
                shared.rotate(keyspace)?;
            } else if bytes > limits::ENGINE_WRITE_BUFFER_BYTES
                && !shared.is_rotating.swap(true, Ordering::Relaxed)
            {
                let keyspace = keyspace.clone();
                let rotate = move |shared: &Shared| {
                    // A failure is remembered: the next write reports it.
                    if let Err(error) = shared.rotate(&keyspace) {
                        tracing::error!("{error}");
                    }
                    shared.is_rotating.store(false, Ordering::Relaxed);
                };
                self.start(&self.rotating, rotate);
            }
        }
        Ok(())
    }
}

/// Opens the database in `directory`; makes one if there is none, or only the beginnings of one.
fn open(directory: &Path) -> Result<Shared, Broken> {
    fjall_log::listen();
    let synced = journal::recorded(directory)?;
    match open_synced(directory, synced.clone()) {
        Err(broken) if synced.is_some_and(|synced| synced.is_nothing()) => {
            tracing::warn!(
                "the store {} was never synced and cannot be opened ({broken}): it is begun anew, and what it held is replayed from the log",
                directory.display()
            );
            journal::clear(directory)?;
            open_synced(directory, Some(Synced::default()))
        }
        opened => opened,
    }
}

/// Opens what is there, and checks that it has what was synced.
fn open_synced(directory: &Path, recorded: Option<Synced>) -> Result<Shared, Broken> {
    let cannot = broken("could not open the store", directory);
    let is_first = recorded.as_ref().is_some_and(Synced::is_nothing);
    let verified = recorded
        .map(|synced| journal::verify(directory, &synced))
        .transpose()?;
    let flushed = verified.as_ref().map_or(0, |verified| verified.flushed);
    let synced = verified.map(|verified| verified.settle(directory)).transpose()?;
    let graveyard = Arc::new(Graveyard::default());
    let database = open_database(directory, &graveyard).map_err(&cannot)?;
    let open = |name| {
        if synced.is_some() && !is_first && !database.keyspace_exists(name) {
            return Err(incomplete(directory, &format!("keyspace {name} is gone")));
        }
        database.keyspace(name, keyspace_options).map_err(&cannot)
    };
    let [records, leases, meta] = Space::ALL.map(|space| open(name(space)));
    let (spaces, count_keyspace) = (Spaces([records?, leases?, meta?]), open(COUNT_KEYSPACE)?);
    // fjall makes their directories, but does not sync the one that they are in.
    journal::sync_directory(&directory.join("keyspaces")).map_err(|error| cannot(error.into()))?;
    let count = count_keyspace.get(journal::COUNT_KEY).map_err(&cannot)?;
    let batches = count.and_then(|count| Some(u64::from_le_bytes(count[..].try_into().ok()?)));
    let mut batches = batches.unwrap_or(0);
    if synced.is_none() && batches == 0 {
        // An older version made it, and may have synced it: it is not one that never was.
        batches = 1;
        let begun = count_keyspace.insert(journal::COUNT_KEY, batches.to_le_bytes());
        begun
            .and_then(|()| database.persist(PersistMode::Buffer))
            .map_err(&cannot)?;
    }
    if let Some(synced) = &synced
        && synced.batches != batches
    {
        let text = format!(
            "it holds {batches} batches of {} that its journals promise",
            synced.batches
        );
        return Err(incomplete(directory, &text));
    }
    if flushed > count_keyspace.tree.get_highest_persisted_seqno().unwrap_or(0) {
        return Err(incomplete(directory, "a journal is gone"));
    }
    Ok(Shared {
        directory: directory.to_owned(),
        database,
        spaces,
        count_keyspace,
        batches: AtomicU64::new(batches),
        writing: Mutex::default(),
        synced: Mutex::new(if is_first { Some(Synced::default()) } else { synced }),
        broken: OnceLock::new(),
        graveyard,
        is_rotating: AtomicBool::new(false),
    })
}

fn open_database(directory: &Path, graveyard: &Arc<Graveyard>) -> fjall::Result<Database> {
    let filter: Arc<dyn Factory> = Arc::new(FilterFactory(graveyard.clone()));
    let assign = move |keyspace: &str| (keyspace == name(Space::Records)).then(|| filter.clone());
    Database::builder(directory)
        // We say when: the raft log is what makes writes durable.
        .manual_journal_persist(true)
        .cache_size(limits::ENGINE_CACHE_BYTES)
        .max_cached_files(Some(limits::ENGINE_FILES_MAX))
        // Nothing is sealed but by us.
        .max_journaling_size(u64::MAX)
        .with_compaction_filter_factories(Arc::new(assign))
        .open()
}

fn keyspace_options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .manual_journal_persist(true)
        .max_memtable_size(u64::MAX)
        .data_block_compression_policy(CompressionPolicy::disabled())
}

fn incomplete(directory: &Path, how: &str) -> Broken {
    Broken::Incomplete {
        what: "the store",
        path: directory.to_owned(),
        how: format!("is damaged: {how}"),
    }
}

impl Drop for FjallEngine {
    fn drop(&mut self) {
        self.shared.graveyard.closing.store(true, Ordering::Relaxed);
        // The work in the background has keyspaces in its hands: the directory is free when it has ended.
        drop(lock(&self.rewriting));
        drop(lock(&self.rotating));
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
        let keyspace = self.shared.spaces.get(space);
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
        let shared = &self.shared;
        scan(
            &shared.database.snapshot(),
            shared.spaces.get(space),
            from,
            to,
            visit,
        )
    }
}

impl Engine for FjallEngine {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        let shared = &self.shared;
        shared.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        let batch_in = batch.changes;
        // Into the page cache: a killed process loses nothing.
        let mut out = fjall::OwnedWriteBatch::with_capacity(shared.database.clone(), batch_in.len() + 1)
            .durability(Some(PersistMode::Buffer));
        for change in batch_in {
            let keyspace = shared.spaces.get(change.space);
            match change.value {
                Some(value) => out.insert(keyspace, &change.key[..], &value[..]),
                None => out.remove(keyspace, &change.key[..]),
            }
        }
        let writing = lock(&shared.writing);
        let count = shared.batches.load(Ordering::SeqCst) + 1;
        out.insert(&shared.count_keyspace, journal::COUNT_KEY, count.to_le_bytes());
        out.commit()
            .map_err(broken("could not write the store", &shared.directory))?;
        shared.batches.store(count, Ordering::SeqCst);
        drop(writing);
        self.rotate_if_large()
    }

    fn discard(&self, dead: Vec<RevisionAt>) {
        self.shared.graveyard.lock().awaiting_sync.extend(dead);
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>> {
        Box::pin(async {
            // What is discarded while the sync is under way waits for the next.
            let dead = std::mem::take(&mut self.shared.graveyard.lock().awaiting_sync);
            let (shared, died) = (self.shared.clone(), !dead.is_empty());
            let sync = move || {
                shared.sync()?;
                // A compaction may leave as many as there are keys: nobody who discards more waits for that.
                for some in dead.chunks(BURIED_AT_ONCE) {
                    shared.graveyard.lock().dead.extend(some);
                }
                Ok(())
            };
            self.env.run_blocking(sync).await?;
            if died {
                self.rewrite_if_worthwhile();
            }
            Ok(())
        })
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(FjallView {
            snapshot: self.shared.database.snapshot(),
            spaces: self.shared.spaces.clone(),
        })
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
mod tests;
