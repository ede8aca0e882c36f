//! The production engine: fjall, a log-structured merge tree.
//!
//! The only file that names fjall. Settings, and why:
//! * the journal is not flushed per batch (`manual_journal_persist`): the raft log replays what a crash loses;
//! * no compression of records: values are opaque and often compressed already, and hot ones come from memory;
//! * dead revisions leave through a compaction filter (design.md: 420 k records in 0.4 s, against 10 s for 1.2 M
//!   tombstones). Each record's key is written once, so dropping it uncovers nothing older.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::panic::RefUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fjall::compaction::filter::{CompactionFilter, Context, Factory, ItemAccessor, Verdict};
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};

use super::engine::{Engine, View};
use crate::base::kv::{Batch, Read, Space, Visit};
use crate::base::{Broken, RevisionAt};
use crate::runtime::{BoxFuture, Env};

/// Blocks of tables kept in memory.
const CACHE_BYTES: u64 = 64 * 1024 * 1024;
/// Changes of one keyspace that gather in memory before they become a table.
const MEMTABLE_BYTES: u64 = 32 * 1024 * 1024;
/// All journals together; an idle keyspace pins journals until this forces it out.
const JOURNALS_BYTES: u64 = 256 * 1024 * 1024;
/// Dead records after which a compaction of all records is worth its work.
const DEAD_FOR_COMPACTION: usize = 100_000;

fn broken(path: &Path, error: impl std::fmt::Display) -> Broken {
    Broken::new(format!("engine {}: {error}", path.display()))
}

/// Records that nobody reads any more.
#[derive(Default)]
struct Dead {
    inner: Mutex<DeadInner>,
}

#[derive(Default)]
struct DeadInner {
    /// May be dropped by the next compaction that meets them.
    gone: BTreeSet<RevisionAt>,
    /// Named while a view was open that still shows them.
    waiting: Vec<RevisionAt>,
    views: usize,
}

impl RefUnwindSafe for Dead {}

impl Dead {
    fn lock(&self) -> MutexGuard<'_, DeadInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops dead records as compactions pass over them.
struct DropDead(Arc<Dead>);

impl Factory for DropDead {
    fn name(&self) -> &str {
        "drop-dead-revisions"
    }

    fn make_filter(&self, _ctx: &Context) -> Box<dyn CompactionFilter> {
        Box::new(DropDead(self.0.clone()))
    }
}

impl CompactionFilter for DropDead {
    fn filter_item(
        &mut self,
        item: ItemAccessor<'_>,
        _ctx: &Context,
    ) -> fjall::compaction::filter::CompactionFilterResult {
        let Some(at) = RevisionAt::from_bytes(item.key()) else {
            return Ok(Verdict::Keep);
        };
        Ok(if self.0.lock().gone.remove(&at) {
            Verdict::Destroy
        } else {
            Verdict::Keep
        })
    }
}

struct Spaces {
    db: Database,
    /// By the number of the space.
    keyspaces: [Keyspace; Space::ALL.len()],
    dead: Arc<Dead>,
    compacting: AtomicBool,
    path: std::path::PathBuf,
}

impl Spaces {
    fn keyspace(&self, space: Space) -> &Keyspace {
        match space {
            Space::Records => &self.keyspaces[0],
            Space::Leases => &self.keyspaces[1],
            Space::Meta => &self.keyspaces[2],
        }
    }
}

/// See the module. Clones share the database.
#[derive(Clone)]
pub struct FjallEngine {
    env: Env,
    spaces: Arc<Spaces>,
}

impl FjallEngine {
    /// Opens or creates the database in `path`.
    pub async fn open(env: &Env, path: &Path) -> Result<Self, Broken> {
        let owned = path.to_owned();
        let spaces = env.run_blocking(move || Spaces::open(&owned)).await?;
        Ok(FjallEngine {
            env: env.clone(),
            spaces: Arc::new(spaces),
        })
    }

