//! Renewals of leases: those of all streams together, under one confirmation of leadership.
//!
//! ```text
//!   keep-alive streams ─► renew_leases() ─┐                       leader: one quorum round ─► Lessor::renew
//!   members that follow ─► renew_here() ──┴─► queue ─► one round ─┤
//!                                                                 else: one request to the leader
//! ```
//!
//! One round is under way at a time, and what arrives meanwhile shares the next: how far the members are from each
//! other decides how long a renewal takes, not how many there are per second.
//!
//! Why a renewal lasts: the round begins after it has arrived, and its quorum answers to this member's term. A later
//! leader needs the vote of one who answered, so it is elected after the arrival; and it gives every lease its whole
//! time (see [`super::lessor`]) from then on. That holds however long this member pauses afterwards, and whoever told
//! the target of a transfer to campaign at once. A leader that answers without a round, as its last heartbeats were
//! acknowledged an election timeout ago at most, would promise no more time than a later one gives; but it would call
//! leases alive that a later leader has revoked. A round that thousands share is cheap, so this one asks.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::base::{Denied, LeaseId, MemberId, limits};
use crate::consensus::Consensus;
use crate::consensus::core::Core;
use crate::consensus::peers::message::{PeerRequest, PeerResponse};
use crate::runtime::Instant;
use crate::runtime::buggify::{self, Site, pause};
use crate::runtime::channel::{Answer, answer};

/// Pause before a round is repeated.
const RETRY: Duration = Duration::from_millis(50);
/// How often a lease whose time is over is looked at until it is gone.
const ENDING_RETRY: Duration = Duration::from_millis(100);

/// What became of a renewal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Renewal {
    /// The lease has its whole TTL again: so many seconds.
    Renewed(i64),
    /// There is no such lease.
    Unknown,
    /// Its time is over, but it has not been revoked yet: its keys are still there.
    Ending,
}

/// Leases that are to be renewed, and who waits for that.
struct Waiting {
    ids: Vec<LeaseId>,
    deadline: Instant,
    /// Another member asks this one as the leader: not to be passed on.
    here_only: bool,
    answer: Answer<Result<Vec<Renewal>, Denied>>,
}

/// Renewals that wait for the next round.
pub struct RenewalQueue {
    waiting: RefCell<VecDeque<Waiting>>,
    wake: mpsc::Sender<()>,
}

impl RenewalQueue {
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        let queue = RenewalQueue {
            waiting: RefCell::default(),
            wake,
        };
        (queue, woken)
    }

    fn push(&self, waiting: Waiting) {
        self.waiting().push_back(waiting);
        // Full means that a wake-up is on its way already.
        let _ = self.wake.try_send(());
    }

    fn waiting(&self) -> RefMut<'_, VecDeque<Waiting>> {
        self.waiting.borrow_mut()
    }

    /// Those that share the next round, oldest first.
    fn next_round(&self) -> Vec<Waiting> {
        let ids_max = buggify::limit(Site::LeaseRenewedFew, limits::RENEWALS_PER_ROUND_MAX, 2);
        let mut waiting = self.waiting();
        let (mut round, mut ids) = (Vec::new(), 0);
        while let Some(next) = waiting.front() {
            ids += next.ids.len();
            if ids > ids_max && !round.is_empty() {
                break;
            }
            // Who asked may have given up.
            round.extend(waiting.pop_front().filter(|next| !next.answer.is_closed()));
        }
        round
    }
}

impl Consensus {
    /// Renews leases on the leader, wherever that is; what became of each.
    pub async fn renew_leases(&self, ids: Vec<LeaseId>) -> Result<Vec<Renewal>, Denied> {
        let deadline = self.env().now() + self.request_timeout();
        let answer = self.queue_renewals(ids, deadline, false);
        // The last round begins before the deadline.
        let answer = self.env().timeout_at(deadline + self.election_timeout(), answer);
        match answer.await {
            Ok(answered) => answered.unwrap_or(Err(Denied::Stopped)),
            Err(_) => Err(Denied::Timeout),
        }
    }

    /// The same if this member surely leads; `None` if not.
    pub(in crate::consensus) async fn renew_here(&self, ids: Vec<LeaseId>) -> Option<Vec<Renewal>> {
        let deadline = self.env().now() + self.election_timeout();
        let answer = self.queue_renewals(ids, deadline, true);
        self.env().timeout_at(deadline, answer).await.ok()??.ok()
    }

