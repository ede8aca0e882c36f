//! The Cluster service: who the members are. Changing the membership is not implemented yet.

use tonic::{Request, Response, Status, async_trait};

use super::Api;
use super::rpc::Rpc;
use crate::base::Denied;
use crate::proto::etcdserverpb::{self as pb, cluster_server::Cluster};

#[async_trait]
impl Cluster for Api {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.unimplemented(Rpc::MemberAdd, request).await
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.unimplemented(Rpc::MemberRemove, request).await
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.unimplemented(Rpc::MemberUpdate, request).await
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.unary(Rpc::MemberList, false, request, |request, _| async move {
            if request.linearizable {
                self.read_barrier().await?;
            }
            // etcd leaves the revision out of the headers of this service.
            let header = pb::ResponseHeader {
                revision: 0,
                ..self.header_now()
            };
            Ok(pb::MemberListResponse {
                header: Some(header),
                members: self.consensus.members(),
            })
        })
        .await
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.unimplemented(Rpc::MemberPromote, request).await
    }
}

impl Api {
    /// The one answer of every method that etcd has and this server does not yet.
    pub(super) async fn unimplemented<Req, Res>(
        &self,
        rpc: Rpc,
        request: Request<Req>,
    ) -> Result<Response<Res>, Status> {
        self.unary(rpc, false, request, |_, _| async { Err(Denied::NOT_IMPLEMENTED) })
            .await
    }
}
