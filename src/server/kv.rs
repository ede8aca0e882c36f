//! The KV service: checks at the front in etcd's order, then raft for what writes and ReadIndex for what reads.

use std::sync::Arc;

use futures_util::Stream;
use tonic::{Request, Response, Status, async_trait};

use super::range::{self, Chunks};
use super::rpc::Rpc;
use super::streams::Guarded;
use super::{Api, mismatch};
use crate::base::Denied;
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{self as pb, kv_server::Kv};
use crate::runtime::BoxFuture;
use crate::state::{Answer, check};

pub(super) type Answers<T> = std::pin::Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Kv for Api {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let on_learner = request.get_ref().serializable;
        self.unary(Rpc::Range, on_learner, request, |request| self.range(request))
            .await
    }

    type RangeStreamStream = Guarded<Answers<pb::RangeStreamResponse>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.stream(Rpc::RangeStream, false, request, |request| {
            self.metrics.rpc(Rpc::RangeStream).msg_received.inc();
            check::range(&request)?;
            check::range_stream(&request)?;
            self.metrics.ranges.inc();
            let chunks = Chunks::new(self.shared(), request);
            Ok(Box::pin(chunks.into_stream()) as Answers<_>)
        })
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.unary(Rpc::Put, false, request, |request| self.put(request))
            .await
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.unary(Rpc::DeleteRange, false, request, |request| {
            self.delete_range(request)
        })
        .await
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.unary(Rpc::Txn, false, request, |request| self.txn(request))
            .await
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.unary(Rpc::Compact, false, request, |request| self.compact(request))
            .await
    }
}

impl Api {
    /// A range, linearizable unless the client asks for less.
    pub(super) async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Denied> {
        check::range(&request)?;
        self.metrics.ranges.inc();
        if !request.serializable {
            self.read_barrier().await?;
        }
        let mut response = range::local(self, request).await?;
        self.complete(&mut response.header);
        Ok(response)
    }

    async fn put(&self, request: pb::PutRequest) -> Result<pb::PutResponse, Denied> {
        self.reserve(super::quota::put(&request)).await?;
        check::put(&request)?;
        match self.propose(Command::Put(request)).await? {
            (Answer::Put(mut response), _) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            (other, _) => mismatch(&other),
        }
    }

    async fn delete_range(&self, request: pb::DeleteRangeRequest) -> Result<pb::DeleteRangeResponse, Denied> {
        check::delete_range(&request)?;
        match self.propose(Command::DeleteRange(request)).await? {
            (Answer::DeleteRange(mut response), _) => {
                self.complete(&mut response.header);
                Ok(response)
            }
            (other, _) => mismatch(&other),
        }
    }

    /// Boxed: the largest of the calls, and seldom the hottest.
    fn txn(&self, request: pb::TxnRequest) -> BoxFuture<'_, Result<pb::TxnResponse, Denied>> {
        Box::pin(async move {
            self.reserve(super::quota::txn(&request)).await?;
            check::txn(&request, self.options.max_txn_ops)?;
            self.metrics.txns.inc();
            let mut response = if check::is_read_only(&request) {
                if !check::is_serializable(&request) {
                    self.read_barrier().await?;
                }
                self.consensus
                    .read_store(|state, store| state.read_txn(&request, store))??
            } else {
                match self.propose(Command::Txn(request)).await? {
                    (Answer::Txn(response), _) => response,
                    (other, _) => mismatch(&other),
                }
            };
            self.complete(&mut response.header);
            Ok(response)
        })
    }

    /// With `physical` etcd answers when the old revisions are gone from its file. Here they are handed to the
    /// engine's compaction filter when the command is applied, so there is nothing more to wait for.
    async fn compact(&self, request: pb::CompactionRequest) -> Result<pb::CompactionResponse, Denied> {
        match self.propose(Command::Compaction(request)).await? {
            (Answer::Compaction, revision) => Ok(pb::CompactionResponse {
                header: Some(self.header(revision)),
            }),
            (other, _) => mismatch(&other),
        }
    }
}

/// Keeps the type of a shared handle short where streams are made.
pub(super) type Shared = Arc<Api>;
