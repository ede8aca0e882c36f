//! openraft's network: how this member reaches the others.
//!
//! Each purpose has its own connection: votes and heartbeats, entries, snapshots, forwarded requests. Entries
//! are pipelined: requests go out as the log grows, answers come back in order on the same connection.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::{BoxStream, Stream, StreamExt, empty, iter, unfold};
use openraft::alias::SnapshotOf;
use openraft::errors::{ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BoxedErrorSource;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::StreamAppendResult;
use openraft::{AnyError, StorageError};
use tokio::sync::Semaphore;

use super::machine::SnapshotData;
use super::message::{PeerRequest, PeerResponse, SnapshotReply};
use super::purge::Holds;
use super::types::{
    AppendRequest, AppendResponse, Peer, SnapshotResponse, TransferRequest, TransferResponse, TypeConfig,
    Vote, VoteRequest, VoteResponse,
};
use crate::base::{Broken, MemberId, limits};
use crate::runtime::buggify::{self, Site, pause};
use crate::runtime::panics::poisoned;
use crate::runtime::{BoxFuture, Env, Instant, Task};
use crate::storage::snapshot::SnapshotEncoder;
use crate::transport::{
    Address, AddressBook, Dialer, FrameReader, FrameWriter, Identity, Purpose, RpcClient, Way, WayBack,
    decode, encode,
};

/// Requests of entries that may be under way to one follower.
const APPENDS_UNDER_WAY_MAX: usize = 64;

type RpcError = RPCError<TypeConfig>;

/// Makes clients for each peer.
#[derive(Clone)]
pub struct Network {
    env: Env,
    identity: Identity,
    way: Way,
    /// With TLS alone: see its module.
    back: Option<WayBack>,
    /// How long a connection attempt, and a silence while an answer is due, may take.
    timeout: Duration,
    book: AddressBook,
    /// A peer has said that this member was removed.
    removed: Arc<AtomicBool>,
    holds: Holds,
    /// Connections for requests, which outlive the question for which they were opened.
    clients: Arc<Mutex<BTreeMap<(MemberId, Purpose), RpcClient>>>,
}

impl Network {
    pub fn new(
        env: Env,
        identity: Identity,
        way: Way,
        back: WayBack,
        book: AddressBook,
        timeout: Duration,
    ) -> Self {
        Network {
            env,
            identity,
            back: way.tls.is_some().then_some(back),
            way,
            timeout,
            book,
            removed: Arc::default(),
            holds: Holds::default(),
            clients: Arc::default(),
        }
    }

    /// The client of a peer for one purpose.
    pub fn client(&self, peer: MemberId, purpose: Purpose) -> RpcClient {
        let mut clients = self.clients.lock().unwrap_or_else(poisoned);
        let client = clients.entry((peer, purpose));
        client
            .or_insert_with(|| RpcClient::new(self.dialer(peer), purpose, self.back_for(purpose)))
            .clone()
    }

    /// Since when a peer is connected without a gap; `None`: it is not.
    pub fn connected_since(&self, peer: MemberId) -> Option<Instant> {
        // Whoever is not a member is not dialled for it.
        let clients = self.clients.lock();
        let clients = clients.unwrap_or_else(poisoned);
        clients.get(&(peer, Purpose::Control))?.connected_since()
    }

    /// Who needs the log because of a snapshot.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }

    /// Whether a peer has said that this member was removed for good.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Hangs up.
    pub fn close(&self) {
        self.clients.lock().unwrap_or_else(poisoned).clear();
    }

    /// Votes and heartbeats are for those who reach everybody: a leader has to.
    fn back_for(&self, purpose: Purpose) -> Option<WayBack> {
        self.back.clone().filter(|_| purpose == Purpose::Request)
    }

    fn dialer(&self, peer: MemberId) -> Dialer {
        Dialer {
            env: self.env.clone(),
            identity: self.identity,
            way: self.way.clone(),
            peer,
            book: self.book.clone(),
            timeout: self.timeout,
            removed: self.removed.clone(),
            trouble: Arc::default(),
        }
    }
}

/// Where a peer URL leads.
pub fn url_address(url: &str) -> Option<Address> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let address = rest.trim_end_matches('/');
    let (prefix, secure) = match scheme {
        "http" => ("", false),
        "https" => ("", true),
        "unix" => ("unix:", false),
        "unixs" => ("unix:", true),
        _ => return None,
    };
    address.contains(':').then(|| Address {
        address: format!("{prefix}{address}"),
        secure,
    })
}

pub fn addresses(urls: &[String]) -> Vec<Address> {
    urls.iter().filter_map(|url| url_address(url)).collect()
}

/// A client of one peer, for one of raft's purposes.
pub struct PeerClient {
    dialer: Dialer,
    control: RpcClient,
    holds: Holds,
    /// Entries go out as they come; else one request at a time, on the control connection (heartbeats).
    pipelined: bool,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = PeerClient;

