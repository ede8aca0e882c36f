//! The bytes of one file: as its readers see them, and how to get back to what a crash leaves.
//!
//! ```text
//!   write ──► pages (what everybody reads)          sync ──► the undo records are dropped
//!        └──► pending: [offset, new bytes, old bytes]  crash ──► undo all, redo what survived
//! ```
//!
//! Pages that were never written hold zeros and no memory, so that a pre-allocated segment costs nothing.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::seed::Dice;

const PAGE: usize = 4096;
/// What a drive writes in one piece.
const SECTOR: u64 = 512;

#[derive(Clone, Default)]
struct Pages {
    pages: BTreeMap<u64, Box<[u8]>>,
    length: u64,
}

impl Pages {
    /// Visits the parts of a range page by page: page number, range within the page.
    fn spans(offset: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
        let end = offset + length as u64;
        let page = PAGE as u64;
        (offset / page..end.div_ceil(page)).map(move |number| {
            let start = offset.max(number * page) - number * page;
            let stop = end.min((number + 1) * page) - number * page;
            (number, start as usize..stop as usize)
        })
    }

    fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let length = (self.length.saturating_sub(offset)).min(length as u64) as usize;
        let mut read = Vec::with_capacity(length);
        for (number, range) in Self::spans(offset, length) {
            match self.pages.get(&number) {
                Some(page) => read.extend_from_slice(&page[range]),
                None => read.resize(read.len() + range.len(), 0),
            }
        }
        read
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut written = 0;
        for (number, range) in Self::spans(offset, data.len()) {
            let page = self
                .pages
                .entry(number)
                .or_insert_with(|| vec![0; PAGE].into_boxed_slice());
            let length = range.len();
            page[range].copy_from_slice(&data[written..written + length]);
            written += length;
        }
        self.length = self.length.max(offset + data.len() as u64);
    }

    fn set_len(&mut self, length: u64) {
        if length < self.length {
            let first_gone = length.div_ceil(PAGE as u64);
            self.pages.split_off(&first_gone);
            if let Some(page) = self.pages.get_mut(&(length / PAGE as u64)) {
                page[(length % PAGE as u64) as usize..].fill(0);
            }
        }
        self.length = length;
    }
}

/// A change that a crash may undo.
enum Pending {
    Write {
        offset: u64,
        new: Bytes,
        old: Vec<u8>,
        old_length: u64,
    },
    SetLen {
        new_length: u64,
        old_length: u64,
        /// What a cut took away.
        tail: Vec<u8>,
    },
}

/// What a crash does to a change that was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Kept,
    Lost,
    /// Each sector for itself.
    Torn,
}

/// What a crash does to all changes that were not synced, if it treats them alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    Lost,
    Torn,
}

/// How much a crash damaged.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Damage {
    pub kept: u64,
    pub lost: u64,
    pub torn: u64,
}

/// One file.
#[derive(Default)]
pub struct Content {
    pages: Pages,
    pending: Vec<Pending>,
    /// Changes dropped from the front of `pending` so far.
    synced: u64,
    /// Where the last write begins that was synced.
    settled: u64,
}

impl Content {
    pub fn length(&self) -> u64 {
        self.pages.length
    }

    /// Memory that the file takes: its non-zero pages.
    pub fn allocated(&self) -> u64 {
        (self.pages.pages.len() * PAGE) as u64
    }

    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn read(&self, offset: u64, length: usize) -> Bytes {
        self.pages.read(offset, length).into()
    }

    pub fn write(&mut self, offset: u64, new: Bytes) {
        let old_length = self.pages.length;
        let old = self.pages.read(offset, new.len());
        self.pages.write(offset, &new);
        self.pending.push(Pending::Write {
            offset,
            new,
            old,
            old_length,
        });
    }

    pub fn set_len(&mut self, new_length: u64) {
        let old_length = self.pages.length;
        let cut = old_length.saturating_sub(new_length) as usize;
        let tail = self.pages.read(new_length, cut);
        self.pages.set_len(new_length);
        self.pending.push(Pending::SetLen {
            new_length,
            old_length,
            tail,
        });
    }

    /// Notes how far a sync that begins now will reach.
    pub fn begin_sync(&self) -> u64 {
        self.synced + self.pending.len() as u64
    }

    /// The sync that began at `mark` is done: everything before it is durable.
    pub fn finish_sync(&mut self, mark: u64) {
        let done = mark.saturating_sub(self.synced).min(self.pending.len() as u64);
        for change in self.pending.drain(..done as usize) {
            self.settled = match change {
                Pending::Write { offset, .. } => offset,
                Pending::SetLen { new_length, .. } => self.settled.min(new_length),
            };
        }
        self.synced += done;
    }

