//! What the state machine needs of a store, and the engines provide: ordered keyspaces, atomic
//! batches. It lives below both, so that neither knows the other.

use bytes::Bytes;

use super::{Broken, limits};

/// The ordered keyspaces of the state machine's store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[repr(u8)]
pub enum Space {
    /// Revision (main, sub; big-endian) to record: all of history that is not compacted.
    Records = 0,
    /// Lease id (big-endian) to lease.
    Leases = 1,
    /// Single values: applied log id, membership, compact revision, digest, alarms.
    Meta = 2,
}

impl Space {
    pub const ALL: [Space; 3] = [Space::Records, Space::Leases, Space::Meta];

    /// The space with this number, if there is one.
    pub fn from_u8(number: u8) -> Option<Space> {
        Self::ALL.into_iter().find(|space| *space as u8 == number)
    }
}

/// What a visitor of [`Read::scan`] wants next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Visit {
    Continue,
    Stop,
}

/// Reads of a store, or of a consistent view of it. A failed checksum is [`Broken`], never a miss.
pub trait Read {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken>;

    /// Visits the keys in `from..to` in ascending order (`to` `None`: to the end of the space).
    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken>;
}

impl<R: Read + ?Sized> Read for Box<R> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        (**self).get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        (**self).scan(space, from, to, visit)
    }
}

/// One change of a key: a value, or its absence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub space: Space,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// Changes that become visible, and durable, together. Later changes of a key win.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Batch {
    pub changes: Vec<Change>,
}

impl Batch {
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), Some(value.into()));
        assert!(
            key.len() <= limits::ENGINE_KEY_BYTES_MAX,
            "a key that the engine would refuse is refused when its command is applied"
        );
        self.changes.push(Change { space, key, value });
    }

    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        let (key, value) = (key.into(), None);
        self.changes.push(Change { space, key, value });
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}
