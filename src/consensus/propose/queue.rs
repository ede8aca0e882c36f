//! Proposals: from a request to the outcome of its application, on any member.
//!
//! ```text
//!   propose() ─► queue ─► batch (one raft entry) ─► leader, bound to its term ─► log ─► apply
//!       ▲                                                                              │
//!       └──────────────── outcome, computed here by this member's own state ◄──────────┘
//! ```
//!
//! This is how a write survives the death of a leader without its client noticing more than the election.
//!
//! # Why nothing is applied twice
//!
//! A command is in line, or in exactly one flight, or its caller has its answer; only what is in
//! line is offered. So a command could be applied twice only if it came back into line while a
//! batch that holds it can still be applied. There are two ways back into line:
//!
//! * **Refused**: whoever was offered the batch says that it did not append it, or it was never
//!   sent. Each batch is offered once, so nobody else has it.
//! * **Settled**: an entry of a later term was applied. A batch is offered to the leader of one
//!   term, which appends it in that term or never, and terms never decrease along the log (Raft,
//!   5.3). So a flight of an earlier term whose batch is not among what was applied up to that
//!   entry never will be. This needs the two facts together: [`Proposals::applied`] takes the
//!   batches out *and* moves the settled term on in one turn of the thread. Nothing here reads the applied position
//!   from elsewhere.
//!
//! A snapshot that takes the place of the state is none: what was under way may be in it, so
//! [`Proposals::installed`] ends every flight as unknown, in the same step in which the term moves
//! on.
//!
//! The settled term can also move on just before a flight is registered in an earlier one: such a
//! flight would wait for a later entry still. [`Proposals::next_batch`] refuses a term below the
//! settled one. Whatever answers late ([`refused`](Proposals::refused),
//! [`abandon`](Proposals::abandon)) names its flight by a sequence number that is never used again,
//! and finds nothing once the flight has ended.
//!
//! Were all this mistaken, apply would leave out what comes a second time: each command has a number, and each member remembers
//! which were applied (`state::once`).
//!
//! # What a caller that waited in vain is told
//!
//! Clients send a write again if they are told that it was never handed over, so that is said only
//! of a command that was never in a flight ([`Proposals::take_late`]).

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, VecDeque};

use tokio::sync::mpsc;

use super::command::{Decoded, EncodedCommand};
use crate::base::{Denied, Level, MemberId, limits};
use crate::consensus::raft::format::entry::{Batch, BatchName};
use crate::runtime::buggify::{self, Site};
use crate::runtime::channel::Answer;
use crate::runtime::{Env, Instant};
use crate::state::Outcome;

/// A command that waits for its outcome.
pub struct Proposal {
    pub command: EncodedCommand,
    /// Set for what only the present leader may propose (lease expiry): its term. Never offered twice.
    pub only_in_term: Option<u64>,
    /// What needs none is not refused for lack of it.
    pub needs_space: bool,
    pub answer: Answer<Result<Outcome, Denied>>,
}

/// A proposal that was taken in, and has no answer yet.
struct Waiting {
    proposal: Proposal,
    deadline: Instant,
    /// The term when it came.
    term_then: u64,
    /// Whether it was ever offered to a leader: from then on it may be in a log. Never taken back, not even when the
    /// offer was refused for sure: etcd, too, answers what raft has taken in with a timeout.
    offered: bool,
}

/// A proposal that ran out of time.
pub struct Late {
    pub term_then: u64,
    pub offered: bool,
    pub answer: Answer<Result<Outcome, Denied>>,
}

/// Outcomes, and who waits for them.
#[must_use = "nobody else answers them"]
pub struct Replies(Vec<(Answer<Result<Outcome, Denied>>, Outcome)>);

impl Replies {
    pub fn send(self, env: &Env) {
        if self.0.is_empty() {
            // It is nothing to wake another thread for: others wait for what is applied here.
            return;
        }
        env.post(move || {
            let replies = self.0.into_iter();
            replies.for_each(|(answer, outcome)| answer.send(Ok(outcome)));
        });
    }
}

