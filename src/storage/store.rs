//! The engine and its successors: a snapshot goes into a fresh one, which then replaces the old at once.
//!
//! ```text
//!   <directory>/current          names the generation that counts; replaced atomically
//!   <directory>/engine-7/        that generation
//!   <directory>/engine-8/        one that a snapshot is being installed into
//!
//! file "current":  0 8 magic "QUORCUR1"   8 8 generation, little-endian   16 4 CRC-32C of 0..16
//! ```
//!
//! A crash at any point leaves the old generation or the new one, whole. What `current` does not name is
//! removed when its last user is gone, or at the next start. A database is never emptied and filled again:
//! in fjall, rows ingested after a `clear` were gone after a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::engine::{Engine, View};
use super::fjall::FjallEngine;
use super::journal::JournalEngine;
use super::queue::Queue;
use super::{EngineKind, failed};
use crate::base::kv::{Batch, Read, Space, Visit};
use crate::base::{Broken, MemberMetrics, RevisionAt};
use crate::runtime::Env;
use crate::runtime::panics::poisoned;

const MAGIC: &[u8; 8] = b"QUORCUR1";
const CURRENT: &str = "current";
const TEMPORARY: &str = "current.new";

/// The store of one member; cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    site: Site,
    state: Mutex<State>,
    /// Held while `current` is replaced.
    switching: tokio::sync::Mutex<()>,
}

/// Where and how engines are made.
struct Site {
    env: Env,
    directory: PathBuf,
    kind: EngineKind,
    janitor: mpsc::UnboundedSender<Stale>,
}

struct State {
    current: Arc<Generation>,
    /// The number of the newest generation that was begun.
    newest: u64,
}

