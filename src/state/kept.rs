//! Which records at or below the compact revision live on, written down.
//!
//! The engine drops dead records when it likes, and in no order: the tombstone of a key may be gone while a put that it
//! covered is still there, in our own store after a crash or in a snapshot for a lagging member. Nothing in such a
//! put tells that it is dead, and reading it back would bring the key to life again, on one member alone. So a
//! compaction writes, with its batch, what it keeps. Opening a store takes no other record from below; and one
//! that is written down here and missing there is damage.
//!
//! ```text
//!   Meta "kept" block (u64 BE)  ─►  runs of kept revisions of one block of 4096 main revisions
//!     run:   varint(gap << 1)                              sub 0 alone (nearly all runs)
//!            varint(gap << 1 | 1) varint(sub) varint(n)    subs sub, sub + 1 … sub + n - 1
//!     gap:   main revisions since the run before, at first since the begin of the block
//! ```
//!
//! A block without kept records has no row, so the rows grow with the keys that live, not with history.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use super::Pending;
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Revision, RevisionAt};

const PREFIX: &[u8] = b"kept";
/// Main revisions in one row.
const BLOCK_REVISIONS: i64 = 4096;

/// What changes in one block.
#[derive(Default)]
struct Edit {
    kept: Vec<RevisionAt>,
    dead: BTreeSet<RevisionAt>,
}

/// Writes down that `kept` stay, all after `since`, and that of those written before, `dead` do not.
pub fn store(
    since: Revision,
    kept: Vec<RevisionAt>,
    dead: &[RevisionAt],
    store: &mut Pending<'_>,
) -> Result<(), Broken> {
    let mut edits: BTreeMap<i64, Edit> = BTreeMap::new();
    for at in kept {
        edits.entry(at.main / BLOCK_REVISIONS).or_default().kept.push(at);
    }
    for &at in dead.iter().filter(|at| at.main <= since) {
        edits
            .entry(at.main / BLOCK_REVISIONS)
            .or_default()
            .dead
            .insert(at);
    }
    for (block, edit) in edits {
        let key = row_key(block);
        let mut kept = match store.get(Space::Meta, &key)? {
            Some(row) => decode(block, row)?,
            None => Vec::new(),
        };
        let before = kept.len();
        kept.retain(|at| !edit.dead.contains(at));
        if kept.len() + edit.dead.len() != before {
            return Err(Broken::new(format!(
                "block {block} of kept records lacks some that were kept"
            )));
        }
        kept.extend(edit.kept);
        kept.sort_unstable();
        if kept.is_empty() {
            store.delete(Space::Meta, key);
        } else {
            store.put(Space::Meta, key, encode(block, &kept));
        }
    }
    Ok(())
}

/// Reads back every record that is kept, in order.
pub fn load(store: &dyn Read) -> Result<Vec<RevisionAt>, Broken> {
    let mut kept = Vec::new();
    let mut damaged = None;
    let end = row_key_end();
    store.scan(
        Space::Meta,
        PREFIX,
        Some(&end),
        &mut |key, row| match block_of(key).and_then(|block| decode(block, row)) {
            Ok(row) => {
                kept.extend(row);
                Visit::Continue
            }
            Err(broken) => {
                damaged = Some(broken);
                Visit::Stop
            }
        },
    )?;
    damaged.map_or(Ok(kept), Err)
}

/// Whether nothing is written down.
pub fn is_empty(store: &dyn Read) -> Result<bool, Broken> {
    let mut empty = true;
    store.scan(Space::Meta, PREFIX, Some(&row_key_end()), &mut |_, _| {
        empty = false;
        Visit::Stop
    })?;
    Ok(empty)
}

/// Looks up, in ascending order, which records at or below the compact revision live on: with one block in memory.
pub struct Lookup<'a> {
    store: &'a dyn Read,
    block: Option<(i64, BTreeSet<RevisionAt>)>,
}

impl<'a> Lookup<'a> {
    pub fn new(store: &'a dyn Read) -> Self {
        Lookup { store, block: None }
    }

