//! openraft's network: how this member reaches the others.
//!
//! Each purpose has its own connection: votes and heartbeats, entries, snapshots, forwarded requests. Entries
//! are pipelined: requests go out as the log grows, answers come back in order on the same connection.

use std::future::Future;
use std::io;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{Stream, StreamExt, empty, iter, unfold};
use openraft::alias::SnapshotOf;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::{AnyError, StorageError};

use super::cause::Cause;
use super::format::append::encode_append;
use super::types::{
    AppendRequest, AppendResponse, Peer, SnapshotResponse, StreamAppendResult, TransferRequest,
    TransferResponse, TypeConfig, Vote, VoteRequest, VoteResponse,
};
use crate::base::{Broken, MemberId};
use crate::consensus::peers::Peers;
use crate::consensus::peers::appends::{HANDED_OVER, append_bytes, exchange_appends};
use crate::consensus::peers::message::{PeerRequest, PeerResponse};
use crate::consensus::snapshot::SnapshotData;
use crate::consensus::snapshot::purge::Holds;
use crate::consensus::snapshot::send::send_snapshot;
use crate::runtime::AbortOnDrop;
use crate::runtime::channel::{Receiver, Sender, channel};
use crate::transport::{Dialer, Purpose, RpcClient, decode, encode};

type RpcError = RPCError<TypeConfig>;

/// Makes clients for each peer.
#[derive(Clone)]
pub struct Network {
    peers: Peers,
    /// Who needs the log because of a snapshot.
    holds: Holds,
}

impl Network {
    pub fn new(peers: Peers) -> Self {
        Network {
            peers,
            holds: Holds::default(),
        }
    }

    /// Who needs the log because of a snapshot.
    pub fn holds(&self) -> &Holds {
        &self.holds
    }
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
            control: self.peers.client(target, Purpose::Control),
            dialer: self.peers.dialer(target),
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
            PeerResponse::Vote(answer) => Ok(answer.into()),
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
        let frame = Bytes::from(encode_append(&request).concat());
        match self.call(PeerRequest::Heartbeat(frame), &option).await? {
            PeerResponse::Heartbeat(answer) => Ok(answer.into()),
            _ => Err(unexpected()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendRequest> + Unpin + 'static,
    {
        if !self.pipelined {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            // Raft's pause after an error lies before the first request: dialing earlier would be dialing
            // a dead peer without any pause.
            let Some(first) = input.next().await else {
                return Ok(empty().boxed_local());
            };
            let env = &self.dialer.env;
            let dialer = self.dialer.clone();
            let dial = env.spawn(async move { dialer.dial(Purpose::Append).await });
            let dialed = AbortOnDrop(dial)
                .await
                .unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()));
            let (reader, writer) = dialed.map_err(rpc_error)?;
            let (requests, outgoing) = channel(HANDED_OVER);
            let (incoming, answers) = channel(HANDED_OVER);
            let exchange = exchange_appends(self.dialer.clone(), reader, writer, outgoing, incoming);
            let input = iter([first]).chain(input);
            let tasks = [env.spawn(exchange), env.spawn_local(hand_over(input, requests))];
            let answers = unfold(
                (answers, tasks.map(AbortOnDrop)),
                |(mut answers, tasks)| async move {
                    let answer: Result<_, RpcError> = Receiver::recv(&mut answers).await?.map_err(rpc_error);
                    Some((answer, (answers, tasks)))
                },
            );
            Ok(answers.boxed_local())
        })
    }

    async fn vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        self.ask_vote(PeerRequest::Vote((&request).into()), &option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest, option: RPCOption) -> Result<VoteResponse, RpcError> {
        self.ask_vote(PeerRequest::PreVote((&request).into()), &option)
            .await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse, StreamingError<TypeConfig>> {
        let last = snapshot.meta.last_log_id.as_ref().map_or(0, |last| last.index);
        let _held = self.holds.sending(self.dialer.peer, last, self.dialer.env.now());
        let metrics = self.dialer.env.metrics();
        let (peer, begun) = (metrics.peers.of(self.dialer.peer), self.dialer.env.now());
        let _under_way = peer.snapshots_sent.under_way.hold();
        let dialer = self.dialer.clone();
        let send = self
            .dialer
            .env
            .spawn(async move { send_snapshot(&dialer, vote, snapshot).await });
        let sent = pin!(async {
            let sent = AbortOnDrop(send).await;
            sent.unwrap_or_else(|| Err(io::ErrorKind::ConnectionAborted.into()))
        });
        let cancel = pin!(cancel);
        let ended = select(sent, cancel).await;
        let took = self.dialer.env.now() - begun;
        metrics.snapshots.read_out.observe(took);
        let success = matches!(ended, Either::Left((Ok(_), _)));
        peer.snapshots_sent.ended(success, took);
        match ended {
            Either::Left((Ok(response), _)) => Ok(response),
            // Damage here, not over there: raft stops.
            Either::Left((Err(error), _)) if Broken::inside(&error).is_some() => {
                Err(StorageError::read_snapshot(None, Cause::from_error(&error)).into())
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
        let transfer = PeerRequest::TransferLeader((&request).into());
        match self.call(transfer, &option).await? {
            PeerResponse::TransferLeader(answer) => Ok(answer.map_err(Into::into)),
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        None
    }
}

/// Hands what raft wants sent to those who send it.
async fn hand_over<S>(mut input: S, requests: Sender<AppendRequest>)
where
    S: Stream<Item = AppendRequest> + Unpin,
{
    while let Some(request) = input.next().await {
        let bytes = append_bytes(&request);
        if requests.send(request, bytes).await.is_err() {
            return;
        }
    }
}
