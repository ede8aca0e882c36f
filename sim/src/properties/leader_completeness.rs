//! Leader completeness (Raft, figure 3): if an entry is committed in a term, it is in the logs of the leaders of all later
//! terms.

use super::{About, Book, Property, Step};

#[derive(Default)]
pub struct LeaderCompleteness {
    /// The newest term whose leader was judged.
    judged: Option<u64>,
}

impl LeaderCompleteness {
    pub const ABOUT: About = About {
        name: "leader-completeness",
        guarantee: "the leader of a term has every entry that was committed in earlier terms",
        source: "Raft, 5.4.3 and figure 3; logcabin#44",
    };
}

impl Property for LeaderCompleteness {
    fn about(&self) -> About {
        LeaderCompleteness::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, book: &Book) -> Result<(), String> {
        let Some(term) = step.leads().filter(|term| self.judged < Some(*term)) else {
            return Ok(());
        };
        self.judged = Some(term);
        let log = step.log;
        let of_earlier_terms = book
            .committed_from(log.start())
            .take_while(|(_, committed)| committed.term < term);
        for (index, committed) in of_earlier_terms {
            let same = log
                .get(index)
                .is_some_and(|own| (own.term, own.checksum) == (committed.term, committed.checksum));
            if !same {
                let (own, earlier) = (step.name(), committed.term);
                return Err(format!(
                    "{own} leads term {term} without entry {index}, which was committed in term {earlier}"
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
    fn a_leader_without_a_committed_entry_is_refused() {
        let mut forge = Forge::led(3, 4);
        forge.append(0, 2, 4..6);
        forge.append(1, 2, 4..5);
        forge.commit(0, 5);
        forge.good();
        forge.elect(1, 3);
        forge.good();
        forge.elect(2, 4);
        forge.refused(LeaderCompleteness::ABOUT);
    }
}
