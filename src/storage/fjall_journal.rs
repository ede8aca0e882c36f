//! fjall's journal as we read it: before fjall does, to tell damage of what was synced from what a power loss left.
//!
//! ```text
//! file "<number>.jnl"                        every number is little-endian
//! +-------+-------+- - - -+----------------+
//! | batch | batch |       | zeros, or torn |  only of the newest journal: the others were synced before it was made
//! +-------+-------+- - - -+----------------+
//!
//! batch:  0 1 tag 1    1 4 items    5 8 sequence
//!   item: 0 1 tag 2    1 1 type    2 1 compression    3 8 keyspace    11 2 key length    13 4 value length
//!         17 4 stored value length    21 key, stored value
//!   end:  0 1 tag 3    1 8 XXH3 of the items    9 4 magic "FJL\x03"
//! ```
//!
//! fjall's own recovery refuses some damage, takes other damage for the end of what was written and drops what
//! follows, and does not notice a damaged sequence number, which decides which of two values is the newer. So each start reads
//! the journals strictly. Up to where they are known to be synced ([`Synced`](super::synced)) every byte has to be as it was;
//! behind that the newest one is cut where it stops being whole. This relies on the very format, so fjall is pinned exactly.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::failed;
use super::synced::{self, Extent, Synced};
use crate::base::Broken;

const START_BYTES: usize = 13;
const ITEM_BYTES: usize = 21;
const END_BYTES: usize = 13;
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const TRAILER: &[u8; 4] = b"FJL\x03";
const BUFFER_BYTES: usize = 256 * 1024;

/// The key under which each batch counts itself, in a keyspace of its own.
pub const COUNT_KEY: &[u8] = b"quorate: batches";

/// A directory's journals, oldest first.
fn list(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let number = name.and_then(|name| name.strip_suffix(".jnl")?.parse().ok());
        journals.extend(number.map(|number| (number, path)));
    }
    journals.sort();
    Ok(journals)
}

/// Walks a journal batch by batch, as long as they are whole.
struct Walk {
    file: BufReader<File>,
    /// Bytes of the file behind `extent`.
    left: u64,
    /// What was walked.
    extent: Extent,
    batch: Vec<u8>,
}

