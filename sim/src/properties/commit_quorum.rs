//! An index is committed only when a quorum of the membership in force holds everything up to it durably. The leader's own log
//! counts only as far as it is durable, too (thesis, 10.2.1: it may be the last to have it).

use super::book::is_quorum;
use super::{About, Book, Property, Step};

pub struct CommitQuorum;

impl CommitQuorum {
    pub const ABOUT: About = About {
        name: "commit-quorum",
        guarantee: "an entry is committed only when a quorum of the voters holds it durably",
        source: "Raft, 5.3 and 5.4.2; thesis, 10.2.1; NATS 2.12.1; openraft#1802",
    };
}

impl Property for CommitQuorum {
    fn about(&self) -> About {
        CommitQuorum::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String> {
        // Logs that match up to the last index match below it, too.
        let end = step.log.proven_end();
        if end <= book.committed_end() {
            return Ok(());
        }
        let Some(entry) = step.log.get(end - 1) else {
            return Ok(());
        };
        let holds = |id| {
            let log = book.log(id);
            log.is_some_and(|log| log.holds_durably(end - 1, entry)) || book.is_uncertain(id)
        };
        // In force was the membership of what had been committed, or one that any log added since.
        let since = book.committed_end();
        let before = (since > 0).then(|| book.membership_below(step.log, since).map(|(_, voters)| voters));
        let added = book.memberships(since..u64::MAX).map(|(_, _, voters)| voters);
        let Some(possible) = before.into_iter().chain(added).collect::<Option<Vec<_>>>() else {
            return Ok(());
        };
        if possible.is_empty() || possible.iter().any(|voters| is_quorum(voters, holds)) {
            return Ok(());
        }
        let have: Vec<String> = possible
            .iter()
            .flat_map(|voters| voters.iter().flatten().copied())
            .filter(|id| holds(*id))
            .map(|id| format!("{id:x}"))
            .collect();
        let (own, index, term, have) = (step.name(), end - 1, entry.term, have.join(", "));
        Err(format!(
            "{own} takes entry {index} of term {term} for committed, and only these hold it durably: [{have}] of {possible:x?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn two_of_three_are_enough_and_one_is_not() {
        let mut forge = Forge::led(3, 3);
        forge.commit(0, 3);
        forge.good();
        forge.append(0, 2, 3..6);
        forge.append(2, 2, 3..5);
        forge.commit(0, 5);
        forge.good();
        forge.commit(0, 6);
        forge.refused(CommitQuorum::ABOUT);
    }

    #[test]
    fn what_is_written_but_not_durable_does_not_count_for_the_leader_either() {
        let mut forge = Forge::led(3, 3);
        forge.append(0, 2, 3..5);
        forge.append(1, 2, 3..5);
        forge.append(2, 2, 3..5);
        forge.log(0).durable_end = 3;
        forge.commit(0, 4);
        forge.good();
        forge.log(1).durable_end = 4;
        forge.commit(0, 5);
        forge.refused(CommitQuorum::ABOUT);
    }

    #[test]
    fn a_quorum_is_one_of_the_membership_in_force() {
        let mut forge = Forge::settled(5, 3);
        forge.append_members(0, 2, 3, &[1, 2, 3, 4]);
        forge.append_members(1, 2, 3, &[1, 2, 3, 4]);
        forge.append_members(4, 2, 3, &[1, 2, 3, 4]);
        forge.commit(0, 4);
        // The fifth is no voter any more; it was one at the last look, and three of five are a quorum.
        forge.good();
        forge.append(0, 2, 4..5);
        forge.append(1, 2, 4..5);
        forge.append(4, 2, 4..5);
        forge.commit(0, 5);
        forge.refused(CommitQuorum::ABOUT);
    }

    #[test]
    fn nobody_is_accused_of_what_a_beginning_process_may_hold() {
        let mut forge = Forge::settled(3, 3);
        forge.begin_life(1);
        forge.append(0, 2, 3..4);
        forge.commit(0, 4);
        forge.good();
    }

    #[test]
    fn a_membership_that_nobody_has_shown_may_be_in_force() {
        let mut forge = Forge::settled(4, 3);
        for member in 0..2 {
            forge.append_members(member, 2, 3, &[1, 2, 3]);
            forge.restart(member);
        }
        forge.commit(0, 4);
        forge.good();
    }

    #[test]
    fn a_membership_that_was_shown_once_is_known_after_a_restart() {
        let mut forge = Forge::settled(4, 3);
        forge.append_members(0, 2, 3, &[1, 2, 3]);
        forge.good();
        forge.restart(0);
        forge.commit(0, 4);
        forge.refused(CommitQuorum::ABOUT);
    }
}
