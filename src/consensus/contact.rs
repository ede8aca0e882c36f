//! When this member last heard from a leader.
//!
//! A follower that hears nothing from its leader for an election timeout has none: etcd's raft forgets the leader when
//! it begins to campaign. openraft goes on naming the one of its vote until there is another, so what leaders send is
//! noted here, on whichever connection it comes, and [`Consensus::status`](super::Consensus::status) asks.
//!
//! A term has one leader, so its number says who was heard. One that is over is ignored.

use std::time::Duration;

use super::raft::types::Vote;
use crate::runtime::{Instant, Silence, signal};

/// See the module.
#[derive(Clone)]
pub struct LeaderContact {
    election_timeout: Duration,
    heard: signal::Sender<Heard>,
    /// Tells whoever follows the status that a leader is heard again.
    regained: signal::Sender<()>,
}

struct Heard {
    /// 0: nobody was heard yet. A member that starts does not count the leader of the vote on its disk.
    term: u64,
    silence: Silence,
}

impl LeaderContact {
    pub fn new(now: Instant, election_timeout: Duration) -> Self {
        LeaderContact {
            election_timeout,
            heard: signal::channel(Heard {
                term: 0,
                silence: Silence::begin(now, election_timeout / 2),
            })
            .0,
            regained: signal::channel(()).0,
        }
    }

    /// A heartbeat, entries or a piece of a snapshot have come from the leader of this vote.
    pub fn hear(&self, vote: &Vote, now: Instant) {
        let term = vote.leader_id.term;
        let was_lost = self.heard.send_if_modified(|heard| {
            if term < heard.term {
                return false;
            }
            let was_lost = term > heard.term || heard.silence.lasted(now) >= self.election_timeout;
            heard.term = term;
            heard.silence.end(now);
            was_lost
        });
        if was_lost {
            self.regained.send(());
        }
    }

    /// How long the leader of a term may still be silent; `None`: it has been for too long, or was never heard.
    pub fn time_left(&self, term: u64, now: Instant) -> Option<Duration> {
        let heard = self.heard.borrow();
        let left = self.election_timeout.saturating_sub(heard.silence.lasted(now));
        (heard.term == term && !left.is_zero()).then_some(left)
    }

    /// To be called several times in an election timeout: what passes between two calls counts in part only, see
    /// [`Silence`].
    pub fn look(&self, now: Instant) {
        self.heard.send_if_modified(|heard| {
            heard.silence.look(now);
            false
        });
    }

    /// Watches for a leader that is heard again.
    pub fn regained(&self) -> signal::Receiver<()> {
        self.regained.subscribe()
    }
}

#[cfg(test)]
mod tests;