    /// Where the target is, the book says: what raft noted once may have changed since.
    async fn new_client(&mut self, target: MemberId, _noted: &Peer) -> PeerClient {
        PeerClient {
            control: self.client(target, Purpose::Control),
            dialer: self.dialer(target),
            holds: self.holds.clone(),
            pipelined: true,
        }
    }

    async fn new_heartbeat_client(&mut self, target: MemberId, node: &Peer) -> PeerClient {
        PeerClient {
            pipelined: false,
            ..self.new_client(target, node).await
        }
    }
}

fn unreachable(error: &io::Error) -> Unreachable<TypeConfig> {
    Unreachable::new(error)
}

fn is_broken(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|cause| cause.is::<Broken>())
}

/// Refused connections and time-outs mean an unreachable peer (wait a little); the rest is a broken call.
fn rpc_error(error: io::Error) -> RpcError {
    match error.kind() {
        io::ErrorKind::InvalidData => RPCError::Network(NetworkError::new(&error)),
        _ => RPCError::Unreachable(unreachable(&error)),
    }
}

fn unexpected() -> RpcError {
    RPCError::Network(NetworkError::new(&AnyError::error(
        "the peer answered another question",
    )))
}

impl PeerClient {
    async fn call(&self, request: PeerRequest, option: &RPCOption) -> Result<PeerResponse, RpcError> {
        let response = self
            .control
            .call(encode(&request), option.hard_ttl())
            .await
            .map_err(rpc_error)?;
        decode(&response).map_err(rpc_error)
    }

