//! A leader commits by counting replicas only entries of its own term (Raft, 5.4.2 and figure 8); earlier ones are committed with
//! them.

use super::{About, Book, Property, Step};

pub struct CommitOwnTerm;

impl CommitOwnTerm {
    pub const ABOUT: About = About {
        name: "commit-own-term",
        guarantee: "a leader takes its commit index on to entries of its own term only",
        source: "Raft, 5.4.2 and figure 8; logcabin#44",
    };
}

impl Property for CommitOwnTerm {
    fn about(&self) -> About {
        CommitOwnTerm::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let led = step.before.filter(|before| before.leader == Some(step.id));
        let (Some(term), Some(before)) = (step.leads(), led) else {
            return Ok(());
        };
        let end = step.committed_end.min(step.log.end());
        let moved = end > step.change.old_committed_end.max(before.committed + 1);
        if !step.same_life || before.term != term || !moved {
            return Ok(());
        }
        match end.checked_sub(1).and_then(|last| step.log.get(last)) {
            Some(entry) if entry.term != term => Err(format!(
                "{} leads term {term}, and took its commit index on to entry {} of term {}",
                step.name(),
                end - 1,
                entry.term
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
    fn entries_of_earlier_terms_are_not_committed_by_counting() {
        let forged = || {
            let mut forge = Forge::led(3, 4);
            forge.commit_all(2);
            forge.good();
            forge.elect(1, 3);
            forge.append(1, 3, 4..5);
            forge.good();
            forge
        };
        let mut forge = forged();
        forge.append(2, 3, 4..5);
        forge.commit(1, 5);
        forge.good();
        let mut forge = forged();
        forge.commit(1, 4);
        forge.refused(CommitOwnTerm::ABOUT);
    }
}
