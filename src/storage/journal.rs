//! The simulator's engine: ordered maps in memory over a journal on the environment's [`Disk`].
//!
//! fjall owns its files and threads, so it cannot run on a simulated disk. This twin keeps the same
//! contract there: what is written and not synced dies with the node, what is synced is checksummed, damage
//! is found by name and offset.
//!
//! ```text
//!   journal = group*          (each group starts at a multiple of 512 bytes)
//!   group   = magic "QJNL" | length: u32 LE | crc32c(number, body): u32 LE | 0: u32 | number: u64 LE | body
//! ```
//!
//! A group is all that one sync made durable, written at once. An invalid group with no valid one behind
//! it is a torn tail and is cut; with one behind it, it is damage, and opening fails. A journal much larger than
//! what lives in it is replaced by one group that holds everything.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::engine::{Engine, View};
use super::snapshot::{decode_changes, encode_change};
use crate::base::kv::{Batch, Change, Read, Space, Visit};
use crate::base::{Broken, RevisionAt};
use crate::runtime::{BoxFuture, Env, File};

const MAGIC: &[u8; 4] = b"QJNL";
const HEADER_BYTES: usize = 24;
const ALIGN: u64 = 512;
/// A journal below this size is never rewritten.
const REWRITE_BYTES_MIN: u64 = 1024 * 1024;
/// How much larger than its live content a journal may grow.
const REWRITE_FACTOR: u64 = 4;

type Maps = [BTreeMap<Bytes, Bytes>; Space::ALL.len()];

/// Position of a space's map.
fn slot(space: Space) -> usize {
    space as usize
}

fn read(maps: &Maps, space: Space, key: &[u8]) -> Option<Bytes> {
    maps.get(slot(space))?.get(key).cloned()
}

fn scan(
    maps: &Maps,
    space: Space,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
) {
    if to.is_some_and(|to| to <= from) {
        return;
    }
    let range = (
        Bound::Included(from),
        to.map_or(Bound::Unbounded, Bound::Excluded),
    );
    for (key, value) in maps
        .get(slot(space))
        .into_iter()
        .flat_map(|map| map.range::<[u8], _>(range))
    {
        if visit(key, value.clone()) == Visit::Stop {
            break;
        }
    }
}

#[derive(Default)]
struct Memory {
    /// Shared with views; a write while a view is open copies.
    maps: Arc<Maps>,
    /// Encoded changes since the last sync.
    unsynced: BytesMut,
    live_bytes: u64,
}

impl Memory {
    fn apply(&mut self, change: Change) {
        let maps = Arc::make_mut(&mut self.maps);
        let Some(map) = maps.get_mut(slot(change.space)) else {
            return;
        };
        let size = |key: &Bytes, value: &Bytes| (key.len() + value.len()) as u64;
        if let Some(value) = &change.value {
            self.live_bytes += size(&change.key, value);
        }
        let old = match change.value {
            Some(value) => map.insert(change.key.clone(), value),
            None => map.remove(&change.key),
        };
        self.live_bytes -= old.map_or(0, |old| size(&change.key, &old));
    }
}

struct Journal {
    file: Arc<dyn File>,
    end: u64,
    next_number: u64,
    /// A sync failed: what it held is gone from memory's list and perhaps from the disk.
    failed: Option<Broken>,
}

/// See the module.
pub struct JournalEngine {
    env: Env,
    dir: PathBuf,
    memory: Mutex<Memory>,
    journal: tokio::sync::Mutex<Journal>,
}

fn broken(path: &Path, error: impl std::fmt::Display) -> Broken {
    Broken::new(format!("engine {}: {error}", path.display()))
}

fn encode_group(number: u64, body: &[u8]) -> Bytes {
    let mut group = BytesMut::with_capacity(HEADER_BYTES + body.len() + ALIGN as usize);
    group.put_slice(MAGIC);
    group.put_u32_le(u32::try_from(body.len()).expect("what one sync writes is far below 4 GiB"));
    group.put_u32_le(checksum(number, body));
    group.put_u32_le(0);
    group.put_u64_le(number);
    group.put_slice(body);
    let padded = (group.len() as u64).next_multiple_of(ALIGN);
    group.resize(padded as usize, 0);
    group.freeze()
}

fn checksum(number: u64, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), body)
}

/// The group at the start of `bytes`, if it is whole: its number, its body, its length with padding.
fn decode_group(mut bytes: Bytes) -> Option<(u64, Bytes, u64)> {
    if bytes.len() < HEADER_BYTES || !bytes.starts_with(MAGIC) {
        return None;
    }
    bytes.advance(MAGIC.len());
    let length = bytes.get_u32_le() as usize;
    let crc = bytes.get_u32_le();
    bytes.advance(4);
    let number = bytes.get_u64_le();
    if bytes.len() < length {
        return None;
    }
    let body = bytes.slice(..length);
    let padded = ((HEADER_BYTES + length) as u64).next_multiple_of(ALIGN);
    (checksum(number, &body) == crc).then_some((number, body, padded))
}

