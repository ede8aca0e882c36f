//! What the log holds, in memory: where each entry lies, the newest entries themselves, the vote.
//!
//! ```text
//!            purged     first                cached               last
//!   ...........|          |====================|====================|
//!    gone                  on disk only          on disk (or on its
//!                                                way) and in memory
//! ```
//!
//! It changes when a verb is *called*; the file follows. The same functions rebuild it when the log is
//! read back, so that what a restart finds is what was there. It knows no file.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{LogId, LogRecord, Look, Seen, WalState};
use crate::base::Broken;

/// Where the payload of an entry lies, and its own checksum: the group's covers too much to be
/// checked for one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: u64,
    pub checksum: u32,
}

#[derive(Debug)]
struct Slot {
    term: u64,
    node: u64,
    /// Which append this is: an index may be appended again after a truncation, while the writer
    /// still works on the first.
    ticket: u64,
    length: u32,
    /// `None`: not durable yet, so it is still in the cache.
    place: Option<Place>,
}

/// An entry that has to be read from a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub id: LogId,
    pub place: Place,
    pub length: usize,
}

/// The in-memory side of the log.
#[derive(Debug, Default)]
pub(super) struct LogIndex {
    pub vote: Option<Bytes>,
    pub committed: Option<LogId>,
    purged: Option<LogId>,
    /// Of the newest entry; of the purge if there is none.
    last: Option<LogId>,
    /// Index of the first slot; where it would be, if there is none.
    first: u64,
    slots: VecDeque<Slot>,
    /// The newest entries: a suffix of what `slots` describes.
    cache: VecDeque<LogRecord>,
    cache_bytes: usize,
    next_ticket: u64,
}

impl LogIndex {
    pub fn state(&self) -> WalState {
        WalState {
            vote: self.vote.clone(),
            committed: self.committed,
            purged: self.purged,
            last: self.last,
        }
    }

    pub fn last(&self) -> Option<LogId> {
        self.last
    }

    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Index of the oldest entry whose place is known.
    pub fn first(&self) -> u64 {
        self.first
    }

