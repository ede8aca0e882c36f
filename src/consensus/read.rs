//! Linearizable reads: ReadIndex (Ongaro's thesis, section 6.4), many reads in one round.
//!
//! Reads that arrive while a round is under way wait for the next one, so that a round always starts after
//! the reads it serves. A follower asks the leader for the index. An answer is valid whatever happens to
//! the leader afterwards; a round that fails is repeated with whoever leads then.

use std::cell::RefCell;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::mpsc;

use super::Consensus;
use super::contained;
use super::core::{Ask, Core, Turn};
use super::message::{PeerRequest, PeerResponse};
use super::types::LogId;
use crate::base::{Denied, MemberId};
use crate::runtime::buggify::{Site, pause};
use crate::runtime::channel::{TrySendError, answer};
use crate::runtime::{Elapsed, Instant};
use crate::state::{SharedStore, State};

/// Pause before a round is repeated.
const RETRY: Duration = Duration::from_millis(50);

/// Why a round came to nothing.
struct Failed {
    /// The answer took too long.
    late: bool,
    why: String,
}

impl From<String> for Failed {
    fn from(why: String) -> Failed {
        Failed { late: false, why }
    }
}

impl From<Elapsed> for Failed {
    fn from(elapsed: Elapsed) -> Failed {
        Failed {
            late: true,
            why: elapsed.to_string(),
        }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Failed {
        Failed {
            late: error.kind() == std::io::ErrorKind::TimedOut,
            why: error.to_string(),
        }
    }
}

/// What a read does when it is linearizable, or cannot be.
pub(super) type Reader = Box<dyn FnOnce(&Core, Result<(), Denied>) + Send>;

/// A read that waits for the next round.
struct Waiting {
    deadline: Instant,
    read: Reader,
}

/// Reads that wait for the next round.
pub struct ReadQueue {
    waiting: RefCell<Vec<Waiting>>,
    wake: mpsc::Sender<()>,
}

impl ReadQueue {
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        let waiting = RefCell::default();
        (ReadQueue { waiting, wake }, woken)
    }

    fn push(&self, waiting: Waiting) {
        self.waiting.borrow_mut().push(waiting);
        // Full means that a wake-up is on its way already.
        let _ = self.wake.try_send(());
    }
}

impl Consensus {
    /// Returns once a local read sees every write that was acknowledged before the call.
    pub async fn read_barrier(&self) -> Result<(), Denied> {
        let (answer, answered) = answer();
        self.queue_read(Box::new(|_, reached| answer.send(reached)))?;
        self.receive(answered).await.unwrap_or(Err(Denied::STOPPED))
    }

    /// A [`look`](Self::look) that sees every write that was acknowledged before the call.
    pub async fn look_linearizable<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> Result<T, Denied> {
        let (answer, answered) = answer();
        let look = contained(look);
        self.queue_read(Box::new(|core, reached| {
            answer.send(reached.map(|()| look(core)));
        }))?;
        let looked = self.receive(answered).await.unwrap_or(Err(Denied::STOPPED))?;
        Ok(looked.unwrap_or_else(|panic| panic.resume()))
    }

    /// As with proposals: what cannot be taken in is refused at once.
    fn queue_read(&self, read: Reader) -> Result<(), Denied> {
        let queued = self.0.inbox.try_send(Ask::Read(read), 0);
        queued.map_err(|refused| match refused {
            TrySendError::Full(_) => Denied::TOO_MANY_REQUESTS,
            TrySendError::Closed(_) => Denied::STOPPED,
        })
    }
}

impl Core {
    /// Puts a read in line.
    pub(super) fn take_read(&self, read: Reader) {
        let deadline = self.env().now() + self.request_timeout();
        self.0.reads.push(Waiting { deadline, read });
    }

    /// Waits until this member has applied `index`.
    pub(super) async fn wait_applied(&self, index: Option<LogId>) -> Result<(), Denied> {
        if self.machine().applied() >= index {
            return Ok(());
        }
        let mut applied = self.machine().applied_signal();
        applied
            .wait_until(|applied| applied.log_id >= index)
            .await
            .map_err(|_| Denied::STOPPED)
    }

    /// The log id that a read on any member must wait for, if this member surely leads.
    pub(super) async fn read_index_as_leader(&self) -> Result<Option<LogId>, String> {
        match self.raft().get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(Some(*linearizer.read_log_id().log_id())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err("not the leader".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// One round. Without a leader there is none, and nothing to count.
    async fn read_index(&self, timeout: Duration) -> Result<Option<LogId>, String> {
        let leader = self.status().leader.ok_or("no leader")?;
        let round = self.ask_read_index(leader, timeout).await;
        round.map_err(|failed| {
            let figures = &self.env().figures().agreement;
            match failed.late {
                true => figures.slow_read_indexes.inc(),
                false => figures.failed_read_indexes.inc(),
            }
            failed.why
        })
    }

    async fn ask_read_index(&self, leader: MemberId, timeout: Duration) -> Result<Option<LogId>, Failed> {
        if leader == self.member_id() {
            let round = self.env().timeout(timeout, self.read_index_as_leader());
            return round.await?.map_err(Failed::from);
        }
        match self.peers().ask(leader, PeerRequest::ReadIndex, timeout).await? {
            PeerResponse::ReadIndex(index) => Ok(index),
            PeerResponse::Refused(why) => Err(why.into()),
            _ => Err("the leader answered another question".to_owned().into()),
        }
    }

    /// Runs the rounds, one after the other.
    pub(super) async fn run_reads(self, mut woken: mpsc::Receiver<()>) {
        let round_timeout = self.election_timeout();
        while woken.recv().await.is_some() {
            pause(self.env(), Site::ReadRoundLate, round_timeout / 2).await;
            let mut round = self.0.reads.waiting.take();
            while !round.is_empty() {
                let started: Instant = self.env().now();
                // None waits longer than it may for a leader that does not answer.
                let left = round.iter().map(|read| read.deadline - started).min();
                match self.read_index(left.unwrap_or_default().min(round_timeout)).await {
                    Ok(index) => {
                        let round = std::mem::take(&mut round);
                        self.env().spawn_local(self.clone().finish_round(round, index));
                    }
                    Err(why) => {
                        tracing::debug!(%why, "read index round failed");
                        self.drop_late(&mut round);
                        self.env().sleep_until(started + RETRY).await;
                    }
                }
            }
        }
    }

    /// Ends reads that have run out of time.
    fn drop_late(&self, round: &mut Vec<Waiting>) {
        let now = self.env().now();
        let (late, rest): (Vec<_>, _) = round.drain(..).partition(|waiting| waiting.deadline <= now);
        *round = rest;
        if !late.is_empty() {
            // In etcd one that waits for a leader in vain is a slow one, too.
            self.env().figures().agreement.slow_read_indexes.inc();
        }
        for waiting in late {
            (waiting.read)(self, Err(Denied::TIMEOUT));
        }
    }

    /// Reads when `index` is applied.
    async fn finish_round(self, round: Vec<Waiting>, index: Option<LogId>) {
        let deadline = round.iter().map(|waiting| waiting.deadline).max();
        let deadline = deadline.unwrap_or_else(|| self.env().now());
        let applied = self.env().timeout_at(deadline, self.wait_applied(index)).await;
        let reached = applied.unwrap_or(Err(Denied::TIMEOUT));
        let mut turn = Turn::begin();
        for waiting in round {
            (waiting.read)(&self, reached);
            turn.pause_if_long().await;
        }
    }
}
