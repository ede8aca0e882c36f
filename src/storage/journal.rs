//! The engine of the simulator: ordered maps in memory over a journal on `Disk`.
//!
//! Same promises as fjall's, on a disk that the simulator crashes, and the same dangers: what is written reaches the
//! file soon, and the disk at a sync, so that a power loss leaves any part of what came after the last one. A frame holds
//! one batch: it is there after a crash, or it is not.
//!
//! Batches have consecutive sequences, and [`Synced`] says which of them a sync covers: if the journal stops being whole
//! before that, it is refused; what comes behind that place otherwise is cut. A journal that is
//! mostly outdated is rewritten into a new file, which takes its name when it is durable.

mod frames;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use self::frames::{FRAME_HEADER, decode_changes, decode_frame, decode_header, encode_frames};
use super::engine::{Engine, View};
use super::failed;
use super::format::SECTOR;
use super::synced::Synced;
use crate::base::kv::{Batch, Change, Read, Space, Visit};
use crate::base::{Broken, RevisionAt, limits};
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::panics::poisoned;
use crate::runtime::{Disk, Env, File, Task};

const TEMPORARY: &str = "journal.new";
/// After this time a batch is in the file, as far as the process goes.
const WRITE_BACK_AFTER: Duration = Duration::from_millis(20);

type Rows = BTreeMap<Bytes, Bytes>;

/// All rows. Cloning is cheap; a change copies a space that a view still shares.
#[derive(Clone, Default)]
struct Spaces([Arc<Rows>; 3]);

impl Spaces {
    fn get(&self, space: Space) -> &Arc<Rows> {
        let [records, leases, meta] = &self.0;
        match space {
            Space::Records => records,
            Space::Leases => leases,
            Space::Meta => meta,
        }
    }

    fn get_mut(&mut self, space: Space) -> &mut Rows {
        let [records, leases, meta] = &mut self.0;
        Arc::make_mut(match space {
            Space::Records => records,
            Space::Leases => leases,
            Space::Meta => meta,
        })
    }

    /// Changes a row; returns by how many bytes the whole grew.
    fn apply(&mut self, change: &Change) -> i64 {
        let rows = self.get_mut(change.space);
        let size = |value: &Bytes| (change.key.len() + value.len()) as i64;
        let added = change.value.as_ref().map_or(0, size);
        let replaced = match &change.value {
            Some(value) => rows.insert(change.key.clone(), value.clone()),
            None => rows.remove(&change.key),
        };
        added - replaced.as_ref().map_or(0, size)
    }
}

