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
mod tests {
    use super::*;

    fn record(term: u64, index: u64, length: usize) -> LogRecord {
        LogRecord {
            term,
            node: 1,
            index,
            payload: Bytes::from(vec![7; length]),
        }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId { term, node: 1, index }
    }

    fn place(offset: u64) -> Place {
        Place {
            segment: 1,
            offset,
            checksum: 0,
        }
    }

    fn filled(entries: u64) -> (LogIndex, Vec<u64>) {
        let mut log_index = LogIndex::default();
        let tickets = (0..entries).map(|index| log_index.append(&record(1, index, 10)).unwrap());
        let tickets = tickets.collect();
        (log_index, tickets)
    }

    #[test]
    fn a_hole_is_refused() {
        let (mut log_index, _) = filled(3);
        assert!(log_index.append(&record(1, 4, 1)).is_err());
        assert!(log_index.append(&record(1, 2, 1)).is_err());
        assert!(log_index.append(&record(1, 3, 1)).is_ok());
    }

    #[test]
    fn a_place_of_a_truncated_entry_is_not_given_to_its_successor() {
        let (mut log_index, tickets) = filled(3);
        log_index.truncate(Some(id(1, 1)));
        let second = log_index.append(&record(2, 2, 10)).unwrap();
        log_index.placed(2, tickets[2], place(512));
        log_index.placed(0, tickets[0], place(0));
        log_index.placed(1, tickets[1], place(1));
        log_index.evict(0);
        // Entry 2 of term 2 is not durable: it must still be served from memory.
        let (stored, cached) = log_index.plan(0, 9, None);
        assert_eq!(stored.len(), 2);
        assert_eq!(cached, vec![record(2, 2, 10)]);
        log_index.placed(2, second, place(1024));
        log_index.evict(0);
        assert_eq!(log_index.plan(2, 3, None).0[0].place, place(1024));
    }

    #[test]
    fn a_look_shows_what_is_new_and_what_is_durable() {
        let (mut log_index, tickets) = filled(3);
        log_index.placed(0, tickets[0], place(0));
        let first = log_index.look(0);
        assert_eq!((first.start, first.end, first.durable_end), (0, 3, 1));
        assert_eq!(first.added.len(), 3);
        assert_eq!(log_index.look(first.ticket).added, vec![]);
        log_index.truncate(Some(id(1, 0)));
        assert_eq!(
            (
                log_index.look(first.ticket).end,
                log_index.look(first.ticket).durable_end
            ),
            (1, 1)
        );
        log_index.append(&record(2, 1, 5)).unwrap();
        let second = log_index.look(first.ticket);
        assert_eq!(second.added.len(), 1);
        assert_eq!(second.added[0].id, id(2, 1));
        assert_eq!(second.added[0].checksum, crc32c::crc32c(&[7; 5]));
        assert_eq!(second.added[0].payload.as_deref(), Some(&[7; 5][..]));
        log_index.reset(id(3, 9));
        let third = log_index.look(second.ticket);
        assert_eq!((third.start, third.end, third.durable_end), (10, 10, 10));
    }

    #[test]
    fn a_purge_beyond_the_end_empties_the_log_and_moves_its_end() {
        let (mut log_index, _) = filled(3);
        log_index.purge(id(2, 10));
        assert_eq!(log_index.last(), Some(id(2, 10)));
        assert_eq!(log_index.plan(0, 99, None), (vec![], vec![]));
        assert!(log_index.append(&record(2, 12, 1)).is_err());
        assert!(log_index.append(&record(2, 11, 1)).is_ok());
    }

    #[test]
    fn a_purge_keeps_what_is_behind_it() {
        let (mut log_index, _) = filled(5);
        log_index.purge(id(1, 2));
        let (_, cached) = log_index.plan(0, 99, None);
        assert_eq!(cached, vec![record(1, 3, 10), record(1, 4, 10)]);
        assert_eq!(log_index.state().purged, Some(id(1, 2)));
        assert_eq!(log_index.state().last, Some(id(1, 4)));
    }

    #[test]
    fn a_read_gives_one_entry_at_least_and_no_more_than_wanted() {
        let (log_index, _) = filled(5);
        let lengths = |max| log_index.plan(1, 4, max).1.len();
        assert_eq!(lengths(Some(0)), 1);
        assert_eq!(lengths(Some(19)), 1);
        assert_eq!(lengths(Some(20)), 2);
        assert_eq!(lengths(None), 3);
    }
}
