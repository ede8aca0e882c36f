//! Which bytes of a disk went bad, and whether anybody has met with them.

use std::collections::BTreeSet;

use super::tree::Inode;

/// What is damaged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// A segment of the log.
    Log,
    /// The store, which is what is sent as a snapshot, too.
    Store,
}

impl Target {
    /// Whether a file is what the store writes its batches to.
    pub(super) fn is_journal(path: &str) -> bool {
        Target::Store.is_meant(path) && path.contains("/journal-")
    }

    pub(super) fn is_meant(self, path: &str) -> bool {
        let is_log = path.contains("/wal/");
        match self {
            Target::Log => is_log,
            Target::Store => !is_log && path.contains(super::GENERATION),
        }
    }
}

/// Places that are damaged and were neither read nor overwritten since.
#[derive(Default)]
pub struct Rot {
    places: BTreeSet<(Inode, u64)>,
}

impl Rot {
    pub fn add(&mut self, inode: Inode, offset: u64) {
        self.places.insert((inode, offset));
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    fn within(&self, inode: Inode, offset: u64, length: u64) -> Vec<(Inode, u64)> {
        let range = (inode, offset)..(inode, offset.saturating_add(length));
        self.places.range(range).copied().collect()
    }

    /// A range is read; how many damaged bytes of it for the first time.
    pub fn read(&mut self, inode: Inode, offset: u64, length: u64) -> u64 {
        let met = self.within(inode, offset, length);
        met.iter().for_each(|place| _ = self.places.remove(place));
        met.len() as u64
    }

    /// A range is whole again.
    pub fn overwritten(&mut self, inode: Inode, offset: u64, length: u64) {
        self.read(inode, offset, length);
    }

    pub fn retain(&mut self, exists: impl Fn(&Inode) -> bool) {
        self.places.retain(|(inode, _)| exists(inode));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_met_once_and_heals_when_overwritten() {
        let mut rot = Rot::default();
        rot.add(3, 100);
        rot.add(3, 200);
        rot.add(4, 100);
        assert_eq!(rot.read(3, 0, 100), 0);
        assert_eq!(rot.read(3, 100, 1), 1);
        assert_eq!(rot.read(3, 0, u64::MAX), 1, "the other one");
        rot.overwritten(4, 90, 20);
        assert_eq!((rot.read(4, 0, 1000), rot.len()), (0, 0));
    }

    #[test]
    fn logs_and_stores_are_told_apart_by_their_paths() {
        let log = "/data/member/wal/0000000000000001.log";
        let store = "/data/member/engine-1/0000000000000001.journal";
        assert!(Target::Log.is_meant(log) && !Target::Log.is_meant(store));
        assert!(Target::Store.is_meant(store) && !Target::Store.is_meant(log));
        assert!(!Target::Store.is_meant("/data/member/current"));
    }
}
