//! The task that offers batches to the leader, and [`Consensus::propose`].

use std::time::Duration;

use openraft::errors::ClientWriteError;
use tokio::sync::{mpsc, oneshot};

use super::Consensus;
use super::command::EncodedCommand;
use super::message::{PeerRequest, PeerResponse};
use super::propose::{Offered, Proposal};
use super::types::{Batch, Reply};
use crate::base::{Denied, MemberId, limits};
use crate::proto::command::{Header, command::Request};
use crate::runtime::buggify::{self, Site, buggify};
use crate::state::Outcome;
use crate::state::space::cost;
use crate::transport::encode;

/// Batches that may be under way: enough that one is logged while another is applied; few, so that
/// commands which arrive meanwhile share a batch.
const FLIGHTS_MAX: usize = 4;
/// Pause before a leader that would not take a batch is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// What became of a batch that was handed to the leader.
pub(super) enum Taken {
    Yes,
    /// It was refused, or raft has stopped before: nothing is appended.
    No,
    /// It does not fit into the quota: nothing is appended.
    NoSpace,
}

impl Consensus {
    /// Replicates a command and waits until this member has applied it. Works on every member.
    ///
    /// Whether the command may be applied all the same: see [`Denied::may_have_happened`].
    ///
    /// The member itself asks: nobody's rights are checked.
    pub async fn propose(&self, request: Request) -> Result<Outcome, Denied> {
        self.propose_bound(None, request, None).await
    }

    /// [`propose`](Self::propose) for a client, whose rights are checked when the command is applied.
    pub async fn propose_for(&self, who: Header, request: Request) -> Result<Outcome, Denied> {
        self.propose_bound(Some(who), request, None).await
    }

    /// [`propose`](Self::propose), but only in `term`, by its leader: for decisions of that leader's clock.
    pub(super) async fn propose_in_term(&self, request: Request, term: u64) -> Result<Outcome, Denied> {
        self.propose_bound(None, request, Some(term)).await
    }

    async fn propose_bound(
        &self,
        header: Option<Header>,
        request: Request,
        only_in_term: Option<u64>,
    ) -> Result<Outcome, Denied> {
        let needs_space = cost(&request) > 0;
        let command = EncodedCommand::new(header, request)?;
        let proposals = &self.core().proposals;
        let full = self.is_lagging() || proposals.waiting() >= limits::PROPOSALS_QUEUED_MAX;
        if full || buggify(Site::ProposeTooMany) {
            return Err(Denied::TOO_MANY_REQUESTS);
        }
        let charge = proposals.charge(command.bytes().len());
        let charge = charge.ok_or(Denied::TOO_MANY_REQUESTS)?;
        let term_then = self.term_seen();
        let deadline = self.env().now() + self.request_timeout();
        let (answer, outcome) = oneshot::channel();
        let offered = Offered::default();
        proposals.push(Proposal {
            command,
            deadline,
            only_in_term,
            needs_space,
            offered: offered.clone(),
            _charge: charge,
            answer,
        });
        // This end of the channel is closed from here on: see `was_offered`.
        let ended = self.env().timeout_at(deadline, outcome).await;
        match ended {
            Ok(Ok(outcome)) => outcome,
            // The proposer leaves out what is late, perhaps before the timer here fires.
            Ok(Err(_)) if self.env().now() < deadline => Err(Denied::STOPPED),
            _ => Err(self.why_late(&offered, term_then)),
        }
    }

    /// etcd's text for a proposal that ran out of time. Clients take `DEADLINE_EXCEEDED` for their own deadline and
    /// send the write again, so that is for what was surely never handed to raft. See docs/write-errors.md.
    fn why_late(&self, offered: &Offered, term_then: u64) -> Denied {
        if !self.core().proposals.was_offered(offered) {
            return Denied::CONTEXT_DEADLINE_EXCEEDED;
        }
        match self.status().term == term_then {
            true => Denied::TIMEOUT,
            false => Denied::TIMEOUT_LEADER_FAILURE,
        }
    }

