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
        let added = log
            .memberships()
            .take_while(|(index, _)| *index >= step.change.from);
        for (index, voters) in added {
            let in_log = log.memberships().find(|(before, _)| *before < index);
            let before = in_log.or_else(|| book.membership_below(index).filter(|(at, _)| *at < log.start()));
            let Some((before_index, before)) = before else {
                continue;
            };
            if !overlap(before, voters) {
                return Err(format!(
                    "in the log of {} the membership {before:x?} at {before_index} is followed by {voters:x?} at {index}",
                    step.name()
                ));
            }
            if step.leads().is_some() && before_index >= step.committed_end.max(log.start()) {
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
}
