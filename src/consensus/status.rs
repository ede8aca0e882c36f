//! How this member stands in raft, and leadership: who leads, its heartbeats, handing it over.
//!
//! Nobody leads for a member that is cut off: a leader that no quorum answers says so after one and a half election
//! timeouts (CheckQuorum), a follower that hears no leader after one. All that etcd derives from a missing leader
//! (health, streams that demand one, metrics, error texts) is derived from [`Status::leader`].

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::select;
use openraft::async_runtime::WatchReceiver;
use openraft::{RaftMetrics, ServerState};

use super::Consensus;
use super::apply::machine::{Applied, MembersSeen};
use super::contact::LeaderContact;
use super::core::Core;
use super::peers::Peers;
use super::raft::cause;
use super::raft::runtime::SignalReceiver;
use super::raft::types::{TypeConfig, position};
use crate::base::{Broken, Denied, MemberId, limits};
use crate::runtime::buggify::{Site, buggify, pause};
use crate::runtime::{Env, signal};
use crate::state::Position;
use crate::storage::Store;

/// Why a member must not serve any more.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StopReason {
    /// Its removal is final; the process then ends well. etcd's words.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error(transparent)]
    Broken(#[from] Broken),
}

/// What is known of raft at this moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    pub term: u64,
    /// Who leads, if that one was heard of late.
    pub leader: Option<MemberId>,
    /// Highest committed index that this member knows.
    pub committed: u64,
    pub applied: u64,
    /// The last index of raft's newest snapshot; it may purge the log up to there.
    pub snapshot: u64,
    pub is_learner: bool,
    /// Whether raft counts this member's vote: a new member's only once it has caught up.
    pub is_voter: bool,
    /// Raft's membership is decided, and not on its way from one to the next: what was needed of members that
    /// have left is needed no more.
    pub is_settled: bool,
    /// The entry that raft's membership is from.
    pub membership: Option<Position>,
    /// Set when raft stopped, or damage was read: the member must not serve any more.
    pub fatal: Option<StopReason>,
}

/// What tells how this member is, to be asked from any thread.
#[derive(Clone)]
pub(super) struct Vitals {
    pub env: Env,
    pub member: MemberId,
    pub election_timeout: Duration,
    pub raft: SignalReceiver<RaftMetrics<TypeConfig>>,
    pub contact: LeaderContact,
    pub applied: signal::Receiver<Applied>,
    pub members: signal::Receiver<MembersSeen>,
    pub peers: Peers,
    pub store: Store,
    /// The first damage that a read met.
    pub damage: signal::Sender<Option<Broken>>,
    /// As of the last look of [`Core::run_status`].
    pub status: signal::Sender<Status>,
}

impl Vitals {
    /// What raft says now.
    pub fn status(&self) -> Status {
        let metrics = self.raft.borrow_watched();
        let (own, now) = (self.member, self.env.now());
        let (has_left, is_learner) = {
            let members = self.members.borrow();
            (members.left.contains(&own), members.is_learner)
        };
        let leads = metrics.state == ServerState::Leader;
        let membership = &metrics.membership_config;
        // Not `voter_ids`, which makes a set: this is asked several times for each write.
        let voters = || membership.membership().get_joint_config().iter().flatten();
        let alone = voters()
            .next()
            .is_some_and(|first| voters().all(|voter| voter == first));
        // A leader that has not heard from a quorum for long is one only in its own view (CheckQuorum).
        let acked = metrics.last_quorum_acked.as_ref().is_some_and(|acked| {
            let silence = now - **acked;
            silence < self.election_timeout * 3 / 2
        });
        let heard = || self.contact.time_left(metrics.current_term, now).is_some();
        let is_alive = |leader: &MemberId| match leads {
            true => alone || acked,
            // After a restart raft names this very member if it led before.
            false => *leader != own && heard(),
        };
        let stopped = metrics.running_state.as_ref().err();
        let set = membership.log_id().as_ref();
        let decided = set.is_none_or(|set| metrics.local_committed.as_ref() >= Some(set));
        let applied = self.applied.borrow().log_id;
        let removed = self.peers.is_removed() || has_left;
        Status {
            term: metrics.current_term,
            leader: metrics.current_leader.filter(is_alive),
            committed: metrics.local_committed.map_or(0, |committed| committed.index),
            applied: applied.map_or(0, |applied| applied.index),
            snapshot: metrics.snapshot.map_or(0, |snapshot| snapshot.index),
            is_learner,
            is_voter: voters().any(|voter| *voter == own),
            membership: set.map(position),
            is_settled: decided && membership.membership().get_joint_config().len() <= 1,
            fatal: removed.then_some(StopReason::Removed).or_else(|| {
                stopped
                    .map(|fatal| cause::stopped("", fatal))
                    .or_else(|| self.damage.borrow().clone())
                    .or_else(|| self.store.check().err())
                    .map(StopReason::Broken)
            }),
        }
    }

    /// Damage is not served and ends this member: see [`Status::fatal`]. What clients hear.
    pub fn met_damage(&self, broken: Broken) -> Denied {
        tracing::error!(%broken, "a read met damage");
        let reason = StopReason::Broken(broken.clone());
        self.damage.send_if_modified(|damage| {
            damage.get_or_insert(broken);
            true
        });
        self.status.send_if_modified(|status| {
            status.fatal.get_or_insert(reason);
            true
        });
        Denied::Corrupt
    }
}

impl Consensus {
    /// What raft says now.
    pub fn status(&self) -> Status {
        self.0.vitals.status()
    }

    /// Watches [`Status`]: leader, term and failure at once, progress now and then.
    pub fn status_signal(&self) -> signal::Receiver<Status> {
        self.0.vitals.status.subscribe()
    }