    fn end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.first)?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    fn push_slot(&mut self, id: LogId, length: usize, place: Option<Place>) -> Result<u64, Broken> {
        match self.last {
            Some(last) if last.index + 1 != id.index => {
                let text = format!("entry {} appended to a log that ends at {}", id.index, last.index);
                return Err(Broken::Contradiction(text));
            }
            Some(_) => {}
            None => self.first = id.index,
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.slots.push_back(Slot {
            term: id.term,
            node: id.node,
            ticket,
            length: u32::try_from(length).map_err(|_| Broken::invariant("a log entry of 4 GiB or more"))?,
            place,
        });
        self.last = Some(id);
        Ok(ticket)
    }

    /// Adds an entry that is on its way to the disk; returns its ticket.
    pub fn append(&mut self, record: &LogRecord) -> Result<u64, Broken> {
        let ticket = self.push_slot(record.id(), record.payload.len(), None)?;
        self.cache_bytes += record.payload.len();
        self.cache.push_back(record.clone());
        Ok(ticket)
    }

    /// Adds an entry that was read back.
    pub fn restore(&mut self, id: LogId, length: usize, place: Place) -> Result<(), Broken> {
        self.push_slot(id, length, Some(place)).map(|_| ())
    }

    /// Notes where an entry went, unless it has been truncated or purged meanwhile.
    pub fn placed(&mut self, index: u64, ticket: u64, place: Place) {
        let Some(at) = index.checked_sub(self.first) else {
            return;
        };
        let slot = usize::try_from(at).ok().and_then(|at| self.slots.get_mut(at));
        if let Some(slot) = slot.filter(|slot| slot.ticket == ticket) {
            slot.place = Some(place);
        }
    }

    /// Drops the oldest cached entries that are durable, until at most `bytes` are left.
    pub fn evict(&mut self, bytes: usize) {
        while self.cache_bytes > bytes {
            let Some(oldest) = self.cache.front() else {
                return;
            };
            if self.slot(oldest.index).is_none_or(|slot| slot.place.is_none()) {
                return;
            }
            self.cache_bytes -= oldest.payload.len();
            self.cache.pop_front();
        }
    }

    /// Whether the log has this entry, or was purged exactly up to it.
    pub fn has(&self, id: LogId) -> bool {
        self.purged == Some(id)
            || self
                .slot(id.index)
                .is_some_and(|slot| (slot.term, slot.node) == (id.term, id.node))
    }

    /// The log now ends at `end`. Nothing is checked: a replay may start in the middle of the log.
    pub fn truncate(&mut self, end: Option<LogId>) {
        let end = end.or(self.purged);
        let keep = end.map_or(0, |end| end.index + 1);
        while self.end() > keep && self.slots.pop_back().is_some() {}
        self.first = self.first.min(keep);
        while self.cache.back().is_some_and(|entry| entry.index >= keep) {
            let entry = self.cache.pop_back().expect("just seen");
            self.cache_bytes -= entry.payload.len();
        }
        self.last = end;
    }

    /// Everything up to `upto` is gone; the rest stays.
    pub fn purge(&mut self, upto: LogId) {
        if self.last.is_none_or(|last| last.index <= upto.index) {
            return self.reset(upto);
        }
        while self.first <= upto.index && self.slots.pop_front().is_some() {
            self.first += 1;
        }
        while self.cache.front().is_some_and(|entry| entry.index <= upto.index) {
            let entry = self.cache.pop_front().expect("just seen");
            self.cache_bytes -= entry.payload.len();
        }
        self.purged = Some(upto);
    }

    /// The log is empty and ends at `upto`.
    pub fn reset(&mut self, upto: LogId) {
        self.slots.clear();
        self.cache.clear();
        self.cache_bytes = 0;
        self.first = upto.index + 1;
        self.purged = Some(upto);
        self.last = Some(upto);
    }

    /// A replay begins in a log that had been purged up to here.
    pub fn set_purged(&mut self, upto: LogId) {
        self.purged = Some(upto);
    }

    /// A replay begins where older segments ended: entries up to `end` are not there.
    pub fn start(&mut self, end: Option<LogId>) {
        self.last = end;
        self.first = end.map_or(0, |end| end.index + 1);
    }

    /// What was added since the look that ended with `after` (its [`Look::ticket`]), and where the log stands. Tickets
    /// grow along the log, so what is new is its end.
    pub fn look(&self, after: u64) -> Look {
        let old = self.slots.iter().rev().position(|slot| slot.ticket < after);
        let added_from = self.slots.len() - old.unwrap_or(self.slots.len());
        let unplaced = self.slots.iter().rev().position(|slot| slot.place.is_some());
        let cached_from = self.slots.len() - self.cache.len();
        let seen = |(at, slot): (usize, &Slot)| {
            let record = at.checked_sub(cached_from).and_then(|at| self.cache.get(at));
            let payload = record.map(|record| record.payload.clone());
            let of_payload = || crc32c::crc32c(payload.as_deref().unwrap_or_default());
            Seen {
                id: LogId {
                    term: slot.term,
                    node: slot.node,
                    index: self.first + at as u64,
                },
                checksum: slot.place.map_or_else(of_payload, |place| place.checksum),
                payload,
            }
        };
        Look {
            start: self.first,
            end: self.end(),
            durable_end: self.end() - unplaced.unwrap_or(self.slots.len()) as u64,
            committed: self.committed,
            vote: self.vote.clone(),
            ticket: self.next_ticket,
            added: self.slots.iter().enumerate().skip(added_from).map(seen).collect(),
        }
    }

    /// The entries of `from..to` that the log holds, at most `max_bytes` of payload, but one entry at
    /// least: first those that have to be read, then those in memory.
    pub fn plan(&self, from: u64, to: u64, max_bytes: Option<usize>) -> (Vec<Stored>, Vec<LogRecord>) {
        let (from, to) = (from.max(self.first), to.min(self.end()));
        let cached_from = self.end() - self.cache.len() as u64;
        let (mut stored, mut cached) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        for index in from..to {
            let Some(slot) = self.slot(index) else { break };
            let length = slot.length as usize;
            if bytes > 0 && max_bytes.is_some_and(|max| bytes + length > max) {
                break;
            }
            bytes += length.max(1);
            if index >= cached_from {
                cached.extend(self.cache.get((index - cached_from) as usize).cloned());
                continue;
            }
            let id = LogId {
                term: slot.term,
                node: slot.node,
                index,
            };
            let place = slot.place.expect("only durable entries leave the cache");
            stored.push(Stored { id, place, length });
        }
        (stored, cached)
    }
}

#[cfg(test)]
mod tests;
