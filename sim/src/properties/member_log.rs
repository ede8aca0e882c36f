//! A member's log as it was last seen, rebuilt from the differences that looks show.

use std::collections::VecDeque;

use super::observation::{Added, LogLook};

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub term: u64,
    pub checksum: u32,
}

/// See the module.
#[derive(Clone, Default, Debug)]
pub struct MemberLog {
    start: u64,
    entries: VecDeque<Entry>,
    pub durable_end: u64,
    /// The newest term that it notes.
    pub term: u64,
    /// Term and index of what it notes as committed.
    pub committed: Option<(u64, u64)>,
}

/// What a look changed.
#[derive(Debug, Default)]
pub struct Change {
    /// Before it.
    pub old_end: u64,
    pub old_durable_end: u64,
    pub old_committed_end: u64,
    /// Where the added entries begin.
    pub from: u64,
    /// Entries that are not there any more, or were written anew, with their index; those below the new start are not
    /// among them.
    pub cut: Vec<(u64, Entry)>,
    /// Whether the added entries follow each other up to the log's end.
    pub is_gapless: bool,
}

impl MemberLog {
    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn end(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    pub fn get(&self, index: u64) -> Option<&Entry> {
        let at = usize::try_from(index.checked_sub(self.start)?).ok()?;
        self.entries.get(at)
    }

    /// Term and index of the newest entry.
    pub fn last(&self) -> Option<(u64, u64)> {
        let newest = self.entries.back()?;
        Some((newest.term, self.end() - 1))
    }

    /// The same of those that are durable.
    pub fn last_durable(&self) -> Option<(u64, u64)> {
        let last = self.durable_end.min(self.end()).checked_sub(1)?;
        Some((self.get(last)?.term, last))
    }

    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (u64, &Entry)> {
        let indexed = |(at, entry)| (self.start + at as u64, entry);
        self.entries.iter().enumerate().map(indexed)
    }

    /// One behind the last index that it notes as committed; 0: it notes none.
    pub fn committed_end(&self) -> u64 {
        self.committed.map_or(0, |(_, index)| index + 1)
    }

    /// The same, as far as its own entries are those that are committed. What a member knows of the commit index is not enough to
    /// say so: while a snapshot is being installed, the log still has what the snapshot is to replace.
    pub fn proven_end(&self) -> u64 {
        match self.committed {
            Some((term, index)) if self.get(index).is_some_and(|entry| entry.term == term) => index + 1,
            _ => 0,
        }
    }

    /// Whether everything up to this entry is durable here, in the log or in what a snapshot took out of it.
    pub fn holds_durably(&self, index: u64, entry: &Entry) -> bool {
        let same = |own: &Entry| (own.term, own.checksum) == (entry.term, entry.checksum);
        index < self.start || (index < self.durable_end && self.get(index).is_some_and(same))
    }

    /// Takes over what a look shows.
    pub fn take(&mut self, look: &LogLook) -> Change {
        let from = look.added.first().map_or(look.end, |first| first.index);
        let follows = look.added.iter().map(|added| added.index).eq(from..look.end);
        let old_end = self.end();
        let cut: Vec<_> = self
            .entries()
            .filter(|(index, _)| *index >= from.max(look.start))
            .map(|(index, entry)| (index, entry.clone()))
            .collect();
        let change = Change {
            old_end,
            old_durable_end: self.durable_end,
            old_committed_end: self.committed_end(),
            from,
            cut,
            is_gapless: follows && (from <= old_end || from == look.start),
        };
        if from > old_end {
            self.entries.clear();
            self.start = from;
        }
        let kept = usize::try_from(from.saturating_sub(self.start)).unwrap_or(usize::MAX);
        self.entries.truncate(kept);
        if self.entries.is_empty() {
            self.start = from;
        }
        let entry = |added: &Added| Entry {
            term: added.term,
            checksum: added.checksum,
        };
        self.entries.extend(look.added.iter().map(entry));
        while self.start < look.start && self.entries.pop_front().is_some() {
            self.start += 1;
        }
        self.start = self.start.max(look.start);
        self.durable_end = look.durable_end;
        self.term = look.term;
        self.committed = look.committed;
        change
    }
}
