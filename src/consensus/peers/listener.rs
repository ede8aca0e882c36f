//! What this member does for the others: votes, heartbeats, entries, snapshots, forwarded proposals.

use std::io;
use std::pin::pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::unfold;
use futures_util::{FutureExt, StreamExt};
use openraft::errors::RaftError;
use tokio::sync::OwnedSemaphorePermit;

use super::appends::{HANDED_OVER, append_bytes};
use super::message::{AppendAnswer, PeerHash, PeerRequest, PeerResponse};
use crate::base::{MemberId, limits};
use crate::consensus::Consensus;
use crate::consensus::core::Core;
use crate::consensus::membership::join::ClusterInfo;
use crate::consensus::propose::Taken;
use crate::consensus::propose::command::first_unreadable;
use crate::consensus::raft::format::append::decode_append;
use crate::consensus::raft::format::entry::Batch;
use crate::consensus::raft::types::{
    AppendRequest, LogId, StreamAppendResult, TypeConfig, Vote, VoteRequest,
};
use crate::consensus::snapshot::receive::serve_snapshot;
use crate::runtime::admission::{Newcomers, peer_newcomers_max};
use crate::runtime::buggify::{Site, buggify, pause};
use crate::runtime::channel::{Receiver, Sender, channel};
use crate::runtime::tls::Security;
use crate::runtime::{BoxFuture, Env, Listener, Task};
use crate::transport::{
    self, FrameReader, FrameWriter, Identity, InboundConnections, PeerHandler, ReverseConnections, decode,
    encode,
};

/// Where peers knock: open before this member takes part, so that members which start together can see that
/// none of them has been here before.
pub struct PeerListener {
    inner: Arc<PeerService>,
    callers: InboundConnections,
    tasks: Vec<Task<()>>,
}

struct PeerService {
    identity: Identity,
    /// This member has taken part before.
    has_data: bool,
    /// Set once this member takes part.
    consensus: OnceLock<Consensus>,
}

impl PeerListener {
    pub fn open(
        env: &Env,
        identity: Identity,
        has_data: bool,
        listeners: Vec<(Box<dyn Listener>, Security)>,
    ) -> PeerListener {
        let inner = Arc::new(PeerService {
            identity,
            has_data,
            consensus: OnceLock::new(),
        });
        let callers = InboundConnections::default();
        let newcomers = Newcomers::new(peer_newcomers_max(env.descriptors()));
        let accept = |(listener, security)| {
            let handler: Arc<dyn PeerHandler> = inner.clone();
            env.spawn(transport::accept(
                env.clone(),
                identity,
                listener,
                security,
                newcomers.clone(),
                handler,
                callers.clone(),
            ))
        };
        let tasks = listeners.into_iter().map(accept).collect();
        PeerListener {
            inner,
            callers,
            tasks,
        }
    }

    /// How peers may be asked that have come through this door.
    pub fn reverse(&self) -> ReverseConnections {
        ReverseConnections {
            handler: self.inner.clone(),
            callers: self.callers.clone(),
        }
    }

    /// What serves the door, to be ended by the caller, and how to say who serves peers from now on.
    pub fn admit(self) -> (Vec<Task<()>>, impl FnOnce(Consensus)) {
        let inner = self.inner;
        let admit = move |consensus| {
            // The door is this member's alone.
            let _ = inner.consensus.set(consensus);
        };
        (self.tasks, admit)
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "this member is not ready yet")
}

impl PeerHandler for PeerService {
    fn is_removed(&self, member: MemberId) -> bool {
        let consensus = self.consensus.get();
        consensus.is_some_and(|consensus| consensus.has_left(member))
    }

    fn discover(&self) -> BoxFuture<'static, Bytes> {
        let (identity, has_data, consensus) = (self.identity, self.has_data, self.consensus.get().cloned());
        Box::pin(async move {
            let found = match consensus {
                Some(consensus) => consensus.describe_cluster().await,
                None => ClusterInfo::nothing(identity, has_data),
            };
            encode(&found)
        })
    }

    fn request(&self, from: MemberId, request: Bytes) -> BoxFuture<'static, Bytes> {
        let consensus = self.consensus.get().cloned();
        Box::pin(async move {
            let response = match (decode(&request), consensus) {
                (Ok(request), Some(consensus)) => consensus.answer(from, request).await,
                (Ok(_), None) => PeerResponse::Refused(closed().to_string()),
                (Err(error), _) => PeerResponse::Refused(error.to_string()),
            };
            encode(&response)
        })
    }

    fn append(
        &self,
        _from: MemberId,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> BoxFuture<'static, io::Result<()>> {
        let consensus = self.consensus.get().cloned();
        Box::pin(async { serve_appends(consensus.ok_or_else(closed)?, reader, writer).await })
    }

    fn snapshot(
        &self,
        from: MemberId,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> BoxFuture<'static, io::Result<()>> {
        let consensus = self.consensus.get().cloned();
        Box::pin(async move { serve_snapshot(consensus.ok_or_else(closed)?, from, reader, writer).await })
    }
}

