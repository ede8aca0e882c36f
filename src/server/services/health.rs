//! The standard health service of gRPC. Only the empty name is registered, and it serves from the moment gRPC does.

use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status, async_trait};

use super::kv::Answers;
use crate::base::Denied;
use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};
use crate::server::api::Api;
use crate::server::wire::rpc::Rpc;
use crate::server::wire::streams::Guarded;

#[async_trait]
impl Health for Api {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.unary(Rpc::HealthCheck, false, request, |request, _| async move {
            if request.service.is_empty() {
                Ok(HealthCheckResponse {
                    status: ServingStatus::Serving.into(),
                })
            } else {
                Err(Denied::UnknownService)
            }
        })
        .await
    }

    type WatchStream = Guarded<Answers<HealthCheckResponse>>;

    /// The status now, and then silence: it does not change before the server stops.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.stream(Rpc::HealthWatch, false, request, |request, _| {
            self.metrics.rpc(Rpc::HealthWatch).msg_received.inc();
            let known = request.service.is_empty();
            let status = if known {
                ServingStatus::Serving
            } else {
                ServingStatus::ServiceUnknown
            };
            let first = HealthCheckResponse {
                status: status.into(),
            };
            Ok(Box::pin(stream::iter([Ok(first)]).chain(stream::pending())) as Answers<_>)
        })
        .await
    }
}
