//! Segment files: their names, and the task that makes new ones and puts old ones away.
//!
//! ```text
//!   purged segment --rename--> spare --new header--> spare --rename--> next segment
//!                             new file, zeros, header --^
//! ```
//!
//! A file gets a segment's name only when its header and its zeros are durable, so a segment with a bad
//! header was damaged, never half made. Zeros are really written: with blocks that are only reserved, the
//! first write to each would change the file's metadata and make its fdatasync slower.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::WalOptions;
use crate::base::{Broken, limits};
use crate::runtime::{Disk, Env, File, Task};
use crate::storage::failed;
use crate::storage::format::{SEGMENT_HEADER, SegmentHeader};

/// Zeros are written in pieces of this size, and synced one by one: a group that is written meanwhile
/// does not wait for all of them.
const ZEROS: usize = 1024 * 1024;

/// An open segment.
pub(super) struct Segment {
    pub number: u64,
    pub epoch: u64,
    pub length: u64,
    pub path: PathBuf,
    pub file: Arc<dyn File>,
}

/// The file of a segment.
pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:016x}.log"))
}

fn spare_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("spare-{number:016x}.log"))
}

/// The number of a segment with this file name.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log").filter(|digits| digits.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The number of a spare file with this name.
pub(super) fn spare_number(name: &str) -> Option<u64> {
    segment_number(name.strip_prefix("spare-")?)
}

pub(super) enum Command {
    /// Make the segment with this number and at least this length.
    Prepare(u64, u64, oneshot::Sender<Result<Segment, Broken>>),
    /// The purged segment may be put away.
    Retire(Arc<Segment>),
}

/// Makes and puts away segments, one command after the other, where the writer need not wait for it.
#[derive(Clone)]
pub(super) struct SegmentAllocator(mpsc::UnboundedSender<Command>);

impl SegmentAllocator {
    pub fn start(env: &Env, directory: &Path, options: &WalOptions, spares: Vec<u64>) -> (Self, Task<()>) {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut closet = Closet {
            disk: env.disk(),
            env: env.clone(),
            directory: directory.to_owned(),
            options: options.clone(),
            next_spare: spares.last().map_or(0, |last| last + 1),
            spares,
        };
        let task = env.spawn(async move {
            while let Some(command) = receiver.recv().await {
                match command {
                    Command::Prepare(number, length, reply) => {
                        // The writer is gone when the log is being closed.
                        let _ = reply.send(closet.prepare(number, length).await);
                    }
                    Command::Retire(segment) => closet.retire(segment).await,
                }
            }
        });
        (SegmentAllocator(sender), task)
    }

    /// Asks for a segment; the answer comes when it is durable.
    pub fn prepare(&self, number: u64, length: u64) -> oneshot::Receiver<Result<Segment, Broken>> {
        let (reply, receiver) = oneshot::channel();
        // A stopped keeper drops the reply, which the waiter notices.
        let _ = self.0.send(Command::Prepare(number, length, reply));
        receiver
    }

    pub fn retire(&self, segment: Arc<Segment>) {
        let _ = self.0.send(Command::Retire(segment));
    }
}

struct Closet {
    env: Env,
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    options: WalOptions,
    /// Numbers of the spare files, all of the usual length.
    spares: Vec<u64>,
    next_spare: u64,
}

impl Closet {
    /// A name for a file that is not a segment, or no longer one.
    fn new_spare(&mut self) -> u64 {
        self.next_spare += 1;
        self.next_spare - 1
    }

    async fn prepare(&mut self, number: u64, length: u64) -> Result<Segment, Broken> {
        let length = length.max(self.options.segment_bytes);
        let spare = if length == self.options.segment_bytes {
            self.spares.pop()
        } else {
            None
        };
        let reuse = spare.is_some();
        let name = spare.unwrap_or_else(|| self.new_spare());
        let spare = spare_path(&self.directory, name);
        let made = self.make(number, length, &spare, reuse).await;
        if made.is_err() {
            // Give back what a full disk needs most. If this fails too, the next start does it.
            let _ = self.disk.remove_file(&spare).await;
        }
        made
    }

    async fn make(&self, number: u64, length: u64, spare: &Path, reuse: bool) -> Result<Segment, Broken> {
        let cannot = failed("could not make a log segment", spare);
        let file = if reuse {
            self.disk.open(spare).await.map_err(&cannot)?
        } else {
            let file = self.disk.create(spare).await.map_err(&cannot)?;
            file.set_len(length).await.map_err(&cannot)?;
            self.fill(&*file, length).await.map_err(&cannot)?;
            file
        };
        let epoch = self.env.random_u64();
        let header = SegmentHeader {
            number,
            epoch,
            length,
            identity: self.options.identity,
        };
        file.write_and_sync(0, header.encode()).await.map_err(&cannot)?;
        let path = segment_path(&self.directory, number);
        self.disk.rename(spare, &path).await.map_err(&cannot)?;
        self.disk.sync_dir(&self.directory).await.map_err(&cannot)?;
        Ok(Segment {
            number,
            epoch,
            length,
            path,
            file,
        })
    }

    async fn fill(&self, file: &dyn File, length: u64) -> std::io::Result<()> {
        let zeros = Bytes::from(vec![0; ZEROS.min(usize::try_from(length).unwrap_or(ZEROS))]);
        let mut offset = SEGMENT_HEADER as u64;
        while offset < length {
            let rest = usize::try_from(length - offset).unwrap_or(ZEROS);
            let piece = zeros.slice(..rest.min(zeros.len()));
            let next = offset + piece.len() as u64;
            if self.options.sync {
                file.write_and_sync(offset, piece).await?;
            } else {
                file.write_at(offset, piece).await?;
            }
            offset = next;
        }
        Ok(())
    }

    /// Keeps the file for reuse, or removes it. A failure costs disk space, not data: the next start
    /// finds the file and tries again.
    async fn retire(&mut self, segment: Arc<Segment>) {
        let usual = segment.length == self.options.segment_bytes;
        // A reader that still has the file open must not see it rewritten; removal does not hurt it.
        let unread = Arc::strong_count(&segment) == 1;
        let keep = usual && unread && self.spares.len() < limits::LOG_SPARE_SEGMENTS_MAX;
        let result = if keep {
            self.keep(&segment.path).await
        } else {
            self.disk.remove_file(&segment.path).await
        };
        if let Err(error) = result {
            tracing::warn!(
                "could not put away log segment {}: {error}",
                segment.path.display()
            );
        }
    }

    async fn keep(&mut self, path: &Path) -> std::io::Result<()> {
        let number = self.new_spare();
        self.disk
            .rename(path, &spare_path(&self.directory, number))
            .await?;
        // Before the file gets another header, its old name must be durably gone.
        self.disk.sync_dir(&self.directory).await?;
        self.spares.push(number);
        Ok(())
    }
}
