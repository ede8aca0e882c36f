//! Whether a peer is connected, and since when: what counts before members are changed.
//!
//! As with etcd's peers, a connection that is refused, reset or closed ends that at once, and silence does after five
//! seconds. A late answer alone does not: where processors are starved, answers are late and nobody is away. Silence
//! for which a connection is replaced is not its end either, nor is an end that is mended within one dialing.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::rpc::lock;
use crate::base::limits;
use crate::runtime::Instant;

/// The link to one peer, over all connections that follow each other.
pub struct Link {
    /// How long a connection may be gone without a gap.
    mending: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// When the peer was heard first without a gap since, and when it was last.
    heard: Option<(Instant, Instant)>,
    is_lost: bool,
}

impl Link {
    pub fn new(mending: Duration) -> Self {
        Link {
            mending,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The peer took a connection, or answered.
    pub fn heard(&self, now: Instant) {
        let mut state = self.state();
        let gap_max = match std::mem::take(&mut state.is_lost) {
            true => self.mending,
            false => limits::PEER_SILENCE_MAX,
        };
        let since = state.heard.filter(|(_, last)| now - *last <= gap_max);
        state.heard = Some((since.map_or(now, |(since, _)| since), now));
    }

    /// A connection was refused, reset, or closed from the other side.
    pub fn lost(&self) {
        self.state().is_lost = true;
    }

    /// `None`: the peer is not connected.
    pub fn connected_since(&self, now: Instant) -> Option<Instant> {
        let state = self.state();
        let heard = state.heard.filter(|_| !state.is_lost);
        heard
            .filter(|(_, last)| now - *last <= limits::PEER_SILENCE_MAX)
            .map(|(since, _)| since)
    }
}

#[cfg(test)]
mod tests;
