//! What is counted of each peer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::meter::{Counter, Gauge, Histogram};
use crate::base::{MemberId, limits};

/// Metrics of one peer, as this member sees it.
pub struct PeerMetrics {
    /// Whether it could be reached when that was last tried.
    active: AtomicBool,
    /// How often it could be reached no more.
    pub disconnects: Counter,
    pub sent_bytes: Counter,
    pub sent_failures: Counter,
    pub received_bytes: Counter,
    pub received_failures: Counter,
    pub round_trip: Histogram,
    pub snapshots_sent: Transfers,
    pub snapshots_received: Transfers,
}

/// Snapshots in one direction.
pub struct Transfers {
    pub under_way: Gauge,
    pub successes: Counter,
    pub failures: Counter,
    /// Of those that succeeded.
    pub duration: Histogram,
}

impl Default for Transfers {
    fn default() -> Self {
        Transfers {
            under_way: Gauge::default(),
            successes: Counter::default(),
            failures: Counter::default(),
            duration: Histogram::seconds(Duration::from_millis(100), 10),
        }
    }
}

impl Transfers {
    /// A transfer is over.
    pub fn ended(&self, success: bool, took: Duration) {
        if success {
            self.successes.inc();
            self.duration.observe(took);
        } else {
            self.failures.inc();
        }
    }
}

impl Default for PeerMetrics {
    fn default() -> Self {
        PeerMetrics {
            active: AtomicBool::new(false),
            disconnects: Counter::default(),
            sent_bytes: Counter::default(),
            sent_failures: Counter::default(),
            received_bytes: Counter::default(),
            received_failures: Counter::default(),
            round_trip: Histogram::seconds(Duration::from_micros(100), 16),
            snapshots_sent: Transfers::default(),
            snapshots_received: Transfers::default(),
        }
    }
}

impl PeerMetrics {
    pub fn is_active(&self) -> bool {
        self.active.load(Relaxed)
    }

    /// It was reached.
    pub fn reached(&self) {
        self.active.store(true, Relaxed);
    }

    /// Something could not be sent to it.
    pub fn lost(&self) {
        self.sent_failures.inc();
        self.gone();
    }

    /// A connection to it has ended.
    pub fn gone(&self) {
        if self.active.swap(false, Relaxed) {
            self.disconnects.inc();
        }
    }
}

/// The metrics of every peer that has been spoken with. Whoever counts holds on to its peer's.
#[derive(Default)]
pub struct Peers(Mutex<BTreeMap<MemberId, Arc<PeerMetrics>>>);

impl Peers {
    pub fn of(&self, peer: MemberId) -> Arc<PeerMetrics> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Members come and go over the years, and a stranger may call itself anything: what is beyond the bound is
        // counted together.
        let known = peers.len() < limits::PEERS_COUNTED_MAX || peers.contains_key(&peer);
        let place = if known { peer } else { 0 };
        peers.entry(place).or_default().clone()
    }

    pub fn all(&self) -> Vec<(MemberId, Arc<PeerMetrics>)> {
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        peers.iter().map(|(id, peer)| (*id, peer.clone())).collect()
    }
}

#[cfg(test)]
mod tests;