fn refused<E>(error: RaftError<TypeConfig, E>) -> PeerResponse
where
    RaftError<TypeConfig, E>: std::fmt::Display,
{
    PeerResponse::Refused(error.to_string())
}

impl Consensus {
    async fn answer(&self, from: MemberId, request: PeerRequest) -> PeerResponse {
        match request {
            PeerRequest::Heartbeat(frame) => {
                let request = match decode_append(&frame) {
                    Ok(request) => request,
                    Err(error) => return PeerResponse::Refused(error.to_string()),
                };
                self.hear_leader(&request.vote);
                self.run(|core| async move {
                    let answered = core.raft().append_entries(request).await;
                    answered.map_or_else(refused, |answer| PeerResponse::Heartbeat(answer.into()))
                })
                .await
            }
            PeerRequest::Forward { term, batch } => self.take_forwarded(from, term, batch).await,
            PeerRequest::LeaseKeepAlive(ids) => match self.renew_here(ids).await {
                Some(renewals) => PeerResponse::LeaseKeepAlive(renewals),
                None => PeerResponse::Refused("not the leader".into()),
            },
            PeerRequest::HashKv(revision) => PeerResponse::HashKv(PeerHash {
                revision: self.revision(),
                hash: self.hash_now(revision).await.ok(),
            }),
            PeerRequest::CompactionHash(revision) => PeerResponse::HashKv(PeerHash {
                revision: self.revision(),
                hash: self.hash_of_compaction(revision).await,
            }),
            PeerRequest::Describe => PeerResponse::Describe(self.describe()),
            request => {
                self.run(move |core| async move { core.answer(from, request).await })
                    .await
            }
        }
    }

    /// Noted as it comes: what is done with it may have to wait for a disk.
    pub(in crate::consensus) fn hear_leader(&self, vote: &Vote) {
        self.0.vitals.contact.hear(vote, self.env().now());
    }

    /// A batch is decoded before the core sees it.
    async fn take_forwarded(&self, from: MemberId, term: u64, batch: Bytes) -> PeerResponse {
        if batch.len() > limits::BATCH_ENCODED_BYTES_MAX {
            // It could be logged, and not be sent on.
            return PeerResponse::Refused("a batch that is too large".into());
        }
        let batch = match Batch::from_bytes(batch) {
            Ok(batch) => batch,
            Err(error) => return PeerResponse::Refused(error.to_string()),
        };
        if batch.name().origin != from {
            return PeerResponse::Refused("a batch of another member".into());
        }
        if let Some((command, unreadable)) = first_unreadable(&batch, self.options().level) {
            tracing::error!(%batch, command, %unreadable, "a forwarded batch that cannot be applied is refused");
            return PeerResponse::Unreadable { command };
        }
        self.run(move |core| async move { core.take_forwarded(term, batch).await })
            .await
    }
}

impl Core {
    async fn answer_read_index(
        &self,
        index: impl Future<Output = Result<Option<LogId>, String>>,
    ) -> PeerResponse {
        if buggify(Site::ReadIndexRefused) {
            return PeerResponse::Refused("not the leader".into());
        }
        match index.await {
            Ok(index) => {
                pause(self.env(), Site::ReadIndexLate, 2 * self.election_timeout()).await;
                PeerResponse::ReadIndex(index.map(Into::into))
            }
            Err(reason) => PeerResponse::Refused(reason),
        }
    }

    /// What raft, or a leader, is asked by its peers.
    async fn answer(&self, from: MemberId, request: PeerRequest) -> PeerResponse {
        let raft = self.raft();
        match request {
            PeerRequest::Vote(ballot) => self.answer_vote(ballot.into()).await,
            PeerRequest::PreVote(ballot) => raft
                .pre_vote(ballot.into())
                .await
                .map_or_else(refused, |response| PeerResponse::Vote((&response).into())),
            PeerRequest::TransferLeader(transfer) => match raft.handle_transfer_leader(transfer.into()).await
            {
                Ok(response) => PeerResponse::TransferLeader(response.map_err(Into::into)),
                Err(error) => PeerResponse::Refused(error.to_string()),
            },
            PeerRequest::ReadIndex => self.answer_read_index(self.read_index_as_leader()).await,
            PeerRequest::VouchedReadIndex { term } => {
                self.answer_read_index(self.read_index_vouched(from, term)).await
            }
            PeerRequest::LeaseTimeToLive { id, keys } => match self.time_to_live_as_leader(id, keys).await {
                Some(found) => PeerResponse::LeaseTimeToLive(found),
                None => PeerResponse::Refused("not the leader".into()),
            },
            PeerRequest::MayChange(change) => match self.objection_as_leader(&change) {
                Some(objection) => PeerResponse::MayChange(objection),
                None => PeerResponse::Refused("not the leader".into()),
            },
            _ => PeerResponse::Refused("not a question for raft".into()),
        }
    }