impl Read for Spaces {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Ok(Spaces::get(self, space).get(key).cloned())
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in Spaces::get(self, space).range::<[u8], _>((Bound::Included(from), to)) {
            if visit(key, value.clone()) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

impl View for Spaces {}

struct Memory {
    spaces: Spaces,
    live_bytes: i64,
    /// What is not in the file yet, in order.
    unwritten: Vec<Batch>,
    broken: Option<Broken>,
}

/// The end of the journal; whoever holds it may write.
struct Tail {
    number: u64,
    epoch: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    offset: u64,
    /// Of the last batch in the file.
    sequence: u64,
    /// What the last sync covers.
    synced: u64,
}

struct Shared {
    env: Env,
    directory: PathBuf,
    memory: Mutex<Memory>,
    tail: tokio::sync::Mutex<Tail>,
}

/// The engine of the simulator.
pub struct JournalEngine {
    shared: Arc<Shared>,
    /// Tells the write-back of a batch.
    written: mpsc::Sender<()>,
    write_back: Task<()>,
}

impl Drop for JournalEngine {
    fn drop(&mut self) {
        self.write_back.abort();
    }
}

impl JournalEngine {
    /// Opens the journal in `directory`, or begins one.
    ///
    /// # Errors
    /// Damage of what was synced: the text names file and offset.
    pub async fn open(env: &Env, directory: &Path) -> Result<Self, Broken> {
        let disk = env.disk();
        let cannot = failed("could not open the store", directory);
        disk.create_dir_all(directory).await.map_err(&cannot)?;
        let names = disk.read_dir(directory).await.map_err(&cannot)?;
        let newest = names.iter().filter_map(|name| journal_number(name)).max();
        for name in &names {
            if name == TEMPORARY || journal_number(name).is_some_and(|number| Some(number) != newest) {
                disk.remove_file(&directory.join(name)).await.map_err(&cannot)?;
            }
        }
        let mut memory = Memory {
            spaces: Spaces::default(),
            live_bytes: 0,
            unwritten: Vec::new(),
            broken: None,
        };
        let tail = match (newest, Synced::read(&*disk, directory).await?) {
            (Some(number), Some(synced)) => load(&*disk, directory, number, &synced, &mut memory).await?,
            (None, synced) if synced.as_ref().is_none_or(Synced::is_nothing) => {
                Synced::default().write(&*disk, directory).await?;
                create(env, directory, 1, 0, &[]).await?
            }
            _ => {
                return Err(Broken::Incomplete {
                    what: "the store",
                    path: directory.to_owned(),
                    how: "is damaged: a file of it is gone".into(),
                });
            }
        };
        let shared = Arc::new(Shared {
            env: env.clone(),
            directory: directory.to_owned(),
            memory: Mutex::new(memory),
            tail: tokio::sync::Mutex::new(tail),
        });
        let (written, told) = mpsc::channel(1);
        Ok(JournalEngine {
            write_back: env.spawn(write_back(shared.clone(), told)),
            shared,
            written,
        })
    }
}

/// Writes batches to the file, as an operating system does with what it has in its cache: soon, and without a sync.
async fn write_back(shared: Arc<Shared>, mut told: mpsc::Receiver<()>) {
    while told.recv().await.is_some() {
        shared.env.sleep(WRITE_BACK_AFTER).await;
        let mut tail = shared.tail.lock().await;
        let written = shared.write_frames(&mut tail).await;
        if let Err(broken) = shared.note(written) {
            return tracing::error!("{broken}");
        }
    }
}

impl Shared {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(poisoned)
    }

    /// Remembers a failure: what is in memory may differ from what is on disk, so nothing is tried again.
    fn note(&self, result: Result<(), Broken>) -> Result<(), Broken> {
        let mut memory = self.memory();
        if let Err(broken) = &result {
            memory.broken.get_or_insert_with(|| broken.clone());
        }
        result
    }

    fn take_unwritten(&self) -> Result<Vec<Batch>, Broken> {
        let mut memory = self.memory();
        match &memory.broken {
            Some(broken) => Err(broken.clone()),
            None => Ok(std::mem::take(&mut memory.unwritten)),
        }
    }

    /// Appends what is not in the file yet, without a sync.
    async fn write_frames(&self, tail: &mut Tail) -> Result<(), Broken> {
        let unwritten = self.take_unwritten()?;
        if unwritten.is_empty() {
            return Ok(());
        }
        let frames = encode_frames(tail.epoch, tail.sequence + 1, &unwritten);
        let (offset, end) = (tail.offset, tail.offset + frames.len() as u64);
        let cannot = failed("could not write journal", &tail.path);
        tail.file.write_at(offset, frames).await.map_err(cannot)?;
        tail.offset = end;
        tail.sequence += unwritten.len() as u64;
        Ok(())
    }

    /// All rows and the sequence of the last batch, if the journal should be rewritten.
    fn outdated(&self, tail: &Tail) -> Option<(Spaces, u64)> {
        let mut memory = self.memory();
        let live = u64::try_from(memory.live_bytes).unwrap_or(0);
        let outdated = tail.offset > limits::JOURNAL_REWRITE_BYTES && tail.offset > 4 * live;
        (outdated || buggify(Site::EngineRewritten)).then(|| {
            let unwritten = std::mem::take(&mut memory.unwritten);
            (memory.spaces.clone(), tail.sequence + unwritten.len() as u64)
        })
    }

    /// Makes everything durable: behind the rest, or all of it in a new file.
    async fn flush(&self, tail: &mut Tail) -> Result<(), Broken> {
        self.write_frames(tail).await?;
        if tail.sequence == tail.synced {
            return Ok(());
        }
        let mut old = None;
        if let Some((all, sequence)) = self.outdated(tail) {
            let mut rows = Batch::default();
            for space in Space::ALL {
                for (key, value) in Spaces::get(&all, space).iter() {
                    rows.put(space, key.clone(), value.clone());
                }
            }
            let new = create(&self.env, &self.directory, tail.number + 1, sequence - 1, &[rows]).await?;
            old = Some(std::mem::replace(tail, new).path);
        } else {
            let cannot = failed("could not sync journal", &tail.path);
            tail.file.sync().await.map_err(cannot)?;
        }
        self.record(tail).await?;
        if let Some(old) = old {
            let cannot = failed("could not remove journal", &old);
            self.env.disk().remove_file(&old).await.map_err(cannot)?;
        }
        Ok(())
    }

    async fn record(&self, tail: &mut Tail) -> Result<(), Broken> {
        record(&*self.env.disk(), &self.directory, tail.sequence).await?;
        tail.synced = tail.sequence;
        Ok(())
    }
}

async fn record(disk: &dyn Disk, directory: &Path, sequence: u64) -> Result<(), Broken> {
    let synced = Synced {
        batches: sequence,
        journals: Vec::new(),
    };
    synced.write(disk, directory).await
}

fn journal_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("journal-{number:016x}"))
}

