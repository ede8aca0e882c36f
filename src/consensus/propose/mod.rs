//! The task that offers batches to the leader, and [`Consensus::propose`].

pub mod command;
pub mod queue;
pub mod quota_gate;

use std::time::Duration;

use openraft::errors::ClientWriteError;
use tokio::sync::mpsc;

use super::Consensus;
use super::core::{Ask, Core};
use super::peers::message::{PeerRequest, PeerResponse};
use super::raft::format::entry::Batch;
use super::raft::types::Reply;
use crate::base::{Denied, MemberId};
use crate::proto::command::{Header, command::Request};
use crate::runtime::buggify::{self, Site, buggify};
use crate::runtime::channel::{Answered, answer};
use crate::state::Outcome;
use crate::state::space::cost;
use command::EncodedCommand;
use queue::Proposal;

/// Batches that may be under way: enough that one is logged while another is applied; few, so that
/// commands which arrive meanwhile share a batch.
const FLIGHTS_MAX: usize = 4;
/// Pause before a leader that would not take a batch is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// What became of a batch that was handed to the leader.
pub enum Taken {
    Yes,
    /// It was refused, or raft has stopped before: nothing is appended.
    No,
    /// It does not fit into the quota: nothing is appended.
    NoSpace,
}

/// A command to be proposed, and its end.
fn proposal(
    header: Option<Header>,
    request: Request,
    only_in_term: Option<u64>,
) -> Result<(Proposal, Answered<Result<Outcome, Denied>>), Denied> {
    let needs_space = cost(&request) > 0;
    let command = EncodedCommand::new(header, request)?;
    let (answer, answered) = answer();
    let proposal = Proposal {
        command,
        only_in_term,
        needs_space,
        answer,
    };
    Ok((proposal, answered))
}

impl Consensus {
    /// Replicates a command and waits until this member has applied it. Works on every member.
    ///
    /// Whether the command may be applied all the same: see [`Denied::may_have_happened`].
    ///
    /// The member itself asks: nobody's rights are checked.
    pub async fn propose(&self, request: Request) -> Result<Outcome, Denied> {
        self.propose_as(None, request).await
    }

    /// [`propose`](Self::propose), by this member as the leader that it is now, or never.
    pub async fn propose_as_leader(&self, request: Request) -> Result<Outcome, Denied> {
        self.run(|core| async move {
            let term = core.status().term;
            core.propose_in_term(request, term).await
        })
        .await
    }

    /// [`propose`](Self::propose) for a client, whose rights are checked when the command is applied.
    pub async fn propose_for(&self, caller: Header, request: Request) -> Result<Outcome, Denied> {
        self.propose_as(Some(caller), request).await
    }

    async fn propose_as(&self, header: Option<Header>, request: Request) -> Result<Outcome, Denied> {
        let (proposal, answered) = proposal(header, request, None)?;
        let bytes = proposal.command.bytes().len();
        let ask = Ask::Propose(Box::new(proposal));
        self.submit(ask, bytes, answered).await
    }
}

impl Core {
    /// [`Consensus::propose`] by this member itself.
    pub async fn propose(&self, request: Request) -> Result<Outcome, Denied> {
        self.propose_bound(request, None).await
    }

    /// The same, but only in `term`, by its leader: for decisions of that leader's clock.
    pub async fn propose_in_term(&self, request: Request, term: u64) -> Result<Outcome, Denied> {
        self.propose_bound(request, Some(term)).await
    }

    async fn propose_bound(&self, request: Request, only_in_term: Option<u64>) -> Result<Outcome, Denied> {
        let (proposal, answered) = proposal(None, request, only_in_term)?;
        self.take_proposal(proposal);
        answered.await.unwrap_or(Err(Denied::Stopped))
    }

    /// Takes a proposal in, or answers it at once.
    pub fn take_proposal(&self, proposal: Proposal) {
        if self.is_lagging() || buggify(Site::ProposeTooMany) {
            return proposal.answer.send(Err(Denied::TooManyRequests));
        }
        let deadline = self.env().now() + self.request_timeout();
        self.machine()
            .proposals
            .push(proposal, deadline, self.term_seen());
    }

