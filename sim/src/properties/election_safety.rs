//! Election safety (Raft, figure 3): at most one leader is elected in a term.

use std::collections::BTreeMap;

use super::{About, Book, Property, Step};

#[derive(Default)]
pub struct ElectionSafety {
    /// By term: the leader, and the member that knew it first.
    leaders: BTreeMap<u64, (u64, u64)>,
}

impl ElectionSafety {
    pub const ABOUT: About = About {
        name: "election-safety",
        guarantee: "at most one leader in a term",
        source: "Raft, 5.2 and figure 3",
    };
}

impl Property for ElectionSafety {
    fn about(&self) -> About {
        ElectionSafety::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let Some((now, leader)) = step.now.and_then(|now| Some((now, now.leader?))) else {
            return Ok(());
        };
        let (known, witness) = *self.leaders.entry(now.term).or_insert((leader, step.id));
        if known == leader {
            return Ok(());
        }
        let (term, own) = (now.term, step.id);
        Err(format!(
            "in term {term} {witness:x} knows {known:x} and {own:x} knows {leader:x}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn two_leaders_in_a_term_are_refused_and_two_terms_are_not() {
        let mut forge = Forge::new(3);
        forge.elect(0, 2);
        forge.member(1).leader = Some(1);
        forge.good();
        forge.elect(1, 3);
        forge.good();
        forge.member(2).term = 3;
        forge.member(2).leader = Some(3);
        forge.refused(ElectionSafety::ABOUT);
    }
}
