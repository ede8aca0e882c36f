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
//!   batches out *and* moves the settled term on under one lock, so no other thread sees one
//!   without the other. Nothing here reads the applied position from elsewhere.
//!
//! A snapshot that takes the place of the state is none: what was under way may be in it, so
//! [`Proposals::installed`] ends every flight as unknown, in the same step in which the term moves
//! on.
//!
//! The settled term can also move on just before a flight is registered in an earlier one: such a
//! flight would wait for a later entry still. [`Proposals::next_batch`] refuses a term below the
//! settled one, under that lock. Whatever answers late ([`refused`](Proposals::refused),
//! [`abandon`](Proposals::abandon)) names its flight by a sequence number that is never used again,
//! and finds nothing once the flight has ended.
//!
//! # What a caller that waited in vain is told
//!
//! Clients send a write again if they are told that it was never handed over, so that is said only
//! of a command that was never in a flight ([`Offered`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{mpsc, oneshot};

use super::command::EncodedCommand;
use super::types::Batch;
use crate::base::{Denied, MemberId, limits};
use crate::runtime::Instant;
use crate::runtime::buggify::{self, Site};
use crate::runtime::panics::poisoned;
use crate::state::Outcome;

/// A command that waits for its outcome.
pub struct Proposal {
    pub command: EncodedCommand,
    pub deadline: Instant,
    /// Set for what only the present leader may propose (lease expiry): its term. Never offered twice.
    pub only_in_term: Option<u64>,
    /// What needs none is not refused for lack of it.
    pub needs_space: bool,
    pub offered: Offered,
    pub _charge: Charge,
    pub answer: oneshot::Sender<Result<Outcome, Denied>>,
}

/// The bytes of a command among those of all that wait, for as long as it exists.
pub struct Charge {
    bytes: usize,
    all: Arc<AtomicUsize>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether a command was ever offered to a leader: from then on it may be in a log. Never taken back, not even
/// when the offer was refused for sure: etcd, too, answers what raft has taken in with a timeout.
#[derive(Clone, Default)]
pub struct Offered(Arc<AtomicBool>);

/// Batches that were offered to a leader.
struct Flight {
    term: u64,
    proposals: Vec<Proposal>,
}

#[derive(Default)]
struct Inner {
    next_sequence: u64,
    flights: BTreeMap<u64, Flight>,
    /// The term of the last entry that was applied: what was offered in an earlier one is not under way any more.
    settled_term: u64,
    /// To be offered (again), oldest first.
    again: VecDeque<Proposal>,
}

/// The proposals of this member's present life.
#[derive(Clone)]
pub struct Proposals {
    member: MemberId,
    life: u64,
    inner: Arc<Mutex<Inner>>,
    /// Bytes of all commands that wait.
    bytes: Arc<AtomicUsize>,
    /// Wakes the proposer: there is something to offer, or room for another flight.
    wake: mpsc::Sender<()>,
}

impl Proposals {
    /// `life` differs between any two starts of a member. The receiver wakes the proposer.
    pub fn new(member: MemberId, life: u64) -> (Self, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        (
            Proposals {
                member,
                life,
                inner: Arc::default(),
                bytes: Arc::default(),
                wake,
            },
            woken,
        )
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(poisoned)
    }

    pub fn wake(&self) {
        // Full means that a wake-up is on its way already.
        let _ = self.wake.try_send(());
    }

    /// Batches under way.
    pub fn flights(&self) -> usize {
        self.lock().flights.len()
    }

    /// Commands that wait for their outcome.
    pub fn waiting(&self) -> usize {
        let inner = self.lock();
        inner.again.len()
            + inner
                .flights
                .values()
                .map(|flight| flight.proposals.len())
                .sum::<usize>()
    }

    /// Room for the bytes of one more command; `None` if too many wait already.
    pub fn charge(&self, bytes: usize) -> Option<Charge> {
        let max = buggify::limit(Site::ProposeFewBytes, limits::PROPOSALS_QUEUED_BYTES_MAX, 2_000);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let charge = Charge {
            bytes,
            all: self.bytes.clone(),
        };
        // A command that is alone always fits.
        (before == 0 || before + bytes <= max).then_some(charge)
    }

    /// Puts a proposal in line.
    pub fn push(&self, proposal: Proposal) {
        self.lock().again.push_back(proposal);
        self.wake();
    }

    /// Takes the next batch and registers it as offered in `term`; `None` if nothing waits, or if that term is
    /// over: raft may have told less of itself than is applied. When it has told, the proposer is woken.
    pub fn next_batch(&self, term: u64, now: Instant) -> Option<Batch> {
        let mut inner = self.lock();
        if term < inner.settled_term {
            return None;
        }
        let operations_max = buggify::limit(Site::ProposeShortBatch, limits::BATCH_OPERATIONS_MAX, 3);
        let mut proposals = Vec::new();
        let (mut bytes, mut operations) = (0, 0);
        while let Some(proposal) = inner.again.front() {
            // A proposal that came back keeps its place; one whose caller is gone is not offered again.
            let is_late = proposal.answer.is_closed() || proposal.deadline <= now;
            let is_over = proposal.only_in_term.is_some_and(|only| only != term);
            if is_late || is_over {
                let proposal = inner.again.pop_front().expect("it was looked at");
                if is_over {
                    let _ = proposal.answer.send(Err(Denied::NOT_LEADER));
                }
                continue;
            }
            bytes += proposal.command.bytes().len();
            operations += proposal.command.operations();
            let full = operations > operations_max || bytes > limits::BATCH_BYTES_MAX;
            if full && !proposals.is_empty() {
                break;
            }
            proposals.extend(inner.again.pop_front());
        }
        if proposals.is_empty() {
            return None;
        }
        for proposal in &proposals {
            proposal.offered.0.store(true, Ordering::Relaxed);
        }
        inner.next_sequence += 1;
        let sequence = inner.next_sequence;
        let commands = proposals
            .iter()
            .map(|proposal| proposal.command.bytes().clone())
            .collect();
        inner.flights.insert(sequence, Flight { term, proposals });
        Some(Batch {
            origin: self.member,
            life: self.life,
            sequence,
            commands,
        })
    }

