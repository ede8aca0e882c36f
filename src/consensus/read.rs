//! Linearizable reads: ReadIndex (Ongaro's thesis, section 6.4), many reads in one round.
//!
//! Reads that arrive while a round is under way wait for the next one, so that a round always starts after
//! the reads it serves. A follower asks the leader for the index. An answer is valid whatever happens to
//! the leader afterwards; a round that fails is repeated with whoever leads then.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};

use super::Consensus;
use super::message::{PeerRequest, PeerResponse};
use super::types::LogId;
use crate::base::{Denied, MemberId};
use crate::runtime::buggify::{Site, pause};
use crate::runtime::panics::poisoned;
use crate::runtime::{Elapsed, Instant};

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

type Waiting = oneshot::Sender<Option<LogId>>;

/// Reads that wait for the next round.
pub struct ReadQueue {
    waiting: Mutex<Vec<Waiting>>,
    wake: mpsc::Sender<()>,
}

impl ReadQueue {
    pub fn new() -> (Arc<Self>, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        (
            Arc::new(ReadQueue {
                waiting: Mutex::default(),
                wake,
            }),
            woken,
        )
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(poisoned)
    }
}

impl Consensus {
    /// Returns once a local read sees every write that was acknowledged before the call.
    pub async fn read_barrier(&self) -> Result<(), Denied> {
        let deadline = self.env().now() + self.request_timeout();
        let (sender, receiver) = oneshot::channel();
        self.reads().lock().push(sender);
        // Full means that a wake-up is on its way already.
        let _ = self.reads().wake.try_send(());
        let barrier = async {
            let index = receiver.await.map_err(|_| Denied::STOPPED)?;
            self.wait_applied(index).await
        };
        self.env()
            .timeout_at(deadline, barrier)
            .await
            .unwrap_or(Err(Denied::TIMEOUT))
    }

    /// Waits until this member has applied `index`.
    pub async fn wait_applied(&self, index: Option<LogId>) -> Result<(), Denied> {
        if self.core().applied() >= index {
            return Ok(());
        }
        let mut applied = self.core().applied_signal();
        applied
            .wait_until(|applied| *applied >= index)
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
        match self.ask_peer(leader, PeerRequest::ReadIndex, timeout).await? {
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
            let mut round = std::mem::take(&mut *self.reads().lock());
            let mut asked = self.env().now();
            while !round.is_empty() {
                let started: Instant = self.env().now();
                match self.read_index(round_timeout).await {
                    Ok(index) => {
                        for read in round.drain(..) {
                            // The reader may have given up.
                            let _ = read.send(index);
                        }
                    }
                    Err(why) => {
                        tracing::debug!(%why, "read index round failed");
                        round.retain(|read| !read.is_closed());
                        if started - asked >= self.request_timeout() {
                            // In etcd one that waits for a leader in vain is a slow one, too.
                            self.env().figures().agreement.slow_read_indexes.inc();
                            asked = started;
                        }
                        self.env().sleep_until(started + RETRY).await;
                    }
                }
            }
        }
    }
}