    /// Starts a compaction of the records in the background, unless one runs.
    fn compact(&self) {
        if self.spaces.compacting.swap(true, Ordering::AcqRel) {
            return;
        }
        let spaces = self.spaces.clone();
        let work = self.env.run_blocking(move || {
            let records = spaces.keyspace(Space::Records);
            // The newest records are still in memory, where no filter passes.
            let done = records
                .rotate_memtable_and_wait()
                .and_then(|()| records.major_compact());
            if let Err(error) = done {
                tracing::warn!(%error, "cannot compact the engine");
            }
            spaces.compacting.store(false, Ordering::Release);
        });
        self.env.spawn(work);
    }
}

impl Spaces {
    fn open(path: &Path) -> Result<Self, Broken> {
        let dead = Arc::new(Dead::default());
        let filter = DropDead(dead.clone());
        let factory: Arc<dyn Factory> = Arc::new(filter);
        let db = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .manual_journal_persist(true)
            .max_journaling_size(JOURNALS_BYTES)
            .with_compaction_filter_factories(Arc::new(move |name| {
                (name == "records").then(|| factory.clone())
            }))
            .open()
            .map_err(|error| broken(path, error))?;
        let open = |name: &str| {
            let options = || {
                KeyspaceCreateOptions::default()
                    .manual_journal_persist(true)
                    .max_memtable_size(MEMTABLE_BYTES)
                    .data_block_compression_policy(CompressionPolicy::disabled())
            };
            db.keyspace(name, options).map_err(|error| broken(path, error))
        };
        let keyspaces = [open("records")?, open("leases")?, open("meta")?];
        Ok(Spaces {
            db,
            keyspaces,
            dead,
            compacting: AtomicBool::new(false),
            path: path.to_owned(),
        })
    }
}

/// What reads need, of the live database or of a snapshot.
fn scan(iter: fjall::Iter, path: &Path, visit: &mut dyn FnMut(&[u8], Bytes) -> Visit) -> Result<(), Broken> {
    for guard in iter {
        let (key, value) = guard.into_inner().map_err(|error| broken(path, error))?;
        if visit(&key, value.into()) == Visit::Stop {
            break;
        }
    }
    Ok(())
}

fn bounds<'a>(from: &'a [u8], to: Option<&'a [u8]>) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (
        Bound::Included(from),
        to.map_or(Bound::Unbounded, Bound::Excluded),
    )
}

/// A range whose end is not behind its start holds nothing; the tree would panic on it.
fn is_empty(from: &[u8], to: Option<&[u8]>) -> bool {
    to.is_some_and(|to| to <= from)
}

impl Read for FjallEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        let found = self.spaces.keyspace(space).get(key);
        Ok(found
            .map_err(|error| broken(&self.spaces.path, error))?
            .map(Into::into))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        if is_empty(from, to) {
            return Ok(());
        }
        scan(
            self.spaces.keyspace(space).range::<&[u8], _>(bounds(from, to)),
            &self.spaces.path,
            visit,
        )
    }
}

impl Engine for FjallEngine {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        let mut changes = self.spaces.db.batch();
        for change in batch.changes {
            let keyspace = self.spaces.keyspace(change.space);
            match change.value {
                Some(value) => changes.insert(keyspace, change.key, value),
                None => changes.remove(keyspace, change.key),
            }
        }
        changes.commit().map_err(|error| broken(&self.spaces.path, error))
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>> {
        let spaces = self.spaces.clone();
        let synced = self.env.run_blocking(move || {
            spaces
                .db
                .persist(PersistMode::SyncAll)
                .map_err(|error| broken(&spaces.path, error))
        });
        Box::pin(synced)
    }

    fn view(&self) -> Box<dyn View> {
        // The guard first: what is discarded from now on waits for it.
        self.spaces.dead.lock().views += 1;
        Box::new(FjallView {
            snapshot: self.spaces.db.snapshot(),
            spaces: self.spaces.clone(),
        })
    }

    fn discard(&self, dead: Vec<RevisionAt>) {
        let mut set = self.spaces.dead.lock();
        if set.views > 0 {
            set.waiting.extend(dead);
        } else {
            set.gone.extend(dead);
        }
        let worth_it = set.gone.len() >= DEAD_FOR_COMPACTION;
        drop(set);
        if worth_it {
            self.compact();
        }
    }

    fn bytes(&self) -> (u64, u64) {
        let tables: u64 = self.spaces.keyspaces.iter().map(Keyspace::disk_space).sum();
        let journals = self.spaces.db.journal_disk_space().unwrap_or(0);
        (tables + journals, tables)
    }
}

struct FjallView {
    snapshot: Snapshot,
    spaces: Arc<Spaces>,
}

impl View for FjallView {}

impl Drop for FjallView {
    fn drop(&mut self) {
        let mut dead = self.spaces.dead.lock();
        dead.views -= 1;
        if dead.views == 0 {
            let waiting = std::mem::take(&mut dead.waiting);
            dead.gone.extend(waiting);
        }
    }
}

impl Read for FjallView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        let found = self.snapshot.get(self.spaces.keyspace(space), key);
        Ok(found
            .map_err(|error| broken(&self.spaces.path, error))?
            .map(Into::into))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        if is_empty(from, to) {
            return Ok(());
        }
        let iter = self
            .snapshot
            .range::<&[u8], _>(self.spaces.keyspace(space), bounds(from, to));
        scan(iter, &self.spaces.path, visit)
    }
}
