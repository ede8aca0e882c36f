//! The Lease service. Time is the leader's: renewals and remaining times are asked of it.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::kv::Shared;
use crate::base::{Denied, LeaseId, limits};
use crate::consensus::Renewal;
use crate::proto::command::{Header, command::Request as Command};
use crate::proto::etcdserverpb::{self as pb, lease_server::Lease};
use crate::server::api::{Api, mismatch};
use crate::server::auth::Caller;
use crate::server::auth::access::require_current;
use crate::server::wire::rpc::Rpc;
use crate::server::wire::status::status;
use crate::server::wire::streams::{Guarded, Requests};
use crate::state::{Answer, State, space};

type KeepAlives = Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

#[async_trait]
impl Lease for Api {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        self.unary(Rpc::LeaseGrant, false, request, |request, caller| {
            self.lease_grant(request, caller)
        })
        .await
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.unary(Rpc::LeaseRevoke, false, request, |request, caller| {
            self.lease_revoke(request, caller)
        })
        .await
    }

    type LeaseKeepAliveStream = Guarded<KeepAlives>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.exchange(
            Rpc::LeaseKeepAlive,
            "lease-keepalive",
            request,
            |requests, caller| Box::pin(keep_alives(self.shared(), requests, caller)) as KeepAlives,
        )
        .await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.unary(Rpc::LeaseTimeToLive, false, request, |request, caller| {
            self.lease_time_to_live(request, caller)
        })
        .await
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.unary(Rpc::LeaseLeases, false, request, |_, caller| async move {
            let permit = self.permit(&caller, State::permit_leases).await?;
            let ids = self.consensus.leases().await;
            let leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
            self.confirm(&permit).await?;
            Ok(pb::LeaseLeasesResponse {
                header: Some(self.header_now()),
                leases,
            })
        })
        .await
    }
}

impl Api {
    pub async fn lease_grant(
        &self,
        mut request: pb::LeaseGrantRequest,
        caller: Caller,
    ) -> Result<pb::LeaseGrantResponse, Denied> {
        self.reserve(space::LEASE_BYTES).await?;
        // Raised silently, as etcd: a lease must outlast an election.
        request.ttl = request.ttl.max(self.consensus.lease_ttl_min());
        while request.id == 0 {
            request.id = random_id(self.env.random_u64());
        }
        match self.propose(&caller, Command::LeaseGrant(request)).await? {
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
        caller: Caller,
    ) -> Result<pb::LeaseRevokeResponse, Denied> {
        match self.propose(&caller, Command::LeaseRevoke(request)).await? {
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
        caller: Caller,
    ) -> Result<pb::LeaseTimeToLiveResponse, Denied> {
        let id = request.id;
        let permit = move |state: &State, caller: &Header| state.permit_lease_reads(caller, id);
        let permit = match request.keys {
            true => Some(self.permit(&caller, permit).await?),
            false => None,
        };
        let found = self
            .consensus
            .lease_time_to_live(request.id, request.keys)
            .await?;
        if let Some(permit) = &permit {
            self.confirm(permit).await?;
        }
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

    /// Renews what was asked for together. What cannot be asked, which is always the last, or is refused, ends the answers.
    async fn renew_leases(
        &self,
        asked: Vec<Result<LeaseId, Status>>,
        caller: &Caller,
    ) -> Vec<Result<Renewed, Status>> {
        let mut last = None;
        let known = |id: Result<LeaseId, Status>| id.map_err(|error| last = Some(error)).ok();
        let mut ids: Vec<LeaseId> = asked.into_iter().filter_map(known).collect();
        if let Err(refused) = self.permit_renewals(&ids, caller).await {
            ids.truncate(refused.permitted);
            last = Some(status(refused.denied));
        }
        // Before the renewal: a client must not take this revision for one that saw the lease alive.
        let header = Some(self.header_now());
        let renewals = match ids.is_empty() {
            true => Ok(Vec::new()),
            false => self.consensus.renew_leases(ids.clone()).await,
        };
        match renewals {
            Ok(renewals) => {
                let renewed = ids.into_iter().zip(renewals);
                let renewed = renewed.map(|(id, renewal)| Ok(Renewed { header, id, renewal }));
                renewed.chain(last.map(Err)).collect()
            }
            Err(denied) => vec![Err(status(denied))],
        }
    }

    async fn permit_renewals(&self, ids: &[LeaseId], caller: &Caller) -> Result<(), Refused> {
        let ids = ids.to_vec();
        let permit = move |state: &State, caller: &Header| {
            for (permitted, &id) in ids.iter().enumerate() {
                let permit = state.permit_lease_renewal(caller, id);
                permit.map_err(|denied| Refused { permitted, denied })?;
            }
            // For leases without keys nobody has looked yet at how old a token is.
            Ok(require_current(state, caller.auth_revision)?)
        };
        self.permit(caller, permit).await.map(drop)
    }

    /// The answer to a renewal, when it can be given.
    async fn keep_alive(&self, renewed: Renewed) -> Result<pb::LeaseKeepAliveResponse, Status> {
        let Renewed { header, id, renewal } = renewed;
        let ttl = match renewal {
            Renewal::Renewed(ttl) => ttl,
            Renewal::Unknown => 0,
            Renewal::Ending => self.consensus.lease_ended(id).await.map_err(status)?,
        };
        Ok(pb::LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// Why renewals are refused, but for the first of them.
struct Refused {
    permitted: usize,
    denied: Denied,
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        Refused { permitted: 0, denied }
    }
}

/// A renewal that was made, or was not possible.
struct Renewed {
    header: Option<pb::ResponseHeader>,
    id: LeaseId,
    renewal: Renewal,
}

/// A positive number, and not one that JavaScript or a sign could spoil: etcd too clears the top bit.
fn random_id(random: u64) -> LeaseId {
    LeaseId::try_from(random >> 1).expect("63 bits are a positive number")
}

/// One answer per request, in order; a refusal ends the stream.
///
/// What has arrived is renewed together, while answers to earlier requests are still awaited: a lease that is about to
/// end holds up the answers behind its own, but not the renewals.
fn keep_alives(
    api: Shared,
    requests: Requests<Streaming<pb::LeaseKeepAliveRequest>>,
    caller: Caller,
) -> impl Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send {
    let (renewing, answering, caller) = (api.clone(), api, Arc::new(caller));
    let asked = requests.map(|request| Ok(request?.id));
    let renew = move |asked| {
        let (api, caller) = (renewing.clone(), caller.clone());
        async move { api.renew_leases(asked, &caller).await }
    };
    let answer = move |renewed: Result<Renewed, Status>| {
        let api = answering.clone();
        async move { api.keep_alive(renewed?).await }
    };
    asked
        .ready_chunks(limits::KEEP_ALIVES_PER_ROUND_MAX)
        .map(renew)
        .buffered(limits::KEEP_ALIVE_ROUNDS_MAX)
        .flat_map(stream::iter)
        .map(answer)
        .buffered(limits::KEEP_ALIVES_UNANSWERED_MAX)
}
