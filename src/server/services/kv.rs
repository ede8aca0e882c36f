//! The KV service: checks at the front in etcd's order, then raft for what writes and ReadIndex for what reads.

use std::sync::Arc;

use futures_util::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::range::{self, Chunks};
use crate::base::Denied;
use crate::base::metrics::RequestKind;
use crate::proto::command::Header;
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{self as pb, kv_server::Kv};
use crate::runtime::{BoxFuture, Instant};
use crate::server::api::{Api, mismatch};
use crate::server::auth::Caller;
use crate::server::auth::access::Permit;
use crate::server::wire::rpc::Rpc;
use crate::server::wire::streams::Guarded;
use crate::state::{Answer, OpCounts, State, space, validate};

pub type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let on_learner = request.get_ref().serializable;
        self.unary(Rpc::Range, on_learner, request, |request, caller| {
            self.range(request, caller)
        })
        .await
    }

    type RangeStreamStream = Guarded<Answers<pb::RangeStreamResponse>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.stream(Rpc::RangeStream, false, request, |request, caller| {
            self.metrics.rpc(Rpc::RangeStream).msg_received.inc();
            validate::range(&request)?;
            validate::range_stream(&request)?;
            self.member_metrics().store.ranges.inc();
            let chunks = Chunks::new(self.shared(), request, caller);
            Ok(Box::pin(chunks.into_stream()) as Answers<_>)
        })
        .await
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.unary(Rpc::Put, false, request, |request, caller| {
            self.put(request, caller)
        })
        .await
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.unary(Rpc::DeleteRange, false, request, |request, caller| {
            self.delete_range(request, caller)
        })
        .await
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.unary(Rpc::Txn, false, request, |request, caller| {
            self.txn(request, caller)
        })
        .await
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.unary(Rpc::Compact, false, request, |request, caller| {
            self.compact(request, caller)
        })
        .await
    }
}

impl Api {
    /// A range, linearizable unless the client asks for less.
    pub async fn range(
        &self,
        request: pb::RangeRequest,
        caller: Caller,
    ) -> Result<pb::RangeResponse, Denied> {
        validate::range(&request)?;
        let begun = self.env.now();
        let answer = self.read_range(request, caller).await;
        self.read(RequestKind::Range, begun, answer.is_ok());
        answer
    }

    /// Counts what was read without raft's log.
    fn read(&self, kind: RequestKind, begun: Instant, success: bool) {
        let took = self.took(kind, begun, success);
        if took > self.options.slow.apply {
            self.member_metrics().agreement.slow_applies.inc();
        }
    }

    async fn read_range(
        &self,
        request: pb::RangeRequest,
        caller: Caller,
    ) -> Result<pb::RangeResponse, Denied> {
        let begun = self.env.now();
        if !request.serializable
            && !self.consensus.is_auth_enabled()
            && let Some(read) = range::at_once(self, &request, &caller).await.transpose()
        {
            return self.answer_range(begun, read);
        }
        if !request.serializable {
            self.consensus.read_barrier().await?;
        }
        let permit = self.permit_range(&request, &caller).await?;
        let begun = self.env.now();
        let read = range::local(self, request, &caller).await;
        let response = self.answer_range(begun, read)?;
        self.confirm(&permit).await?;
        Ok(response)
    }

    fn answer_range(
        &self,
        begun: Instant,
        read: Result<pb::RangeResponse, Denied>,
    ) -> Result<pb::RangeResponse, Denied> {
        let took = self.env.now() - begun;
        self.member_metrics().requests.range.observe(read.is_ok(), took);
        OpCounts::RANGE.count(&self.member_metrics().store);
        let mut response = read?;
        self.complete(&mut response.header);
        Ok(response)
    }

    pub async fn permit_range(&self, request: &pb::RangeRequest, caller: &Caller) -> Result<Permit, Denied> {
        let (key, range_end) = (request.key.clone(), request.range_end.clone());
        let permit = move |state: &State, caller: &Header| state.auth().permit_read(caller, &key, &range_end);
        self.permit(caller, permit).await
    }

    async fn put(&self, request: pb::PutRequest, caller: Caller) -> Result<pb::PutResponse, Denied> {
        self.reserve(space::put(&request)).await?;
        validate::put(&request)?;
        match self.propose(&caller, Command::Put(request)).await? {
            (Answer::Put(mut response), _) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            (other, _) => mismatch(&other),
        }
    }

    pub async fn delete_range(
        &self,
        request: pb::DeleteRangeRequest,
        caller: Caller,
    ) -> Result<pb::DeleteRangeResponse, Denied> {
        validate::delete_range(&request)?;
        match self.propose(&caller, Command::DeleteRange(request)).await? {
            (Answer::DeleteRange(mut response), _) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            (other, _) => mismatch(&other),
        }
    }

    /// Boxed: the largest of the calls, and seldom the hottest.
    pub fn txn(
        &self,
        request: pb::TxnRequest,
        caller: Caller,
    ) -> BoxFuture<'_, Result<pb::TxnResponse, Denied>> {
        Box::pin(async move {
            self.reserve(space::txn(&request)).await?;
            validate::txn(&request, self.options.max_txn_ops)?;
            let mut response = if validate::is_read_only(&request) {
                let begun = self.env.now();
                let answer = self.read_txn(request, &caller).await;
                self.read(RequestKind::ReadonlyTxn, begun, answer.is_ok());
                answer?
            } else {
                range::check_answer(self, &request, &caller).await?;
                match self.propose(&caller, Command::Txn(request)).await? {
                    (Answer::Txn(response), _) => response,
                    (other, _) => mismatch(&other),
                }
            };
            self.complete(&mut response.header);
            Ok(response)
        })
    }

    async fn read_txn(&self, request: pb::TxnRequest, caller: &Caller) -> Result<pb::TxnResponse, Denied> {
        let request = Arc::new(request);
        if !validate::is_serializable(&request) {
            self.consensus.read_barrier().await?;
        }
        let asked = request.clone();
        let permit = move |state: &State, caller: &Header| state.permit_txn(caller, &asked);
        let permit = self.permit(caller, permit).await?;
        let response = range::local_txn(self, &request, caller).await?;
        OpCounts::of_txn(&request, &response).count(&self.member_metrics().store);
        self.confirm(&permit).await?;
        Ok(response)
    }

    /// With `physical` the answer comes when this member has given up the old revisions, which are the engine's to remove from
    /// then on. Only the client's deadline bounds that, as etcd's wait until they are gone from its file.
    async fn compact(
        &self,
        request: pb::CompactionRequest,
        caller: Caller,
    ) -> Result<pb::CompactionResponse, Denied> {
        let pb::CompactionRequest { revision, physical } = request;
        match self.propose(&caller, Command::Compaction(request)).await? {
            (Answer::Compaction, now) => {
                if physical {
                    self.consensus.swept(revision).await?;
                }
                Ok(pb::CompactionResponse {
                    header: Some(self.header(now)),
                })
            }
            (other, _) => mismatch(&other),
        }
    }
}

/// Keeps the type of a shared handle short where streams are made.
pub type Shared = Arc<Api>;
