//! The write-ahead log: raft's entries, its vote, and the marks around them.
//!
//! ```text
//!   core    append, save_vote, truncate_after, purge                      read, state
//!             |  change the log_index, send the records                      |
//!             |                                                              v
//!             |                     +--- where its entries lie -----> log_index (index, newest entries)
//!             v                     |                                        |  older entries
//!   log     jobs --> writer: everything sent is one                          |
//!                    group = one write and one sync                          v
//!                             +----------------------------------------> segments
//! ```
//!
//! The handle, and what it knows, stay on the thread of the core; the writer has one of its own. Between them are two queues
//! of messages: what is to be written, and what is durable.
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

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use send_wrapper::SendWrapper;
use tokio::sync::oneshot;

pub use super::format::LogId;
use super::{failed, format};
use crate::base::{Broken, limits};
use crate::runtime::channel::{Limits, Receiver, Sender, channel};
use crate::runtime::{Crossing, Env, Task, let_others_run};
use log_index::{LogIndex, Stored};
use segment::{Segment, SegmentAllocator};
use writer::{Next, Writer, Written};

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

/// Looks at a log without keeping it open. Only for the simulator: outside of the thread of the log's core, everything that is
/// done with it panics.
#[derive(Clone)]
pub struct Witness(SendWrapper<Rc<RefCell<Inner>>>);

impl Witness {
    /// `after`: the ticket of the last look; 0 for the first.
    pub fn look(&self, after: u64) -> Look {
        self.0.borrow().log_index.look(after)
    }
}

/// A log that was read, and that nobody writes.
pub struct Recovered {
    env: Env,
    options: WalOptions,
    log_index: LogIndex,
    segments: BTreeMap<u64, Held>,
    /// The segment that is written next, and where.
    active: (Arc<Segment>, u64),
    /// The sequence number of the next group.
    sequence: u64,
    /// A segment that was made ready before the stop.
    prepared: Option<Segment>,
    keeper: SegmentAllocator,
    keeping: Task<()>,
}

/// A handle on the log, of one thread; cheap to clone. When the last one is dropped, what was sent is still written.
#[derive(Clone)]
pub struct Wal(Rc<Handle>);

struct Handle {
    inner: Rc<RefCell<Inner>>,
    /// To the writer; `None`: the log is closed.
    jobs: RefCell<Option<Sender<Job>>>,
    /// The writer, the keeper of its segments, and who notes what is durable.
    tasks: RefCell<Vec<Task<()>>>,
}

struct Inner {
    log_index: LogIndex,
    /// Segments that hold groups, by number.
    segments: BTreeMap<u64, Held>,
    /// Who waits for the jobs that were sent, in their order.
    waiting: VecDeque<Done>,
    /// A committed id that goes along with the next job.
    committed: Option<LogId>,
    /// Nothing is read or written any more.
    broken: Option<Broken>,
    /// There is no writer any more.
    ended: bool,
}

struct Held {
    segment: Arc<Segment>,
    /// The highest index of an entry in it, truncated ones too.
    last_index: Option<u64>,
}

/// Is called when what was asked for is durable, or never will be.
pub type Done = Box<dyn FnOnce(Result<(), Broken>)>;

/// What is said to whoever comes too late.
const CLOSED: &str = "the log is closed";

/// What one call wants written.
struct Job {
    records: Records,
    /// What is committed, of the jobs before this one.
    committed: Option<LogId>,
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

impl Inner {
    /// A group is durable: its entries may leave the cache, and segments below a purge their place. Says which segments, and whose
    /// jobs are done.
    fn note(&mut self, written: Written, cache_bytes: usize) -> (Vec<Arc<Segment>>, Vec<Done>) {
        if let Some(segment) = written.entered {
            let held = Held {
                segment,
                last_index: None,
            };
            self.segments.insert(held.segment.number, held);
        }
        for entry in &written.placed {
            self.log_index.placed(entry.index, entry.ticket, entry.place);
        }
        self.log_index.evict(cache_bytes);
        if let Some(mut active) = self.segments.last_entry() {
            let newest = written.placed.iter().map(|entry| entry.index).max();
            let held = active.get_mut();
            held.last_index = held.last_index.max(newest);
        }
        let mut retired = Vec::new();
        // `None` is below every index: a segment without entries is not needed either.
        while self.segments.len() > 1
            && let Some(oldest) = self.segments.first_entry()
            && oldest.get().last_index <= written.purged
        {
            retired.push(oldest.remove().segment);
        }
        // Each job that was sent has somebody who waits.
        (retired, self.waiting.drain(..written.jobs).collect())
    }