    /// Answers proposals that have run out of time, when they have.
    pub async fn run_deadlines(self) {
        loop {
            let now = self.env().now();
            for late in self.machine().proposals.take_late(now) {
                late.answer
                    .send(Err(self.late_reason(late.offered, late.term_then)));
            }
            // What comes meanwhile has as much time at least.
            let next = self.machine().proposals.next_deadline();
            let next = next.unwrap_or(now + self.request_timeout());
            self.env().sleep_until(next).await;
        }
    }

    /// etcd's text for a proposal that ran out of time. Clients take `DEADLINE_EXCEEDED` for their own deadline and
    /// send the write again, so that is for what was surely never handed to raft. See docs/write-errors.md.
    fn late_reason(&self, offered: bool, term_then: u64) -> Denied {
        if !offered {
            return Denied::ContextDeadlineExceeded;
        }
        match self.status().term == term_then {
            true => Denied::Timeout,
            false => Denied::TimeoutLeaderFailure,
        }
    }

    /// Offers what is in line, whenever there is something, room for it, and a leader.
    pub async fn run_proposals(self, mut woken: mpsc::Receiver<()>) {
        while woken.recv().await.is_some() {
            let flights_max = buggify::limit(Site::ProposeOneFlight, FLIGHTS_MAX, 1);
            while self.machine().proposals.flights() < flights_max {
                let status = self.status();
                let Some(leader) = status.leader else { break };
                let level = self.machine().read(|state, _| state.level());
                let Some(batch) = self.machine().proposals.next_batch(status.term, level) else {
                    break;
                };
                self.offer(leader, status.term, batch).await;
            }
        }
    }

    async fn offer(&self, leader: MemberId, term: u64, batch: Batch) {
        let sequence = batch.name().sequence;
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
                    self.machine().proposals.refused(sequence);
                }
                Taken::NoSpace => self.machine().proposals.no_space(sequence),
            }
            return;
        }
        let request = PeerRequest::Forward {
            term,
            batch: batch.bytes().clone(),
        };
        let core = self.clone();
        self.env()
            .spawn_local(async move { core.forward(leader, sequence, request).await });
    }

    async fn forward(&self, leader: MemberId, sequence: u64, request: PeerRequest) {
        match self.peers().ask(leader, request, self.election_timeout()).await {
            Ok(PeerResponse::Forward { taken: true }) => {}
            Ok(PeerResponse::Unreadable { command }) => {
                self.machine()
                    .proposals
                    .refused_one(sequence, command, Denied::UnreadableCommand);
            }
            Ok(PeerResponse::NoSpace) => self.machine().proposals.no_space(sequence),
            Err(error) if error.kind() != std::io::ErrorKind::NotConnected => {
                // The leader may or may not have it. A new leader settles that; if none comes, the clients
                // learn that nothing is known before etcd's would.
                self.env().sleep(2 * self.election_timeout()).await;
                self.machine()
                    .proposals
                    .abandon(sequence, Denied::TimeoutConnectionLost);
            }
            _ => {
                self.env().sleep(RETRY).await;
                self.machine().proposals.refused(sequence);
            }
        }
    }

    /// Hands a batch to raft; it is appended if this member leads in `term`, else never.
    ///
    /// Raft refuses in the very term, too: while leadership is being transferred, and after a pause that was
    /// longer than the leader's lease. Nothing later would tell that such a batch is lost.
    pub async fn append_in_term(&self, batch: Batch, term: u64) -> Taken {
        if !self.machine().quota_gate.admit(&batch, term) {
            return Taken::NoSpace;
        }
        let name = batch.name();
        let taken = self.append_admitted(batch, term).await;
        if taken {
            return Taken::Yes;
        }
        self.machine().quota_gate.settled(name);
        Taken::No
    }

    async fn append_admitted(&self, batch: Batch, term: u64) -> bool {
        let (reply, mut result) = Reply::new();
        let write = self
            .raft()
            .write(batch)
            .with_leader(super::raft::types::leader_of(term))
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
