//! Memberships change one server at a time, or through a joint one (thesis, 4.1 and 4.3): any two quorums of consecutive
//! memberships overlap. A leader begins no change before the last one is committed.

use std::collections::BTreeSet;

use super::observation::Voters;
use super::{About, Book, Property, Step};

pub struct MembershipSteps;

impl MembershipSteps {
    pub const ABOUT: About = About {
        name: "membership-steps",
        guarantee: "any two quorums of consecutive memberships overlap, and one change is committed before the next",
        source: "Ongaro's thesis, 4.1 and 4.3; the bug in single-server changes (raft-dev, 2015)",
    };
}

impl Property for MembershipSteps {
    fn about(&self) -> About {
        MembershipSteps::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String> {
        let log = step.log;
        for (index, term, voters) in book.memberships(step.change.from..log.end()) {
            let is_own = log.get(index).is_some_and(|entry| entry.term == term);
            let (Some(voters), true) = (voters, is_own) else {
                continue;
            };
            let Some((before_index, before)) = book.membership_below(log, index) else {
                continue;
            };
            if !overlap(before, voters) {
                return Err(format!(
                    "in the log of {} the membership {before:x?} at {before_index} is followed by {voters:x?} at {index}",
                    step.name()
                ));
            }
            // What it has taken over from others, or read back, it did not begin.
            let began = step.same_life && step.leads() == Some(term);
            if began && before_index >= step.committed_end.max(log.start()) {
                return Err(format!(
                    "{} changes the membership at {index}, and the change at {before_index} is not committed yet",
                    step.name()
                ));
            }
        }
        Ok(())
    }
}

/// Majorities of two sets overlap if the sets differ by one member at most; a quorum of a membership is a majority of
/// each of its sets.
fn overlap(one: &Voters, other: &Voters) -> bool {
    let near = |a: &BTreeSet<u64>| other.iter().any(|b| a.symmetric_difference(b).count() <= 1);
    one.iter().any(near)
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn one_at_a_time_and_joint_ones_pass() {
        let mut forge = Forge::settled(5, 3);
        forge.append_members(0, 2, 3, &[1, 2, 3, 4]);
        forge.good();
        forge.commit(0, 3);
        forge.append_members(1, 2, 3, &[1, 2, 3, 4]);
        forge.append_members(2, 2, 3, &[1, 2, 3, 4]);
        forge.commit(0, 4);
        forge.append_members(0, 2, 4, &[1, 2, 3]);
        forge.good();
        let joint = [BTreeSet::from([1, 2, 3]), BTreeSet::from([7, 8, 9])];
        assert!(overlap(&vec![joint[0].clone()].into(), &joint.to_vec().into()));
        assert!(overlap(&joint.to_vec().into(), &vec![joint[1].clone()].into()));
        assert!(!overlap(
            &vec![joint[0].clone()].into(),
            &vec![joint[1].clone()].into()
        ));
    }

    #[test]
    fn two_at_a_time_and_a_change_before_the_last_is_committed_are_refused() {
        let mut forge = Forge::settled(5, 3);
        forge.append_members(0, 2, 3, &[1, 2, 3]);
        forge.refused(MembershipSteps::ABOUT);

        let mut forge = Forge::settled(5, 3);
        forge.append_members(0, 2, 3, &[1, 2, 3, 4]);
        forge.append_members(0, 2, 4, &[1, 2, 3]);
        forge.refused(MembershipSteps::ABOUT);
    }

    #[test]
    fn a_step_that_a_restart_hides_of_a_log_others_have_shown() {
        let restarted = || {
            let mut forge = Forge::settled(5, 3);
            for member in 0..3 {
                forge.append_members(member, 2, 3, &[1, 2, 3, 4]);
            }
            forge.restart(1);
            forge.commit(0, 4);
            forge.good();
            forge
        };
        let mut forge = restarted();
        forge.append_members(1, 2, 4, &[1, 2, 3]);
        forge.good();
        let mut forge = restarted();
        forge.append_members(1, 2, 4, &[1, 2]);
        forge.refused(MembershipSteps::ABOUT);
    }

    #[test]
    fn a_leader_is_not_accused_of_the_changes_that_it_has_taken_over() {
        let mut forge = Forge::settled(5, 3);
        for member in 0..3 {
            forge.append_members(member, 2, 3, &[1, 2, 3, 4]);
        }
        forge.commit(0, 4);
        forge.good();
        for member in 0..2 {
            forge.append_members(member, 2, 4, &[1, 2, 3]);
        }
        forge.good();
        forge.restart(1);
        forge.elect(1, 3);
        forge.good();
    }
}
