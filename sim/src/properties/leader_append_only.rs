//! Leader append-only (Raft, figure 3): a leader never overwrites or deletes entries in its log; it only appends.

use super::{About, Book, Property, Step};

pub struct LeaderAppendOnly;

impl LeaderAppendOnly {
    pub const ABOUT: About = About {
        name: "leader-append-only",
        guarantee: "while a member leads it only appends to its log",
        source: "Raft, 5.3 and figure 3",
    };
}

impl Property for LeaderAppendOnly {
    fn about(&self) -> About {
        LeaderAppendOnly::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let led = step.before.filter(|before| before.leader == Some(step.id));
        let (Some(term), Some(before)) = (step.leads(), led) else {
            return Ok(());
        };
        if !step.same_life || before.term != term {
            return Ok(());
        }
        match step.change.cut.first() {
            None => Ok(()),
            Some((index, entry)) => Err(format!(
                "{} leads term {term}, and entry {index} of term {} is gone or was written anew",
                step.name(),
                entry.term
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn who_has_noted_a_later_term_does_not_lead_any_more() {
        let mut forge = Forge::led(3, 4);
        forge.good();
        forge.log(0).term = 3;
        forge.cut(0, 3);
        forge.good();
    }

    #[test]
    fn a_follower_may_overwrite_and_a_leader_may_not() {
        let mut forge = Forge::led(3, 3);
        forge.append(0, 2, 3..5);
        forge.good();
        forge.elect(1, 3);
        forge.append(1, 3, 3..4);
        forge.append(0, 3, 3..4);
        forge.good();
        forge.append(1, 3, 4..6);
        forge.good();
        forge.cut(1, 5);
        forge.refused(LeaderAppendOnly::ABOUT);
    }
}
