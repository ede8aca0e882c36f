//! Changes above a store: reads see them first.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::Broken;
use super::kv::{Batch, Change, Read, Space, Visit};

/// The last change of each key, in the order of [`Space::ALL`]; `None`: it was deleted.
#[derive(Default)]
pub struct Overlay([BTreeMap<Bytes, Option<Bytes>>; Space::ALL.len()]);

impl Overlay {
    fn space(&self, space: Space) -> &BTreeMap<Bytes, Option<Bytes>> {
        let [records, leases, meta] = &self.0;
        match space {
            Space::Records => records,
            Space::Leases => leases,
            Space::Meta => meta,
        }
    }

    pub fn change(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let [records, leases, meta] = &mut self.0;
        let changes = match space {
            Space::Records => records,
            Space::Leases => leases,
            Space::Meta => meta,
        };
        changes.insert(key, value);
    }

    /// Keys that it changes.
    pub fn keys(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    /// Its changes, in order of space and key.
    pub fn iter(&self) -> impl Iterator<Item = (Space, &Bytes, &Option<Bytes>)> {
        let spaces = Space::ALL.into_iter().zip(&self.0);
        spaces.flat_map(|(space, changes)| changes.iter().map(move |(key, value)| (space, key, value)))
    }

    /// The same, as a batch.
    pub fn into_batch(self) -> Batch {
        let spaces = Space::ALL.into_iter().zip(self.0);
        let changes = spaces.flat_map(|(space, changes)| {
            changes
                .into_iter()
                .map(move |(key, value)| Change { space, key, value })
        });
        Batch {
            changes: changes.collect(),
        }
    }

    /// What it says of a key; `None`: nothing.
    pub fn get(&self, space: Space, key: &[u8]) -> Option<&Option<Bytes>> {
        self.space(space).get(key)
    }

    /// [`Read::scan`] of it above `base`.
    pub fn scan(
        &self,
        base: &dyn Read,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        let changes = self
            .space(space)
            .range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        let mut changes = changes
            .take_while(|(key, _)| to.is_none_or(|to| key.as_ref() < to))
            .peekable();
        let mut stopped = false;
        base.scan(space, from, to, &mut |key, value| {
            while let Some((changed, new)) = changes.next_if(|(changed, _)| changed.as_ref() <= key) {
                let shadows = changed.as_ref().cmp(key) == Ordering::Equal;
                stopped = new
                    .as_ref()
                    .is_some_and(|new| visit(changed, new.clone()) == Visit::Stop);
                if stopped {
                    return Visit::Stop;
                }
                if shadows {
                    return Visit::Continue;
                }
            }
            stopped = visit(key, value) == Visit::Stop;
            if stopped { Visit::Stop } else { Visit::Continue }
        })?;
        for (key, new) in changes {
            if stopped {
                break;
            }
            stopped = new
                .as_ref()
                .is_some_and(|new| visit(key, new.clone()) == Visit::Stop);
        }
        Ok(())
    }
}
