//! Changes that are applied and not yet written: reads see them first.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::base::Broken;
use crate::base::kv::{Batch, Change, Read, Space, Visit};

/// An overlay of changes on a store. Many commands go into one, which the caller then writes at once.
pub struct Pending<'a> {
    base: &'a dyn Read,
    changes: BTreeMap<(Space, Bytes), Option<Bytes>>,
}

impl<'a> Pending<'a> {
    pub fn new(base: &'a dyn Read) -> Self {
        Pending {
            base,
            changes: BTreeMap::new(),
        }
    }

    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.changes.insert((space, key.into()), Some(value.into()));
    }

    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.changes.insert((space, key.into()), None);
    }

    /// The changes, in order of space and key.
    pub fn into_batch(self) -> Batch {
        let change = |((space, key), value)| Change { space, key, value };
        Batch {
            changes: self.changes.into_iter().map(change).collect(),
        }
    }
}

impl Read for Pending<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        // Bytes are cheap to make from a static slice only; a lookup needs an owned key.
        match self.changes.get(&(space, Bytes::copy_from_slice(key))) {
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
        // Only small ranges are scanned while commands are applied, so a merged copy will do.
        let mut rows = BTreeMap::new();
        self.base.scan(space, from, to, &mut |key, value| {
            rows.insert(Bytes::copy_from_slice(key), value);
            Visit::Continue
        })?;
        let start = (space, Bytes::copy_from_slice(from));
        for ((_, key), value) in self
            .changes
            .range(start..)
            .take_while(|((changed, key), _)| *changed == space && to.is_none_or(|to| key.as_ref() < to))
        {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        for (key, value) in rows {
            if visit(&key, value) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}
