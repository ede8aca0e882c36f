//! Members that come and go.
//!
//! ```text
//!   MemberAdd … ─► the leader's objections ─► log ─► state (the decision) ─► answer
//!                                                      │
//!   leader: run_membership ◄───────────────────────────┘   raft's membership follows, one safe step at a time
//! ```
//!
//! What clients see is the decision in the state. Raft follows it with single-server changes (thesis, section 4.1):
//! whoever is new gets the log first and votes only once it has caught up, so adding a member never costs the quorum
//! (in etcd, a second voter that does not start stops the cluster). A leader that is removed hands over first.

pub mod join;

use std::cell::RefMut;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::raft::Precondition;
use openraft::{EntryPayload, Membership};
use serde::{Deserialize, Serialize};

use super::Consensus;
use super::apply::metrics;
use super::core::Core;
use super::peers::message::{PeerRequest, PeerResponse};
use super::raft::types::{Peer, TypeConfig};
use crate::base::{Denied, MemberId, limits};
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::runtime::Instant;
use crate::runtime::buggify::{Site, pause};
use crate::state::Answer;

/// etcd's `HealthInterval`: how long members have to have been connected before their number is changed.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);
/// A learner may be promoted when it has this share of the leader's log, in percent.
const READY_PERCENT: u64 = 90;

/// A change of the members, as far as the leader has a say in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Change {
    AddVoter,
    AddLearner,
    Remove(MemberId),
    /// Checked for the learner's progress; the other checks only if reconfigurations are checked strictly.
    Promote {
        id: MemberId,
        strict: bool,
    },
}

/// Why the leader does not want a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Objection {
    NotEnoughStarted,
    Unhealthy,
    NotFound,
    NotReady,
}

impl From<Objection> for Denied {
    fn from(objection: Objection) -> Denied {
        match objection {
            Objection::NotEnoughStarted => Denied::NotEnoughStarted,
            Objection::Unhealthy => Denied::Unhealthy,
            Objection::NotFound => Denied::MemberNotFound,
            Objection::NotReady => Denied::LearnerNotReady,
        }
    }
}

/// What tells how long peers have been well besides their connections: the leader's begin with its first heartbeats, unlike
/// those of etcd, where all members are always connected.
#[derive(Default)]
pub struct Health {
    /// When this member first had a leader.
    led_since: Option<Instant>,
    /// Since when this member leads, if it does.
    leads_since: Option<Instant>,
}

impl Consensus {
    /// Members sorted by id, with the attributes they have published.
    pub async fn members(&self) -> Vec<pb::Member> {
        self.read(|state| state.members()).await
    }

    /// Proposes a change, and waits until raft follows it as far as it does at once.
    pub async fn change_members(&self, request: Request) -> Result<Vec<pb::Member>, Denied> {
        self.run(|core| async move { core.change_members(request).await })
            .await
    }

    /// Asks the leader whether it minds a change.
    pub async fn check_change(&self, change: Change) -> Result<(), Denied> {
        self.run_while_wanted(move |core| async move { core.check_change(change).await })
            .await
    }
}

impl Core {
    async fn change_members(&self, request: Request) -> Result<Vec<pb::Member>, Denied> {
        let (gone, here) = match &request {
            Request::MemberRemove(request) => (Some(request.id), None),
            Request::MemberAdd(request) => (None, request.member.as_ref().map(|member| member.id)),
            _ => (None, None),
        };
        let deadline = self.env().now() + self.request_timeout();
        let outcome = self.propose(request).await?;
        let Answer::Members(members) = outcome.answer? else {
            return Err(Denied::Stopped);
        };
        // What is decided stays decided, whatever becomes of the wait; this member's own end is not waited for.
        let mut signal = self.machine().members_signal();
        let followed = signal.wait_until(|_| {
            let membership = self.machine().membership();
            let in_raft = |id: MemberId| membership.membership().get_node(&id).is_some();
            gone.is_none_or(|id| id == self.member_id() || !in_raft(id)) && here.is_none_or(in_raft)
        });
        let _ = self.env().timeout_at(deadline, followed).await;
        Ok(members)
    }