    /// A granted vote is a promise, and logged as one: the simulator holds the member to it over crashes.
    async fn answer_vote(&self, request: VoteRequest) -> PeerResponse {
        let candidate = request.vote.leader_id;
        let answered = self.raft().vote(request).await;
        if answered.as_ref().is_ok_and(|response| response.vote_granted) {
            let (term, candidate) = (candidate.term, candidate.voted_for);
            let voter = self.member_id();
            tracing::info!(target: "quorate::vote", term, candidate, voter, "granted a vote");
        }
        pause(self.env(), Site::VoteLate, self.election_timeout()).await;
        answered.map_or_else(refused, |response| PeerResponse::Vote((&response).into()))
    }

    async fn take_forwarded(&self, term: u64, batch: Batch) -> PeerResponse {
        let status = self.status();
        let leads = status.leader == Some(self.member_id()) && status.term == term;
        if !leads || buggify(Site::ForwardRefused) {
            return PeerResponse::Forward { taken: false };
        }
        let taken = self.append_in_term(batch, term).await;
        pause(self.env(), Site::ForwardAnsweredLate, 2 * self.election_timeout()).await;
        match taken {
            Taken::Yes => PeerResponse::Forward { taken: true },
            Taken::No => PeerResponse::Forward { taken: false },
            Taken::NoSpace => PeerResponse::NoSpace,
        }
    }

    /// Feeds a leader's entries to raft and hands the answers back in order, until either side has enough.
    async fn take_appends(self, requests: Receiver<AppendRequest>, answers: Sender<StreamAppendResult>) {
        let requests = unfold(
            (requests, self.clone(), None),
            |(mut requests, core, passed)| async move {
                // Who asks for the next request has handed the last one to raft.
                drop::<Option<OwnedSemaphorePermit>>(passed);
                let request = requests.recv().await?;
                let passed = core.0.appends.clone().acquire_owned().await.ok()?;
                Some((request, (requests, core, Some(passed))))
            },
        );
        let mut answered = pin!(self.raft().stream_append(requests));
        let mut stopping = self.0.stopping.subscribe();
        let mut stopping = pin!(stopping.wait_until(|stopping| *stopping));
        // Raft logs answers that it owes at its end as errors: nobody asks it then.
        while let Either::Right((Some(answer), _)) = select(stopping.as_mut(), answered.next()).await {
            // Raft has stopped: the stream ends, and the leader hears why when it asks again.
            let Ok(answer) = answer else { return };
            pause(self.env(), Site::AppendAnsweredLate, self.election_timeout()).await;
            let goes_on = answer.is_ok() && !buggify(Site::AppendCut);
            if answers.send(answer, 0).await.is_err() || !goes_on {
                return;
            }
        }
    }
}

/// A frame, and whether it was waited for: what lay unread while the log was busy, or a snapshot was installed, does not
/// tell that the leader is there now.
pub async fn next_frame(reader: &mut FrameReader) -> (io::Result<Option<Bytes>>, bool) {
    let mut next = pin!(reader.next());
    match next.as_mut().now_or_never() {
        Some(frame) => (frame, false),
        None => (next.await, true),
    }
}

/// Reads a leader's entries and writes the answers, in order, until either side has enough.
async fn serve_appends(
    consensus: Consensus,
    mut reader: FrameReader,
    mut writer: FrameWriter,
) -> io::Result<()> {
    let (requests, taken) = channel(HANDED_OVER);
    let (answers, mut answered) = channel(HANDED_OVER);
    consensus
        .tell(|core| {
            core.env().spawn_local(core.clone().take_appends(taken, answers));
        })
        .await;
    // With it goes the sender, which tells the core that no more comes.
    let read = Box::pin(async move {
        loop {
            let (frame, is_fresh) = next_frame(&mut reader).await;
            let Ok(Some(frame)) = frame else { return };
            let request = match decode_append(&frame) {
                Ok(request) => request,
                Err(error) => return tracing::error!(%error, "a leader's entries cannot be read"),
            };
            if is_fresh {
                consensus.hear_leader(&request.vote);
            }
            let bytes = append_bytes(&request);
            if requests.send(request, bytes).await.is_err() {
                return;
            }
        }
    });
    let mut write = pin!(async {
        while let Some(answer) = answered.recv().await {
            writer.send(&encode(&AppendAnswer::from(answer))).await?;
        }
        writer.end().await
    });
    match select(read, write.as_mut()).await {
        Either::Right((written, _)) => written,
        // What was asked is answered still.
        Either::Left(_) => write.await,
    }
}
