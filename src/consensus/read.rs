//! Linearizable reads: ReadIndex (Ongaro's thesis, section 6.4), many reads in one round.
//!
//! Reads that arrive while a round is under way wait for the next one, so that a round always starts after
//! the reads it serves. A follower asks the leader for the index. An answer is valid whatever happens to
//! the leader afterwards; a round that fails is repeated with whoever leads then.
//!
//! # A question is a confirmation, too
//!
//! A leader confirms that it leads still by hearing from a quorum after the read has begun. Who asks says, in the
//! question, in which term it is: it looks at that after the reads have come, in raft's own turn. So until then it has not voted in a
//! later term. If it and the leader, which is in the same term, are a quorum, no later leader was elected before the reads began, and what
//! was acknowledged until then is in the leader's log and committed there (as the leader has committed something of its own
//! term). So with three members nobody else is asked.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{ReadPolicy, ServerState};
use tokio::sync::mpsc;

use super::Consensus;
use super::contained;
use super::core::{Ask, Core, Turn};
use super::membership::quorum;
use super::peers::message::{PeerRequest, PeerResponse};
use super::raft::format::record::raft_id;
use super::raft::types::{LogId, RaftState, StoredMembership};
use crate::base::{Denied, Level, MemberId, limits};
use crate::runtime::buggify::{Site, pause};
use crate::runtime::channel::{Answer, answer};
use crate::runtime::{Elapsed, Env, Instant, let_others_run};
use crate::state::{SharedStore, State};

/// Pause before a round is repeated.
const RETRY: Duration = Duration::from_millis(50);

/// Why a round came to nothing.
struct Failed {
    /// The answer took too long.
    late: bool,
    reason: String,
}

impl From<String> for Failed {
    fn from(reason: String) -> Failed {
        Failed { late: false, reason }
    }
}

impl From<Elapsed> for Failed {
    fn from(elapsed: Elapsed) -> Failed {
        Failed {
            late: true,
            reason: elapsed.to_string(),
        }
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Failed {
        Failed {
            late: error.kind() == std::io::ErrorKind::TimedOut,
            reason: error.to_string(),
        }
    }
}

/// A read that waits until it is linearizable.
pub(super) struct Waiting {
    deadline: Instant,
    /// What is kept for it.
    bytes: usize,
    reader: Box<dyn Reader>,
}

/// What a read does then: it looks at the state, on the core, and is answered, on any thread.
trait Reader: Send {
    /// Whether somebody waits for it still.
    fn is_wanted(&self) -> bool;
    fn look(&mut self, state: &State, store: &dyn Fn() -> SharedStore);
    /// Answers with what was found, or with a refusal.
    fn answer(self: Box<Self>, refused: Option<Denied>);
}

struct Look<T, L> {
    look: Option<L>,
    found: Option<T>,
    answer: Answer<Result<T, Denied>>,
}

impl<T: Send, L: FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send> Reader for Look<T, L> {
    fn is_wanted(&self) -> bool {
        !self.answer.is_closed()
    }

    fn look(&mut self, state: &State, store: &dyn Fn() -> SharedStore) {
        if self.is_wanted() {
            self.found = self.look.take().map(|look| look(state, store));
        }
    }

    fn answer(self: Box<Self>, refused: Option<Denied>) {
        let Look { found, answer, .. } = *self;
        let found = found.map(Ok);
        // Nothing was found for whoever has left.
        if let Some(result) = refused.map(Err).or(found) {
            answer.send(result);
        }
    }
}

/// Reads that wait for the next round.
pub struct ReadQueue {
    waiting: RefCell<Vec<Waiting>>,
    /// What is kept for them.
    bytes: Cell<usize>,
    wake: mpsc::Sender<()>,
}

impl ReadQueue {
    pub fn new() -> (Self, mpsc::Receiver<()>) {
        let (wake, woken) = mpsc::channel(1);
        let queue = ReadQueue {
            waiting: RefCell::default(),
            bytes: Cell::default(),
            wake,
        };
        (queue, woken)
    }

    /// Whether there was room.
    fn push(&self, read: Waiting) -> Result<(), Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let is_first = waiting.is_empty();
        let bytes = self.bytes.get() + read.bytes;
        let fits = waiting.len() < limits::READS_QUEUED_MAX && bytes <= limits::READS_QUEUED_BYTES_MAX;
        if !fits && !waiting.is_empty() {
            return Err(read);
        }
        self.bytes.set(bytes);
        waiting.push(read);
        if is_first {
            // Full means that a wake-up is on its way already.
            let _ = self.wake.try_send(());
        }
        Ok(())
    }

    fn take(&self) -> Vec<Waiting> {
        self.bytes.set(0);
        self.waiting.take()
    }
}

impl Consensus {
    /// Returns once a local read sees every write that was acknowledged before the call.
    pub async fn read_barrier(&self) -> Result<(), Denied> {
        self.read_when_current(0, |_, _| ()).await
    }

