//! The write-ahead log: raft's entries, its vote, and the marks around them.
//!
//! ```text
//!   append, save_vote, truncate_after, purge          read, state
//!        |  change the log_index, queue the records          |
//!        v                                                v
//!      queue --> writer: everything queued is one    log_index (index, newest entries)
//!                group = one write and one sync           |  older entries
//!                         |                               v
//!                         +--------> segments <-----------+
//! ```
//!
//! Promises:
//! * Order is fixed when a verb is called, not when its future is polled; the verb is durable when its
//!   future resolves. A group is synced before the next is written.
//! * What was acknowledged is there after a crash, whole and in order; what was not is there as a prefix,
//!   or not at all.
//! * After a failed write or sync nothing is tried again: every later call fails with the first error.
//!
//! It does not know what a vote or an entry means: both are bytes. See [`format`] for the files.

mod log_index;
mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::sync::{Notify, oneshot};

pub use super::format::LogId;
use super::{failed, format};
use crate::base::{Broken, limits};
use crate::runtime::panics::poisoned;
use crate::runtime::{Env, Task};
use log_index::{LogIndex, Stored};
use segment::{Segment, SegmentAllocator};
use writer::{Next, Writer};

/// An entry of the log. The payload is opaque.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogRecord {
    pub term: u64,
    /// The node id of the term's leader: part of a raft log id.
    pub node: u64,
    pub index: u64,
    pub payload: Bytes,
}

impl LogRecord {
    pub fn id(&self) -> LogId {
        LogId {
            term: self.term,
            node: self.node,
            index: self.index,
        }
    }
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct WalOptions {
    /// Length of a segment file: a multiple of 512, at least 4,096.
    pub segment_bytes: u64,
    /// Payload bytes of the newest entries kept in memory.
    pub cache_bytes: usize,
    /// Off: `--unsafe-no-fsync`.
    pub sync: bool,
    /// Whose log this is; written into every segment, and checked.
    pub identity: [u8; 16],
}

impl WalOptions {
    /// The defaults of production, for this cluster and member.
    pub fn new(identity: [u8; 16]) -> Self {
        WalOptions {
            segment_bytes: limits::LOG_SEGMENT_BYTES,
            cache_bytes: limits::LOG_CACHE_BYTES,
            sync: true,
            identity,
        }
    }
}

/// What the log holds besides entries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalState {
    pub vote: Option<Bytes>,
    /// A hint: it is saved with the next group, and may be older than what was last given.
    pub committed: Option<LogId>,
    /// Entries up to here are gone.
    pub purged: Option<LogId>,
    /// The newest entry; [`purged`](Self::purged) if there is none.
    pub last: Option<LogId>,
}

/// The log at one moment, as a witness sees it: the simulator's properties are judged by such looks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Look {
    /// The first index that the log holds, or would hold: everything below is gone.
    pub start: u64,
    /// One behind the newest entry.
    pub end: u64,
    /// One behind the newest entry that is durable.
    pub durable_end: u64,
    pub committed: Option<LogId>,
    pub vote: Option<Bytes>,
    /// Where the next look goes on.
    pub ticket: u64,
    /// The entries that were added since the last look and are still there: the log's end.
    pub added: Vec<Seen>,
}

/// An entry as a [`Look`] shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub id: LogId,
    /// CRC-32C of the payload.
    pub checksum: u32,
    /// As long as it is in memory.
    pub payload: Option<Bytes>,
}

/// Looks at a log without keeping it open.
#[derive(Clone)]
pub struct Witness(Arc<Shared>);

impl Witness {
    /// `after`: the ticket of the last look; 0 for the first.
    pub fn look(&self, after: u64) -> Look {
        self.0.lock().log_index.look(after)
    }
}

/// A handle on the log; cheap to clone. When the last one is dropped, what is queued is still written.
#[derive(Clone)]
pub struct Wal(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// The writer and the keeper of its segments.
    tasks: Mutex<Vec<Task<()>>>,
}