    async fn check_change(&self, change: Change) -> Result<(), Denied> {
        let deadline = self.env().now() + self.request_timeout();
        let mut signal = self.status_signal();
        loop {
            let leader = self.status().leader;
            let answer = match leader {
                None => None,
                Some(leader) if leader == self.member_id() => self.objection_as_leader(&change),
                Some(leader) => {
                    let request = PeerRequest::MayChange(change);
                    match self.peers().ask(leader, request, self.election_timeout()).await {
                        Ok(PeerResponse::MayChange(objection)) => Some(objection),
                        _ => None,
                    }
                }
            };
            if let Some(objection) = answer {
                return objection.map_or(Ok(()), |objection| Err(objection.into()));
            }
            let now = self.env().now();
            if now >= deadline {
                return Err(match (leader, change) {
                    (Some(_), _) => Denied::Timeout,
                    (None, Change::Promote { .. }) => Denied::NoLeader,
                    // Who has no leader is not connected to a quorum.
                    (None, _) => Denied::Unhealthy,
                });
            }
            let _ = self
                .env()
                .timeout(self.election_timeout() / 10, signal.changed())
                .await;
        }
    }

    /// `None`: this member does not lead.
    pub fn objection_as_leader(&self, change: &Change) -> Option<Option<Objection>> {
        let status = self.status();
        if status.leader != Some(self.member_id()) {
            return None;
        }
        let check = || match *change {
            Change::AddVoter | Change::AddLearner => self.check_add(*change == Change::AddVoter),
            Change::Remove(id) => self.check_remove(id),
            Change::Promote { id, strict } => self.check_promote(id, strict),
        };
        let objection = check().err();
        if let (Change::Promote { .. }, Some(objection)) = (change, objection) {
            metrics::refused(self.env().metrics(), objection.into());
        }
        Some(objection)
    }

    /// Voters but `without`, and how many of them have started.
    fn started(&self, without: Option<MemberId>) -> (usize, usize) {
        self.machine().read(|state, _| {
            let voters = state.member_ids(false).filter(|id| Some(*id) != without);
            let started = |id: &MemberId| {
                let published = state.attributes(*id);
                published.is_some_and(|published| !published.name.is_empty())
            };
            voters.fold((0, 0), |(all, up), id| (all + 1, up + usize::from(started(&id))))
        })
    }

    fn check_add(&self, voter: bool) -> Result<(), Objection> {
        let (voters, started) = self.started(None);
        if voter && (voters, started) != (1, 1) && started < quorum(voters + 1) {
            return Err(Objection::NotEnoughStarted);
        }
        if voters > 1 && self.connected() < quorum(voters + 1) {
            return Err(Objection::Unhealthy);
        }
        Ok(())
    }

    fn check_remove(&self, id: MemberId) -> Result<(), Objection> {
        if self.machine().read(|state, _| state.is_learner(id)) {
            return Ok(());
        }
        let (rest, started) = self.started(Some(id));
        if started < quorum(rest) {
            return Err(Objection::NotEnoughStarted);
        }
        let is_down = id != self.member_id() && self.peers().connected_since(id).is_none();
        if !is_down && self.connected().saturating_sub(1) < quorum(rest) {
            return Err(Objection::Unhealthy);
        }
        Ok(())
    }