    /// Offers what is in line, whenever there is something, room for it, and a leader.
    pub(super) async fn run_proposals(self, mut woken: mpsc::Receiver<()>) {
        while woken.recv().await.is_some() {
            let flights_max = buggify::limit(Site::ProposeOneFlight, FLIGHTS_MAX, 1);
            while self.core().proposals.flights() < flights_max {
                let status = self.status();
                let Some(leader) = status.leader else { break };
                let Some(batch) = self.core().proposals.next_batch(status.term, self.env().now()) else {
                    break;
                };
                self.offer(leader, status.term, batch).await;
            }
        }
    }

    async fn offer(&self, leader: MemberId, term: u64, batch: Batch) {
        let sequence = batch.sequence;
        if leader == self.member_id() {
            let taken = match buggify(Site::ProposeRetried) {
                true => Taken::No,
                false => self.append_in_term(batch, term).await,
            };
            match taken {
                Taken::Yes => {}
                Taken::No => {
                    // The answer will be the same for a while: without a pause this would not end.
                    self.env().sleep(RETRY).await;
                    self.core().proposals.refused(sequence);
                }
                Taken::NoSpace => self.core().proposals.no_space(sequence),
            }
            return;
        }
        let request = PeerRequest::Forward {
            term,
            batch: encode(&batch).into(),
        };
        let consensus = self.clone();
        self.env()
            .spawn(async move { consensus.forward(leader, sequence, request).await });
    }

    async fn forward(&self, leader: MemberId, sequence: u64, request: PeerRequest) {
        match self.ask_peer(leader, request, self.election_timeout()).await {
            Ok(PeerResponse::Forward { taken: true }) => {}
            Ok(PeerResponse::Unreadable { command }) => {
                self.core()
                    .proposals
                    .refused_one(sequence, command, Denied::UNREADABLE_COMMAND);
            }
            Ok(PeerResponse::NoSpace) => self.core().proposals.no_space(sequence),
            Err(error) if error.kind() != std::io::ErrorKind::NotConnected => {
                // The leader may or may not have it. A new leader settles that; if none comes, the clients
                // learn that nothing is known before etcd's would.
                self.env().sleep(2 * self.election_timeout()).await;
                self.core()
                    .proposals
                    .abandon(sequence, Denied::TIMEOUT_CONNECTION_LOST);
            }
            _ => {
                self.env().sleep(RETRY).await;
                self.core().proposals.refused(sequence);
            }
        }
    }

    /// Hands a batch to raft; it is appended if this member leads in `term`, else never.
    ///
    /// Raft refuses in the very term, too: while leadership is being transferred, and after a pause that was
    /// longer than the leader's lease. Nothing later would tell that such a batch is lost.
    pub(super) async fn append_in_term(&self, batch: Batch, term: u64) -> Taken {
        if !self.core().quota_gate.admit(&batch, term) {
            return Taken::NoSpace;
        }
        let name = super::quota_gate::name(&batch);
        let taken = self.append_admitted(batch, term).await;
        if taken {
            return Taken::Yes;
        }
        self.core().quota_gate.settled(name);
        Taken::No
    }

    async fn append_admitted(&self, batch: Batch, term: u64) -> bool {
        let (reply, mut result) = Reply::new();
        let write = self
            .raft()
            .write(batch)
            .with_leader(super::types::leader_of(term))
            .responder(reply);
        if write.await.is_err() {
            return false;
        }
        // What raft takes in later is looked at later: by now the write was refused or appended. If raft stops
        // meanwhile nobody knows, and the next term settles it.
        let seen = self.raft().with_raft_state(|_| ()).await;
        seen.is_err() || !matches!(result.try_recv(), Ok(Err(ClientWriteError::ForwardToLeader(_))))
    }
}
