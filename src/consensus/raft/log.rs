//! openraft's log storage on the write-ahead log.
//!
//! The log keeps what raft must not forget: entries, the vote, the purge mark. An entry's payload is
//! bytes below, and a batch's are those that were proposed. `append` hands its entries over in order and reports each as flushed
//! only when the group that holds them is synced: that report is what lets a leader count itself.

use std::cell::OnceCell;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::rc::Rc;
use std::sync::Arc;

use openraft::errors::Fatal;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, RaftLogReader};

use super::cause;
use super::format::entry::{decode_payload, encode_payload};
use super::format::record::{decode_vote, encode_vote};
use super::types::{Entry, LogId, TypeConfig, Vote, log_id};
use crate::base::{Broken, limits};
use crate::runtime::buggify::{self, Site};
use crate::state::Position;
use crate::storage::wal::{LogId as Place, LogRecord, Wal};

/// In standard raft a term has one leader, so log ids do not name it.
pub const NO_NODE: u64 = 0;

/// See the module. Clones share the log.
#[derive(Clone)]
pub struct LogStore {
    wal: Wal,
    /// What a read met first.
    met: Rc<OnceCell<Broken>>,
}

pub fn place(id: &LogId) -> Place {
    Place {
        term: id.leader_id.term,
        node: NO_NODE,
        index: id.index,
    }
}

fn raft_id(place: Place) -> LogId {
    log_id(Position {
        term: place.term,
        index: place.index,
    })
}

fn decode_entry(record: LogRecord) -> Result<Entry, Broken> {
    let id = record.id();
    let payload = decode_payload(record.payload).map_err(|bad| bad.in_log(id.index))?;
    Ok(Entry {
        log_id: raft_id(id),
        payload,
    })
}

impl LogStore {
    pub fn new(wal: Wal) -> Self {
        LogStore {
            wal,
            met: Rc::default(),
        }
    }

    /// Raft has not started. Of what it met when it looked for the terms of the log, openraft keeps nothing but a text.
    pub fn stopped(&self, before: &str, fatal: &Fatal<TypeConfig>) -> Broken {
        match cause::stopped(before, fatal) {
            Broken::Raft { text, cause: None } => Broken::Raft {
                text,
                cause: self.met.get().cloned().map(Arc::new),
            },
            known => known,
        }
    }

    async fn read(&self, range: impl RangeBounds<u64>, bytes_max: Option<usize>) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(&index) => index,
            Bound::Excluded(&index) => index + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(&index) => index + 1,
            Bound::Excluded(&index) => index,
            Bound::Unbounded => u64::MAX,
        };
        let records = self.wal.read(from, to, bytes_max).await;
        let entries = records.and_then(|records| records.into_iter().map(decode_entry).collect());
        Ok(entries.inspect_err(|broken: &Broken| drop(self.met.set(broken.clone())))?)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug,
    {
        self.read(range, None).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let bytes_max = buggify::limit(Site::AppendShortRead, limits::APPEND_BYTES_MAX, 1_000);
        let entries = self.read(start..end, Some(bytes_max)).await?;
        // A replication task whose target is being sent a snapshot may ask once more for what was purged
        // since, and would send what it got as the successors of `start - 1`. Nothing makes it a heartbeat.
        Ok(match entries.first() {
            Some(first) if first.log_id.index == start => entries,
            _ => Vec::new(),
        })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.wal.state().vote;
        Ok(vote.map(|vote| decode_vote(&vote)).transpose()?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.wal.state();
        Ok(LogState {
            last_purged_log_id: state.purged.map(raft_id),
            last_log_id: state.last.map(raft_id),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.wal.save_vote(encode_vote(vote)).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.wal.save_committed(place(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.wal.state().committed.map(raft_id))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry>,
    {
        let record = |entry: Entry| LogRecord {
            term: entry.log_id.leader_id.term,
            node: NO_NODE,
            index: entry.log_id.index,
            payload: encode_payload(&entry.payload),
        };
        let durable = |result: Result<(), Broken>| callback.io_completed(result.map_err(io::Error::from));
        let records = entries.into_iter().map(record).collect();
        self.wal.append_then(records, Box::new(durable));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.wal.truncate_after(last.as_ref().map(place)).await?)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        Ok(self.wal.purge(place(&upto)).await?)
    }
}