impl Handle {
    fn stop(&self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Shared {
    inner: Mutex<Inner>,
    wake: Notify,
}

struct Inner {
    log_index: LogIndex,
    /// Segments that hold groups, by number.
    segments: BTreeMap<u64, Held>,
    queue: VecDeque<Job>,
    /// A committed id that waits for a group.
    committed: Option<Committed>,
    broken: Option<Broken>,
    closed: bool,
}

struct Held {
    segment: Arc<Segment>,
    /// The highest index of an entry in it, truncated ones too.
    last_index: Option<u64>,
}

/// A committed id on its way to the disk. Its entry may still be queued, behind another of the same index and a
/// truncation: it is written once everything is that was queued before it.
struct Committed {
    id: LogId,
    /// How many jobs of the queue are before it.
    ahead: usize,
}

/// What one call wants written.
struct Job {
    records: Records,
    done: oneshot::Sender<Result<(), Broken>>,
}

enum Records {
    /// Entries, and the ticket of the first; the tickets are consecutive.
    Entries(std::vec::IntoIter<LogRecord>, u64),
    Vote(Bytes),
    Truncate(Option<LogId>),
    Purge(LogId),
    Reset(LogId),
    /// Already in the queue's next group.
    Nothing,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(poisoned)
    }
}

impl Wal {
    /// Whose log lies in a directory: [`WalOptions::identity`]; `None` if there is none.
    pub async fn owner(env: &Env, directory: &Path) -> Result<Option<[u8; 16]>, Broken> {
        recovery::owner(env, directory).await
    }

    /// Opens the log in `directory`, or begins one there.
    ///
    /// # Errors
    /// Damage, a missing segment, or another member's log: the text names file and offset.
    pub async fn open(env: &Env, directory: &Path, options: WalOptions) -> Result<Wal, Broken> {
        let sectors = options.segment_bytes.is_multiple_of(format::SECTOR as u64);
        assert!(
            sectors && options.segment_bytes >= 4096,
            "segments of whole sectors"
        );
        let cannot = failed("could not make the log's directory", directory);
        env.disk().create_dir_all(directory).await.map_err(&cannot)?;
        if let Some(parent) = directory
            .parent()
            .filter(|parent| parent.components().next().is_some())
        {
            env.disk().sync_dir(parent).await.map_err(&cannot)?;
        }
        let found = recovery::recover(env, directory, &options).await?;
        let (keeper, keeping) = SegmentAllocator::start(env, directory, &options, found.spares);
        let (segment, offset) = match found.active {
            Some(active) => active,
            None => (
                writer::first_segment(&keeper).await?,
                format::SEGMENT_HEADER as u64,
            ),
        };
        let state = found.log_index.state();
        let mut segments = found.segments;
        segments.entry(segment.number).or_insert_with(|| Held {
            segment: segment.clone(),
            last_index: None,
        });
        let inner = Inner {
            log_index: found.log_index,
            segments,
            queue: VecDeque::new(),
            committed: None,
            broken: None,
            closed: false,
        };
        let shared = Arc::new(Shared {
            inner: Mutex::new(inner),
            wake: Notify::new(),
        });
        let next = match found.prepared {
            Some(prepared) => Next::Ready(prepared),
            None => Next::Asked(keeper.prepare(segment.number + 1, 0)),
        };
        let writer = Writer {
            env: env.clone(),
            shared: shared.clone(),
            options,
            keeper,
            segment,
            offset,
            sequence: found.sequence,
            next,
            written: state,
            buffer: BytesMut::new(),
        };
        let tasks = Mutex::new(vec![env.spawn_log(writer.run()), keeping]);
        Ok(Wal(Arc::new(Handle { shared, tasks })))
    }

    /// Writes what is queued, refuses what comes later, and returns when no task of the log touches a file
    /// any more: it can then be opened again.
    pub async fn close(&self) {
        self.0.stop();
        let tasks = std::mem::take(&mut *self.0.tasks.lock().expect("only taken from"));
        for task in tasks {
            // A task that was aborted does not touch a file either.
            let _ = task.await;
        }
    }

