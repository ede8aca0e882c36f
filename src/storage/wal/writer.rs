//! The one task that writes the log, on a thread of its own.
//!
//! Whatever was sent while a group was on its way becomes the next group: under load groups grow by
//! themselves, without load nobody waits. It alone knows where the next group goes, and what the groups
//! written so far amount to.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::log_index::Place;
use super::segment::{Segment, SegmentAllocator};
use super::{Job, Records, WalOptions, WalState};
use crate::base::{Broken, limits};
use crate::runtime::buggify::{self, Site, buggify, pause};
use crate::runtime::channel::{Receiver, Sender};
use crate::runtime::{Crossing, Env};
use crate::storage::failed;
use crate::storage::format::{GroupBuilder, LogId, Record, SEGMENT_HEADER, group_len, record_len};

/// The longest time for which a sync goes unnoticed, in a simulation.
const SYNCED_PAUSE: Duration = Duration::from_millis(300);

/// How long the core has to note what is durable, before a segment that could not be made is asked for once more.
const ROOM_PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Writer {
    pub env: Env,
    pub jobs: Receiver<Job>,
    /// Jobs that were received, and are not in a group yet.
    pub queue: VecDeque<Job>,
    /// A committed id that waits for a group; what was sent before it is written.
    pub committed: Option<LogId>,
    /// Where each group is reported.
    pub report: Sender<Result<Written, Broken>>,
    pub options: WalOptions,
    pub keeper: SegmentAllocator,
    pub segment: Arc<Segment>,
    /// Not reported yet: the segment is a new one.
    pub entered: bool,
    /// Where the next group goes.
    pub offset: u64,
    /// The next group's sequence number.
    pub sequence: u64,
    /// The segment after this one.
    pub next: Next,
    /// What the groups written so far amount to: the first records of the next segment.
    pub written: WalState,
    /// The buffer of the last group, if it could be had back.
    pub buffer: BytesMut,
}

pub(super) enum Next {
    Ready(Segment),
    Asked(oneshot::Receiver<Result<Segment, Broken>>),
}

/// What was taken from the queue for one group.
struct Taken {
    records: Vec<Records>,
    /// Bytes of these records in the group.
    bytes: usize,
    committed: Option<LogId>,
    /// Jobs of which nothing is left behind.
    jobs: usize,
}

/// A group that is durable.
#[derive(Default)]
pub(super) struct Written {
    pub placed: Vec<Placed>,
    /// The segment that it lies in, if that is a new one.
    pub entered: Option<Arc<Segment>>,
    /// What it and those before it amount to: up to here entries are gone.
    pub purged: Option<u64>,
    /// How many jobs are done with it.
    pub jobs: usize,
}

/// Where an entry of a group lies.
pub(super) struct Placed {
    pub index: u64,
    pub ticket: u64,
    pub place: Place,
}

fn stopped<E>(_: E) -> Broken {
    Broken::Stopped("the log's segment keeper has stopped")
}

/// The first segment of a new log.
pub(super) async fn first_segment(keeper: &SegmentAllocator) -> Result<Arc<Segment>, Broken> {
    Ok(Arc::new(keeper.prepare(1, 0).await.map_err(stopped)??))
}

impl Writer {
    pub async fn run(mut self) {
        let mut received = Vec::new();
        loop {
            if self.queue.is_empty() {
                if self
                    .jobs
                    .recv_many(&mut received, limits::LOG_GROUP_JOBS_MAX)
                    .await
                    == 0
                {
                    return;
                }
                if let Some(late) = self.env.cross(Crossing::ToLog) {
                    late.await;
                }
                self.queue.extend(received.drain(..));
            }
            while self.queue.len() < limits::LOG_GROUP_JOBS_MAX
                && let Ok(job) = self.jobs.try_recv()
            {
                self.queue.push_back(job);
            }
            let taken = self.take();
            let jobs = taken.jobs;
            let written = if taken.bytes == 0 {
                // Nothing to add to what is durable already.
                Ok(Vec::new())
            } else {
                self.write(taken.records, taken.bytes, taken.committed).await
            };
            let written = written.map(|placed| Written {
                placed,
                entered: std::mem::take(&mut self.entered).then(|| self.segment.clone()),
                purged: self.written.purged.map(|purged| purged.index),
                jobs,
            });
            let ended = written.is_err();
            if let Err(broken) = &written {
                tracing::error!("the log is broken: {broken}");
            }
            // The core may have gone; what it sent is written all the same.
            let _ = self.report.send_beyond(written);
            if ended {
                return;
            }
        }
    }