    pub fn is_kept(&mut self, at: RevisionAt) -> Result<bool, Broken> {
        let block = at.main / BLOCK_REVISIONS;
        if self.block.as_ref().is_none_or(|(known, _)| *known != block) {
            let kept = match self.store.get(Space::Meta, &row_key(block))? {
                Some(row) => decode(block, row)?,
                None => Vec::new(),
            };
            self.block = Some((block, kept.into_iter().collect()));
        }
        Ok(self.block.as_ref().is_some_and(|(_, kept)| kept.contains(&at)))
    }
}

fn row_key(block: i64) -> Bytes {
    [PREFIX, &block.to_be_bytes()].concat().into()
}

/// Above every row.
fn row_key_end() -> Bytes {
    [PREFIX, &[0xff; 9]].concat().into()
}

fn block_of(key: &[u8]) -> Result<i64, Broken> {
    let block = key.strip_prefix(PREFIX).and_then(|block| block.try_into().ok());
    block
        .map(i64::from_be_bytes)
        .ok_or_else(|| Broken::new("a row of kept records has a malformed key"))
}

fn encode(block: i64, kept: &[RevisionAt]) -> Bytes {
    let mut row = BytesMut::with_capacity(kept.len() + 8);
    let mut main = block * BLOCK_REVISIONS;
    let runs = kept.chunk_by(|a, b| a.main == b.main && a.sub + 1 == b.sub);
    for run in runs {
        let Some(first) = run.first() else { continue };
        let gap = (first.main - main) as u64;
        main = first.main;
        let plain = first.sub == 0 && run.len() == 1;
        encode_varint(gap << 1 | u64::from(!plain), &mut row);
        if !plain {
            encode_varint(first.sub as u64, &mut row);
            encode_varint(run.len() as u64, &mut row);
        }
    }
    row.freeze()
}

fn decode(block: i64, mut row: Bytes) -> Result<Vec<RevisionAt>, Broken> {
    let malformed = || Broken::new(format!("block {block} of kept records is malformed"));
    let mut kept: Vec<RevisionAt> = Vec::new();
    let mut main = block.checked_mul(BLOCK_REVISIONS).ok_or_else(malformed)?;
    let end = main.saturating_add(BLOCK_REVISIONS);
    while !row.is_empty() {
        let mut next = || decode_varint(&mut row).map_err(|_| malformed());
        let head = next()?;
        let (sub, count) = if head & 1 == 0 { (0, 1) } else { (next()?, next()?) };
        let gap = i64::try_from(head >> 1).map_err(|_| malformed())?;
        main = main
            .checked_add(gap)
            .filter(|&main| main < end)
            .ok_or_else(malformed)?;
        // As the index counts subs; a run as long as that would be damage.
        let (sub, count) = match (u32::try_from(sub), u32::try_from(count)) {
            (Ok(sub), Ok(count)) => (i64::from(sub), i64::from(count)),
            _ => return Err(malformed()),
        };
        kept.extend((sub..sub + count).map(|sub| RevisionAt::new(main, sub)));
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let block = 3;
        let at = |main, sub| RevisionAt::new(block * BLOCK_REVISIONS + main, sub);
        let kept = [
            at(0, 0),
            at(1, 0),
            at(1, 1),
            at(1, 3),
            at(200, 7),
            at(4095, 0),
            at(4095, 1),
        ];
        for kept in [&kept[..], &kept[1..], &kept[4..5], &[]] {
            assert_eq!(decode(block, encode(block, kept)).unwrap(), kept);
        }
        let alone: Vec<RevisionAt> = (0..4096).map(|main| at(main, 0)).collect();
        assert_eq!(encode(block, &alone).len(), 4096, "a byte each");
        let many: Vec<RevisionAt> = (0..100_000).map(|sub| at(5, sub)).collect();
        assert!(encode(block, &many).len() < 8, "one run");
    }

    #[test]
    fn damaged_rows_are_refused() {
        for row in [&[0x80][..], &[0x01, 0x05], &[0xff, 0xff, 0x7f]] {
            assert!(decode(0, Bytes::from_static(row)).is_err(), "{row:?}");
        }
        assert!(block_of(b"kept123").is_err());
        assert!(decode(i64::MAX, Bytes::new()).is_err());
    }
}
