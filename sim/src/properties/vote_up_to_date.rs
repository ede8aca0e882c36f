//! The election restriction (Raft, 5.4.1): a voter denies its vote if its own log is more up-to-date than the candidate's. Logs
//! are compared by the term of the last entry, then by length.
//!
//! The voter's log is what was durable some time before the vote, which only grows more up-to-date; the candidate's is the most that it ever
//! was seen to be, since the candidate may have lost what was not durable after it asked. A vote is told of when it is on the disk: what the
//! voter has of that term, or of a later one, came after it. So nobody is accused wrongly.

use super::{About, Vote};

pub struct VoteUpToDate;

impl VoteUpToDate {
    pub const ABOUT: About = About {
        name: "vote-up-to-date",
        guarantee: "nobody votes for a candidate whose log is less up-to-date than its own",
        source: "Raft, 5.4.1; async-raft a48a3282",
    };

    /// `voter`, `candidate`: term and index of the newest entry of either log, as far as known.
    pub fn granted(
        vote: &Vote,
        voter: Option<(u64, u64)>,
        candidate: Option<(u64, u64)>,
    ) -> Result<(), String> {
        let (Some(voter), Some(candidate)) = (voter, candidate) else {
            return Ok(());
        };
        if voter <= candidate || voter.0 >= vote.term {
            return Ok(());
        }
        Err(format!(
            "in term {} {:x}, whose log ends at {} of term {}, voted for {:x}, whose log ends at {} of term {}",
            vote.term, vote.voter, voter.1, voter.0, vote.candidate, candidate.1, candidate.0
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn the_term_counts_more_than_the_length() {
        let forged = |voter_term, voter_end| {
            let mut forge = Forge::led(3, 3);
            forge.append(0, 2, 3..9);
            forge.append(1, voter_term, 3..voter_end);
            forge.good();
            forge.vote(1, 5, 0)
        };
        assert_eq!(forged(2, 9), None);
        assert_eq!(forged(2, 4), None);
        assert_eq!(forged(2, 10).as_deref(), Some(VoteUpToDate::ABOUT.name));
        assert_eq!(forged(3, 4).as_deref(), Some(VoteUpToDate::ABOUT.name));
        // What is of the vote's own term came after it.
        assert_eq!(forged(5, 4), None);
    }

    #[test]
    fn a_snapshot_counts_as_the_log_that_it_replaced() {
        let mut forge = Forge::settled(3, 3);
        for member in [0, 2] {
            forge.append(member, 2, 3..9);
            forge.commit(member, 9);
        }
        forge.good();
        assert_eq!(forge.vote(2, 5, 1).as_deref(), Some(VoteUpToDate::ABOUT.name));
        forge.snapshot(1, 8);
        forge.good();
        assert_eq!(forge.vote(2, 6, 1), None);
        forge.append(2, 2, 9..10);
        forge.good();
        assert_eq!(forge.vote(2, 7, 1).as_deref(), Some(VoteUpToDate::ABOUT.name));
    }

    #[test]
    fn nobody_is_accused_by_a_log_that_was_not_looked_at_since_its_process_began() {
        let forged = |begins: Option<usize>| {
            let mut forge = Forge::led(3, 3);
            forge.append(1, 2, 3..9);
            forge.good();
            begins.into_iter().for_each(|member| forge.begin_life(member));
            forge.vote(1, 5, 0)
        };
        assert_eq!(forged(None).as_deref(), Some(VoteUpToDate::ABOUT.name));
        // The voter may have cut its log, the candidate may have more.
        assert_eq!(forged(Some(1)), None);
        assert_eq!(forged(Some(0)), None);
    }
}