    /// Takes what is queued, up to a group's size. Something is.
    fn take(&mut self) -> Taken {
        let usual = limits::LOG_GROUP_BYTES_MAX.min(self.options.segment_bytes as usize / 4);
        let room = buggify::limit(Site::LogSmallGroup, usual, 1_000);
        let mut taken = Taken {
            records: Vec::with_capacity(self.queue.len()),
            bytes: 0,
            committed: None,
            jobs: 0,
        };
        while let Some(job) = self.queue.front_mut() {
            let Some((records, bytes)) = take_records(&mut job.records, room, taken.bytes) else {
                break;
            };
            self.committed = job.committed.take().or(self.committed);
            taken.records.push(records);
            taken.bytes += bytes;
            if let Records::Nothing = job.records {
                self.queue.pop_front();
                taken.jobs += 1;
            }
        }
        if taken.bytes > 0
            && let Some(committed) = self.committed.take()
        {
            taken.committed = Some(committed);
            taken.bytes += record_len(0);
        }
        taken
    }

    async fn write(
        &mut self,
        records: Vec<Records>,
        bytes: usize,
        committed: Option<LogId>,
    ) -> Result<Vec<Placed>, Broken> {
        let with_checkpoint = SEGMENT_HEADER + group_len(bytes + self.checkpoint_len());
        let fits = if self.offset == SEGMENT_HEADER as u64 {
            with_checkpoint as u64 <= self.segment.length
        } else {
            self.offset + group_len(bytes) as u64 <= self.segment.length
        };
        let early = self.offset > SEGMENT_HEADER as u64 && buggify(Site::LogRolledEarly);
        if !fits || early {
            self.roll(with_checkpoint as u64).await?;
        }
        let (group, placed) = self.encode(records, committed);
        let (segment, end) = (self.segment.clone(), self.offset + group.len() as u64);
        let cannot = failed("could not write log segment", &segment.path);
        let begun = self.env.now();
        let written = if self.options.sync {
            let synced = segment.file.write_and_sync(self.offset, group.clone()).await;
            synced.map(Some)
        } else {
            let written = segment.file.write_at(self.offset, group.clone()).await;
            written.map(|()| None)
        };
        let sync = written.map_err(&cannot)?;
        self.count(self.env.now() - begun, sync, group.len());
        pause(&self.env, Site::LogSyncedLate, SYNCED_PAUSE).await;
        self.offset = end;
        self.sequence += 1;
        // Nobody else holds the group any more, unless the disk keeps what it was given.
        self.buffer = group.try_into_mut().unwrap_or_default();
        Ok(placed)
    }

    /// Counts a group that took so long in all, and of that its sync.
    fn count(&self, took: Duration, sync: Option<Duration>, bytes: usize) {
        let metrics = &self.env.metrics().log;
        metrics
            .write
            .observe(took.saturating_sub(sync.unwrap_or_default()));
        if let Some(sync) = sync {
            metrics.sync.observe(sync);
        }
        metrics.written_bytes.add(bytes as u64);
    }

    fn checkpoint_len(&self) -> usize {
        let vote = self.written.vote.as_ref().map_or(0, Bytes::len);
        4 * record_len(0) + vote
    }

    /// Builds the group; in a new segment, what the segments before it amount to comes first.
    fn encode(&mut self, records: Vec<Records>, committed: Option<LogId>) -> (Bytes, Vec<Placed>) {
        let mut group = GroupBuilder::new(std::mem::take(&mut self.buffer));
        if self.offset == SEGMENT_HEADER as u64 {
            let before = &self.written;
            if let Some(vote) = &before.vote {
                group.push(Record::Vote(vote));
            }
            if let Some(committed) = before.committed {
                group.push(Record::Committed(committed));
            }
            if let Some(purged) = before.purged {
                group.push(Record::Purge(purged));
            }
            group.push(Record::Start(before.last));
        }
        let mut placed = Vec::new();
        for records in records {
            self.encode_records(records, &mut group, &mut placed);
        }
        if let Some(committed) = committed {
            group.push(Record::Committed(committed));
            self.written.committed = Some(committed);
        }
        (group.finish(self.segment.epoch, self.sequence), placed)
    }

