//! A member that is cut off says so: it names nobody as the leader of whom it has read nothing for longer than an election timeout
//! and what noticing that may take. How long a process that stood still has heard nothing counts from where it runs again.

use super::{About, Book, Property, Step};

/// One election timeout is the product's, and as much again is for the looks by which it notices, and for clocks that drift.
const ELECTION_TIMEOUTS: u32 = 2;

pub struct NoLeaderIsNoticed;

impl NoLeaderIsNoticed {
    pub const ABOUT: About = About {
        name: "no-leader-is-noticed",
        guarantee: "a member that hears nothing from a leader for an election timeout names none",
        source: "etcd's raft: a candidate has no leader; etcd API reference: StatusResponse.leader; WithRequireLeader",
    };
}

impl Property for NoLeaderIsNoticed {
    fn about(&self) -> About {
        NoLeaderIsNoticed::ABOUT
    }

    fn judge(&mut self, step: &Step<'_>, _: &Book) -> Result<(), String> {
        let Some(silence) = step.leader_silence else {
            return Ok(());
        };
        if silence.lasted <= ELECTION_TIMEOUTS * silence.election_timeout {
            return Ok(());
        }
        let leader = step.now.and_then(|now| now.leader).unwrap_or(0);
        let (own, lasted) = (step.name(), silence.lasted);
        Err(format!(
            "{own} names {leader:x} as the leader, from whom it has heard nothing for {lasted:?}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::super::forge::Forge;
    use super::*;

    #[test]
    fn who_is_heard_may_be_named() {
        let mut forge = Forge::settled(3, 3);
        forge.follow(1, 0, 0.2);
        forge.follow(2, 0, 1.5);
        forge.good();
    }

    #[test]
    fn who_is_silent_for_long_may_not() {
        let mut forge = Forge::settled(3, 3);
        forge.follow(1, 0, 0.1);
        forge.good();
        forge.follow(1, 0, 2.1);
        forge.refused(NoLeaderIsNoticed::ABOUT);
    }
}
