//! Changes that are applied and not yet written: reads see them first.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::kv::{Batch, Change, Read, Space, Visit};
use crate::base::{Broken, effort};

/// An overlay of changes on a store. Many commands go into one, which the caller then writes at once.
pub struct Pending<'a> {
    base: &'a dyn Read,
    /// By space, in the order of [`Space::ALL`].
    changes: [BTreeMap<Bytes, Option<Bytes>>; Space::ALL.len()],
}

impl<'a> Pending<'a> {
    pub fn new(base: &'a dyn Read) -> Self {
        let changes = Default::default();
        Pending { base, changes }
    }

    fn space(&self, space: Space) -> &BTreeMap<Bytes, Option<Bytes>> {
        let [records, leases, meta] = &self.changes;
        match space {
            Space::Records => records,
            Space::Leases => leases,
            Space::Meta => meta,
        }
    }

    fn change(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        let [records, leases, meta] = &mut self.changes;
        let changes = match space {
            Space::Records => records,
            Space::Leases => leases,
            Space::Meta => meta,
        };
        changes.insert(key, value);
        effort::spend(1);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.changes.iter().map(BTreeMap::len).sum()
    }

    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.change(space, key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.change(space, key.into(), None);
    }

    /// The changes, in order of space and key.
    pub fn into_batch(self) -> Batch {
        let spaces = Space::ALL.into_iter().zip(self.changes);
        let changes = spaces.flat_map(|(space, changes)| {
            changes
                .into_iter()
                .map(move |(key, value)| Change { space, key, value })
        });
        Batch {
            changes: changes.collect(),
        }
    }
}

impl Read for Pending<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        match self.space(space).get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(space, key),
        }
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        let changes = self
            .space(space)
            .range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded));
        let mut changes = changes
            .take_while(|(key, _)| to.is_none_or(|to| key.as_ref() < to))
            .peekable();
        let mut stopped = false;
        self.base.scan(space, from, to, &mut |key, value| {
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