    /// `None`: whoever should answer ended, or does not lead.
    async fn queue_renewals(
        &self,
        ids: Vec<LeaseId>,
        deadline: Instant,
        here_only: bool,
    ) -> Option<Result<Vec<Renewal>, Denied>> {
        let (answer, answered) = answer();
        let waiting = Waiting {
            ids,
            deadline,
            here_only,
            answer,
        };
        self.tell(|core| core.0.renewals.push(waiting)).await;
        self.receive(answered).await
    }

    /// Waits for the end of a lease whose time is over, as etcd does: who is told that it is gone must not find its
    /// keys. The TTL: 0, or what a new leader has given it instead.
    pub async fn lease_ended(&self, id: LeaseId) -> Result<i64, Denied> {
        let deadline = self.env().now() + self.request_timeout();
        loop {
            self.env().sleep(ENDING_RETRY).await;
            match self.renew_leases(vec![id]).await?.first() {
                Some(Renewal::Renewed(ttl)) => return Ok(*ttl),
                Some(Renewal::Ending) if self.env().now() >= deadline => return Err(Denied::Timeout),
                Some(Renewal::Ending) => {}
                Some(Renewal::Unknown) | None => return Ok(0),
            }
        }
    }
}

impl Core {
    /// Runs the rounds, one after the other.
    pub async fn run_renewals(self, mut woken: mpsc::Receiver<()>) {
        while woken.recv().await.is_some() {
            loop {
                let round = self.0.renewals.next_round();
                if round.is_empty() {
                    break;
                }
                self.renewal_round(round).await;
            }
        }
    }

    async fn renewal_round(&self, mut round: Vec<Waiting>) {
        let leader = self.status().leader;
        if leader != Some(self.member_id()) {
            // Whoever asks learns by the closed channel.
            round.retain(|waiting| !waiting.here_only);
        }
        let ids: Vec<LeaseId> = round
            .iter()
            .flat_map(|waiting| waiting.ids.iter().copied())
            .collect();
        let count = ids.len();
        let renewals = match leader {
            _ if round.is_empty() => return,
            Some(leader) if leader == self.member_id() => self.renew_as_leader(&ids).await,
            Some(leader) => self.renew_at(leader, ids).await,
            None => None,
        };
        match renewals.filter(|renewals| renewals.len() == count) {
            Some(renewals) => {
                let mut renewals = renewals.into_iter();
                for waiting in round {
                    let renewed = renewals.by_ref().take(waiting.ids.len()).collect();
                    // Who asked may have given up.
                    waiting.answer.send(Ok(renewed));
                }
            }
            None => self.renew_again(round, leader).await,
        }
    }

    /// A round came to nothing: the next one is asked of whoever leads then.
    async fn renew_again(&self, round: Vec<Waiting>, leader: Option<MemberId>) {
        let now = self.env().now();
        for waiting in round.into_iter().rev().filter(|waiting| !waiting.here_only) {
            if waiting.deadline > now {
                self.0.renewals.waiting().push_front(waiting);
                continue;
            }
            let reason = match leader {
                Some(_) => Denied::Timeout,
                None => Denied::NoLeader,
            };
            waiting.answer.send(Err(reason));
        }
        self.env().sleep(RETRY).await;
    }

    async fn renew_at(&self, leader: MemberId, ids: Vec<LeaseId>) -> Option<Vec<Renewal>> {
        let request = PeerRequest::LeaseKeepAlive(ids);
        match self.peers().ask(leader, request, self.election_timeout()).await {
            Ok(PeerResponse::LeaseKeepAlive(renewals)) => Some(renewals),
            _ => None,
        }
    }

    /// `None`: this member is not surely the leader.
    async fn renew_as_leader(&self, ids: &[LeaseId]) -> Option<Vec<Renewal>> {
        let term = self.status().term;
        let confirmed = async {
            // A lease that was granted before the question must be known here.
            let index = self.read_index_as_leader().await.ok()?;
            self.wait_applied(index).await.ok()
        };
        let confirmed = self.env().timeout(self.election_timeout(), confirmed);
        confirmed.await.ok()??;
        let renewals = loop {
            match self.machine().lessor.renew(ids)? {
                Ok(renewals) => break renewals,
                // A leader after this one must not go on from before the renewal.
                Err(checkpointed) => {
                    let undone = checkpointed.into_iter().map(|id| (id, 0)).collect();
                    self.propose_checkpoints(undone, term).await.ok()?;
                }
            }
        };
        pause(self.env(), Site::LeaseRenewedLate, self.election_timeout()).await;
        Some(renewals)
    }
}