impl Walk {
    /// Goes on at the end of what is known of the journal.
    fn begin(path: &Path, known: Extent) -> io::Result<Walk> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(known.end))?;
        Ok(Walk {
            file: BufReader::with_capacity(BUFFER_BYTES, file),
            left: length.saturating_sub(known.end),
            extent: known,
            batch: Vec::new(),
        })
    }

    /// Reads so many more bytes of the batch; `None` if the file ends before.
    fn take(&mut self, length: usize) -> io::Result<Option<&[u8]>> {
        let start = self.batch.len();
        if (start + length) as u64 > self.left {
            return Ok(None);
        }
        self.batch.resize(start + length, 0);
        let part = &mut self.batch[start..];
        self.file.read_exact(part)?;
        Ok(Some(part))
    }

    /// Takes the next batch; false if there is none that is whole and follows the last.
    fn next(&mut self) -> io::Result<bool> {
        self.batch.clear();
        let Some((sequence, batches)) = self.read_batch()? else {
            return Ok(false);
        };
        let last = self.extent;
        let follows = (sequence > last.sequence || last.sequence == 0)
            && (batches == last.batches + 1 || last.batches == 0);
        if !follows {
            return Ok(false);
        }
        self.left -= self.batch.len() as u64;
        self.extent = Extent {
            number: last.number,
            end: last.end + self.batch.len() as u64,
            sequence,
            batches,
            checksum: crc32c::crc32c_append(last.checksum, &self.batch),
        };
        Ok(true)
    }

    /// The sequence of the batch, and how it counts itself.
    fn read_batch(&mut self) -> io::Result<Option<(u64, u64)>> {
        let Some([START, start @ ..]) = self.take(START_BYTES)? else {
            return Ok(None);
        };
        let (items, sequence) = (u32_at(start, 0), u64_at(start, 4));
        let mut batches = 0;
        for _ in 0..items {
            let Some([ITEM, item @ ..]) = self.take(ITEM_BYTES)? else {
                return Ok(None);
            };
            let key_bytes = usize::from(u16::from_le_bytes([item[10], item[11]]));
            let value_bytes = u32_at(item, 16) as usize;
            let Some(content) = self.take(key_bytes + value_bytes)? else {
                return Ok(None);
            };
            let (key, value) = content.split_at(key_bytes);
            if key == COUNT_KEY && value.len() == 8 {
                batches = u64_at(value, 0);
            }
        }
        let Some([END, end @ ..]) = self.take(END_BYTES)? else {
            return Ok(None);
        };
        let (checksum, is_complete) = (u64_at(end, 0), end.ends_with(TRAILER));
        let items = &self.batch[START_BYTES..self.batch.len() - END_BYTES];
        Ok((is_complete && xxh3_64(items) == checksum).then_some((sequence, batches)))
    }

    /// How many bytes follow what was walked, up to the last that is not zero.
    fn rest(&self) -> io::Result<u64> {
        let mut file = self.file.get_ref();
        file.seek(SeekFrom::Start(self.extent.end))?;
        let zeros = vec![0; BUFFER_BYTES];
        let mut piece = zeros.clone();
        let (mut position, mut last) = (0, 0);
        loop {
            let read = file.read(&mut piece)?;
            let (piece, zeros) = (&piece[..read], &zeros[..read]);
            if piece != zeros {
                let behind = piece.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
                last = position + behind as u64;
            }
            if read == 0 {
                return Ok(last);
            }
            position += read as u64;
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// What the journals of an engine are found to be.
pub struct Verified {
    /// What of them is whole.
    whole: Synced,
    /// No sync was ever completed.
    is_first: bool,
    /// Behind that: files, where each stops being whole, and how many bytes follow.
    tail: Vec<(PathBuf, u64, u64)>,
    /// Journals that were synced are gone: rightly, if tables hold everything up to this sequence.
    pub flushed: u64,
}

/// Reads all journals in an engine's directory.
///
/// # Errors
/// What was synced is damaged; the text names file and offset.
pub fn verify(directory: &Path, synced: &Synced) -> Result<Verified, Broken> {
    let cannot = failed("could not read the journals in", directory);
    let journals = list(directory).map_err(&cannot)?;
    let mut verified = Verified {
        whole: synced.clone(),
        is_first: synced.is_nothing(),
        tail: Vec::new(),
        flushed: 0,
    };
    for known in &synced.journals {
        if journals.iter().all(|(number, _)| *number != known.number) {
            verified.flushed = verified.flushed.max(known.sequence);
        }
    }
    verified.whole.journals.clear();
    let mut last = Extent::default();
    for (number, path) in journals {
        let begin = Extent {
            number,
            end: 0,
            checksum: 0,
            ..last
        };
        let known = synced.journals.iter().find(|known| known.number == number);
        let mut walk = Walk::begin(&path, begin).map_err(&cannot)?;
        let is_reached = |walked: &Extent| {
            known.is_none_or(|known| (known.end, known.checksum) == (walked.end, walked.checksum))
        };
        let mut is_whole = is_reached(&walk.extent);
        // What follows a cut was not synced either.
        while verified.tail.is_empty() && walk.next().map_err(&cannot)? {
            is_whole |= is_reached(&walk.extent);
        }
        if !is_whole {
            let end = walk.extent.end;
            return Err(damaged(&path, known.map_or(end, |known| known.end.min(end))));
        }
        let rest = walk.rest().map_err(&cannot)?;
        if rest > 0 || !verified.tail.is_empty() {
            verified.tail.push((path, walk.extent.end, rest));
        }
        last = walk.extent;
        verified.whole.journals.push(last);
    }
    verified.whole.batches = synced.batches.max(last.batches);
    Ok(verified)
}

fn damaged(path: &Path, offset: u64) -> Broken {
    Broken::Damaged {
        what: "the store's journal",
        path: path.to_owned(),
        offset,
        how: "what was synced there cannot be read".into(),
    }
}

impl Verified {
    /// Cuts away what was not synced and is not whole, which the log has, and makes the rest durable. That is recorded, but for a
    /// store that was never synced: it stays one until it is seen to be good.
    pub fn settle(self, directory: &Path) -> Result<Synced, Broken> {
        let cannot = failed("could not settle the journals in", directory);
        for (path, offset, bytes) in &self.tail {
            let file = OpenOptions::new().write(true).open(path).map_err(&cannot)?;
            file.set_len(*offset).map_err(&cannot)?;
            tracing::warn!(
                "the store's journal {} is not whole behind offset {offset}: {bytes} bytes that were not synced \
                 before a power loss are cut off; what they held is replayed from the log",
                path.display()
            );
        }
        for (_, path) in list(directory).map_err(&cannot)? {
            File::open(path)
                .and_then(|file| file.sync_all())
                .map_err(&cannot)?;
        }
        if !self.is_first {
            record(directory, &self.whole)?;
        }
        Ok(self.whole)
    }
}

/// How far the journals reach now. `known`: what is known of them already.
pub fn reach(directory: &Path, known: &[Extent]) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    for (number, path) in list(directory)? {
        let known = known.iter().find(|known| known.number == number).copied();
        let begin = known.unwrap_or(Extent {
            number,
            ..Extent::default()
        });
        let mut walk = match Walk::begin(&path, begin) {
            Ok(walk) => walk,
            // Its content is in tables by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        while walk.next()? {}
        extents.push(walk.extent);
    }
    Ok(extents)
}

/// What is recorded of the last sync; of a directory that is empty, that there was none.
pub fn recorded(directory: &Path) -> Result<Option<Synced>, Broken> {
    let path = directory.join(synced::FILE);
    let cannot = failed("could not read", &path);
    match fs::read(&path) {
        Ok(bytes) => Synced::decode(&bytes)
            .ok_or_else(|| Broken::damaged_file(&path))
            .map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut entries = fs::read_dir(directory).map_err(&cannot)?;
            let is_other = |entry: io::Result<fs::DirEntry>| {
                entry.is_ok_and(|entry| entry.file_name() != synced::TEMPORARY)
            };
            if entries.any(is_other) {
                return Ok(None);
            }
            record(directory, &Synced::default())?;
            Ok(Some(Synced::default()))
        }
        Err(error) => Err(cannot(error)),
    }
}

/// Records a sync, durably.
pub fn record(directory: &Path, synced: &Synced) -> Result<(), Broken> {
    let (path, temporary) = (directory.join(synced::FILE), directory.join(synced::TEMPORARY));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(&synced.encode())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_directory(directory)
    };
    write().map_err(failed("could not write", &path))
}

/// Makes the names in a directory durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Empties the directory of an engine that was never synced.
pub fn clear(directory: &Path) -> Result<(), Broken> {
    let clear = || {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            match entry.file_type()?.is_dir() {
                true => fs::remove_dir_all(entry.path())?,
                false if entry.file_name() == synced::FILE => {}
                false => fs::remove_file(entry.path())?,
            }
        }
        sync_directory(directory)
    };
    clear().map_err(failed("could not empty", directory))
}
