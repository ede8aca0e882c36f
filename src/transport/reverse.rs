//! The way back: asking a member over the connection on which it asks this one.
//!
//! ```text
//!   they dial us ──── id, request ───► answered here
//!               ◄──── id, answer  ────
//!               ◄─ BACK|id, request ──  only if our own dialling failed
//!               ── BACK|id, answer  ─►
//! ```
//!
//! Where certificates are checked against addresses, a member may be refused at every door although it is reached at
//! its own: its calls come from another of its addresses. etcd's members speak over connections of either side, so
//! there such a member takes part; here it does by this. Only members with TLS do it: without it nobody is refused for where
//! it comes from, and whoever cannot be dialled is most likely gone.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::rpc::{Calls, lock};
use super::serve::PeerHandler;
use crate::base::MemberId;

/// Marks what the called side asks, and the answer to it.
pub(super) const BACK: u64 = 1 << 63;

/// A connection that a peer has opened.
#[derive(Clone)]
pub(super) struct Caller {
    /// Frames that go out on it.
    pub frames: mpsc::Sender<(u64, Bytes)>,
    pub calls: Arc<Mutex<Calls>>,
}

/// Who has opened a connection for requests, and it is open still. Clones share it.
#[derive(Clone, Default)]
pub struct InboundConnections(Arc<Mutex<BTreeMap<MemberId, Caller>>>);

impl InboundConnections {
    /// The youngest connection of a peer is the one that is used.
    pub(super) fn enter(&self, peer: MemberId, caller: Caller) {
        lock(&self.0).insert(peer, caller);
    }

    pub(super) fn leave(&self, peer: MemberId, caller: &Caller) {
        let mut callers = lock(&self.0);
        if callers
            .get(&peer)
            .is_some_and(|known| Arc::ptr_eq(&known.calls, &caller.calls))
        {
            callers.remove(&peer);
        }
    }

    fn get(&self, peer: MemberId) -> Option<Caller> {
        lock(&self.0).get(&peer).cloned()
    }
}

/// What it takes to ask, and be asked, the other way.
#[derive(Clone)]
pub struct ReverseConnections {
    /// Answers what comes back on a connection of ours.
    pub handler: Arc<dyn PeerHandler>,
    pub callers: InboundConnections,
}

impl ReverseConnections {
    /// Sends requests over the peer's own connection as long as it has one; the error is `why` it was not dialled.
    pub(super) async fn relay(
        &self,
        peer: MemberId,
        queue: &mut mpsc::Receiver<(u64, Bytes)>,
        calls: &Mutex<Calls>,
        reason: io::Error,
    ) -> io::Error {
        if self.callers.get(peer).is_some() {
            tracing::info!(
                "remote-peer-id" = format!("{peer:x}"),
                error = %reason,
                "a peer that cannot be reached is asked over its own connection"
            );
        }
        while let Some(caller) = self.callers.get(peer) {
            let Some((id, request)) = queue.recv().await else {
                break;
            };
            // It may have waited for long.
            let caller = self.callers.get(peer).unwrap_or(caller);
            let Some(call) = lock(calls).take(id) else {
                continue;
            };
            let id = lock(&caller.calls).begin(call) | BACK;
            if caller.frames.try_send((id, request)).is_err() {
                lock(&caller.calls).refuse(id & !BACK, &reason);
            }
        }
        reason
    }
}

#[cfg(test)]
mod tests;
