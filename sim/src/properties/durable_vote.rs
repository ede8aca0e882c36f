//! A member grants its vote to one candidate in a term, whatever crashes in between, and knows that term when it is back
//! (Raft, 5.2 and figure 2: `currentTerm` and `votedFor` are updated on stable storage before responding).

use std::collections::BTreeMap;

use super::About;

#[derive(Default)]
pub struct DurableVote {
    /// By place and term.
    granted: BTreeMap<(usize, u64), u64>,
    newest: BTreeMap<usize, u64>,
}

impl DurableVote {
    pub const ABOUT: About = About {
        name: "durable-vote",
        guarantee: "a member votes for one candidate in a term, and knows that term after a crash",
        source: "Raft, 5.2 and figure 2; hashicorp/raft#661; NodeDB#161",
    };

    /// A vote left a member for a candidate.
    pub fn granted(&mut self, voter: usize, term: u64, candidate: u64) -> Result<(), String> {
        let newest = self.newest.entry(voter).or_default();
        *newest = (*newest).max(term);
        let known = *self.granted.entry((voter, term)).or_insert(candidate);
        if known == candidate {
            return Ok(());
        }
        let voter = voter + 1;
        Err(format!(
            "m{voter} voted in term {term} for {known:x} and for {candidate:x}"
        ))
    }

    /// Another member takes this one's place.
    pub fn forget(&mut self, voter: usize) {
        self.granted.retain(|(known, _), _| *known != voter);
        self.newest.remove(&voter);
    }

    /// A member is back, in this term.
    pub fn recovered(&self, voter: usize, term: u64) -> Result<(), String> {
        let newest = self.newest.get(&voter).copied().unwrap_or(0);
        if term >= newest {
            return Ok(());
        }
        let voter = voter + 1;
        Err(format!(
            "m{voter} had voted in term {newest} and is back in term {term}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_vote_in_a_term_and_a_forgotten_one_are_refused() {
        let mut votes = DurableVote::default();
        votes.granted(0, 3, 7).expect("the first");
        votes.granted(0, 3, 7).expect("repeated");
        votes.granted(1, 3, 8).expect("another voter");
        votes.granted(0, 4, 8).expect("another term");
        votes.recovered(0, 4).expect("it remembers");
        votes.recovered(1, 5).expect("it has heard of a newer term");
        votes.recovered(2, 1).expect("it has never voted");
        assert!(votes.granted(0, 3, 8).is_err());
        assert!(votes.recovered(0, 3).is_err());
        votes.forget(0);
        votes.granted(0, 3, 8).expect("another member");
    }
}