    pub fn state(&self) -> WalState {
        self.0.shared.lock().log_index.state()
    }

    pub fn witness(&self) -> Witness {
        Witness(self.0.shared.clone())
    }

    /// Adds entries behind the last one. They can be read at once, and are durable when this resolves.
    pub fn append(&self, records: Vec<LogRecord>) -> Durable {
        self.enqueue(|log_index| {
            let mut first = None;
            for record in &records {
                let ticket = log_index.append(record)?;
                first.get_or_insert(ticket);
            }
            Ok(first.map_or(Records::Nothing, |first| {
                Records::Entries(records.into_iter(), first)
            }))
        })
    }

    /// Whether the log holds this entry, or was purged up to it: durably, when that is said.
    pub async fn holds(&self, id: LogId) -> Result<bool, Broken> {
        let held = self.0.shared.lock().log_index.has(id);
        if held {
            self.enqueue(|_| Ok(Records::Nothing)).await?;
        }
        Ok(held)
    }

    /// Saves the vote, in order with appends.
    pub fn save_vote(&self, vote: Bytes) -> Durable {
        self.enqueue(|log_index| {
            log_index.vote = Some(vote.clone());
            Ok(Records::Vote(vote))
        })
    }

    /// Notes what is committed. It rides along with the next group: no sync of its own.
    pub fn save_committed(&self, committed: LogId) {
        let mut inner = self.0.shared.lock();
        inner.log_index.committed = Some(committed);
        let ahead = inner.queue.len();
        inner.committed = Some(Committed { id: committed, ahead });
    }

    /// Removes the entries behind `end`, all of them for `None`.
    ///
    /// # Errors
    /// If the log does not hold `end`, or had been purged beyond it.
    pub fn truncate_after(&self, end: Option<LogId>) -> Durable {
        self.enqueue(|log_index| {
            let last = log_index.last();
            match end {
                Some(end) if last.is_none_or(|last| last.index < end.index) => return Ok(Records::Nothing),
                Some(end) if !log_index.has(end) => {
                    return Err(Broken::invariant(format!(
                        "the log was to end at {end:?}, which it does not hold"
                    )));
                }
                None if log_index.purged().is_some() => {
                    return Err(Broken::invariant("a purged log was to be emptied"));
                }
                _ => {}
            }
            log_index.truncate(end);
            Ok(Records::Truncate(end))
        })
    }

    /// Removes the entries up to `upto`; whole segments then make room. If the log does not hold `upto` (a
    /// snapshot took its place), the log is empty afterwards and goes on behind `upto`.
    pub fn purge(&self, upto: LogId) -> Durable {
        self.enqueue(|log_index| {
            if log_index
                .purged()
                .is_some_and(|purged| purged.index >= upto.index)
            {
                return Ok(Records::Nothing);
            }
            if log_index.has(upto) {
                log_index.purge(upto);
                return Ok(Records::Purge(upto));
            }
            log_index.reset(upto);
            Ok(Records::Reset(upto))
        })
    }

    /// The entries of `from..to` that the log holds, at most `max_bytes` of payload, but one at least.
    ///
    /// # Errors
    /// If an entry on disk is damaged, with file and offset.
    pub async fn read(&self, from: u64, to: u64, max_bytes: Option<usize>) -> Result<Vec<LogRecord>, Broken> {
        let (stored, cached, segments) = self.plan(from, to, max_bytes)?;
        if stored.is_empty() {
            return Ok(cached);
        }
        let mut entries = Vec::with_capacity(stored.len() + cached.len());
        let mut rest = stored.as_slice();
        while !rest.is_empty() {
            let (run, behind) = rest.split_at(run_len(rest));
            let segment = segments.get(&run[0].place.segment).expect("taken with the plan");
            read_run(segment, run, &mut entries).await?;
            rest = behind;
        }
        entries.extend(cached);
        Ok(entries)
    }