impl JournalEngine {
    /// Opens or creates the engine in the directory `dir`.
    pub async fn open(env: &Env, dir: &Path) -> Result<Self, Broken> {
        let disk = env.disk();
        let path = dir.join("journal");
        disk.create_dir_all(dir)
            .await
            .map_err(|error| broken(dir, error))?;
        let file = match disk.open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let file = disk.create(&path).await.map_err(|error| broken(&path, error))?;
                file.sync().await.map_err(|error| broken(&path, error))?;
                disk.sync_dir(dir).await.map_err(|error| broken(dir, error))?;
                file
            }
            Err(error) => return Err(broken(&path, error)),
        };
        let (memory, journal) = recover(&path, file).await?;
        Ok(JournalEngine {
            env: env.clone(),
            dir: dir.to_owned(),
            memory: Mutex::new(memory),
            journal: tokio::sync::Mutex::new(journal),
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn sync_now(&self) -> Result<(), Broken> {
        let mut journal = self.journal.lock().await;
        if let Some(failed) = &journal.failed {
            return Err(failed.clone());
        }
        let path = self.dir.join("journal");
        let synced = self
            .sync_journal(&mut journal)
            .await
            .map_err(|error| broken(&path, error));
        journal.failed = synced.clone().err();
        synced
    }

    async fn sync_journal(&self, journal: &mut Journal) -> std::io::Result<()> {
        let (body, live_bytes) = {
            let mut memory = self.memory();
            (memory.unsynced.split().freeze(), memory.live_bytes)
        };
        if body.is_empty() {
            return Ok(());
        }
        let grown = journal.end + body.len() as u64;
        if grown > REWRITE_BYTES_MIN && grown > REWRITE_FACTOR * live_bytes {
            return self.rewrite(journal).await;
        }
        let group = encode_group(journal.next_number, &body);
        let length = group.len() as u64;
        journal.file.write_and_sync(journal.end, group).await?;
        journal.end += length;
        journal.next_number += 1;
        Ok(())
    }

    /// Replaces the journal by one group that holds everything.
    async fn rewrite(&self, journal: &mut Journal) -> std::io::Result<()> {
        let disk = self.env.disk();
        let (path, fresh_path) = (self.dir.join("journal"), self.dir.join("journal.new"));
        let maps = {
            let mut memory = self.memory();
            memory.unsynced.clear();
            memory.maps.clone()
        };
        let mut body = BytesMut::new();
        for space in Space::ALL {
            scan(&maps, space, &[], None, &mut |key, value| {
                encode_change(&mut body, space, key, Some(&value));
                Visit::Continue
            });
        }
        let group = encode_group(1, &body);
        let length = group.len() as u64;
        let file = disk.create(&fresh_path).await?;
        file.write_and_sync(0, group).await?;
        disk.rename(&fresh_path, &path).await?;
        disk.sync_dir(&self.dir).await?;
        *journal = Journal {
            file,
            end: length,
            next_number: 2,
            failed: None,
        };
        Ok(())
    }
}

/// Replays the journal, cuts a torn tail, refuses damage.
async fn recover(path: &Path, file: Arc<dyn File>) -> Result<(Memory, Journal), Broken> {
    let io = |error| broken(path, error);
    let length = file.len().await.map_err(io)?;
    let size = usize::try_from(length).map_err(|error| broken(path, error))?;
    let bytes = file.read_at(0, size).await.map_err(io)?;
    let mut memory = Memory::default();
    let mut at = 0;
    let mut next_number = 1;
    while let Some((number, body, padded)) = bytes.get(at..).and_then(|_| decode_group(bytes.slice(at..))) {
        if number != next_number {
            return Err(broken(
                path,
                format!("group {number} at offset {at} where {next_number} belongs"),
            ));
        }
        let changes = decode_changes(body).map_err(|error| broken(path, format!("offset {at}: {error}")))?;
        changes.into_iter().for_each(|change| memory.apply(change));
        at += padded as usize;
        next_number += 1;
    }
    let behind = (at + ALIGN as usize..bytes.len()).step_by(ALIGN as usize);
    let survivor = behind
        .filter_map(|offset| Some((offset, decode_group(bytes.slice(offset..))?.0)))
        .find(|(_, number)| *number >= next_number);
    if let Some((offset, number)) = survivor {
        return Err(broken(
            path,
            format!("damaged at offset {at}: group {number} at offset {offset} is intact behind it"),
        ));
    }
    if (at as u64) < length {
        file.set_len(at as u64).await.map_err(io)?;
        file.sync().await.map_err(io)?;
    }
    Ok((
        memory,
        Journal {
            file,
            end: at as u64,
            next_number,
            failed: None,
        },
    ))
}

impl Read for JournalEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Ok(read(&self.memory().maps, space, key))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        let maps = self.memory().maps.clone();
        scan(&maps, space, from, to, visit);
        Ok(())
    }
}

impl Engine for JournalEngine {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        let mut memory = self.memory();
        for change in batch.changes {
            encode_change(
                &mut memory.unsynced,
                change.space,
                &change.key,
                change.value.as_deref(),
            );
            memory.apply(change);
        }
        Ok(())
    }

    fn sync(&self) -> BoxFuture<'_, Result<(), Broken>> {
        Box::pin(self.sync_now())
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(JournalView(self.memory().maps.clone()))
    }

    fn discard(&self, dead: Vec<RevisionAt>) {
        let changes = dead.into_iter().map(|at| Change {
            space: Space::Records,
            key: Bytes::copy_from_slice(&at.to_bytes()),
            value: None,
        });
        let mut memory = self.memory();
        for change in changes {
            encode_change(&mut memory.unsynced, change.space, &change.key, None);
            memory.apply(change);
        }
    }

    fn bytes(&self) -> (u64, u64) {
        let live = self.memory().live_bytes;
        (live, live)
    }
}

struct JournalView(Arc<Maps>);

impl View for JournalView {}

impl Read for JournalView {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Ok(read(&self.0, space, key))
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        scan(&self.0, space, from, to, visit);
        Ok(())
    }
}
