//! The Lease service. Time is the leader's: renewals and remaining times are asked of it.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::auth::Caller;
use super::kv::Shared;
use super::rpc::Rpc;
use super::status::{of_request, status};
use super::streams::Guarded;
use super::{Api, mismatch};
use crate::base::{Denied, LeaseId};
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{self as pb, lease_server::Lease};
use crate::state::{Answer, space};

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

#[async_trait]
impl Lease for Api {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.unary(Rpc::LeaseGrant, false, request, |request, who| {
            self.lease_grant(request, who)
        })
        .await
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.unary(Rpc::LeaseRevoke, false, request, |request, who| {
            self.lease_revoke(request, who)
        })
        .await
    }

    type LeaseKeepAliveStream = Guarded<KeepAlives>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.stream(Rpc::LeaseKeepAlive, false, request, |requests, who| {
            Ok(Box::pin(keep_alives(self.shared(), requests, who)) as KeepAlives)
        })
        .await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.unary(Rpc::LeaseTimeToLive, false, request, |request, who| {
            self.lease_time_to_live(request, who)
        })
        .await
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.unary(Rpc::LeaseLeases, false, request, |_, who| async move {
            let permit = self.permit(&who, |state, who| state.permit_leases(who)).await?;
            let leases = self
                .consensus
                .leases()
                .into_iter()
                .map(|id| pb::LeaseStatus { id })
                .collect();
            self.confirm(&permit)?;
            Ok(pb::LeaseLeasesResponse {
                header: Some(self.header_now()),
                leases,
            })
        })
        .await
    }
}

impl Api {
    pub(super) async fn lease_grant(
        &self,
        mut request: pb::LeaseGrantRequest,
        who: Caller,
    ) -> Result<pb::LeaseGrantResponse, Denied> {
        self.reserve(space::LEASE_BYTES).await?;
        // Raised silently, as etcd: a lease must outlast an election.
        request.ttl = request.ttl.max(self.consensus.lease_ttl_min());
        while request.id == 0 {
            request.id = random_id(self.env.random_u64());
        }
        match self.propose(&who, Command::LeaseGrant(request)).await? {
            (Answer::LeaseGrant { id, ttl }, revision) => {
                let header = Some(self.header(revision));
                Ok(pb::LeaseGrantResponse {
                    header,
                    id,
                    ttl,
                    error: String::new(),
                })
            }
            (other, _) => mismatch(&other),
        }
    }

    async fn lease_revoke(
        &self,
        request: pb::LeaseRevokeRequest,
        who: Caller,
    ) -> Result<pb::LeaseRevokeResponse, Denied> {
        match self.propose(&who, Command::LeaseRevoke(request)).await? {
            (Answer::LeaseRevoke, revision) => Ok(pb::LeaseRevokeResponse {
                header: Some(self.header(revision)),
            }),
            (other, _) => mismatch(&other),
        }
    }

    /// An unknown lease is no error: its TTL is -1.
    async fn lease_time_to_live(
        &self,
        request: pb::LeaseTimeToLiveRequest,
        who: Caller,
    ) -> Result<pb::LeaseTimeToLiveResponse, Denied> {
        let id = request.id;
        let permit = match request.keys {
            true => Some(
                self.permit(&who, |state, who| state.permit_lease_reads(who, id))
                    .await?,
            ),
            false => None,
        };
        let found = self
            .consensus
            .lease_time_to_live(request.id, request.keys)
            .await?;
        permit.as_ref().map_or(Ok(()), |permit| self.confirm(permit))?;
        let mut response = pb::LeaseTimeToLiveResponse {
            id: request.id,
            ttl: -1,
            ..pb::LeaseTimeToLiveResponse::default()
        };
        if let Some(found) = found {
            response.ttl = found.remaining;
            response.granted_ttl = found.granted;
            response.keys = found.keys;
        }
        response.header = Some(self.header_now());
        Ok(response)
    }

    async fn keep_alive(&self, id: LeaseId, who: &Caller) -> Result<pb::LeaseKeepAliveResponse, Denied> {
        let permit = self
            .permit(who, |state, who| state.permit_lease_renewal(who, id))
            .await?;
        self.confirm(&permit)?;
        // Before the renewal: a client must not take this revision for one that saw the lease alive.
        let header = Some(self.header_now());
        let ttl = self.consensus.lease_keep_alive(id).await?;
        Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// A positive number, and not one that JavaScript or a sign could spoil: etcd too clears the top bit.
fn random_id(random: u64) -> LeaseId {
    LeaseId::try_from(random >> 1).expect("63 bits are a positive number")
}

/// One answer per request, in order; a refusal ends the stream.
fn keep_alives(
    api: Shared,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    who: Caller,
) -> impl Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send {
    stream::unfold((api, requests, who), |(api, mut requests, who)| async move {
        let answer = match requests.message().await {
            Ok(None) => return None,
            Err(error) => {
                api.metrics.request_failed("lease-keepalive", error.code());
                Err(of_request(error))
            }
            Ok(Some(request)) => {
                api.metrics.rpc(Rpc::LeaseKeepAlive).msg_received.inc();
                api.keep_alive(request.id, &who).await.map_err(status)
            }
        };
        Some((answer, (api, requests, who)))
    })
}
