//! The engine of the simulator: ordered maps in memory over a journal on `Disk`.
//!
//! Same promises as fjall's, on a disk that the simulator crashes. A frame holds one batch: it is there after a crash, or it
//! is not. A sync writes the batches since the last one as a group, of which a crash leaves any number of the first.
//!
//! ```text
//! file "journal-0000000000000003"             every number is little-endian
//! +-------------------+ 0
//! | header, 512 bytes |  magic "QUORJNL1", number (8), epoch (8), CRC-32C of these 24 bytes (4), zeros
//! +-------------------+ 512
//! | group | group ... |  frames without a gap, then zeros up to a multiple of 512; the last group may be torn
//! +-------------------+
//!
//! frame:  0 4 magic "QJFR"      8 8 epoch                    24 8 sequence of the group's first frame
//!         4 4 CRC-32C of 8..    16 8 sequence (1, 2, ...)    32 8 length    40 changes
//! change: 0 1 space   1 1 has a value   2 2 zero   4 4 key length   8 4 value length   12 key, value
//! ```
//!
//! Groups are synced one by one, as those of the log are (see [`wal`](super::wal)): an invalid place with no later
//! group behind it is a torn tail and is cut; with one behind it, the journal is refused. A journal
//! that is mostly outdated is rewritten into a new file, which takes its name when it is durable.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::BoxFuture;

use super::engine::{Engine, View};
use super::failed;
use super::format::SECTOR;
use crate::base::kv::{Batch, Change, Read, Space, Visit};
use crate::base::{Broken, RevisionAt, limits};
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::{Disk, Env, File};

const MAGIC: &[u8; 8] = b"QUORJNL1";
const FRAME_MAGIC: &[u8; 4] = b"QJFR";
const FRAME_HEADER: usize = 40;
const TEMPORARY: &str = "journal.new";

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
    /// What was written and not synced, in order.
    unsynced: Vec<Batch>,
    journal_bytes: u64,
    broken: Option<Broken>,
}

/// The end of the journal; whoever holds it may write.
struct Tail {
    number: u64,
    epoch: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    offset: u64,
    sequence: u64,
}

/// The engine of the simulator.
pub struct JournalEngine {
    env: Env,
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    memory: Mutex<Memory>,
    tail: tokio::sync::Mutex<Tail>,
}

impl JournalEngine {
    /// Opens the journal in `directory`, or begins one.
    ///
    /// # Errors
    /// Damage: the text names file and offset.
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
            unsynced: Vec::new(),
            journal_bytes: 0,
            broken: None,
        };
        let tail = match newest {
            Some(number) => load(&*disk, directory, number, &mut memory).await?,
            None => create(env, directory, 1, &[]).await?,
        };
        memory.journal_bytes = tail.offset;
        Ok(JournalEngine {
            env: env.clone(),
            disk,
            directory: directory.to_owned(),
            memory: Mutex::new(memory),
            tail: tokio::sync::Mutex::new(tail),
        })
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory
            .lock()
            .expect("no code that panics runs under this lock")
    }

    /// What was not synced, and all rows if the journal of this length should be rewritten.
    fn take_unsynced(&self, journal_bytes: u64) -> Result<(Vec<Batch>, Option<Spaces>), Broken> {
        let mut memory = self.memory();
        if let Some(broken) = &memory.broken {
            return Err(broken.clone());
        }
        let live = u64::try_from(memory.live_bytes).unwrap_or(0);
        let outdated = journal_bytes > limits::JOURNAL_REWRITE_BYTES && journal_bytes > 4 * live;
        let all = (outdated || buggify(Site::EngineRewritten)).then(|| memory.spaces.clone());
        Ok((std::mem::take(&mut memory.unsynced), all))
    }

    /// Writes what was not synced: behind the rest, or everything into a new file.
    async fn flush(&self, tail: &mut Tail) -> Result<(), Broken> {
        let (unsynced, all) = self.take_unsynced(tail.offset)?;
        if unsynced.is_empty() {
            return Ok(());
        }
        let Some(all) = all else {
            let group = encode_group(tail.epoch, tail.sequence, &unsynced);
            let (offset, end) = (tail.offset, tail.offset + group.len() as u64);
            let cannot = failed("could not write journal", &tail.path);
            tail.file.write_and_sync(offset, group).await.map_err(&cannot)?;
            tail.offset = end;
            tail.sequence += unsynced.len() as u64;
            return Ok(());
        };
        let mut rows = Batch::default();
        for space in Space::ALL {
            for (key, value) in Spaces::get(&all, space).iter() {
                rows.put(space, key.clone(), value.clone());
            }
        }
        let new = create(&self.env, &self.directory, tail.number + 1, &[rows]).await?;
        let old = std::mem::replace(tail, new);
        let cannot = failed("could not remove journal", &old.path);
        self.disk.remove_file(&old.path).await.map_err(&cannot)
    }
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