    fn encode_records(&mut self, records: Records, group: &mut GroupBuilder, placed: &mut Vec<Placed>) {
        match records {
            Records::Entries(records, first_ticket) => {
                placed.reserve(records.len());
                for (record, ticket) in records.zip(first_ticket..) {
                    let at = group.push(Record::Entry(record.id(), &record.payload));
                    let place = Place {
                        segment: self.segment.number,
                        offset: self.offset + at as u64,
                        checksum: crc32c::crc32c(&record.payload),
                    };
                    placed.push(Placed {
                        index: record.index,
                        ticket,
                        place,
                    });
                    self.written.last = Some(record.id());
                }
            }
            Records::Vote(vote) => {
                group.push(Record::Vote(&vote));
                self.written.vote = Some(vote);
            }
            Records::Truncate(end) => {
                group.push(Record::Truncate(end));
                self.written.last = end;
            }
            Records::Purge(upto) => {
                group.push(Record::Purge(upto));
                self.written.purged = Some(upto);
            }
            Records::Reset(upto) => {
                group.push(Record::Reset(upto));
                self.written.purged = Some(upto);
                self.written.last = Some(upto);
            }
            Records::Nothing => {}
        }
    }

    /// Goes on in a new segment of at least `length` bytes.
    async fn roll(&mut self, length: u64) -> Result<(), Broken> {
        if self.offset == SEGMENT_HEADER as u64 {
            // Nothing was written to this one: a larger one takes its place.
            let larger = self.keeper.prepare(self.segment.number, length);
            self.enter(larger.await.map_err(stopped)??);
            return Ok(());
        }
        let number = self.segment.number + 1;
        let after = Next::Asked(oneshot::channel().1);
        let ready = match std::mem::replace(&mut self.next, after) {
            Next::Ready(segment) => Ok(segment),
            Next::Asked(reply) => reply.await.map_err(stopped)?,
        };
        let segment = match ready {
            Ok(segment) if segment.length >= length => segment,
            // A disk that was full when the segment was to be made may have room now, or once the core has put away what was purged.
            _ => match self.keeper.prepare(number, length).await.map_err(stopped)? {
                Ok(segment) => segment,
                Err(_) => {
                    self.env.sleep(ROOM_PAUSE).await;
                    self.keeper.prepare(number, length).await.map_err(stopped)??
                }
            },
        };
        self.next = Next::Asked(self.keeper.prepare(number + 1, 0));
        self.enter(segment);
        Ok(())
    }

    fn enter(&mut self, segment: Segment) {
        self.segment = Arc::new(segment);
        self.offset = SEGMENT_HEADER as u64;
        self.entered = true;
    }
}

/// Takes from a job what fits into a group that already holds `bytes`; leaves [`Records::Nothing`] if
/// that was all. `None`: nothing fits.
fn take_records(job: &mut Records, room: usize, bytes: usize) -> Option<(Records, usize)> {
    let Records::Entries(entries, ticket) = job else {
        let length = match job {
            Records::Nothing => 0,
            Records::Vote(vote) => record_len(vote.len()),
            _ => record_len(0),
        };
        return Some((std::mem::replace(job, Records::Nothing), length));
    };
    let (mut count, mut length) = (0, 0);
    for entry in entries.as_slice() {
        let next = length + record_len(entry.payload.len());
        if bytes + next > room && bytes + length > 0 {
            break;
        }
        (count, length) = (count + 1, next);
    }
    if count == 0 {
        return None;
    }
    if count == entries.len() {
        return Some((std::mem::replace(job, Records::Nothing), length));
    }
    let part: Vec<_> = entries.by_ref().take(count).collect();
    let first = *ticket;
    *ticket += count as u64;
    Some((Records::Entries(part.into_iter(), first), length))
}
