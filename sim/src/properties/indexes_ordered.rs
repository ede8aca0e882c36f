//! A member applies only what is committed, and knows as committed only what it has: applied ≤ committed ≤ last.

use super::{About, Book, Property, Step};

pub struct IndexesOrdered;

impl IndexesOrdered {
    pub const ABOUT: About = About {
        name: "indexes-ordered",
        guarantee: "applied ≤ committed ≤ last index of the log",
        source: "Raft, figure 2; openraft: io_state invariants",
    };
}

impl Property for IndexesOrdered {
    fn about(&self) -> About {
        IndexesOrdered::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let Some(now) = step.now else { return Ok(()) };
        let (own, committed_end, end) = (step.name(), step.committed_end, step.log.end());
        // Before its first term a process has told nothing of what it knows.
        if now.term > 0 && now.applied > 0 && now.applied >= committed_end {
            let applied = now.applied;
            return Err(format!(
                "{own} has applied entry {applied}, and what it knows as committed ends before {committed_end}"
            ));
        }
        // While a snapshot is being installed more is known to be committed than the log has.
        let committed_end = step.log.committed_end();
        if committed_end > end {
            return Err(format!(
                "{own} takes entries up to {committed_end} for committed, and its log ends before {end}"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn what_is_applied_is_committed_and_what_is_committed_is_there() {
        let forged = || {
            let mut forge = Forge::led(3, 6);
            forge.commit_all(5);
            forge.good();
            forge
        };
        let mut forge = forged();
        forge.member(1).applied = 5;
        forge.refused(IndexesOrdered::ABOUT);
        let mut forge = forged();
        forge.log(1).committed = Some((2, 6));
        forge.refused(IndexesOrdered::ABOUT);
    }
}