    /// A [`look`](Self::look) that sees every write that was acknowledged before the call. It keeps `bytes`.
    pub async fn look_linearizable<T: Send + 'static>(
        &self,
        bytes: usize,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> Result<T, Denied> {
        let looked = self.read_when_current(bytes, contained(look)).await?;
        Ok(looked.unwrap_or_else(|panic| panic.resume()))
    }

    async fn read_when_current<T: Send + 'static>(
        &self,
        bytes: usize,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> Result<T, Denied> {
        let (answer, answered) = answer();
        let waiting = Waiting {
            deadline: self.env().now() + self.request_timeout(),
            bytes,
            reader: Box::new(Look {
                look: Some(look),
                found: None,
                answer,
            }),
        };
        self.submit(Ask::Read(waiting), bytes, answered).await
    }
}

impl Core {
    /// Puts a read in line.
    pub(super) fn take_read(&self, read: Waiting) {
        if let Err(refused) = self.0.reads.push(read) {
            refused.reader.answer(Some(Denied::TooManyRequests));
        }
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
            .map_err(|_| Denied::Stopped)
    }

    /// The log id that a read on any member must wait for, if this member surely leads.
    pub(super) async fn read_index_as_leader(&self) -> Result<Option<LogId>, String> {
        if let Some(index) = self.read_index_alone() {
            return Ok(Some(index));
        }
        match self.raft().get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(Some(*linearizer.read_log_id().log_id())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_))) => {
                Err("not the leader".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// The same of a leader that is the only member, which needs nobody's word, as with a singleton in etcd's raft: nobody is
    /// elected without its vote. It has applied that it is alone, so what it has applied goes beyond all that it told others
    /// while it was not; and whoever comes is told nothing before raft's metrics show it.
    fn read_index_alone(&self) -> Option<LogId> {
        let is_alone = |set: &StoredMembership| {
            let mut nodes = set.membership().nodes();
            nodes.all(|(member, _)| *member == self.member_id())
        };
        let seen = self.0.vitals.raft.borrow_watched();
        let leads = seen.state == ServerState::Leader && seen.running_state.is_ok();
        if !leads || !is_alone(&seen.membership_config) || !self.machine().with_membership(is_alone) {
            return None;
        }
        // What an earlier leader committed is known once something of this term is.
        let committed = seen
            .local_committed
            .filter(|committed| committed.leader_id.term == seen.current_term)?;
        // The metrics may be behind what was applied, and answered, since.
        self.machine().applied().max(Some(committed))
    }

    /// The same for another member's reads, which is in this term still: see the module.
    pub(super) async fn read_index_vouched(&self, by: MemberId, term: u64) -> Result<Option<LogId>, String> {
        let me = self.member_id();
        let vouched = self
            .raft()
            .with_raft_state(move |state| vouched_index(state, me, by, term));
        match vouched.await.map_err(|fatal| fatal.to_string())? {
            Some(index) => Ok(Some(index)),
            None => self.read_index_as_leader().await,
        }
    }

    /// What to ask the leader on behalf of reads that have come.
    async fn read_index_question(&self) -> Result<PeerRequest, Failed> {
        if self.machine().read(|state, _| state.level()) < Level::VOUCHED_READS {
            return Ok(PeerRequest::ReadIndex);
        }
        let term = self
            .raft()
            .with_raft_state(|state| state.vote_ref().leader_id.term);
        let term = term.await.map_err(|fatal| Failed::from(fatal.to_string()))?;
        Ok(PeerRequest::VouchedReadIndex { term })
    }

    /// One round. Without a leader there is none, and nothing to count.
    async fn read_index(&self, timeout: Duration) -> Result<Option<LogId>, String> {
        let leader = self.status().leader.ok_or("no leader")?;
        let round = self.ask_read_index(leader, timeout).await;
        round.map_err(|failed| {
            let metrics = &self.env().metrics().agreement;
            match failed.late {
                true => metrics.slow_read_indexes.inc(),
                false => metrics.failed_read_indexes.inc(),
            }
            failed.reason
        })
    }

    async fn ask_read_index(&self, leader: MemberId, timeout: Duration) -> Result<Option<LogId>, Failed> {
        if leader == self.member_id() {
            let round = self.env().timeout(timeout, self.read_index_as_leader());
            return round.await?.map_err(Failed::from);
        }
        let question = self.read_index_question().await?;
        match self.peers().ask(leader, question, timeout).await? {
            PeerResponse::ReadIndex(index) => Ok(raft_id(index)),
            PeerResponse::Refused(reason) => Err(reason.into()),
            _ => Err("the leader answered another question".to_owned().into()),
        }
    }

    /// Runs the rounds, one after the other.
    pub(super) async fn run_reads(self, mut woken: mpsc::Receiver<()>) {
        let round_timeout = self.election_timeout();
        while woken.recv().await.is_some() {
            pause(self.env(), Site::ReadRoundLate, round_timeout / 2).await;
            let mut round = self.0.reads.take();
            while !round.is_empty() {
                let started: Instant = self.env().now();
                match self.round_trip(&mut round, round_timeout).await {
                    Ok(index) => {
                        let mut round = std::mem::take(&mut round);
                        if self.machine().applied() >= index {
                            round = self.look_once(round);
                        }
                        // What takes longer must not hold up the next round.
                        if !round.is_empty() {
                            self.env().spawn_local(self.clone().finish_round(round, index));
                        }
                    }
                    Err(reason) => {
                        tracing::debug!(%reason, "read index round failed");
                        // Without a leader a round fails at once, before any time is looked at.
                        self.drop_late(&mut round);
                        round.retain(|read| read.reader.is_wanted());
                        self.env().sleep_until(started + RETRY).await;
                    }
                }
            }
        }
    }

    /// Asks for the index. Meanwhile none waits longer than it may, and a round goes on without those: they do not tell how long
    /// the leader may take.
    async fn round_trip(&self, round: &mut Vec<Waiting>, timeout: Duration) -> Result<Option<LogId>, String> {
        let mut asking = pin!(self.read_index(timeout));
        while let Some(deadline) = earliest(round) {
            match select(asking.as_mut(), self.env().sleep_until(deadline)).await {
                Either::Left((answered, _)) => return answered,
                Either::Right(_) if self.drop_late(round) => {
                    // In etcd one that waits for a leader in vain is a slow one, too.
                    self.env().metrics().agreement.slow_read_indexes.inc();
                }
                Either::Right(_) => {}
            }
        }
        asking.await
    }

    /// Ends reads that have run out of time; whether there were any.
    fn drop_late(&self, round: &mut Vec<Waiting>) -> bool {
        let now = self.env().now();
        let (late, rest): (Vec<_>, _) = round.drain(..).partition(|read| read.deadline <= now);
        *round = rest;
        let any = !late.is_empty();
        for read in late {
            read.reader.answer(Some(Denied::Timeout));
        }
        any
    }

    /// Reads when `index` is applied.
    async fn finish_round(self, mut round: Vec<Waiting>, index: Option<LogId>) {
        while let Some(deadline) = earliest(&round) {
            let applied = self.env().timeout_at(deadline, self.wait_applied(index)).await;
            let Ok(reached) = applied else {
                self.drop_late(&mut round);
                continue;
            };
            match reached {
                Ok(()) => self.look_and_answer(std::mem::take(&mut round)).await,
                Err(denied) => answer_all(self.env(), std::mem::take(&mut round), Some(denied)),
            }
        }
    }

    /// Has reads look at the state, as many in one look as may be, until all have.
    async fn look_and_answer(&self, mut round: Vec<Waiting>) {
        loop {
            round = self.look_once(round);
            if round.is_empty() {
                return;
            }
            let_others_run().await;
        }
    }

    /// One look; those that it has no time for come back.
    fn look_once(&self, mut round: Vec<Waiting>) -> Vec<Waiting> {
        let looked = self.machine().look(|state, store| {
            let turn = Turn::begin();
            let mut looked = 0;
            while !turn.is_long()
                && let Some(read) = round.get_mut(looked)
            {
                read.reader.look(state, store);
                looked += 1;
            }
            looked
        });
        let rest = round.split_off(looked);
        answer_all(self.env(), round, None);
        rest
    }
}

/// The log id that reads must wait for which began when member `by` was in this term, if this member leads in it, and the two
/// are a quorum. Nobody was told of anything beyond: it is looked at in raft's turn.
fn vouched_index(state: &RaftState, me: MemberId, by: MemberId, term: u64) -> Option<LogId> {
    let vote = state.vote_ref();
    let leads = vote.committed && vote.leader_id.voted_for == me && state.server_state == ServerState::Leader;
    if !leads || vote.leader_id.term != term {
        return None;
    }
    let both = BTreeSet::from([me, by]);
    let configs = state.membership_state.effective().membership().get_joint_config();
    let are_quorum = |voters: &BTreeSet<MemberId>| voters.intersection(&both).count() >= quorum(voters.len());
    let committed = state
        .cluster_committed()
        .filter(|committed| committed.leader_id.term == term)?;
    configs.iter().all(are_quorum).then_some(*committed)
}

fn answer_all(env: &Env, reads: Vec<Waiting>, refused: Option<Denied>) {
    if reads.is_empty() {
        return;
    }
    env.post(move || {
        reads.into_iter().for_each(|read| read.reader.answer(refused));
    });
}

fn earliest(round: &[Waiting]) -> Option<Instant> {
    round.iter().map(|read| read.deadline).min()
}
