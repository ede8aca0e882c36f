//! What must be true of the members while a run goes on, judged from probes: states taken of all members
//! at one moment.
//!
//! Each property is one small type with `observe`; what clients saw is judged by `quorate-jepsen`.
//!
//! | property | says | after |
//! |---|---|---|
//! | election safety | at most one leader in a term | Raft, figure 3 |
//! | state machine safety | at one applied index all members have the same state | Raft, figure 3 |
//! | monotonic | term, commit and apply of a process never go back | Raft, figure 2 |
//! | durable vote | a member votes for one candidate in a term, whatever crashes | Raft, figure 2 |

use std::collections::BTreeMap;

use crate::report::Violation;

/// One member at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    pub member: usize,
    /// Which life of the member's process.
    pub life: u64,
    /// Its member id.
    pub id: u64,
    /// It counts in elections, as far as it knows.
    pub is_voter: bool,
    /// Raft's membership is decided, as far as it knows.
    pub is_settled: bool,
    pub term: u64,
    /// The leader of that term as the member knows it: a member id.
    pub leader: Option<u64>,
    pub committed: u64,
    pub applied: u64,
    /// The index that the digest belongs to.
    pub digest_index: u64,
    pub digest: u64,
}

/// All properties of probes.
#[derive(Default)]
pub struct Properties {
    leaders: BTreeMap<u64, (u64, usize)>,
    digests: BTreeMap<u64, (u64, usize)>,
    last: BTreeMap<usize, Observation>,
}

impl Properties {
    /// Judges a new observation against all earlier ones.
    pub fn observe(&mut self, now: &Observation) -> Result<(), Violation> {
        self.one_leader(now)?;
        self.one_state(now)?;
        self.monotonic(now)?;
        self.last.insert(now.member, now.clone());
        Ok(())
    }

    fn one_leader(&mut self, now: &Observation) -> Result<(), Violation> {
        let Some(leader) = now.leader else {
            return Ok(());
        };
        let (known, witness) = *self.leaders.entry(now.term).or_insert((leader, now.member));
        if known == leader {
            return Ok(());
        }
        Err(Violation::new(
            "election-safety",
            format!(
                "at most one leader in a term: in term {} m{} knows {known:x} and m{} knows {leader:x}",
                now.term,
                witness + 1,
                now.member + 1
            ),
        ))
    }

    fn one_state(&mut self, now: &Observation) -> Result<(), Violation> {
        if now.digest_index == 0 {
            // The first entry has this index, and so has a state to which nothing was applied.
            return Ok(());
        }
        let first = (now.digest, now.member);
        let (known, witness) = *self.digests.entry(now.digest_index).or_insert(first);
        if known == now.digest {
            return Ok(());
        }
        Err(Violation::new(
            "state-machine-safety",
            format!(
                "the same state at the same applied index: at {} m{} has {known:016x} and m{} has {:016x}",
                now.digest_index,
                witness + 1,
                now.member + 1,
                now.digest
            ),
        ))
    }

    fn monotonic(&self, now: &Observation) -> Result<(), Violation> {
        let Some(last) = self.last.get(&now.member) else {
            return Ok(());
        };
        let same_life = last.life == now.life;
        let back = [
            ("term", last.term, now.term, same_life),
            ("committed index", last.committed, now.committed, same_life),
            ("applied index", last.applied, now.applied, same_life),
            (
                "index of the state",
                last.digest_index,
                now.digest_index,
                same_life,
            ),
        ];
        for (what, before, after, judged) in back {
            if judged && after < before {
                return Err(Violation::new(
                    "monotonic",
                    format!(
                        "the {what} of m{} went back from {before} to {after}",
                        now.member + 1
                    ),
                ));
            }
        }
        Ok(())
    }
}

/// "Durable vote": a member grants its vote to one candidate in a term, whatever crashes in between, and
/// knows that term when it is back (Raft, 5.2 and figure 2: `currentTerm` and `votedFor` are updated on
/// stable storage before responding).
#[derive(Default)]
pub struct Votes {
    granted: BTreeMap<(usize, u64), u64>,
    newest: BTreeMap<usize, u64>,
}

