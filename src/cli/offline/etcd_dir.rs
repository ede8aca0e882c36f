//! A data directory that etcd or etcdutl has made: found at the start, and taken over.
//!
//! ```text
//!   member/snap/db                     the database: everything up to its consistent index
//!   member/wal/<sequence>-<index>.wal  frames: length i64 LE (top byte 0x80 | padding) │ Record { type, crc, data }
//! ```
//!
//! The log's first record says who the member is. Entries that the database lacks would be lost, so a directory with
//! such entries is refused. etcd's own files stay as they are, beside this server's.

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use tracing::info;

use super::DbFile;
use crate::bbolt::File;
use crate::config::Config;
use crate::node::{NodeError, Origin, has_member, restore};
use crate::runtime::Env;

/// Kinds of records in etcd's log.
const METADATA: i64 = 1;
const ENTRY: i64 = 2;
const CRC: i64 = 4;
/// Longest record: etcd's own limit is that of the file.
const RECORD_BYTES_MAX: usize = 512 * 1024 * 1024;

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(int64, tag = "1")]
    kind: i64,
    #[prost(uint32, tag = "2")]
    crc: u32,
    #[prost(bytes = "vec", tag = "3")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(uint64, tag = "1")]
    node: u64,
    #[prost(uint64, tag = "2")]
    cluster: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(uint64, tag = "2")]
    term: u64,
    #[prost(uint64, tag = "3")]
    index: u64,
}

/// What the log says.
#[derive(Default, Debug, PartialEq, Eq)]
struct Log {
    member: u64,
    cluster: u64,
    /// The newest entry; 0 without any.
    last_index: u64,
}

/// Takes over what etcd left in the data directory, if it did and nothing of this server's is there.
pub async fn adopt(env: &Env, config: &Config) -> Result<(), NodeError> {
    let member_dir = config.data_dir.join("member");
    let db = member_dir.join("snap").join("db");
    let wal_dir = config.wal_dir.clone().unwrap_or_else(|| member_dir.join("wal"));
    if !db.exists() || has_member(env, config).await? {
        return Ok(());
    }
    let log = read_log(&wal_dir).map_err(NodeError::Import)?;
    let file = File::open(DbFile::open(&db, false).map_err(NodeError::Import)?).map_err(NodeError::Import)?;
    info!(
        path = %db.display(),
        member = format!("{:x}", log.member),
        cluster = format!("{:x}", log.cluster),
        "taking over the data directory of an etcd"
    );
    let index = consistent_index(&file).map_err(NodeError::Import)?;
    if log.last_index > index {
        return Err(NodeError::Import(format!(
            "{}: etcd's log goes on to entry {}, its database to {index} only; take a snapshot of the running \
             cluster with etcdctl and restore it instead",
            wal_dir.display(),
            log.last_index,
        )));
    }
    let origin = Origin::Member {
        cluster: log.cluster,
        member: log.member,
    };
    let imported = restore(env, config, &file, origin, &mut || ()).await?;
    info!(
        revision = imported.revision,
        keys = imported.keys,
        "took over the data directory of an etcd"
    );
    Ok(())
}

fn consistent_index(file: &File<DbFile>) -> Result<u64, String> {
    let mut index = 0;
    file.rows(b"meta", &mut |key, value| {
        if key == b"consistent_index" {
            let bytes = value
                .try_into()
                .map_err(|_| "a malformed consistent index".to_owned())?;
            index = u64::from_be_bytes(bytes);
        }
        Ok(())
    })?;
    Ok(index)
}

fn read_log(dir: &Path) -> Result<Log, String> {
    let context = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let entries = fs::read_dir(dir).map_err(|error| context(dir, &error))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    files.sort();
    let mut log = Log::default();
    let mut crc = 0;
    for path in &files {
        let bytes = fs::read(path).map_err(|error| context(path, &error))?;
        read_segment(&bytes, &mut crc, &mut log).map_err(|error| context(path, &error))?;
    }
    if log.member == 0 {
        return Err(context(dir, &"no log of etcd's that says whose it is"));
    }
    Ok(log)
}

fn read_segment(bytes: &[u8], crc: &mut u32, log: &mut Log) -> Result<(), String> {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + 8) {
        let head = u64::from_le_bytes(head.try_into().map_err(|_| "a frame without a length")?);
        if head == 0 {
            return Ok(());
        }
        let length = usize::try_from(head & 0x00ff_ffff_ffff_ffff).unwrap_or(usize::MAX);
        let padding = if head >> 63 == 1 {
            (head >> 56 & 0x7) as usize
        } else {
            0
        };
        let damaged = |what: &str| format!("etcd's log is damaged at offset {at}: {what}");
        if length > RECORD_BYTES_MAX {
            return Err(damaged("a record that is too long"));
        }
        let body = bytes
            .get(at + 8..at + 8 + length)
            .ok_or_else(|| damaged("a record that is cut off"))?;
        let record = Record::decode(body).map_err(|_| damaged("an unreadable record"))?;
        if record.kind == CRC {
            *crc = record.crc;
        } else {
            *crc = crc32c::crc32c_append(*crc, &record.data);
            if *crc != record.crc {
                return Err(damaged("a wrong checksum"));
            }
        }
        match record.kind {
            METADATA => {
                let caller =
                    Metadata::decode(&record.data[..]).map_err(|_| damaged("unreadable metadata"))?;
                (log.member, log.cluster) = (caller.node, caller.cluster);
            }
            ENTRY => {
                let entry = Entry::decode(&record.data[..]).map_err(|_| damaged("an unreadable entry"))?;
                log.last_index = entry.index;
            }
            _ => {}
        }
        at += 8 + length + padding;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