    async fn ask_vote(&self, request: PeerRequest, option: &RPCOption) -> Result<VoteResponse, RpcError> {
        match self.call(request, option).await? {
            PeerResponse::Vote(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendRequest,
        option: RPCOption,
    ) -> Result<AppendResponse, RpcError> {
        match self.call(PeerRequest::Heartbeat(request), &option).await? {
            PeerResponse::Heartbeat(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
    {
        if !self.pipelined {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // Raft's pause after an error lies before the first request: dialing earlier would be dialing
            // a dead peer without any pause.
            let Some(first) = input.next().await else {
                return Ok(empty().boxed());
            };
            let input = iter([first]).chain(input);
            let (reader, writer) = self.dialer.dial(Purpose::Append).await.map_err(rpc_error)?;
            let sending = Arc::new(Sending::default());
            let send = self
                .dialer
                .env
                .spawn(send_appends(input, writer, sending.clone()));
            let answers = Answers {
                env: self.dialer.env.clone(),
                reader,
                sending,
                send,
                timeout: self.dialer.timeout,
            };
            Ok(answers.into_stream().boxed())
        })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        self.ask_vote(PeerRequest::Vote(request), &option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        self.ask_vote(PeerRequest::PreVote(request), &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let last = snapshot.meta.last_log_id.as_ref().map_or(0, |last| last.index);
        let _held = self.holds.sending(self.dialer.peer, last, self.dialer.env.now());
        let figures = self.dialer.env.figures();
        let (peer, begun) = (figures.peers.of(self.dialer.peer), self.dialer.env.now());
        let _under_way = peer.snapshots_sent.under_way.hold();
        let sent = pin!(send_snapshot(&self.dialer, vote, snapshot));
        let cancel = pin!(cancel);
        let ended = select(sent, cancel).await;
        let took = self.dialer.env.now() - begun;
        figures.snapshots.read_out.observe(took);
        let success = matches!(ended, Either::Left((Ok(_), _)));
        peer.snapshots_sent.ended(success, took);
        match ended {
            Either::Left((Ok(response), _)) => Ok(response),
            // Damage here, not over there: raft stops.
            Either::Left((Err(error), _)) if is_broken(&error) => {
                Err(StorageError::read_snapshot(None, BoxedErrorSource::from_error(&error)).into())
            }
            Either::Left((Err(error), _)) => Err(StreamingError::Unreachable(unreachable(&error))),
            Either::Right((closed, _)) => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferRequest,
        option: RPCOption,
    ) -> Result<TransferResponse, RpcError> {
        match self.call(PeerRequest::TransferLeader(request), &option).await? {
            PeerResponse::TransferLeader(response) => Ok(response),
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

/// What the two directions of one stream of entries tell each other.
struct Sending {
    /// One permit for each request that may still go out unanswered.
    room: Semaphore,
    room_max: usize,
    /// Of the largest request so far.
    bytes_max: AtomicUsize,
    /// No more requests come.
    finished: AtomicBool,
}

impl Default for Sending {
    fn default() -> Self {
        let room_max = buggify::limit(Site::AppendWindowTiny, APPENDS_UNDER_WAY_MAX, 2);
        Sending {
            room: Semaphore::new(room_max),
            room_max,
            bytes_max: AtomicUsize::new(0),
            finished: AtomicBool::new(false),
        }
    }
}

impl Sending {
    fn is_answer_due(&self) -> bool {
        self.room.available_permits() < self.room_max
    }

    /// How often the usual time an answer may take: an entry can be larger than what a request usually holds.
    fn shares(&self) -> u32 {
        let shares = self.bytes_max.load(Ordering::SeqCst) / limits::APPEND_BYTES_MAX;
        u32::try_from(shares).unwrap_or(u32::MAX).max(1)
    }

    /// Whether the peer may end its side.
    fn is_over(&self) -> bool {
        self.finished.load(Ordering::SeqCst) && !self.is_answer_due()
    }
}

/// Sends requests as they come, as long as not too many are unanswered.
async fn send_appends<S>(mut input: S, mut writer: FrameWriter, sending: Arc<Sending>)
where
    S: Stream<Item = AppendRequest> + Send + Unpin + 'static,
{
    while let Some(request) = input.next().await {
        let Ok(permit) = sending.room.acquire().await else {
            return;
        };
        permit.forget();
        let request = encode(&request);
        sending.bytes_max.fetch_max(request.len(), Ordering::SeqCst);
        if writer.send(&request).await.is_err() {
            return;
        }
    }
    sending.finished.store(true, Ordering::SeqCst);
    // The answers still due come before the peer's own end.
    let _ = writer.end().await;
}

/// The answers of one stream of entries.
struct Answers {
    env: Env,
    reader: FrameReader,
    sending: Arc<Sending>,
    send: Task<()>,
    timeout: Duration,
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.send.abort();
    }
}

impl Answers {
    fn into_stream(self) -> impl Stream<Item = Result<StreamAppendResult<TypeConfig>, RpcError>> + Send {
        unfold(Some(self), |answers| async move {
            let mut answers = answers?;
            match answers.next().await {
                Ok(None) => None,
                Ok(Some(answer)) => {
                    let goes_on = answer.is_ok();
                    Some((Ok(answer), goes_on.then_some(answers)))
                }
                Err(error) => Some((Err(rpc_error(error)), None)),
            }
        })
    }

    /// The next answer; `None` when all requests are answered and no more come. A peer that ends earlier, or hangs up,
    /// is an error: to openraft a stream that ends well without answers is one to be resumed, and it then
    /// repeats the last range it was told to send, even if that range has been given up and purged since.
    async fn next(&mut self) -> io::Result<Option<StreamAppendResult<TypeConfig>>> {
        let Answers {
            env,
            reader,
            sending,
            timeout,
            ..
        } = self;
        let mut frame = pin!(reader.next());
        loop {
            let (is_due, shares) = (sending.is_answer_due(), sending.shares());
            match env.timeout(*timeout * shares, frame.as_mut()).await {
                Ok(Ok(None)) if sending.is_over() => return Ok(None),
                Ok(frame) => {
                    let frame = frame?.ok_or(io::ErrorKind::UnexpectedEof)?;
                    sending.room.add_permits(1);
                    return decode(&frame).map(Some);
                }
                // Silence is an error only while an answer is due, and no longer one than it was at its beginning.
                Err(elapsed) if is_due && sending.shares() == shares => return Err(elapsed.into()),
                // Everything is answered: the peer's end alone is missing, and may never come.
                Err(_) if sending.is_over() => return Ok(None),
                Err(_) => {}
            }
        }
    }
}

/// Streams a view in chunks; the answer comes when the peer has installed it.
async fn send_snapshot(
    dialer: &Dialer,
    vote: Vote,
    data: SnapshotOf<TypeConfig, SnapshotData>,
) -> io::Result<SnapshotResponse> {
    let SnapshotData::View(view) = data.snapshot else {
        return Err(io::Error::other("a received snapshot is not sent on"));
    };
    let (mut reader, mut writer) = dialer.dial(Purpose::Snapshot).await?;
    let head = encode(&(vote, data.meta));
    let send = pin!(async move {
        writer.send(&head).await?;
        let mut chunks = SnapshotEncoder::new(view);
        while let Some(chunk) = chunks.next_chunk()? {
            pause(&dialer.env, Site::SnapshotChunkLate, dialer.timeout / 4).await;
            writer.send(&chunk).await?;
        }
        // No end: the snapshot says itself where it ends.
        io::Result::Ok(writer)
    });
    let answer = pin!(async {
        loop {
            let frame = dialer.env.timeout(dialer.timeout, reader.next()).await??;
            match decode(&frame.ok_or(io::ErrorKind::UnexpectedEof)?)? {
                SnapshotReply::Working => {}
                SnapshotReply::Installed(response) => return Ok(response),
            }
        }
    });
    match select(send, answer).await {
        Either::Left((sent, answer)) => {
            let _writer = sent?;
            answer.await
        }
        Either::Right((answer, _)) => answer,
    }
}
