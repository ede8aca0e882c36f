//! How this member stands in raft, kept where a request reads it without a lock: the term for headers, the
//! leader for `hasleader`.
//!
//! One task follows [`Consensus::status_signal`]; values are as old as that signal, some microseconds.
//! Decisions of agreement are never taken from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::base::{Denied, MemberId};
use crate::consensus::Status;
use crate::runtime::Silence;
use crate::server::api::Api;

/// Election time-outs without a leader after which a stream that demanded one ends.
const LEADERLESS_ELECTION_TIMEOUTS: u32 = 3;

/// See the module.
#[derive(Default)]
pub struct RaftStatusCache {
    term: AtomicU64,
    /// 0: none.
    leader: AtomicU64,
}

impl RaftStatusCache {
    pub fn term(&self) -> u64 {
        self.term.load(Relaxed)
    }

    pub fn leader(&self) -> Option<MemberId> {
        Some(self.leader.load(Relaxed)).filter(|leader| *leader != 0)
    }

    /// Takes over what raft says; true if there is another leader than before.
    pub fn set(&self, status: &Status) -> bool {
        self.term.store(status.term, Relaxed);
        let leader = status.leader.unwrap_or(0);
        let before = self.leader.swap(leader, Relaxed);
        leader != 0 && leader != before
    }
}

/// Follows raft for as long as the member runs.
pub async fn follow(api: Arc<Api>) {
    let mut signal = api.consensus.status_signal();
    let election_timeout = api.consensus.election_timeout();
    let mut leaderless = Silence::begin(api.env.now(), election_timeout);
    loop {
        let status = api.consensus.status();
        if api.standing.set(&status) {
            api.metrics.leader_changes.inc();
        }
        let now = api.env.now();
        match status.leader {
            Some(_) => leaderless.end(now),
            None => leaderless.look(now),
        }
        if leaderless.lasted(now) >= LEADERLESS_ELECTION_TIMEOUTS * election_timeout {
            api.streams.end_leaderless(Denied::NoLeader);
        }
        if status.fatal.is_some() {
            // A member whose raft has stopped answers nobody any more.
            api.streams.end_all(Denied::Stopped);
            return;
        }
        if let Ok(Err(_)) = api.env.timeout(election_timeout / 2, signal.changed()).await {
            return;
        }
    }
}