    /// What a read has to fetch, and the segments: held, so that none is rewritten meanwhile.
    #[expect(clippy::type_complexity, reason = "used once, two lines above")]
    fn plan(
        &self,
        from: u64,
        to: u64,
        max_bytes: Option<usize>,
    ) -> Result<(Vec<Stored>, Vec<LogRecord>, BTreeMap<u64, Arc<Segment>>), Broken> {
        let inner = self.0.shared.lock();
        if let Some(broken) = &inner.broken {
            return Err(broken.clone());
        }
        let (stored, cached) = inner.log_index.plan(from, to, max_bytes);
        let mut segments = BTreeMap::new();
        for entry in &stored {
            let number = entry.place.segment;
            let held = inner
                .segments
                .get(&number)
                .expect("segments go after their entries");
            segments.entry(number).or_insert_with(|| held.segment.clone());
        }
        Ok((stored, cached, segments))
    }

    /// Changes the log_index and queues the records in one step, so that both have the same order.
    fn enqueue(&self, change: impl FnOnce(&mut LogIndex) -> Result<Records, Broken>) -> Durable {
        let mut inner = self.0.shared.lock();
        if let Some(broken) = &inner.broken {
            return Durable(Err(Some(broken.clone())));
        }
        if inner.closed {
            return Durable(Err(Some(Broken::Stopped("the log is closed"))));
        }
        let records = match change(&mut inner.log_index) {
            Ok(records) => records,
            Err(broken) => return Durable(Err(Some(broken))),
        };
        let (done, receiver) = oneshot::channel();
        inner.queue.push_back(Job { records, done });
        drop(inner);
        self.0.shared.wake.notify_one();
        Durable(Ok(receiver))
    }
}

/// Resolves when what was asked for is durable. It happens whether or not this is awaited.
#[derive(Debug)]
#[must_use = "nothing is durable before this resolves"]
pub struct Durable(Result<oneshot::Receiver<Result<(), Broken>>, Option<Broken>>);

impl Future for Durable {
    type Output = Result<(), Broken>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(receiver) => {
                let result = ready!(Pin::new(receiver).poll(cx));
                Poll::Ready(result.unwrap_or(Err(Broken::Stopped("the log's writer has stopped"))))
            }
            Err(refused) => Poll::Ready(Err(refused.take().expect("not polled again once ready"))),
        }
    }
}

/// How many of these entries are fetched with one read: neighbours in one segment.
fn run_len(entries: &[Stored]) -> usize {
    let end_of = |entry: &Stored| entry.place.offset + entry.length as u64;
    let start = entries[0].place.offset;
    let together = |pair: &[Stored]| {
        let near = pair[1].place.offset.checked_sub(end_of(&pair[0]));
        pair[0].place.segment == pair[1].place.segment
            && near.is_some_and(|gap| gap <= limits::LOG_READ_GAP_BYTES)
            && end_of(&pair[1]) - start <= limits::LOG_READ_BYTES as u64
    };
    1 + entries.windows(2).take_while(|pair| together(pair)).count()
}

/// Reads neighbouring entries of one segment and checks each.
async fn read_run(segment: &Segment, run: &[Stored], entries: &mut Vec<LogRecord>) -> Result<(), Broken> {
    let first = run.first().expect("a run is not empty");
    let last = run.last().expect("a run is not empty");
    let start = first.place.offset;
    let length = (last.place.offset - start) as usize + last.length;
    let cannot = failed("could not read log segment", &segment.path);
    let bytes = segment.file.read_at(start, length).await.map_err(&cannot)?;
    for entry in run {
        let at = (entry.place.offset - start) as usize;
        let whole = bytes.len() >= at + entry.length;
        let payload = if whole {
            bytes.slice(at..at + entry.length)
        } else {
            Bytes::new()
        };
        if !whole || crc32c::crc32c(&payload) != entry.place.checksum {
            return Err(Broken::Damaged {
                what: "log segment",
                path: segment.path.clone(),
                offset: entry.place.offset,
                how: format!("entry {} has a wrong checksum", entry.id.index),
            });
        }
        let LogId { term, node, index } = entry.id;
        entries.push(LogRecord {
            term,
            node,
            index,
            payload,
        });
    }
    Ok(())
}