    /// After a failed write or sync nothing is known about the pages (fsyncgate): nothing is tried again.
    fn poison(&mut self, broken: Broken) -> Vec<Done> {
        self.broken.get_or_insert(broken);
        self.waiting.drain(..).collect()
    }

    fn end(&mut self) -> (Vec<Done>, Broken) {
        self.ended = true;
        let reason = self.broken.clone().unwrap_or(Broken::Stopped(CLOSED));
        (self.waiting.drain(..).collect(), reason)
    }
}

/// Notes what the writer says is durable, until there is no writer any more.
async fn follow(
    env: Env,
    inner: Rc<RefCell<Inner>>,
    cache_bytes: usize,
    keeper: SegmentAllocator,
    mut written: Receiver<Result<Written, Broken>>,
) {
    let mut reports = Vec::new();
    while written.recv_many(&mut reports, limits::LOG_TURN_GROUPS_MAX).await > 0 {
        if let Some(late) = env.cross(Crossing::FromLog) {
            late.await;
        }
        for report in reports.drain(..) {
            let result = report.as_ref().map(|_| ()).map_err(Broken::clone);
            let (retired, done) = match report {
                Ok(written) => inner.borrow_mut().note(written, cache_bytes),
                Err(broken) => (Vec::new(), inner.borrow_mut().poison(broken)),
            };
            retired.into_iter().for_each(|segment| keeper.retire(segment));
            done.into_iter().for_each(|done| done(result.clone()));
        }
        let_others_run().await;
    }
    // Whoever waits still sent to a writer that had ended.
    let (done, broken) = inner.borrow_mut().end();
    done.into_iter().for_each(|done| done(Err(broken.clone())));
}

impl Recovered {
    pub fn state(&self) -> WalState {
        self.log_index.state()
    }

    /// Begins to write it, for the core that this is called on.
    pub fn start(self) -> Wal {
        let Recovered {
            env,
            options,
            log_index,
            segments,
            active: (segment, offset),
            sequence,
            prepared,
            keeper,
            keeping,
        } = self;
        let state = log_index.state();
        let inner = Rc::new(RefCell::new(Inner {
            log_index,
            segments,
            waiting: VecDeque::new(),
            committed: None,
            broken: None,
            ended: false,
        }));
        let next = match prepared {
            Some(prepared) => Next::Ready(prepared),
            None => Next::Asked(keeper.prepare(segment.number + 1, 0)),
        };
        // Raft bounds what is on its way to the disk.
        let (jobs, queue) = channel(Limits::NO_ROOM);
        let (report, written) = channel(Limits::NO_ROOM);
        let cache_bytes = options.cache_bytes;
        let writer = Writer {
            env: env.clone(),
            jobs: queue,
            queue: VecDeque::new(),
            committed: None,
            report,
            options,
            keeper: keeper.clone(),
            segment,
            entered: false,
            offset,
            sequence,
            next,
            written: state,
            buffer: BytesMut::new(),
        };
        let following = follow(env.clone(), inner.clone(), cache_bytes, keeper, written);
        let tasks = vec![env.spawn_log(writer.run()), env.spawn_local(following), keeping];
        Wal(Rc::new(Handle {
            inner,
            jobs: RefCell::new(Some(jobs)),
            tasks: RefCell::new(tasks),
        }))
    }
}

impl Wal {
    /// Whose log lies in a directory: [`WalOptions::identity`]; `None` if there is none.
    pub async fn owner(env: &Env, directory: &Path) -> Result<Option<[u8; 16]>, Broken> {
        recovery::owner(env, directory).await
    }