fn journal_number(name: &str) -> Option<u64> {
    let digits = name
        .strip_prefix("journal-")
        .filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Makes a journal with these batches, which follow the one with this sequence; it has its name when it is durable.
async fn create(
    env: &Env,
    directory: &Path,
    number: u64,
    behind: u64,
    batches: &[Batch],
) -> Result<Tail, Broken> {
    let (disk, temporary) = (env.disk(), directory.join(TEMPORARY));
    let path = journal_path(directory, number);
    let cannot = failed("could not make journal", &path);
    let epoch = env.random_u64();
    let mut bytes = frames::encode_header(number, epoch);
    bytes.extend_from_slice(&encode_frames(epoch, behind + 1, batches));
    let offset = bytes.len() as u64;
    let file = disk.create(&temporary).await.map_err(&cannot)?;
    file.write_and_sync(0, bytes.freeze()).await.map_err(&cannot)?;
    disk.rename(&temporary, &path).await.map_err(&cannot)?;
    disk.sync_dir(directory).await.map_err(&cannot)?;
    drop(cannot);
    Ok(Tail {
        number,
        epoch,
        path,
        file,
        offset,
        sequence: behind + batches.len() as u64,
        synced: behind,
    })
}

/// Reads a journal into memory and cuts what was not synced and is not whole.
async fn load(
    disk: &dyn Disk,
    directory: &Path,
    number: u64,
    synced: &Synced,
    memory: &mut Memory,
) -> Result<Tail, Broken> {
    let path = journal_path(directory, number);
    let damaged = |offset: usize, how: &str| Broken::Damaged {
        what: "journal",
        path: path.clone(),
        offset: offset as u64,
        how: format!("{how}; the store has to be rebuilt from a snapshot"),
    };
    let cannot = failed("could not read journal", &path);
    let file = disk.open(&path).await.map_err(&cannot)?;
    let length = file.len().await.map_err(&cannot)?;
    let length = usize::try_from(length).map_err(|_| Broken::invariant("a journal too large"))?;
    let bytes = file.read_at(0, length).await.map_err(&cannot)?;
    let Some(epoch) = decode_header(&bytes, number) else {
        return Err(damaged(0, "its header is not whole"));
    };
    let (mut offset, mut sequence) = (SECTOR, 0);
    let next = |offset: usize, sequence: u64| {
        // Right behind the last, or where the next was written.
        let places = [offset, offset.next_multiple_of(SECTOR)].into_iter();
        let mut frames = places.filter_map(|at| Some((at, decode_frame(&bytes, at, epoch)?)));
        // A journal that was rewritten begins anywhere.
        frames.find(|(_, frame)| frame.sequence == sequence + 1 || offset == SECTOR)
    };
    while let Some((at, frame)) = next(offset, sequence) {
        offset = at + FRAME_HEADER + frame.changes.len();
        let changes =
            decode_changes(frame.changes).ok_or_else(|| damaged(at, "its changes cannot be read"))?;
        for change in &changes {
            memory.live_bytes += memory.spaces.apply(change);
        }
        sequence = frame.sequence;
    }
    if sequence < synced.batches {
        let what = format!(
            "batch {} cannot be read, and {} were synced",
            sequence + 1,
            synced.batches
        );
        return Err(damaged(offset, &what));
    }
    let end = offset.next_multiple_of(SECTOR);
    let is_torn = bytes[offset..].iter().any(|byte| *byte != 0);
    if is_torn {
        tracing::warn!(
            "journal {} is not whole behind offset {offset}: what was not synced before a power loss is cut off, \
             and is replayed from the log",
            path.display()
        );
    }
    if length != end || is_torn {
        file.set_len(offset as u64).await.map_err(&cannot)?;
        file.set_len(end as u64).await.map_err(&cannot)?;
    }
    file.sync().await.map_err(&cannot)?;
    disk.sync_dir(directory).await.map_err(&cannot)?;
    drop(cannot);
    if sequence > synced.batches {
        record(disk, directory, sequence).await?;
    }
    Ok(Tail {
        number,
        epoch,
        path,
        file,
        offset: end as u64,
        sequence,
        synced: sequence,
    })
}

impl Read for JournalEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Read::get(&self.shared.memory().spaces, space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        // On a view: the visitor may call back.
        let spaces = self.shared.memory().spaces.clone();
        spaces.scan(space, from, to, visit)
    }
}

impl Engine for JournalEngine {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        let mut memory = self.shared.memory();
        if let Some(broken) = &memory.broken {
            return Err(broken.clone());
        }
        for change in &batch.changes {
            memory.live_bytes += memory.spaces.apply(change);
        }
        if !batch.is_empty() {
            memory.unwritten.push(batch);
            // If it has been told already, it has not looked yet.
            let _ = self.written.try_send(());
        }
        Ok(())
    }

    fn discard(&self, dead: Vec<RevisionAt>) {
        let mut batch = Batch::default();
        for at in dead {
            batch.delete(Space::Records, at.to_bytes().to_vec());
        }
        // If the engine is broken, the next write says so.
        let _ = self.write(batch);
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>> {
        Box::pin(async {
            let mut tail = self.shared.tail.lock().await;
            let result = self.shared.flush(&mut tail).await;
            self.shared.note(result)
        })
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(self.shared.memory().spaces.clone())
    }
}
