//! What the last completed sync of an engine covers, for the engine's next start.
//!
//! ```text
//! file "synced", replaced atomically        every number is little-endian
//!   0 8 magic "QUORSYN1"    8 4 CRC-32C of 12..    12 8 batches
//!   20 then for each journal:   0 8 number    8 8 end    16 8 sequence    24 8 batches    32 4 CRC-32C of 0..end
//! ```
//!
//! After a power loss a journal is damaged wherever it was not synced, and that is no reason not to start: what
//! a sync does not cover is in the raft log. Damage of what it does cover is another matter. Which of the two
//! it is, the journal cannot tell by itself, so this file does: a start cuts the former away and refuses the
//! latter. It is written after the journal is synced and before anybody is told so.

use std::path::Path;

use bytes::{BufMut, Bytes, BytesMut};

use super::failed;
use crate::base::Broken;
use crate::runtime::Disk;

const MAGIC: &[u8; 8] = b"QUORSYN1";
const HEADER_BYTES: usize = 20;
const EXTENT_BYTES: usize = 36;
/// The file's name in the engine's directory.
pub const FILE: &str = "synced";
/// What it is called until it is durable.
pub const TEMPORARY: &str = "synced.new";

/// What a sync covers.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Synced {
    /// So many batches were written to this engine by then.
    pub batches: u64,
    /// The journals that there were, of an engine whose batches do not tell what came before them.
    pub journals: Vec<Extent>,
}

/// The first bytes of a journal.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Extent {
    pub number: u64,
    /// Bytes that it has: the end of a batch.
    pub end: u64,
    /// The number that the engine gave the last batch.
    pub sequence: u64,
    /// So many batches were written by the last one that counts itself; zero if none does.
    pub batches: u64,
    pub checksum: u32,
}

impl Synced {
    /// Reads the file in an engine's directory, if it is there.
    ///
    /// # Errors
    /// Damage.
    pub async fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Synced>, Broken> {
        let path = directory.join(FILE);
        let names = disk.read_dir(directory).await;
        let names = names.map_err(failed("could not read", directory))?;
        if !names.iter().any(|name| name == FILE) {
            return Ok(None);
        }
        let cannot = failed("could not read", &path);
        let file = disk.open(&path).await.map_err(&cannot)?;
        let length = file.len().await.map_err(&cannot)?;
        let length = usize::try_from(length).map_err(|_| Broken::invariant("a file too large"))?;
        let bytes = file.read_at(0, length).await.map_err(&cannot)?;
        Self::decode(&bytes)
            .ok_or_else(|| Broken::damaged_file(&path))
            .map(Some)
    }

    /// Puts the file in the place of the last one; durable when it returns.
    pub async fn write(&self, disk: &dyn Disk, directory: &Path) -> Result<(), Broken> {
        let (path, temporary) = (directory.join(FILE), directory.join(TEMPORARY));
        let cannot = failed("could not write", &path);
        let file = disk.create(&temporary).await.map_err(&cannot)?;
        file.write_and_sync(0, self.encode()).await.map_err(&cannot)?;
        disk.rename(&temporary, &path).await.map_err(&cannot)?;
        disk.sync_dir(directory).await.map_err(&cannot)
    }

    /// Whether no sync was ever completed: all that the engine holds is in the log.
    pub fn is_nothing(&self) -> bool {
        self.batches == 0
    }

    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(0);
        bytes.put_u64_le(self.batches);
        for journal in &self.journals {
            bytes.put_u64_le(journal.number);
            bytes.put_u64_le(journal.end);
            bytes.put_u64_le(journal.sequence);
            bytes.put_u64_le(journal.batches);
            bytes.put_u32_le(journal.checksum);
        }
        let checksum = crc32c::crc32c(&bytes[12..]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes.freeze()
    }

    pub fn decode(bytes: &[u8]) -> Option<Synced> {
        let u64_at =
            |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at =
            |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        if !bytes.starts_with(MAGIC) || crc32c::crc32c(bytes.get(12..)?) != u32_at(bytes, 8)? {
            return None;
        }
        let extent = |bytes: &[u8]| {
            Some(Extent {
                number: u64_at(bytes, 0)?,
                end: u64_at(bytes, 8)?,
                sequence: u64_at(bytes, 16)?,
                batches: u64_at(bytes, 24)?,
                checksum: u32_at(bytes, 32)?,
            })
        };
        Some(Synced {
            batches: u64_at(bytes, 12)?,
            journals: bytes
                .get(HEADER_BYTES..)?
                .chunks(EXTENT_BYTES)
                .map(extent)
                .collect::<Option<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests;
