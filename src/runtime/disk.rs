//! Files, with the promises that matter named.
//!
//! * [`File::write_at`] reaches the page cache: it survives the process, not the power.
//! * [`File::sync`] makes every earlier write of that file durable, and its length.
//! * [`Disk::sync_dir`] makes creations, renames and removals in a directory durable.
//! * After a failed sync nothing is known about the pages: the caller must stop (fsyncgate).

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// A file system. Paths are as the operating system's; listings are sorted.
pub trait Disk: Send + Sync {
    fn create_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    /// Names in a directory, sorted.
    fn read_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Vec<String>>>;
    /// Opens an existing file for reading and writing.
    fn open<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>>;
    /// Creates an empty file, or empties an existing one.
    fn create<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>>;
    /// Renames a file or directory, replacing a file that has the name.
    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    fn remove_file<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    fn remove_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>>;
    /// Takes an exclusive lock on a file (created if absent); released when the guard is dropped or
    /// the process ends. `WouldBlock` if somebody else holds it.
    fn lock<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Box<dyn Send + Sync>>>;
}

/// An open file. Offsets and lengths are in bytes.
#[allow(clippy::len_without_is_empty)] // nobody asks whether a file is empty
pub trait File: Send + Sync {
    fn len(&self) -> BoxFuture<'_, io::Result<u64>>;
    /// Reads up to `length` bytes; fewer only at the end of the file.
    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>>;
    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>>;
    /// Extends with zeros or cuts. Disk space for an extension is reserved where that is possible.
    fn set_len(&self, length: u64) -> BoxFuture<'_, io::Result<()>>;
    /// `fdatasync`.
    fn sync(&self) -> BoxFuture<'_, io::Result<()>>;
    /// [`write_at`](Self::write_at) and [`sync`](Self::sync) in one trip; how long the sync alone took.
    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<Duration>>;
}
