//! What is committed stays: no member cuts its log below what it knows to be committed, and all that know an index to be
//! committed have the same entry there.

use super::{About, Book, Property, Step};

pub struct CommittedImmutable;

impl CommittedImmutable {
    pub const ABOUT: About = About {
        name: "committed-immutable",
        guarantee: "what is committed at an index is never replaced, on any member",
        source: "Raft, 5.4; CCF#5674; openraft#1892",
    };
}

impl Property for CommittedImmutable {
    fn about(&self) -> About {
        CommittedImmutable::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String> {
        let (change, log, own) = (step.change, step.log, step.name());
        for (index, entry) in &change.cut {
            let kept = log.get(*index).is_some_and(|now| now == entry);
            if step.same_life && *index < change.old_committed_end && !kept {
                let term = entry.term;
                return Err(format!(
                    "{own} knew entry {index} of term {term} to be committed, and has it no more"
                ));
            }
        }
        if let Some((term, index)) = log.committed
            && let Some(entry) = log.get(index)
            && entry.term != term
        {
            let other = entry.term;
            return Err(format!(
                "{own} notes entry {index} of term {term} as committed, and has one of term {other} there"
            ));
        }
        // After a restart all that the log holds was added.
        let from = change.from.min(change.old_committed_end).max(log.start());
        for index in from..log.proven_end() {
            let (Some(entry), Some(committed)) = (log.get(index), book.committed(index)) else {
                continue;
            };
            if (entry.term, entry.checksum) != (committed.term, committed.checksum) {
                let (one, other) = (committed.term, entry.term);
                return Err(format!(
                    "an entry of term {one} was committed at {index}, and to {own} it is another, of term {other}"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn what_is_committed_is_neither_cut_nor_replaced() {
        let mut forge = Forge::led(3, 5);
        forge.commit_all(3);
        forge.good();
        forge.cut(1, 4);
        forge.good();
        forge.cut(1, 2);
        forge.refused(CommittedImmutable::ABOUT);

        let mut forge = Forge::led(3, 5);
        forge.commit(0, 5);
        forge.good();
        forge.append(2, 3, 4..5);
        forge.good();
        forge.commit(2, 5);
        forge.refused(CommittedImmutable::ABOUT);
    }

    #[test]
    fn a_log_that_a_snapshot_is_about_to_replace_is_not_what_is_committed() {
        let mut forge = Forge::settled(3, 3);
        forge.append(2, 2, 3..4);
        forge.good();
        forge.elect(1, 3);
        for member in 0..2 {
            forge.append(member, 3, 3..6);
            forge.commit(member, 6);
        }
        forge.member(2).committed = 5;
        forge.good();
        forge.snapshot(2, 5);
        forge.good();
    }

    #[test]
    fn what_is_noted_as_committed_is_the_entry_that_is_there() {
        let mut forge = Forge::settled(3, 3);
        forge.append(2, 2, 3..5);
        forge.log(2).committed = Some((2, 3));
        forge.append(1, 2, 3..5);
        forge.good();
        forge.restart(2);
        forge.log(2).committed = Some((3, 4));
        forge.refused(CommittedImmutable::ABOUT);
    }
}
