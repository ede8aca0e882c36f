//! A membership counts from the moment that it is in the log (Raft, 6), and no longer than it is there: what is committed in its place
//! takes its place, whether that comes as entries or in a snapshot.

use super::{About, Book, Property, Step};

pub struct MembershipInForce;

impl MembershipInForce {
    pub const ABOUT: About = About {
        name: "membership-in-force",
        guarantee: "no member goes by a membership in whose place it knows something else to be committed",
        source: "Raft, 6; openraft#1808",
    };
}

impl Property for MembershipInForce {
    fn about(&self) -> About {
        MembershipInForce::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String> {
        let Some(now) = step.now else {
            return Ok(());
        };
        let Some((term, index)) = now.membership.filter(|(_, index)| *index <= now.committed) else {
            return Ok(());
        };
        match book.committed(index) {
            Some(entry) if entry.term != term => Err(format!(
                "{} goes by the membership of entry {index} of term {term}, and knows up to {} as committed, where that is of term {}",
                step.name(),
                now.committed,
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

    /// The second member knows a membership of term 2 at index 3 that was never committed; the others went on in term 3.
    fn overtaken() -> Forge {
        let mut forge = Forge::settled(3, 3);
        forge.append_members(1, 2, 3, &[1, 2]);
        forge.member(1).membership = Some((2, 3));
        forge.good();
        forge.elect(0, 3);
        for member in [0, 2] {
            forge.append(member, 3, 3..6);
            forge.commit(member, 6);
        }
        forge.good();
        forge
    }

    #[test]
    fn what_takes_its_place_takes_its_force() {
        let mut forge = overtaken();
        forge.snapshot(1, 5);
        forge.member(1).membership = Some((1, 0));
        forge.good();
    }

    #[test]
    fn a_membership_that_outlives_its_entry_is_refused() {
        let mut forge = overtaken();
        forge.snapshot(1, 5);
        forge.refused(MembershipInForce::ABOUT);
    }
}
