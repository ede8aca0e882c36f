//! Leases as clients see them: remaining times come from the leader's clock, and so do their ends. Renewals: see
//! [`renewals`].

pub mod lessor;
pub mod renewals;

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Consensus;
use super::core::Core;
use super::peers::message::{PeerRequest, PeerResponse};
use crate::base::{Denied, LeaseId, limits};
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::runtime::buggify::{Site, buggify, pause};
use crate::state::Outcome;

/// How often the leader looks for leases that are over.
const SCAN: Duration = Duration::from_millis(500);
/// Pause before the leader is asked again.
const RETRY: Duration = Duration::from_millis(50);

/// What is left of a lease, in seconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseTtl {
    pub remaining: i64,
    pub granted: i64,
    pub keys: Vec<Bytes>,
}

impl Consensus {
    /// The shortest TTL that is granted: one and a half election time-outs, in whole seconds.
    pub fn lease_ttl_min(&self) -> i64 {
        let ticks =
            self.0.options.election_timeout.as_millis() / self.0.options.heartbeat_interval.as_millis();
        let millis = 3 * ticks / 2 * self.0.options.heartbeat_interval.as_millis();
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }

    /// Remaining and granted TTL, and the keys if wanted, from the leader's clock; `None` if unknown.
    pub async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTtl>, Denied> {
        self.run_while_wanted(move |core| async move { core.lease_time_to_live(id, keys).await })
            .await
    }

    /// Leases known here, by remaining time.
    pub async fn leases(&self) -> Vec<LeaseId> {
        self.ask(|core| core.machine().lessor.ids()).await
    }
}

impl Core {
    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTtl>, Denied> {
        let local = || self.time_to_live_as_leader(id, keys);
        let answer = |response| match response {
            PeerResponse::LeaseTimeToLive(found) => Some(found),
            _ => None,
        };
        self.ask_leader(local, PeerRequest::LeaseTimeToLive { id, keys }, answer)
            .await
    }

    /// Asks the leader, be it this member or another, until it answers or time is up. Only for questions
    /// that may be asked twice.
    async fn ask_leader<T, L>(
        &self,
        local: impl Fn() -> L,
        remote: PeerRequest,
        answer: impl Fn(PeerResponse) -> Option<T>,
    ) -> Result<T, Denied>
    where
        L: Future<Output = Option<T>>,
    {
        let deadline = self.env().now() + self.request_timeout();
        loop {
            let found = match self.status().leader {
                Some(leader) if leader == self.member_id() => {
                    self.env().timeout_at(deadline, local()).await.ok().flatten()
                }
                Some(leader) => {
                    let timeout = self.election_timeout().min(deadline - self.env().now());
                    let asked = self.peers().ask(leader, remote.clone(), timeout).await;
                    asked.ok().and_then(&answer)
                }
                None => None,
            };
            match found {
                Some(found) => return Ok(found),
                None if self.env().now() >= deadline => {
                    return Err(match self.status().leader {
                        Some(_) => Denied::Timeout,
                        None => Denied::NoLeader,
                    });
                }
                None => self.env().sleep(RETRY).await,
            }
        }
    }

    /// `None`: this member is not surely the leader.
    pub async fn time_to_live_as_leader(&self, id: LeaseId, keys: bool) -> Option<Option<LeaseTtl>> {
        let index = self.read_index_as_leader().await.ok()?;
        self.wait_applied(index).await.ok()?;
        let Some(remaining) = self.machine().lessor.remaining(id)? else {
            return Some(None);
        };
        Some(self.machine().read(|state, _| {
            let lease = state.lease(id)?;
            let keys = if keys {
                lease.keys.iter().cloned().collect()
            } else {
                Vec::new()
            };
            Some(LeaseTtl {
                remaining,
                granted: lease.ttl,
                keys,
            })
        }))
    }

    /// Writes down what is left of leases, in seconds; 0: their whole time.
    pub async fn propose_checkpoints(&self, remaining: Vec<(LeaseId, i64)>, term: u64) -> Result<(), Denied> {
        let checkpoint = |(id, remaining_ttl)| pb::LeaseCheckpoint { id, remaining_ttl };
        let checkpoints = remaining.into_iter().map(checkpoint).collect();
        let request = Request::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints });
        self.propose_in_term(request, term).await?.answer.map(drop)
    }

    /// While this member leads, proposes to revoke what is over, and to write down what is left of the rest.
    pub async fn run_lease_expiry(self) {
        loop {
            self.env().sleep(SCAN).await;
            pause(self.env(), Site::LeaseExpiredLate, 4 * SCAN).await;
            let status = self.status();
            if status.leader != Some(self.member_id()) {
                continue;
            }
            let due = self.machine().lessor.due_checkpoints(status.term);
            if !due.is_empty() {
                // One that is lost costs a client nothing: its lease is longer.
                let _ = self.propose_checkpoints(due, status.term).await;
            }
            while self.revoke_expired(status.term).await {}
        }
    }

    /// Revokes some of the leases that are over, together in one raft entry if it is not needed for others. Whether
    /// there may be more to do now: one that could not be revoked is handed out again later.
    async fn revoke_expired(&self, term: u64) -> bool {
        let ids = self.machine().lessor.expired(term, limits::REVOKES_PER_ROUND_MAX);
        let revokes = ids.iter().map(|&id| {
            tracing::debug!(lease = format!("{id:x}"), "lease expired");
            let request = Request::LeaseRevoke(pb::LeaseRevokeRequest { id });
            self.propose_in_term(request, term)
        });
        let revoked = futures_util::future::join_all(revokes.clone()).await;
        let done =
            |outcome: &&Result<Outcome, Denied>| outcome.as_ref().is_ok_and(|outcome| outcome.answer.is_ok());
        let expired = revoked.iter().filter(done).count();
        self.env().metrics().leases.expired.add(expired as u64);
        if let Some(id) = ids.first() {
            tracing::info!(count = expired, first = format!("{id:x}"), "leases expired");
        }
        if buggify(Site::LeaseExpiredTwice) {
            futures_util::future::join_all(revokes).await;
        }
        !ids.is_empty() && expired == ids.len()
    }
}