/// Makes a journal that begins with these batches; it has its name when it is durable.
async fn create(env: &Env, directory: &Path, number: u64, batches: &[Batch]) -> Result<Tail, Broken> {
    let (disk, temporary) = (env.disk(), directory.join(TEMPORARY));
    let path = journal_path(directory, number);
    let cannot = failed("could not make journal", &path);
    let epoch = env.random_u64();
    let mut bytes = BytesMut::from(&MAGIC[..]);
    bytes.put_u64_le(number);
    bytes.put_u64_le(epoch);
    let checksum = crc32c::crc32c(&bytes);
    bytes.put_u32_le(checksum);
    bytes.resize(SECTOR, 0);
    bytes.extend_from_slice(&encode_group(epoch, 1, batches));
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
        sequence: 1 + batches.len() as u64,
    })
}

/// Reads a journal into memory and cuts a torn tail.
async fn load(disk: &dyn Disk, directory: &Path, number: u64, memory: &mut Memory) -> Result<Tail, Broken> {
    let path = journal_path(directory, number);
    let shown = path.display().to_string();
    let damaged = |offset: usize, what: &str| {
        Broken(format!(
            "journal {shown} is damaged at offset {offset}: {what}; the store has to be rebuilt from a snapshot"
        ))
    };
    let cannot = failed("could not read journal", &path);
    let file = disk.open(&path).await.map_err(&cannot)?;
    let length = file.len().await.map_err(&cannot)?;
    let length = usize::try_from(length).map_err(|_| Broken::new("a journal too large"))?;
    let bytes = file.read_at(0, length).await.map_err(&cannot)?;
    let Some(epoch) = decode_header(&bytes, number) else {
        return Err(damaged(0, "its header is not whole"));
    };
    let (mut offset, mut sequence) = (SECTOR, 1);
    let next = |offset: usize, sequence| {
        // In the same group, or in the next one.
        let places = [offset, offset.next_multiple_of(SECTOR)].into_iter();
        let mut frames = places.filter_map(|at| Some((at, decode_frame(&bytes, at, epoch)?)));
        frames.find(|(_, frame)| frame.sequence == sequence)
    };
    while let Some((at, frame)) = next(offset, sequence) {
        offset = at + FRAME_HEADER + frame.changes.len();
        let changes =
            decode_changes(frame.changes).ok_or_else(|| damaged(at, "its changes cannot be read"))?;
        for change in &changes {
            memory.live_bytes += memory.spaces.apply(change);
        }
        sequence += 1;
    }
    let end = offset.next_multiple_of(SECTOR);
    let of_later_group =
        |at: &usize| decode_frame(&bytes, *at, epoch).is_some_and(|frame| frame.group > sequence);
    if let Some(behind) = (end..length).step_by(SECTOR).find(of_later_group) {
        return Err(damaged(
            offset,
            &format!("a whole group follows at offset {behind}"),
        ));
    }
    if length != end || bytes[offset..].iter().any(|byte| *byte != 0) {
        file.set_len(offset as u64).await.map_err(&cannot)?;
        file.set_len(end as u64).await.map_err(&cannot)?;
    }
    file.sync().await.map_err(&cannot)?;
    disk.sync_dir(directory).await.map_err(&cannot)?;
    drop(cannot);
    Ok(Tail {
        number,
        epoch,
        path,
        file,
        offset: end as u64,
        sequence,
    })
}

fn decode_header(bytes: &[u8], number: u64) -> Option<u64> {
    let body = bytes.get(..24)?;
    let checksum = u32::from_le_bytes(bytes.get(24..28)?.try_into().ok()?);
    let named = u64::from_le_bytes(body.get(8..16)?.try_into().ok()?);
    let whole = body.starts_with(MAGIC) && crc32c::crc32c(body) == checksum && named == number;
    if !whole {
        return None;
    }
    Some(u64::from_le_bytes(body.get(16..24)?.try_into().ok()?))
}

