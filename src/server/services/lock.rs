//! The Lock service. See [`super::lock_queue`].

use tonic::{Request, Response, Status, async_trait};

use super::lock_queue::{Claim, created_at, found, get, key, oldest, prefix, put_op, range_op, revision};
use crate::base::Denied;
use crate::proto::etcdserverpb as pb;
use crate::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock};
use crate::server::api::Api;
use crate::server::auth::Caller;
use crate::server::wire::rpc::Rpc;

#[async_trait]
impl Lock for Api {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.unary(Rpc::Lock, false, request, |request, caller| async move {
            self.lock(request, caller).await.map_err(Denied::through_client)
        })
        .await
    }

    /// Who holds the lock is not asked.
    async fn unlock(&self, request: Request<UnlockRequest>) -> Result<Response<UnlockResponse>, Status> {
        self.unary(Rpc::Unlock, false, request, |request, caller| async move {
            let delete = pb::DeleteRangeRequest {
                key: request.key,
                ..Default::default()
            };
            let deleted = self
                .delete_range(delete, caller)
                .await
                .map_err(Denied::through_client)?;
            Ok(UnlockResponse {
                header: deleted.header,
            })
        })
        .await
    }
}

impl Api {
    /// Returns once the lock is held, at once if this lease holds it already.
    async fn lock(&self, request: LockRequest, caller: Caller) -> Result<LockResponse, Denied> {
        let lease = self.contender_lease(request.lease, &caller).await?;
        let prefix = prefix(&request.name);
        let own = key(&prefix, lease);
        let enter = pb::TxnRequest {
            compare: vec![created_at(&own, 0)],
            success: vec![put_op(&own, b"", lease), range_op(oldest(&prefix))],
            failure: vec![range_op(get(&own)), range_op(oldest(&prefix))],
        };
        let entered = self.txn(enter, caller.clone()).await?;
        let created = match found(&entered, 0) {
            Some(held) if !entered.succeeded => held.create_revision,
            _ => revision(&entered.header),
        };
        let holds = |oldest: &crate::proto::mvccpb::KeyValue| oldest.create_revision == created;
        if found(&entered, 1).is_none_or(holds) {
            return Ok(LockResponse {
                header: entered.header,
                key: own.into(),
            });
        }
        let claim = Claim::new(self, &caller, &own, created);
        self.wait_for_older(&prefix, created, &caller).await?;
        // The lease may have ended while this waited.
        let still = self.range(get(&own), caller).await?;
        claim.keep();
        if still.kvs.is_empty() {
            return Err(Denied::MutexSessionExpired);
        }
        Ok(LockResponse {
            header: still.header,
            key: own.into(),
        })
    }
}
