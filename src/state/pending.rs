//! Changes that are applied and not yet written: reads see them first.

use bytes::Bytes;

use crate::base::kv::{Batch, Read, Space, Visit};
use crate::base::overlay::Overlay;
use crate::base::{Broken, effort};

/// Changes above a store. Many commands go into one, which the caller then writes at once.
pub struct Pending<'a> {
    base: &'a dyn Read,
    changes: Overlay,
}

impl<'a> Pending<'a> {
    pub fn new(base: &'a dyn Read) -> Self {
        let changes = Overlay::default();
        Pending { base, changes }
    }

    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.change(space, key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.change(space, key.into(), None);
    }

    fn change(&mut self, space: Space, key: Bytes, value: Option<Bytes>) {
        effort::spend(1);
        self.changes.change(space, key, value);
    }

    /// How many keys are changed.
    pub fn keys(&self) -> usize {
        self.changes.keys()
    }

    /// The changes, in order of space and key.
    pub fn into_batch(self) -> Batch {
        self.changes.into_batch()
    }
}

impl Read for Pending<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        match self.changes.get(space, key) {
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
        self.changes.scan(self.base, space, from, to, visit)
    }
}
