//! Which records live on at or below the revision up to which the store is swept, written down.
//!
//! The engine drops dead records when it likes, and in no order: the tombstone of a key may be gone while a put that it
//! covered is still there, in our own store after a crash or in a snapshot for a lagging member. Nothing in such a
//! put tells that it is dead, and reading it back would bring the key to life again, on one member alone. So a
//! sweep writes down what it keeps. Opening a store takes no other record from below; and one
//! that is written down here and missing there is damage.
//!
//! ```text
//!   Meta "kept" revision (i64 BE) block (i64 BE)  ─►  runs of kept revisions of one block of 4096 main revisions
//!     run:   varint(gap << 1)                              sub 0 alone (nearly all runs)
//!            varint(gap << 1 | 1) varint(sub) varint(n)    subs sub, sub + 1 … sub + n - 1
//!     gap:   main revisions since the run before, at first since the begin of the block
//! ```
//!
//! A block without kept records has no row, so the rows grow with the keys that live, not with history.
//!
//! Each sweep writes all its rows, under its own revision, in some batches. They count from the batch on that says that the
//! store is swept up to there, which comes behind them; so what is there of another sweep, which was not
//! finished or is outdated, is never looked at. Nor does it matter if it is found again by a second attempt at the same
//! revision: what lives on there follows from history alone, so the rows are the same.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};

use crate::base::kv::{Change, Read, Space, Visit};
use crate::base::{Broken, Revision, RevisionAt};

const PREFIX: &[u8] = b"kept";
/// Main revisions in one row.
const BLOCK_REVISIONS: i64 = 4096;

/// The rows of a sweep at `revision` that keeps these, in order.
pub fn rows(revision: Revision, kept: &[RevisionAt]) -> Vec<Change> {
    let block_of = |at: &RevisionAt| at.main / BLOCK_REVISIONS;
    let blocks = kept.chunk_by(|a, b| block_of(a) == block_of(b));
    let row = |kept: &[RevisionAt]| {
        let block = kept.first().map_or(0, block_of);
        Change {
            space: Space::Meta,
            key: row_key(revision, block),
            value: Some(encode(block, kept)),
        }
    };
    blocks.map(row).collect()
}

/// What removes the rows of all other sweeps.
pub fn without_others(revision: Revision, store: &dyn Read) -> Result<Vec<Change>, Broken> {
    let mut outdated = Vec::new();
    let own = prefix(revision);
    store.scan(Space::Meta, PREFIX, Some(&prefix(-1)), &mut |key, _| {
        if !key.starts_with(&own) {
            outdated.push(Change {
                space: Space::Meta,
                key: Bytes::copy_from_slice(key),
                value: None,
            });
        }
        Visit::Continue
    })?;
    Ok(outdated)
}

/// Reads back every record that a sweep at `revision` kept, in order.
pub fn load(revision: Revision, store: &dyn Read) -> Result<Vec<RevisionAt>, Broken> {
    let mut kept = Vec::new();
    let mut damaged = None;
    scan(
        revision,
        store,
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

/// Whether a sweep at `revision` kept nothing.
pub fn is_empty(revision: Revision, store: &dyn Read) -> Result<bool, Broken> {
    let mut empty = true;
    scan(revision, store, &mut |_, _| {
        empty = false;
        Visit::Stop
    })?;
    Ok(empty)
}

fn scan(
    revision: Revision,
    store: &dyn Read,
    visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
) -> Result<(), Broken> {
    if revision < 0 {
        // Nothing was ever swept.
        return Ok(());
    }
    let (from, to) = (prefix(revision), prefix(revision.saturating_add(1)));
    store.scan(Space::Meta, &from, Some(&to), visit)
}

/// Looks up, in ascending order, which records a sweep at `revision` kept: with one block in memory.
pub struct Lookup<'a> {
    revision: Revision,
    store: &'a dyn Read,
    block: Option<(i64, BTreeSet<RevisionAt>)>,
}

impl<'a> Lookup<'a> {
    pub fn new(revision: Revision, store: &'a dyn Read) -> Self {
        Lookup {
            revision,
            store,
            block: None,
        }
    }

    pub fn is_kept(&mut self, at: RevisionAt) -> Result<bool, Broken> {
        let block = at.main / BLOCK_REVISIONS;
        if self.block.as_ref().is_none_or(|(known, _)| *known != block) {
            let kept = match self.store.get(Space::Meta, &row_key(self.revision, block))? {
                Some(row) => decode(block, row)?,
                None => Vec::new(),
            };
            self.block = Some((block, kept.into_iter().collect()));
        }
        Ok(self.block.as_ref().is_some_and(|(_, kept)| kept.contains(&at)))
    }
}

/// What the keys of a sweep's rows begin with. That of -1, which no sweep has, is above all others.
fn prefix(revision: Revision) -> Vec<u8> {
    [PREFIX, &revision.to_be_bytes()].concat()
}

fn row_key(revision: Revision, block: i64) -> Bytes {
    [PREFIX, &revision.to_be_bytes(), &block.to_be_bytes()]
        .concat()
        .into()
}

fn block_of(key: &[u8]) -> Result<i64, Broken> {
    let block = key
        .get(PREFIX.len() + 8..)
        .and_then(|block| block.try_into().ok());
    block
        .map(i64::from_be_bytes)
        .ok_or_else(|| Broken::contradiction("a row of kept records has a malformed key"))
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
    let malformed = || Broken::malformed(format!("block {block} of kept records"));
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
mod tests;