    /// Changes whenever this member, as the leader, refuses a batch that does not fit into its quota.
    pub fn quota_refusals(&self) -> signal::Receiver<u64> {
        self.0.quota_refusals.clone()
    }

    /// Hands leadership to `target` and waits for it; only the leader can.
    pub async fn move_leader(&self, target: MemberId) -> Result<(), Denied> {
        self.run(move |core| async move { core.move_leader(target).await })
            .await
    }

    /// Before a stop: hands leadership to the member that is furthest, if this one leads and has a peer.
    pub async fn hand_over(&self, timeout: Duration) {
        self.run(move |core| async move { core.hand_over(timeout).await })
            .await;
    }
}

impl Core {
    /// A leader's heartbeats. Raft would time each out after the interval at which it sends them; here an
    /// answer may take longer than that, as in a cluster whose members are far apart.
    pub(super) async fn run_heartbeats(self) {
        let mut last = None;
        loop {
            self.env().sleep(self.options().heartbeat_interval).await;
            pause(self.env(), Site::HeartbeatLate, self.election_timeout()).await;
            let leads = self.status().leader == Some(self.member_id());
            if leads && buggify(Site::StepDown) {
                let core = self.clone();
                let hand_over = async move { core.hand_over(core.election_timeout()).await };
                self.env().spawn_local(hand_over);
            }
            if leads && self.raft().trigger().heartbeat().await.is_err() {
                return;
            }
            let now = self.env().now();
            if let Some(last) = last
                && leads
                && now - last > 2 * self.options().heartbeat_interval
            {
                self.count_late_heartbeats();
            }
            last = leads.then_some(now);
        }
    }

    /// A follower's heartbeat was late, every follower's.
    fn count_late_heartbeats(&self) {
        let members = self.machine().membership().membership().nodes().count() as u64;
        let late = &self.env().metrics().agreement.late_heartbeats;
        late.add(members.saturating_sub(1));
    }

    /// The term at the last look: a hint, for the wording of errors.
    pub(super) fn term_seen(&self) -> u64 {
        self.0.term_seen.get()
    }

    /// Whether far more is committed than applied, as of the last look.
    pub(super) fn is_lagging(&self) -> bool {
        self.0.lagging.get()
    }

    /// Keeps [`Consensus::status_signal`] up to date, and the lessor in step with leadership.
    pub(super) async fn run_status(self) {
        let mut server_metrics = self.raft().server_metrics();
        let mut regained = self.0.vitals.contact.regained();
        let mut led_term = None;
        loop {
            let now = self.env().now();
            self.0.vitals.contact.look(now);
            let status = self.status();
            let left = self.0.vitals.contact.time_left(status.term, now);
            self.0.term_seen.set(status.term);
            let behind = status.committed.saturating_sub(status.applied);
            self.0.lagging.set(behind > limits::APPLY_LAG_ENTRIES_MAX);
            let leads = status.leader == Some(self.member_id());
            if leads && led_term != Some(status.term) {
                let extension = self.options().election_timeout;
                self.machine().lessor.promote(status.term, extension);
                led_term = Some(status.term);
            } else if !leads && led_term.take().is_some() {
                self.machine().lessor.demote();
            }
            let fatal = status.fatal.is_some();
            let changed = self.0.vitals.status.send_if_modified(|current| {
                let differs = (current.leader, current.term) != (status.leader, status.term) || fatal;
                *current = status;
                differs
            });
            if changed {
                self.machine().proposals.wake();
            }
            if fatal {
                return;
            }
            // Whether a leader still hears from a quorum is a matter of time, not of an event; whether it is heard, of both.
            let tick = self.options().election_timeout / 4;
            let wait = left.unwrap_or(tick).min(tick);
            let (changed, regained) = (pin!(server_metrics.changed()), pin!(regained.changed()));
            let _ = self.env().timeout(wait, select(changed, regained)).await;
            pause(self.env(), Site::StatusLate, tick).await;
        }
    }

    pub(super) async fn move_leader(&self, target: MemberId) -> Result<(), Denied> {
        let status = self.status();
        if status.leader != Some(self.member_id()) {
            return Err(Denied::NotLeader);
        }
        if target == self.member_id() {
            return Ok(());
        }
        if !self
            .machine()
            .membership()
            .voter_ids()
            .any(|voter| voter == target)
        {
            return Err(Denied::BadLeaderTransferee);
        }
        let mut signal = self.status_signal();
        self.raft()
            .trigger()
            .transfer_leader(target)
            .await
            .map_err(|_| Denied::Stopped)?;
        let moved = signal.wait_until(|status| status.leader == Some(target));
        match self.env().timeout(self.options().request_timeout, moved).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Denied::Stopped),
            Err(_) => Err(Denied::TransferTimeout),
        }
    }

    pub(super) async fn hand_over(&self, timeout: Duration) {
        if self.status().leader != Some(self.member_id()) {
            return;
        }
        let heir = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<MemberId> = metrics.membership_config.voter_ids().collect();
            let replication = metrics.replication.iter().flatten();
            let others = replication.filter(|(id, _)| **id != self.member_id() && voters.contains(id));
            others
                .max_by_key(|(_, matched)| matched.as_ref().map(|log_id| log_id.index))
                .map(|(id, _)| *id)
        };
        let Some(heir) = heir else { return };
        let moved = self.env().timeout(timeout, self.move_leader(heir)).await;
        tracing::info!(
            heir = format!("{heir:x}"),
            done = matches!(moved, Ok(Ok(()))),
            "transferred leadership"
        );
    }
}
