//! A leader was elected by a quorum of the membership in force: it counts its own vote and those that left members for it. Votes
//! of those that were removed do not count.

use super::book::is_quorum;
use super::{About, Book, Property, Step};

#[derive(Default)]
pub struct ElectionQuorum {
    /// The newest term whose leader was judged.
    judged: Option<u64>,
}

impl ElectionQuorum {
    pub const ABOUT: About = About {
        name: "election-quorum",
        guarantee: "a leader has the votes of a quorum of the membership in force; a removed member's vote does not count",
        source: "Raft, 5.2; thesis, 4.1; etcd#7280, etcd#12133, redisraft#17",
    };
}

impl Property for ElectionQuorum {
    fn about(&self) -> About {
        ElectionQuorum::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String> {
        let Some(term) = step.leads().filter(|term| self.judged < Some(*term)) else {
            return Ok(());
        };
        // It stood for election with the log it had then; what it added as a leader may be seen already.
        let first = step.log.entries().find(|(_, entry)| entry.term == term);
        let end = first.map_or(step.log.end(), |(index, _)| index);
        if first.is_none() && step.now.is_some_and(|now| now.committed >= end) {
            // It stood with a snapshot that is not in the place of its log yet.
            return Ok(());
        }
        self.judged = Some(term);
        let mut voters = book.voters_for(term, step.id);
        voters.insert(step.id);
        let Some((_, members)) = book.membership_below(step.log, end) else {
            return Ok(());
        };
        if is_quorum(members, |id| voters.contains(&id)) {
            return Ok(());
        }
        let own = step.name();
        Err(format!(
            "{own} leads term {term} with the votes of {voters:x?} among {members:x?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn a_leader_needs_a_majority_of_those_who_count() {
        let mut forge = Forge::led(3, 3);
        forge.good();
        forge.elect_by(1, 3, &[]);
        forge.refused(ElectionQuorum::ABOUT);
    }

    #[test]
    fn a_removed_member_does_not_count() {
        let removed = |voter| {
            let mut forge = Forge::settled(4, 3);
            for member in 0..3 {
                forge.append_members(member, 2, 3, &[1, 2, 3]);
                forge.commit(member, 4);
            }
            forge.good();
            forge.elect_by(1, 3, &[voter]);
            forge
        };
        removed(2).good();
        removed(3).refused(ElectionQuorum::ABOUT);
    }

    #[test]
    fn what_a_restart_hides_of_a_log_others_have_shown() {
        let restarted = |voter| {
            let mut forge = Forge::settled(4, 3);
            for member in 0..3 {
                forge.append_members(member, 2, 3, &[1, 2, 3]);
            }
            forge.restart(1);
            forge.good();
            forge.elect_by(1, 3, &[voter]);
            forge
        };
        restarted(2).good();
        restarted(3).refused(ElectionQuorum::ABOUT);
    }

    #[test]
    fn nobody_is_accused_by_a_membership_that_nobody_has_shown() {
        let mut forge = Forge::settled(4, 3);
        for member in 0..3 {
            forge.append_members(member, 2, 3, &[1, 2, 3]);
            forge.restart(member);
        }
        forge.elect_by(1, 3, &[2]);
        forge.good();
    }

    #[test]
    fn who_stood_with_a_snapshot_is_judged_when_it_is_in_the_place_of_the_log() {
        let elected = |voter| {
            let mut forge = Forge::settled(4, 3);
            for member in [0, 2] {
                forge.append_members(member, 2, 3, &[1, 2, 3]);
                forge.append(member, 2, 4..6);
            }
            forge.member(1).committed = 5;
            forge.elect_by(1, 3, &[voter]);
            forge.good();
            forge.commit(0, 6);
            forge.snapshot(1, 5);
            forge.append(1, 3, 6..7);
            forge
        };
        elected(2).good();
        elected(3).refused(ElectionQuorum::ABOUT);
    }
}