/// The frames of these batches; the first has this sequence number.
fn encode_group(epoch: u64, group: u64, batches: &[Batch]) -> Bytes {
    let mut bytes = BytesMut::new();
    for (sequence, batch) in (group..).zip(batches) {
        let start = bytes.len();
        bytes.resize(start + FRAME_HEADER, 0);
        for Change { space, key, value } in &batch.changes {
            let length = |bytes: &Bytes| u32::try_from(bytes.len()).expect("requests are far below 4 GiB");
            bytes.put_u8(*space as u8);
            bytes.put_u8(u8::from(value.is_some()));
            bytes.put_u16_le(0);
            bytes.put_u32_le(length(key));
            bytes.put_u32_le(value.as_ref().map_or(0, length));
            bytes.put_slice(key);
            bytes.put_slice(value.as_deref().unwrap_or_default());
        }
        let frame = &mut bytes[start..];
        let length = (frame.len() - FRAME_HEADER) as u64;
        frame[..4].copy_from_slice(FRAME_MAGIC);
        frame[8..16].copy_from_slice(&epoch.to_le_bytes());
        frame[16..24].copy_from_slice(&sequence.to_le_bytes());
        frame[24..32].copy_from_slice(&group.to_le_bytes());
        frame[32..40].copy_from_slice(&length.to_le_bytes());
        let checksum = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(SECTOR), 0);
    bytes.freeze()
}

struct Frame {
    sequence: u64,
    /// Sequence of the first frame that was synced together with this one.
    group: u64,
    changes: Bytes,
}

/// The frame at `offset`, if it is whole.
fn decode_frame(bytes: &Bytes, offset: usize, epoch: u64) -> Option<Frame> {
    let frame = bytes.get(offset..)?;
    let u64_at = |at: usize| Some(u64::from_le_bytes(frame.get(at..at + 8)?.try_into().ok()?));
    if !frame.starts_with(FRAME_MAGIC) || u64_at(8)? != epoch {
        return None;
    }
    let end = usize::try_from(u64_at(32)?).ok()?.checked_add(FRAME_HEADER)?;
    let checksum = u32::from_le_bytes(frame.get(4..8)?.try_into().ok()?);
    if crc32c::crc32c(frame.get(8..end)?) != checksum {
        return None;
    }
    Some(Frame {
        sequence: u64_at(16)?,
        group: u64_at(24)?,
        changes: bytes.slice(offset + FRAME_HEADER..offset + end),
    })
}

fn decode_changes(bytes: Bytes) -> Option<Vec<Change>> {
    let mut list = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let header = bytes.get(at..at + 12)?;
        let length = |at: usize| Some(u32::from_le_bytes(header.get(at..at + 4)?.try_into().ok()?) as usize);
        let space = Space::from_u8(*header.first()?)?;
        let (key, value) = (at + 12, at + 12 + length(4)?);
        at = value + length(8)?;
        bytes.get(..at)?;
        let present = *header.get(1)? == 1;
        list.push(Change {
            space,
            // Copied, so that one small row does not keep the whole journal in memory.
            key: Bytes::copy_from_slice(bytes.get(key..value)?),
            value: if present {
                Some(Bytes::copy_from_slice(bytes.get(value..at)?))
            } else {
                None
            },
        });
    }
    Some(list)
}

impl Read for JournalEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Read::get(&self.memory().spaces, space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        // On a view: the visitor may call back.
        let spaces = self.memory().spaces.clone();
        spaces.scan(space, from, to, visit)
    }
}

impl Engine for JournalEngine {
    fn write(&self, batch: Batch) -> Result<(), Broken> {
        let mut memory = self.memory();
        if let Some(broken) = &memory.broken {
            return Err(broken.clone());
        }
        for change in &batch.changes {
            memory.live_bytes += memory.spaces.apply(change);
        }
        if !batch.is_empty() {
            memory.unsynced.push(batch);
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
            let mut tail = self.tail.lock().await;
            let result = self.flush(&mut tail).await;
            let mut memory = self.memory();
            memory.journal_bytes = tail.offset;
            if let Err(broken) = &result {
                // What is in memory may differ from what is on disk: never try again.
                memory.broken.get_or_insert_with(|| broken.clone());
            }
            result
        })
    }

    fn view(&self) -> Box<dyn View> {
        Box::new(self.memory().spaces.clone())
    }

    fn bytes(&self) -> (u64, u64) {
        let memory = self.memory();
        (
            memory.journal_bytes,
            u64::try_from(memory.live_bytes).unwrap_or(0),
        )
    }
}