impl Votes {
    /// A vote left a member for a candidate.
    pub fn granted(&mut self, voter: usize, term: u64, candidate: u64) -> Result<(), Violation> {
        let newest = self.newest.entry(voter).or_default();
        *newest = (*newest).max(term);
        let known = *self.granted.entry((voter, term)).or_insert(candidate);
        if known == candidate {
            return Ok(());
        }
        Err(Violation::new(
            "durable-vote",
            format!(
                "one vote in a term: m{} voted in term {term} for {known:x} and for {candidate:x}",
                voter + 1
            ),
        ))
    }

    /// Another member takes this one's place.
    pub fn forget(&mut self, voter: usize) {
        self.granted.retain(|(known, _), _| *known != voter);
        self.newest.remove(&voter);
    }

    /// A member is back, in this term.
    pub fn recovered(&self, voter: usize, term: u64) -> Result<(), Violation> {
        let newest = self.newest.get(&voter).copied().unwrap_or(0);
        if term >= newest {
            return Ok(());
        }
        Err(Violation::new(
            "durable-vote",
            format!(
                "a vote survives a crash: m{} had voted in term {newest} and is back in term {term}",
                voter + 1
            ),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observation(member: usize) -> Observation {
        Observation {
            member,
            life: 1,
            id: 7 + member as u64,
            is_voter: true,
            is_settled: true,
            term: 3,
            leader: Some(7),
            committed: 10,
            applied: 9,
            digest_index: 9,
            digest: 0xabc,
        }
    }

    /// The property that the last observation violates, if any.
    fn violated(observations: &[Observation]) -> Option<String> {
        let mut properties = Properties::default();
        let (last, before) = observations.split_last().expect("some");
        for observation in before {
            properties.observe(observation).expect("a good history so far");
        }
        properties.observe(last).err().map(|violation| violation.property)
    }

    #[test]
    fn good_histories_pass() {
        let mut later = observation(0);
        (later.term, later.leader) = (4, Some(8));
        (later.applied, later.committed) = (12, 12);
        (later.digest_index, later.digest) = (12, 0xdef);
        let mut restarted = observation(0);
        (restarted.life, restarted.term, restarted.leader) = (2, 4, None);
        (restarted.committed, restarted.applied) = (0, 9);
        assert_eq!(
            violated(&[observation(0), observation(1), later, restarted]),
            None
        );
    }

    #[test]
    fn each_forged_history_is_refused_by_its_property() {
        let forged = |forge: fn(&mut Observation)| {
            let mut last = observation(1);
            forge(&mut last);
            violated(&[observation(1), observation(0), last])
        };
        let check = |property: &str, forge| assert_eq!(forged(forge).as_deref(), Some(property));
        check("election-safety", |last| last.leader = Some(8));
        check("state-machine-safety", |last| last.digest = 1);
        check("monotonic", |last| (last.term, last.leader) = (2, None));
        check("monotonic", |last| last.committed = 9);
        check("monotonic", |last| last.applied = 8);
        check("monotonic", |last| last.digest_index = 8);
    }

    #[test]
    fn a_second_vote_in_a_term_and_a_forgotten_one_are_refused() {
        let mut votes = Votes::default();
        votes.granted(0, 3, 7).expect("the first");
        votes.granted(0, 3, 7).expect("repeated");
        votes.granted(1, 3, 8).expect("another voter");
        votes.granted(0, 4, 8).expect("another term");
        votes.recovered(0, 4).expect("it remembers");
        votes.recovered(1, 5).expect("it has heard of a newer term");
        votes.recovered(2, 1).expect("it has never voted");
        let forged = [votes.granted(0, 3, 8), votes.recovered(0, 3)];
        assert!(
            forged
                .into_iter()
                .all(|judged| judged.is_err_and(|violation| violation.property == "durable-vote"))
        );
    }
}