    /// A batch was surely not appended: its proposals are in line again.
    pub fn refused(&self, sequence: u64) {
        let mut inner = self.lock();
        if let Some(flight) = inner.flights.remove(&sequence) {
            requeue(&mut inner, flight);
        }
        drop(inner);
        self.wake();
    }

    /// A batch did not fit into the leader's quota, and was surely not appended: what needs no space is in line again.
    pub fn no_space(&self, sequence: u64) {
        let mut inner = self.lock();
        if let Some(Flight { term, proposals }) = inner.flights.remove(&sequence) {
            let (refused, proposals): (Vec<_>, Vec<_>) =
                proposals.into_iter().partition(|proposal| proposal.needs_space);
            for proposal in refused {
                let _ = proposal.answer.send(Err(Denied::NO_SPACE));
            }
            requeue(&mut inner, Flight { term, proposals });
        }
        drop(inner);
        self.wake();
    }

    /// A batch was surely not appended, since the leader cannot apply the command at `place`: that one is answered,
    /// the others are in line again.
    pub fn refused_one(&self, sequence: u64, place: usize, reason: Denied) {
        let mut inner = self.lock();
        if let Some(mut flight) = inner.flights.remove(&sequence) {
            // One less at each refusal, whatever place is named: or it would be offered again without end.
            let place = place.min(flight.proposals.len() - 1);
            let refused = flight.proposals.remove(place);
            let _ = refused.answer.send(Err(reason));
            requeue(&mut inner, flight);
        }
        drop(inner);
        self.wake();
    }

    /// Nobody knows what became of a batch: tells those who wait, unless it was settled meanwhile.
    pub fn abandon(&self, sequence: u64, why: Denied) {
        let flight = self.lock().flights.remove(&sequence);
        for proposal in flight.into_iter().flat_map(|flight| flight.proposals) {
            let _ = proposal.answer.send(Err(why));
        }
        self.wake();
    }

    fn is_ours(&self, batch: &Batch) -> bool {
        batch.origin == self.member && batch.life == self.life
    }

    /// Whether somebody waits here for the outcomes of a batch.
    pub fn awaits(&self, batch: &Batch) -> bool {
        self.is_ours(batch) && self.lock().flights.contains_key(&batch.sequence)
    }

    /// Entries were applied here, the last of them in `term`. Batches of ours are not under way any more; what is
    /// left of earlier terms never will be applied, and is in line again. Then those who wait are answered.
    pub fn applied<O>(&self, term: u64, batches: impl IntoIterator<Item = (Batch, O)>)
    where
        O: IntoIterator<Item = Outcome>,
    {
        let mut landed = Vec::new();
        let mut inner = self.lock();
        for (batch, outcomes) in batches {
            if self.is_ours(&batch)
                && let Some(flight) = inner.flights.remove(&batch.sequence)
            {
                landed.push((flight, outcomes));
            }
        }
        let requeued = settle(&mut inner, term);
        drop(inner);
        if landed.is_empty() && !requeued {
            return;
        }
        for (flight, outcomes) in landed {
            for (proposal, outcome) in flight.proposals.into_iter().zip(outcomes) {
                // The caller may have stopped waiting.
                let _ = proposal.answer.send(Ok(outcome));
            }
        }
        self.wake();
    }

    /// The state was replaced by a snapshot that ends in `term`: what was under way may or may not be in it.
    pub fn installed(&self, term: u64) {
        let mut inner = self.lock();
        let flights = std::mem::take(&mut inner.flights);
        settle(&mut inner, term);
        drop(inner);
        for proposal in flights.into_values().flat_map(|flight| flight.proposals) {
            let _ = proposal.answer.send(Err(Denied::TIMEOUT_LEADER_FAILURE));
        }
        self.wake();
    }

    /// Whether a command was ever offered. Asked by a caller that has closed its end: the lock decides between
    /// it and the proposer, who leaves out what is closed.
    pub fn was_offered(&self, offered: &Offered) -> bool {
        let _inner = self.lock();
        offered.0.load(Ordering::Relaxed)
    }
}

/// Moves the settled term on; whether something that was offered before is in line again.
fn settle(inner: &mut Inner, term: u64) -> bool {
    inner.settled_term = inner.settled_term.max(term);
    let settled = inner.settled_term;
    let stale = |flight: &Flight| flight.term < settled;
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

fn requeue(inner: &mut Inner, flight: Flight) {
    for proposal in flight.proposals.into_iter().rev() {
        match proposal.only_in_term {
            None => inner.again.push_front(proposal),
            // It was not appended, and dies with its term.
            Some(_) => drop(proposal.answer.send(Err(Denied::NOT_LEADER))),
        }
    }
}

#[cfg(test)]
mod tests;