    /// Bytes before this offset were synced before something that was synced behind them, and are not being changed.
    pub fn settled(&self) -> u64 {
        let changed = self.pending.iter().map(|change| match change {
            Pending::Write { offset, .. } => *offset,
            Pending::SetLen { new_length, .. } => *new_length,
        });
        changed.fold(self.settled, u64::min)
    }

    /// A bit goes bad before `end`, among bytes that are not zero; where.
    pub fn rot(&mut self, end: u64, dice: &mut Dice) -> Option<u64> {
        let bytes = self.pages.read(0, end as usize);
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        if written.is_empty() {
            return None;
        }
        let at = *dice.pick(&written);
        self.pages.write(at as u64, &[bytes[at] ^ (1 << dice.below(8))]);
        Some(at as u64)
    }

    /// The power fails, or the system drops its dirty pages: of each change that was not synced, all,
    /// nothing or some sectors remain.
    pub fn crash(&mut self, dice: &mut Dice) -> Damage {
        self.crash_with(None, dice)
    }

    /// [`crash`](Self::crash), with one fate for all changes if there is a `tail`: torn is the first, and what follows is lost.
    pub fn crash_with(&mut self, tail: Option<Tail>, dice: &mut Dice) -> Damage {
        let pending = std::mem::take(&mut self.pending);
        self.synced += pending.len() as u64;
        for change in pending.iter().rev() {
            self.undo(change);
        }
        // Most crashes are orderly: a prefix is there. Some are not.
        let survivors = dice.index(pending.len() + 1);
        let orderly = dice.chance(0.5);
        let mut damage = Damage::default();
        for (position, change) in pending.iter().enumerate() {
            let fate = match orderly {
                _ if tail == Some(Tail::Torn) && position == 0 => Fate::Torn,
                _ if tail.is_some() => Fate::Lost,
                true if position < survivors => Fate::Kept,
                true if position == survivors => Fate::Torn,
                true => Fate::Lost,
                false => *dice.pick(&[Fate::Kept, Fate::Lost, Fate::Torn]),
            };
            match fate {
                Fate::Kept => damage.kept += 1,
                Fate::Lost => damage.lost += 1,
                Fate::Torn => damage.torn += 1,
            }
            self.redo(change, fate, dice);
        }
        damage
    }

    /// The power fails on a disk that lied: nothing of what was not synced remains.
    pub fn lose(&mut self) -> Damage {
        let pending = std::mem::take(&mut self.pending);
        self.synced += pending.len() as u64;
        for change in pending.iter().rev() {
            self.undo(change);
        }
        Damage {
            lost: pending.len() as u64,
            ..Damage::default()
        }
    }

    fn undo(&mut self, change: &Pending) {
        match change {
            Pending::Write {
                offset,
                old,
                old_length,
                ..
            } => {
                self.pages.write(*offset, old);
                self.pages.set_len(*old_length);
            }
            Pending::SetLen {
                old_length,
                new_length,
                tail,
            } => {
                self.pages.set_len(*old_length);
                if !tail.is_empty() {
                    self.pages.write(*new_length, tail);
                }
            }
        }
    }

    fn redo(&mut self, change: &Pending, fate: Fate, dice: &mut Dice) {
        match change {
            Pending::Write { offset, new, .. } => match fate {
                Fate::Kept => self.pages.write(*offset, new),
                Fate::Lost => {}
                Fate::Torn => {
                    for (start, data) in sectors(*offset, new) {
                        if dice.chance(0.5) {
                            self.pages.write(start, data);
                        }
                    }
                }
            },
            // A change of length is one record of the file system's journal.
            Pending::SetLen { new_length, .. } => {
                if fate != Fate::Lost {
                    self.pages.set_len(*new_length);
                }
            }
        }
    }
}

