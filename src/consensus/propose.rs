//! Proposals: from a request to the outcome of its application, on any member.
//!
//! ```text
//!   propose() ─► queue ─► batch (one raft entry) ─► leader, bound to its term ─► log ─► apply
//!       ▲                                                                              │
//!       └──────────────── outcome, computed here by this member's own state ◄──────────┘
//! ```
//!
//! A batch is offered to the leader of one term only, and that leader appends it in that term or never.
//! Raft orders entries by term, so once an entry of a later term is applied, a batch of an earlier term that
//! is not applied yet never will be: it may be offered again, without the risk of applying it twice. This
//! is how a write survives the death of a leader without its client noticing more than the election.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{mpsc, oneshot};

use super::command::EncodedCommand;
use super::types::Batch;
use crate::base::{Denied, MemberId, limits};
use crate::runtime::Instant;
use crate::runtime::buggify::{self, Site};
use crate::state::Outcome;

/// A command that waits for its outcome.
pub struct Proposal {
    pub command: EncodedCommand,
    pub deadline: Instant,
    /// Set for what only the present leader may propose (lease expiry): its term. Never offered twice.
    pub only_in_term: Option<u64>,
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

/// Batches that were offered to a leader.
struct Flight {
    term: u64,
    proposals: Vec<Proposal>,
}

#[derive(Default)]
struct Inner {
    next_sequence: u64,
    flights: BTreeMap<u64, Flight>,
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
        self.inner
            .lock()
            .expect("no code that panics runs under this lock")
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

    /// Takes the next batch and registers it as offered in `term`; `None` if nothing waits.
    pub fn next_batch(&self, term: u64, now: Instant) -> Option<Batch> {
        let mut inner = self.lock();
        let commands_max = buggify::limit(Site::ProposeShortBatch, limits::BATCH_COMMANDS_MAX, 3);
        let mut proposals = Vec::new();
        let mut bytes = 0;
        while let Some(proposal) = inner.again.front() {
            // A proposal that came back keeps its place; one whose caller is gone is not offered again.
            let dead = proposal.answer.is_closed()
                || proposal.deadline <= now
                || proposal.only_in_term.is_some_and(|only| only != term);
            if dead {
                inner.again.pop_front();
                continue;
            }
            bytes += proposal.command.bytes().len();
            let full = proposals.len() == commands_max || bytes > limits::BATCH_BYTES_MAX;
            if full && !proposals.is_empty() {
                break;
            }
            proposals.extend(inner.again.pop_front());
        }
        if proposals.is_empty() {
            return None;
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

    /// A batch was applied here: answers those who wait, if it is one of ours.
    pub fn applied(&self, batch: &Batch, outcomes: impl Iterator<Item = Outcome>) {
        if batch.origin != self.member || batch.life != self.life {
            return;
        }
        let Some(flight) = self.lock().flights.remove(&batch.sequence) else {
            return;
        };
        for (proposal, outcome) in flight.proposals.into_iter().zip(outcomes) {
            // The caller may have stopped waiting.
            let _ = proposal.answer.send(Ok(outcome));
        }
        self.wake();
    }

    /// An entry of `term` was applied: what was offered in earlier terms and is not applied never will be.
    pub fn settled(&self, term: u64) {
        let mut inner = self.lock();
        if inner
            .flights
            .first_key_value()
            .is_none_or(|(_, flight)| flight.term >= term)
        {
            return;
        }
        // Newest first, so that the oldest ends up at the head of the line.
        let stale: Vec<u64> = inner
            .flights
            .iter()
            .filter(|(_, flight)| flight.term < term)
            .map(|(&s, _)| s)
            .collect();
        for sequence in stale.into_iter().rev() {
            let flight = inner.flights.remove(&sequence).expect("listed above");
            requeue(&mut inner, flight);
        }
        drop(inner);
        self.wake();
    }

    /// The state was replaced by a snapshot of `term`: what was under way may or may not be in it.
    pub fn lost(&self, _term: u64) {
        let flights = std::mem::take(&mut self.lock().flights);
        for proposal in flights.into_values().flat_map(|flight| flight.proposals) {
            let _ = proposal.answer.send(Err(Denied::TIMEOUT_LEADER_FAILURE));
        }
        self.wake();
    }
}

fn requeue(inner: &mut Inner, flight: Flight) {
    for proposal in flight.proposals.into_iter().rev() {
        // A leader-only proposal dies with its term; its caller sees the channel closed.
        if proposal.only_in_term.is_none() {
            inner.again.push_front(proposal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_wait_are_bounded_in_bytes() {
        let (proposals, _woken) = Proposals::new(1, 1);
        let large = limits::PROPOSALS_QUEUED_BYTES_MAX;
        let alone = proposals.charge(2 * large).expect("whatever is alone fits");
        assert!(proposals.charge(1).is_none());
        drop(alone);
        let half = proposals.charge(large / 2).expect("there is room");
        assert!(proposals.charge(large / 2 + 1).is_none());
        let other = proposals.charge(large / 2).expect("a refusal costs nothing");
        drop((half, other));
        assert_eq!(proposals.bytes.load(Ordering::Relaxed), 0);
    }
}
