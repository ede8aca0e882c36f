//! Leases as clients see them: renewals and remaining times come from the leader's clock.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Consensus;
use super::message::{PeerRequest, PeerResponse};
use crate::base::{Denied, LeaseId};
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::runtime::buggify::{Site, buggify, pause};
use crate::state::Outcome;

/// How often the leader looks for leases that are over.
const SCAN: Duration = Duration::from_millis(500);
/// Revokes under way at a time.
const REVOKES_UNDER_WAY: usize = 16;
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

    /// Renews a lease on the leader; the TTL, 0 if the lease is unknown.
    pub async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Denied> {
        let local = || self.renew_as_leader(id);
        let answer = |response| match response {
            PeerResponse::LeaseKeepAlive(ttl) => Some(ttl),
            _ => None,
        };
        self.ask_leader(local, PeerRequest::LeaseKeepAlive(id), answer)
            .await
    }

    /// Remaining and granted TTL, and the keys if wanted, from the leader's clock; `None` if unknown.
    pub async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<Option<LeaseTtl>, Denied> {
        let local = || self.time_to_live_as_leader(id, keys);
        let answer = |response| match response {
            PeerResponse::LeaseTimeToLive(found) => Some(found),
            _ => None,
        };
        self.ask_leader(local, PeerRequest::LeaseTimeToLive { id, keys }, answer)
            .await
    }

    /// Leases known here, by remaining time.
    pub fn leases(&self) -> Vec<LeaseId> {
        self.core().lessor.ids()
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
                Some(leader) if leader == self.member_id() => local().await,
                Some(leader) => {
                    let asked = self
                        .ask_peer(leader, remote.clone(), self.election_timeout())
                        .await;
                    asked.ok().and_then(&answer)
                }
                None => None,
            };
            match found {
                Some(found) => return Ok(found),
                None if self.env().now() >= deadline => {
                    return Err(match self.status().leader {
                        Some(_) => Denied::TIMEOUT,
                        None => Denied::NO_LEADER,
                    });
                }
                None => self.env().sleep(RETRY).await,
            }
        }
    }

    /// `None`: this member is not surely the leader.
    pub(super) async fn renew_as_leader(&self, id: LeaseId) -> Option<i64> {
        // A deposed leader must not promise time that the new one will not give; and a lease that was
        // granted before the question must be known here.
        let index = self.read_index_as_leader().await.ok()?;
        self.wait_applied(index).await.ok()?;
        if self.core().lessor.has_checkpoint(id) {
            // A leader after this one must not go on from before the renewal.
            let checkpoint = pb::LeaseCheckpoint { id, remaining_ttl: 0 };
            let term = self.status().term;
            self.propose_checkpoints(vec![checkpoint], term).await.ok()?;
        }
        let renewed = self.core().lessor.renew(id).map(|ttl| ttl.unwrap_or(0));
        pause(self.env(), Site::LeaseRenewedLate, self.election_timeout()).await;
        renewed
    }

    /// `None`: this member is not surely the leader.
    pub(super) async fn time_to_live_as_leader(&self, id: LeaseId, keys: bool) -> Option<Option<LeaseTtl>> {
        let index = self.read_index_as_leader().await.ok()?;
        self.wait_applied(index).await.ok()?;
        let Some(remaining) = self.core().lessor.remaining(id)? else {
            return Some(None);
        };
        Some(self.read(|state, _| {
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

    async fn propose_checkpoints(
        &self,
        checkpoints: Vec<pb::LeaseCheckpoint>,
        term: u64,
    ) -> Result<(), Denied> {
        let request = Request::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints });
        self.propose_in_term(request, term).await?.answer.map(drop)
    }

    /// While this member leads, proposes to revoke what is over, and to write down what is left of the rest.
    pub(super) async fn run_lease_expiry(self) {
        loop {
            self.env().sleep(SCAN).await;
            pause(self.env(), Site::LeaseExpiredLate, 4 * SCAN).await;
            let status = self.status();
            if status.leader != Some(self.member_id()) {
                continue;
            }
            let due = self.core().lessor.due_checkpoints();
            if !due.is_empty() {
                let checkpoint = |(id, remaining_ttl)| pb::LeaseCheckpoint { id, remaining_ttl };
                let checkpoints = due.into_iter().map(checkpoint).collect();
                // One that is lost costs a client nothing: its lease is longer.
                let _ = self.propose_checkpoints(checkpoints, status.term).await;
            }
            let expired = self.core().lessor.expired();
            for group in expired.chunks(REVOKES_UNDER_WAY) {
                let revokes = group.iter().map(|&id| {
                    tracing::info!(lease = format!("{id:x}"), "lease expired");
                    let request = Request::LeaseRevoke(pb::LeaseRevokeRequest { id });
                    self.propose_in_term(request, status.term)
                });
                // One that fails is handed out again later.
                let revoked = futures_util::future::join_all(revokes.clone()).await;
                let done = |outcome: &&Result<Outcome, Denied>| {
                    outcome.as_ref().is_ok_and(|outcome| outcome.answer.is_ok())
                };
                let expired = revoked.iter().filter(done).count() as u64;
                self.env().figures().leases.expired.add(expired);
                if buggify(Site::LeaseExpiredTwice) {
                    futures_util::future::join_all(revokes).await;
                }
            }
        }
    }
}