/// The parts of a write that a drive writes in one piece each.
fn sectors(offset: u64, data: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let end = offset + data.len() as u64;
    (offset / SECTOR..end.div_ceil(SECTOR)).map(move |number| {
        let start = offset.max(number * SECTOR);
        let stop = end.min((number + 1) * SECTOR);
        (start, &data[(start - offset) as usize..(stop - offset) as usize])
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::seed::Seed;

    fn bytes(content: &Content) -> Vec<u8> {
        content.read(0, usize::MAX).to_vec()
    }

    #[test]
    fn what_is_synced_survives_and_the_rest_is_whole_lost_or_torn_by_sectors() {
        let mut seen = Damage::default();
        for seed in 0..100 {
            let mut content = Content::default();
            content.write(0, vec![1; 3000].into());
            content.finish_sync(content.begin_sync());
            content.write(3000, vec![2; 3000].into());
            let damage = content.crash(&mut Seed(seed).dice("disk"));
            seen.kept += damage.kept;
            seen.lost += damage.lost;
            seen.torn += damage.torn;
            let left = bytes(&content);
            assert!(left[..3000].iter().all(|byte| *byte == 1), "synced");
            for (start, data) in sectors(3000, &left[3000..]) {
                assert!(data.iter().all(|byte| *byte == data[0]), "sector at {start}");
            }
        }
        assert!(seen.kept > 10 && seen.lost > 10 && seen.torn > 10, "{seen:?}");
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        for seed in 0..50 {
            let mut content = Content::default();
            content.write(0, Bytes::from_static(b"early"));
            let mark = content.begin_sync();
            content.write(5, Bytes::from_static(b" late"));
            content.finish_sync(mark);
            assert!(content.is_dirty());
            content.crash(&mut Seed(seed).dice("disk"));
            let left = bytes(&content);
            assert!(left.starts_with(b"early"));
        }
    }

    #[test]
    fn a_crash_can_lose_all_or_tear_the_first_change() {
        for (tail, expected) in [(Tail::Lost, (0, 2, 0)), (Tail::Torn, (0, 1, 1))] {
            let mut content = Content::default();
            content.write(0, vec![1; 3000].into());
            content.write(3000, vec![2; 3000].into());
            let Damage { kept, lost, torn } = content.crash_with(Some(tail), &mut Seed(1).dice("disk"));
            assert_eq!((kept, lost, torn), expected);
            assert!(content.length() < 6000);
        }
    }

    #[test]
    fn what_goes_bad_was_synced_and_has_something_synced_behind_it() {
        for seed in 0..50 {
            let mut dice = Seed(seed).dice("disk");
            let mut content = Content::default();
            content.write(0, vec![1; 100].into());
            content.finish_sync(content.begin_sync());
            assert_eq!(content.settled(), 0, "nothing is behind it");
            content.write(512, vec![2; 100].into());
            assert_eq!(content.settled(), 0, "not synced");
            content.finish_sync(content.begin_sync());
            assert_eq!(content.settled(), 512);
            let before = bytes(&content);
            let at = content.rot(content.settled(), &mut dice).expect("written bytes") as usize;
            let after = bytes(&content);
            assert!(at < 100, "zeros are nothing that could be damaged");
            assert_eq!((before[at] ^ after[at]).count_ones(), 1);
            content.crash(&mut dice);
            assert_eq!(bytes(&content), after, "durable as it is");
            content.set_len(0);
            content.finish_sync(content.begin_sync());
            assert_eq!(content.settled(), 0);
        }
    }

    #[test]
    fn an_empty_extension_takes_no_memory_and_reads_as_zeros() {
        let mut content = Content::default();
        content.set_len(64 << 20);
        assert_eq!((content.length(), content.allocated()), (64 << 20, 0));
        assert_eq!(content.read((64 << 20) - 3, 10).as_ref(), [0; 3]);
        content.write(5000, Bytes::from_static(b"x"));
        content.set_len(5000);
        content.set_len(6000);
        assert_eq!(content.read(4999, 3).as_ref(), [0; 3]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write(u64, Vec<u8>),
        SetLen(u64),
        Sync,
        Crash(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let write = (0..10_000_u64, proptest::collection::vec(any::<u8>(), 1..3000));
        prop_oneof![
            6 => write.prop_map(|(offset, data)| Step::Write(offset, data)),
            2 => (0..12_000_u64).prop_map(Step::SetLen),
            2 => Just(Step::Sync),
            1 => any::<u64>().prop_map(Step::Crash),
        ]
    }

    proptest! {
        /// Against a plain vector: reads agree, and a crash right after a sync changes nothing.
        #[test]
        fn it_behaves_like_a_plain_file(steps in proptest::collection::vec(step(), 1..30)) {
            let (mut content, mut plain) = (Content::default(), Vec::new());
            for step in steps {
                match step {
                    Step::Write(offset, data) => {
                        content.write(offset, data.clone().into());
                        let end = offset as usize + data.len();
                        plain.resize(plain.len().max(end), 0);
                        plain[offset as usize..end].copy_from_slice(&data);
                    }
                    Step::SetLen(length) => {
                        content.set_len(length);
                        plain.resize(length as usize, 0);
                    }
                    Step::Sync => {
                        content.finish_sync(content.begin_sync());
                        content.crash(&mut Seed(1).dice("disk"));
                    }
                    Step::Crash(seed) => {
                        content.crash(&mut Seed(seed).dice("disk"));
                        plain = bytes(&content);
                    }
                }
                prop_assert_eq!(&bytes(&content), &plain);
            }
        }
    }
}
