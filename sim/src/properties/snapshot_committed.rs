//! A snapshot replaces a prefix of the log that is committed: what is not may still be replaced.

use super::{About, Book, Property, Step};

pub struct SnapshotCommitted;

impl SnapshotCommitted {
    pub const ABOUT: About = About {
        name: "snapshot-committed",
        guarantee: "a snapshot covers nothing that is not committed",
        source: "Raft, 7; openraft#1892",
    };
}

impl Property for SnapshotCommitted {
    fn about(&self) -> About {
        SnapshotCommitted::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        match step.now {
            Some(now) if now.snapshot > 0 && now.snapshot >= step.committed_end => Err(format!(
                "the snapshot of {} reaches to {}, and what it knows as committed ends before {}",
                step.name(),
                now.snapshot,
                step.committed_end
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn a_snapshot_of_what_is_not_committed_is_refused() {
        let mut forge = Forge::led(3, 6);
        forge.commit_all(4);
        forge.member(1).snapshot = 3;
        forge.good();
        forge.member(1).snapshot = 4;
        forge.refused(SnapshotCommitted::ABOUT);
    }
}