/// A batch that was offered to a leader: its proposals, by number.
struct InFlight {
    term: u64,
    proposals: Vec<u64>,
}

#[derive(Default)]
struct Inner {
    /// By number: in the order in which they came, which is that of their deadlines.
    waiting: BTreeMap<u64, Waiting>,
    next_number: u64,
    /// Bytes of the commands that wait.
    bytes: usize,
    /// To be offered (again), oldest first. Some may have their answers already.
    line: VecDeque<u64>,
    next_sequence: u64,
    flights: BTreeMap<u64, InFlight>,
    /// The term of the last entry that was applied: what was offered in an earlier one is not under way any more.
    settled_term: u64,
}

impl Inner {
    /// Takes out a proposal that still waits.
    fn take(&mut self, number: u64) -> Option<Proposal> {
        let waiting = self.waiting.remove(&number)?;
        self.bytes -= waiting.proposal.command.bytes().len();
        Some(waiting.proposal)
    }

    fn answer(&mut self, number: u64, answer: Result<Outcome, Denied>) {
        if let Some(proposal) = self.take(number) {
            proposal.answer.send(answer);
        }
    }
}

/// The proposals of this member's present incarnation.
pub struct Proposals {
    member: MemberId,
    incarnation: u64,
    inner: RefCell<Inner>,
    /// Wakes the proposer: there is something to offer, or room for another flight.
    wake: mpsc::Sender<()>,
}

impl Proposals {
    /// `incarnation` differs between any two starts of a member. The receiver wakes the proposer.
    pub fn new(member: MemberId, incarnation: u64) -> (Self, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        (
            Proposals {
                member,
                incarnation,
                inner: RefCell::default(),
                wake,
            },
            woken,
        )
    }

