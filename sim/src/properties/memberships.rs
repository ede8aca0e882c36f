//! Which entries change who votes, of all logs: an entry is known by its index and term, whoever shows it.
//!
//! A look shows what an entry holds only while it is in the log's cache: nothing does of a log that was read back from a disk,
//! until another member has shown the same entry. So "it may change who votes" is an answer, too, and who asks has to abstain.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::observation::{Added, Membership, Voters};

/// See the module.
#[derive(Default)]
pub(super) struct Memberships {
    /// Entries that change nothing, by index and term.
    unchanged: BTreeSet<(u64, u64)>,
    /// Those that do; `None`: it may, nobody has shown it.
    changed: BTreeMap<(u64, u64), Option<Voters>>,
}

impl Memberships {
    pub fn note(&mut self, added: &Added) {
        let entry = (added.index, added.term);
        match &added.membership {
            Membership::Unseen if self.unchanged.contains(&entry) => {}
            Membership::Unseen => {
                self.changed.entry(entry).or_default();
            }
            Membership::Unchanged => {
                self.unchanged.insert(entry);
                self.changed.remove(&entry);
            }
            Membership::Changed(voters) => {
                self.changed.insert(entry, Some(voters.clone()));
            }
        }
    }

    /// Index, term and voters of the entries at these indexes that change who votes, or may (`None`).
    pub fn within(
        &self,
        indexes: Range<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, u64, Option<&Voters>)> {
        let entries = self.changed.range((indexes.start, 0)..(indexes.end, 0));
        entries.map(|(&(index, term), voters)| (index, term, voters.as_ref()))
    }
}