impl Store {
    /// Opens the current generation, or makes the first one; removes all others.
    ///
    /// # Errors
    /// Damage. The caller may remove the directory and rebuild the state from a snapshot.
    pub async fn open(env: &Env, directory: &Path, kind: EngineKind) -> Result<Store, Broken> {
        let disk = env.disk();
        let cannot = failed("could not open the store", directory);
        disk.create_dir_all(directory).await.map_err(&cannot)?;
        let names = disk.read_dir(directory).await.map_err(&cannot)?;
        let generations: Vec<u64> = names.iter().filter_map(|name| generation_number(name)).collect();
        let number = if names.iter().any(|name| name == CURRENT) {
            read_current(env, directory).await?
        } else if generations.is_empty() {
            // Named before it is made: a generation without a name is a left-over.
            write_current(env, directory, 1).await?;
            1
        } else {
            return Err(Broken::Incomplete {
                what: "the store",
                path: directory.to_owned(),
                how: format!("has lost its file {CURRENT}"),
            });
        };
        for stale in generations.iter().filter(|found| **found != number) {
            let path = generation_path(directory, *stale);
            match disk.remove_dir_all(&path).await {
                // Whoever had it in this process before has just removed it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed.map_err(&cannot)?,
            }
        }
        drop(cannot);
        let site = Site {
            env: env.clone(),
            directory: directory.to_owned(),
            kind,
            janitor: start_janitor(env),
        };
        let current = site.open(number).await?;
        let newest = generations.into_iter().fold(number, u64::max);
        Ok(Store(Arc::new(Shared {
            site,
            state: Mutex::new(State { current, newest }),
            switching: tokio::sync::Mutex::new(()),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(poisoned)
    }

    /// The engine that counts now. After an install, the old one still answers whoever holds it.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.state().current.clone()
    }

    /// Waits until the engine has taken in so much that more can be written.
    pub async fn room(&self) {
        let current = self.state().current.clone();
        current.0.queue().room().await;
    }

    /// Whether the engine still takes what is written.
    pub fn check(&self) -> Result<(), Broken> {
        self.state().current.0.queue().check()
    }

    /// Begins a fresh, empty generation. Dropping it undoes it.
    pub async fn begin_install(&self) -> Result<Install, Broken> {
        let number = {
            let mut state = self.state();
            state.newest += 1;
            state.newest
        };
        let fresh = self.0.site.open(number).await?;
        fresh.0.stale.store(true, Ordering::Relaxed);
        Ok(Install {
            store: self.clone(),
            fresh,
            number,
        })
    }
}

/// A generation that is being filled.
pub struct Install {
    store: Store,
    fresh: Arc<Generation>,
    number: u64,
}

impl Install {
    /// Writes to the engine itself: nobody reads it yet.
    pub fn write(&self, batch: Batch) -> Result<(), Broken> {
        self.fresh.0.queue().engine().write(batch)
    }

    /// Makes the generation durable and current; returns its engine.
    pub async fn commit(self) -> Result<Arc<dyn Engine>, Broken> {
        self.fresh.sync().await?;
        let shared = &self.store.0;
        let _switching = shared.switching.lock().await;
        // Before its name can be on disk: from here on nobody may remove it.
        self.fresh.0.stale.store(false, Ordering::Relaxed);
        write_current(&shared.site.env, &shared.site.directory, self.number).await?;
        let old = std::mem::replace(&mut self.store.state().current, self.fresh.clone());
        old.0.stale.store(true, Ordering::Relaxed);
        Ok(self.fresh)
    }
}

fn generation_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("engine-{number}"))
}

fn generation_number(name: &str) -> Option<u64> {
    name.strip_prefix("engine-")?.parse().ok()
}

async fn read_current(env: &Env, directory: &Path) -> Result<u64, Broken> {
    let path = directory.join(CURRENT);
    let cannot = failed("could not read", &path);
    let file = env.disk().open(&path).await.map_err(&cannot)?;
    let bytes = file.read_at(0, 64).await.map_err(&cannot)?;
    let decode = |bytes: &[u8]| {
        let (body, checksum) = bytes.split_at_checked(16)?;
        let checksum = u32::from_le_bytes(checksum.try_into().ok()?);
        let whole = body.starts_with(MAGIC) && crc32c::crc32c(body) == checksum;
        let number = u64::from_le_bytes(body.get(8..)?.try_into().ok()?);
        whole.then_some(number)
    };
    decode(&bytes).ok_or_else(|| Broken::damaged_file(&path))
}

async fn write_current(env: &Env, directory: &Path, number: u64) -> Result<(), Broken> {
    let (disk, path) = (env.disk(), directory.join(CURRENT));
    let cannot = failed("could not write", &path);
    let mut bytes = BytesMut::from(&MAGIC[..]);
    bytes.put_u64_le(number);
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(checksum);
    let temporary = directory.join(TEMPORARY);
    let file = disk.create(&temporary).await.map_err(&cannot)?;
    file.write_and_sync(0, bytes.freeze()).await.map_err(&cannot)?;
    disk.rename(&temporary, &path).await.map_err(&cannot)?;
    disk.sync_dir(directory).await.map_err(&cannot)
}

/// An engine in its directory, which goes with it once it is stale.
struct Generation(Arc<Held>);

struct Held {
    path: PathBuf,
    janitor: mpsc::UnboundedSender<Stale>,
    stale: AtomicBool,
    metrics: Arc<MemberMetrics>,
    /// The engine. Taken when dropped, so that it is closed before the directory goes.
    queue: Option<Queue>,
}

impl Site {
    async fn open(&self, number: u64) -> Result<Arc<Generation>, Broken> {
        let (disk, path) = (self.env.disk(), generation_path(&self.directory, number));
        let cannot = failed("could not make", &path);
        disk.create_dir_all(&path).await.map_err(&cannot)?;
        disk.sync_dir(&self.directory).await.map_err(cannot)?;
        let engine: Arc<dyn Engine> = match self.kind {
            EngineKind::Fjall => Arc::new(FjallEngine::open(&self.env, &path).await?),
            EngineKind::Journal => Arc::new(JournalEngine::open(&self.env, &path).await?),
        };
        Ok(Arc::new(Generation(Arc::new(Held {
            path,
            janitor: self.janitor.clone(),
            stale: AtomicBool::new(false),
            metrics: self.env.metrics().clone(),
            queue: Some(Queue::new(&self.env, engine)),
        }))))
    }
}

impl Held {
    fn queue(&self) -> &Queue {
        self.queue.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.stale.load(Ordering::Relaxed)
            && let Some(queue) = self.queue.take()
        {
            // If nobody cleans up any more, the next start does.
            let _ = self.janitor.send((queue, std::mem::take(&mut self.path)));
        }
    }
}

/// An engine that nobody uses any more, and its directory.
type Stale = (Queue, PathBuf);

/// Starts the task that removes stale generations; it ends with the last generation. A task of its own,
/// because the last user may be dropped where nothing can be started: with the node.
fn start_janitor(env: &Env) -> mpsc::UnboundedSender<Stale> {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Stale>();
    let inside = env.clone();
    env.spawn(async move {
        while let Some((queue, path)) = receiver.recv().await {
            queue.close(&inside).await;
            if let Err(error) = inside.disk().remove_dir_all(&path).await {
                tracing::warn!("could not remove {}: {error}", path.display());
            }
        }
    });
    sender
}

impl Read for Generation {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        self.0.queue().get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        self.0.queue().scan(space, from, to, visit)
    }
}

impl Engine for Generation {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        self.0.queue().write(batch)
    }

    fn discard(&self, dead: Vec<RevisionAt>) {
        self.0.queue().discard(dead);
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>> {
        Box::pin(self.0.queue().sync())
    }

    fn view(&self) -> Box<dyn View> {
        self.0.metrics.engine.views.add(1);
        Box::new(HeldView {
            view: Box::new(self.0.queue().view()),
            held: self.0.clone(),
        })
    }
}

/// A view that keeps its generation's files in place.
struct HeldView {
    // Dropped first: the engine must not outlive its last user in the other order.
    view: Box<dyn View>,
    held: Arc<Held>,
}

impl Drop for HeldView {
    fn drop(&mut self) {
        self.held.metrics.engine.views.add(-1);
    }
}

impl Read for HeldView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        self.view.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        self.view.scan(space, from, to, visit)
    }
}

impl View for HeldView {}