    fn inner(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    pub fn wake(&self) {
        // Full means that a wake-up is on its way already.
        let _ = self.wake.try_send(());
    }

    /// Batches under way.
    pub fn flights(&self) -> usize {
        self.inner().flights.len()
    }

    /// Puts a proposal in line; refused if too many wait, or too many bytes. Deadlines never decrease.
    pub fn push(&self, proposal: Proposal, deadline: Instant, term_then: u64) {
        let bytes_max = buggify::limit(Site::ProposeFewBytes, limits::PROPOSALS_QUEUED_BYTES_MAX, 2_000);
        let mut inner = self.inner();
        let bytes = inner.bytes + proposal.command.bytes().len();
        // A command that is alone always fits.
        let fits = inner.bytes == 0 || bytes <= bytes_max;
        let oldest = inner.waiting.first_key_value().map(|(&number, _)| number);
        let above = inner.next_number - oldest.unwrap_or(inner.next_number);
        let full =
            inner.waiting.len() >= limits::PROPOSALS_QUEUED_MAX || above >= limits::PROPOSALS_APART_MAX;
        if !fits || full {
            return proposal.answer.send(Err(Denied::TooManyRequests));
        }
        inner.bytes = bytes;
        inner.next_number += 1;
        let number = inner.next_number;
        let waiting = Waiting {
            proposal,
            deadline,
            term_then,
            offered: false,
        };
        inner.waiting.insert(number, waiting);
        inner.line.push_back(number);
        drop(inner);
        self.wake();
    }

    /// When the next proposal runs out of time.
    pub fn next_deadline(&self) -> Option<Instant> {
        let inner = self.inner();
        let (_, first) = inner.waiting.first_key_value()?;
        Some(first.deadline)
    }

    /// Takes out those that have run out of time. They may be applied all the same, if they were offered.
    pub fn take_late(&self, now: Instant) -> Vec<Late> {
        let mut inner = self.inner();
        let mut late = Vec::new();
        while let Some((&number, first)) = inner.waiting.first_key_value()
            && first.deadline <= now
        {
            let (term_then, offered) = (first.term_then, first.offered);
            let proposal = inner.take(number).expect("it was looked at");
            late.push(Late {
                term_then,
                offered,
                answer: proposal.answer,
            });
        }
        late
    }

    /// Takes the next batch and registers it as offered in `term`; `None` if nothing waits, or if that term is over: raft
    /// may have told less of itself than is applied. When it has told, the proposer is woken. What lies above the `cluster`'s
    /// level is not offered: some member could not apply it.
    pub fn next_batch(&self, term: u64, cluster: Level) -> Option<Batch> {
        let mut inner = self.inner();
        let inner = &mut *inner;
        if term < inner.settled_term {
            return None;
        }
        let operations_max = buggify::limit(Site::ProposeShortBatch, limits::BATCH_OPERATIONS_MAX, 3);
        let (mut proposals, mut commands) = (Vec::new(), Vec::new());
        let (mut bytes, mut operations, mut level) = (0, 0, Level::FIRST);
        while let Some(&number) = inner.line.front() {
            let Some(waiting) = inner.waiting.get_mut(&number) else {
                inner.line.pop_front();
                continue;
            };
            let proposal = &waiting.proposal;
            // A proposal that came back keeps its place; one whose caller is gone is not offered again.
            if proposal.answer.is_closed() || proposal.only_in_term.is_some_and(|only| only != term) {
                inner.line.pop_front();
                inner.answer(number, Err(Denied::NotLeader));
                continue;
            }
            if proposal.command.level() > cluster {
                inner.line.pop_front();
                inner.answer(number, Err(Denied::UnreadableCommand));
                continue;
            }
            bytes += proposal.command.bytes().len();
            operations += proposal.command.operations();
            let full = operations > operations_max || bytes > limits::BATCH_BYTES_MAX;
            if full && !proposals.is_empty() {
                break;
            }
            waiting.offered = true;
            let command = &waiting.proposal.command;
            level = level.max(command.level());
            commands.push((number, command.bytes().clone()));
            proposals.push(number);
            inner.line.pop_front();
        }
        if proposals.is_empty() {
            return None;
        }
        // Those of this batch wait, so there is one.
        let floor = inner.waiting.first_key_value().map_or(0, |(&number, _)| number);
        inner.next_sequence += 1;
        let sequence = inner.next_sequence;
        inner.flights.insert(sequence, InFlight { term, proposals });
        let name = BatchName {
            origin: self.member,
            incarnation: self.incarnation,
            sequence,
        };
        Some(Batch::new(name, level, floor, &commands))
    }

    /// A batch was surely not appended: its proposals are in line again.
    pub fn refused(&self, sequence: u64) {
        let mut inner = self.inner();
        if let Some(flight) = inner.flights.remove(&sequence) {
            requeue(&mut inner, flight);
        }
        drop(inner);
        self.wake();
    }

    /// A batch did not fit into the leader's quota, and was surely not appended: what needs no space is in line again.
    pub fn no_space(&self, sequence: u64) {
        let mut inner = self.inner();
        if let Some(flight) = inner.flights.remove(&sequence) {
            for number in &flight.proposals {
                let waiting = inner.waiting.get(number);
                if waiting.is_some_and(|waiting| waiting.proposal.needs_space) {
                    inner.answer(*number, Err(Denied::NoSpace));
                }
            }
            requeue(&mut inner, flight);
        }
        drop(inner);
        self.wake();
    }

    /// A batch was surely not appended, since the leader cannot apply the command at `place`: that one is answered,
    /// the others are in line again.
    pub fn refused_one(&self, sequence: u64, place: usize, reason: Denied) {
        let mut inner = self.inner();
        if let Some(flight) = inner.flights.remove(&sequence) {
            // One less at each refusal, whatever place is named: or it would be offered again without end.
            let place = place.min(flight.proposals.len() - 1);
            inner.answer(flight.proposals[place], Err(reason));
            requeue(&mut inner, flight);
        }
        drop(inner);
        self.wake();
    }

    /// Nobody knows what became of a batch: tells those who wait, unless it was settled meanwhile.
    pub fn abandon(&self, sequence: u64, reason: Denied) {
        let mut inner = self.inner();
        let flight = inner.flights.remove(&sequence);
        for number in flight.into_iter().flat_map(|flight| flight.proposals) {
            inner.answer(number, Err(reason));
        }
        drop(inner);
        self.wake();
    }

    fn is_ours(&self, name: BatchName) -> bool {
        name.origin == self.member && name.incarnation == self.incarnation
    }

    /// The commands of a batch whose outcomes somebody waits for here, as they were decoded when they came; `None` for those
    /// that have their answer already, and at all if it is no such batch.
    pub fn take_decoded(&self, name: BatchName) -> Option<Vec<Option<Decoded>>> {
        if !self.is_ours(name) {
            return None;
        }
        let mut inner = self.inner();
        let Inner { flights, waiting, .. } = &mut *inner;
        let flight = flights.get(&name.sequence)?;
        let decoded = |number| waiting.get_mut(number)?.proposal.command.take_decoded();
        Some(flight.proposals.iter().map(decoded).collect())
    }

    /// Entries were applied here, the last of them in `term`. Batches of ours are not under way any more, and those who
    /// wait for them are to be answered; what is left of earlier terms never will be applied, and is in line again.
    pub fn applied<O>(&self, term: u64, batches: impl IntoIterator<Item = (BatchName, O)>) -> Replies
    where
        O: IntoIterator<Item = Outcome>,
    {
        let mut inner = self.inner();
        let (mut landed, mut replies) = (false, Vec::new());
        for (name, outcomes) in batches {
            if self.is_ours(name)
                && let Some(flight) = inner.flights.remove(&name.sequence)
            {
                landed = true;
                for (number, outcome) in flight.proposals.into_iter().zip(outcomes) {
                    replies.extend(inner.take(number).map(|proposal| (proposal.answer, outcome)));
                }
            }
        }
        let requeued = settle(&mut inner, term);
        drop(inner);
        if landed || requeued {
            self.wake();
        }
        Replies(replies)
    }

    /// The state was replaced by a snapshot that ends in `term`: what was under way may or may not be in it.
    pub fn installed(&self, term: u64) {
        let mut inner = self.inner();
        let flights = std::mem::take(&mut inner.flights);
        settle(&mut inner, term);
        for number in flights.into_values().flat_map(|flight| flight.proposals) {
            inner.answer(number, Err(Denied::TimeoutLeaderFailure));
        }
        drop(inner);
        self.wake();
    }
}

/// Moves the settled term on; whether something that was offered before is in line again.
fn settle(inner: &mut Inner, term: u64) -> bool {
    inner.settled_term = inner.settled_term.max(term);
    let settled = inner.settled_term;
    let stale = |flight: &InFlight| flight.term < settled;
    if !inner.flights.values().any(stale) {
        return false;
    }
    let flights = std::mem::take(&mut inner.flights);
    let (over, under_way): (Vec<_>, Vec<_>) = flights.into_iter().partition(|(_, flight)| stale(flight));
    inner.flights.extend(under_way);
    // Newest first, so that the oldest ends up at the head of the line.
    for (_, flight) in over.into_iter().rev() {
        requeue(inner, flight);
    }
    true
}

fn requeue(inner: &mut Inner, flight: InFlight) {
    for number in flight.proposals.into_iter().rev() {
        let only_in_term = inner
            .waiting
            .get(&number)
            .map(|waiting| waiting.proposal.only_in_term);
        match only_in_term {
            // It has its answer.
            None => {}
            Some(None) => inner.line.push_front(number),
            // It was not appended, and dies with its term.
            Some(Some(_)) => inner.answer(number, Err(Denied::NotLeader)),
        }
    }
}

#[cfg(test)]
mod tests;