    /// Reads the log in `directory`, or begins one there: then it has a segment, durably.
    ///
    /// # Errors
    /// Damage, a missing segment, or another member's log: the text names file and offset.
    pub async fn recover(env: &Env, directory: &Path, options: WalOptions) -> Result<Recovered, Broken> {
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
        let active = match found.active {
            Some(active) => active,
            None => (
                writer::first_segment(&keeper).await?,
                format::SEGMENT_HEADER as u64,
            ),
        };
        let mut segments = found.segments;
        segments.entry(active.0.number).or_insert_with(|| Held {
            segment: active.0.clone(),
            last_index: None,
        });
        Ok(Recovered {
            env: env.clone(),
            options,
            log_index: found.log_index,
            segments,
            active,
            sequence: found.sequence,
            prepared: found.prepared,
            keeper,
            keeping,
        })
    }

    /// Writes what was sent, refuses what comes later, and returns when no task of the log touches a file
    /// any more: it can then be opened again.
    pub async fn close(&self) {
        drop(self.0.jobs.take());
        let tasks = self.0.tasks.take();
        for task in tasks {
            // A task that was aborted does not touch a file either.
            let _ = task.await;
        }
    }

    pub fn state(&self) -> WalState {
        self.0.inner.borrow().log_index.state()
    }

    pub fn witness(&self) -> Witness {
        Witness(SendWrapper::new(self.0.inner.clone()))
    }

    /// Adds entries behind the last one. They can be read at once, and are durable when this resolves.
    pub fn append(&self, records: Vec<LogRecord>) -> Durable {
        let (done, durable) = durable();
        self.append_then(records, done);
        durable
    }

    /// The same; `done` is called when they are durable, or never will be.
    pub fn append_then(&self, records: Vec<LogRecord>, done: Done) {
        let change = |log_index: &mut LogIndex| {
            let mut first = None;
            for record in &records {
                let ticket = log_index.append(record)?;
                first.get_or_insert(ticket);
            }
            Ok(first.map_or(Records::Nothing, |first| {
                Records::Entries(records.into_iter(), first)
            }))
        };
        self.send(change, done);
    }

    /// Whether the log holds this entry, or was purged up to it: durably, when that is said.
    pub async fn holds(&self, id: LogId) -> Result<bool, Broken> {
        let held = self.0.inner.borrow().log_index.has(id);
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
        let mut inner = self.0.inner.borrow_mut();
        inner.log_index.committed = Some(committed);
        inner.committed = Some(committed);
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
        let inner = self.0.inner.borrow();
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

    fn enqueue(&self, change: impl FnOnce(&mut LogIndex) -> Result<Records, Broken>) -> Durable {
        let (done, durable) = durable();
        self.send(change, done);
        durable
    }

    /// Changes the log_index and sends the records in one step, so that both have the same order.
    fn send(&self, change: impl FnOnce(&mut LogIndex) -> Result<Records, Broken>, done: Done) {
        match self.try_send(change) {
            Ok(()) => self.0.inner.borrow_mut().waiting.push_back(done),
            Err(broken) => done(Err(broken)),
        }
    }

    fn try_send(&self, change: impl FnOnce(&mut LogIndex) -> Result<Records, Broken>) -> Result<(), Broken> {
        let mut inner = self.0.inner.borrow_mut();
        if let Some(broken) = &inner.broken {
            return Err(broken.clone());
        }
        let jobs = self.0.jobs.borrow();
        let open = jobs.as_ref().filter(|_| !inner.ended);
        let jobs = open.ok_or(Broken::Stopped(CLOSED))?;
        let records = change(&mut inner.log_index)?;
        let committed = inner.committed.take();
        // A writer that has ended says why: `follow` is told, and tells whoever waits.
        let _ = jobs.send_beyond(Job { records, committed });
        Ok(())
    }
}

fn durable() -> (Done, Durable) {
    let (sender, receiver) = oneshot::channel();
    let done = |result| {
        // The caller may have stopped waiting.
        let _ = sender.send(result);
    };
    (Box::new(done), Durable(receiver))
}

/// Resolves when what was asked for is durable. It happens whether or not this is awaited.
#[derive(Debug)]
#[must_use = "nothing is durable before this resolves"]
pub struct Durable(oneshot::Receiver<Result<(), Broken>>);

impl Future for Durable {
    type Output = Result<(), Broken>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(result.unwrap_or(Err(Broken::Stopped(CLOSED))))
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