    fn check_promote(&self, id: MemberId, strict: bool) -> Result<(), Objection> {
        let (matched, own) = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            let progress = metrics.replication.as_ref().and_then(|all| all.get(&id)).cloned();
            let matched = progress.ok_or(Objection::NotFound)?;
            (
                matched.map_or(0, |log_id| log_id.index),
                metrics.last_log_index.unwrap_or(0),
            )
        };
        if matched * 100 < own * READY_PERCENT {
            return Err(Objection::NotReady);
        }
        let (voters, started) = self.started(None);
        if strict && started + 1 < quorum(voters + 1) {
            return Err(Objection::NotEnoughStarted);
        }
        Ok(())
    }

    fn health(&self) -> RefMut<'_, Health> {
        self.0.health.borrow_mut()
    }

    /// Voters that have been connected for long enough, this one included.
    fn connected(&self) -> usize {
        let voters: Vec<MemberId> = self.machine().read(|state, _| state.member_ids(false).collect());
        let (health, now) = (self.health(), self.env().now());
        let well = |id: &&MemberId| {
            let well_since = || {
                let since = self.peers().connected_since(**id)?;
                // Who answers a new leader's first heartbeats, one sooner than another, was well under the one before.
                let by_then = health.leads_since? + self.election_timeout();
                health.led_since.filter(|_| since <= by_then).or(Some(since))
            };
            **id == self.member_id() || well_since().is_some_and(|since| now - since >= HEALTH_INTERVAL)
        };
        voters.iter().filter(well).count()
    }

    /// Notes when there was a leader first, and whether it is this member.
    fn note_leader(&self, leader: Option<MemberId>) {
        let now = self.env().now();
        let mut health = self.health();
        if leader.is_some() {
            health.led_since.get_or_insert(now);
        }
        health.leads_since = match leader == Some(self.member_id()) {
            true => health.leads_since.or(Some(now)),
            false => None,
        };
    }

    /// Keeps raft's membership in step with the decisions, while this member leads; and finds out whether this
    /// member still belongs to the cluster, while nobody does.
    pub async fn run_membership(self) {
        let mut changed = self.machine().members_signal();
        let mut led_at = self.env().now();
        loop {
            let status = self.status();
            let leads = status.leader == Some(self.member_id());
            self.note_leader(status.leader);
            let now = self.env().now();
            if status.leader.is_some() {
                led_at = now;
            } else if now - led_at > 3 * self.election_timeout() {
                self.ask_around().await;
                led_at = now;
            }
            pause(self.env(), Site::MembershipLate, self.election_timeout()).await;
            if leads && self.step_membership(status.term).await {
                continue;
            }
            let tick = self.election_timeout() / 10;
            let _ = self.env().timeout(tick, changed.changed()).await;
        }
    }

    /// A member that is not needed any more hears nothing: it has to ask.
    async fn ask_around(&self) {
        let members: Vec<MemberId> = self
            .machine()
            .read(|state, _| state.members().iter().map(|m| m.id).collect());
        for peer in members.into_iter().filter(|peer| *peer != self.member_id()) {
            let _ = self
                .peers()
                .ask(peer, PeerRequest::Describe, self.election_timeout())
                .await;
        }
    }

    /// One step of raft's membership towards the decided one; whether another may follow at once.
    async fn step_membership(&self, term: u64) -> bool {
        let (voters, learners): (BTreeSet<_>, BTreeSet<_>) = self.machine().read(|state, _| {
            (
                state.member_ids(false).collect(),
                state.member_ids(true).collect(),
            )
        });
        let (membership, matched, last) = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            let matched: BTreeMap<MemberId, u64> = metrics
                .replication
                .iter()
                .flatten()
                .map(|(id, log_id)| (*id, log_id.as_ref().map_or(0, |log_id| log_id.index)))
                .collect();
            (metrics.membership_config.clone(), matched, metrics.last_log_index)
        };
        let now_voting: BTreeSet<MemberId> = membership.voter_ids().collect();
        let nodes: BTreeMap<MemberId, Peer> =
            membership.nodes().map(|(id, peer)| (*id, peer.clone())).collect();
        if voters.is_empty() || nodes.is_empty() {
            return false;
        }
        let caught_up = |id: &&MemberId| {
            let reached = matched.get(id).copied().unwrap_or(0) + limits::PROMOTE_LAG_ENTRIES_MAX;
            nodes.contains_key(id) && reached >= last.unwrap_or(0)
        };
        let own = self.member_id();
        let joins = voters.difference(&now_voting).find(caught_up).copied();
        let leaves = now_voting.difference(&voters).find(|id| **id != own).copied();
        let mut next_voting = now_voting.clone();
        if let Some(id) = leaves {
            next_voting.remove(&id);
        } else if let Some(id) = joins {
            next_voting.insert(id);
        } else if !voters.contains(&own) {
            let heirs = voters.intersection(&now_voting);
            if let Some(heir) = heirs.max_by_key(|id| matched.get(id)) {
                tracing::info!(
                    heir = format!("{heir:x}"),
                    "hands leadership over: this member was removed"
                );
                let _ = self.move_leader(*heir).await;
            }
        }
        let wanted = voters.union(&learners).chain(&next_voting);
        let peers: BTreeMap<MemberId, Peer> = wanted
            .map(|id| (*id, nodes.get(id).cloned().unwrap_or_else(|| self.peer(*id))))
            .collect();
        if next_voting == now_voting && peers.keys().eq(nodes.keys()) {
            return false;
        }
        tracing::info!(term, voters = ?next_voting, members = ?peers.keys(), "changes raft's membership");
        let Ok(next) = Membership::new(vec![next_voting], peers) else {
            return false;
        };
        let only_after = Precondition::<TypeConfig>::LastMembershipLogId {
            last_membership_log_id: *membership.log_id(),
        };
        let appended = self
            .raft()
            .append_membership(next, EntryPayload::Blank, [only_after])
            .await;
        match appended {
            Ok(_) => true,
            Err(error) => {
                tracing::info!(%error, "raft's membership is not changed yet");
                false
            }
        }
    }

    /// What raft notes of a new member.
    fn peer(&self, id: MemberId) -> Peer {
        self.machine().read(|state, _| {
            let mut urls = state.peer_urls().filter(|(member, _)| *member == id);
            Peer {
                name: String::new(),
                peer_urls: urls.next().map(|(_, urls)| urls.to_vec()).unwrap_or_default(),
            }
        })
    }
}

pub(super) fn quorum(members: usize) -> usize {
    members / 2 + 1
}
