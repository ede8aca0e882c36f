//! The Election service. See [`super::lock_queue`].

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tonic::{Request, Response, Status, async_trait};

use super::kv::{Answers, Shared};
use super::lock_queue::{
    Claim, created_at, delete_op, found, get, is_deletion, key, oldest, prefix, put_op, range_op, revision,
    watch_refused,
};
use crate::base::Denied;
use crate::proto::etcdserverpb as pb;
use crate::proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse, election_server::Election,
};
use crate::server::api::Api;
use crate::server::auth::Caller;
use crate::server::wire::rpc::Rpc;
use crate::server::wire::status::status;
use crate::server::wire::streams::Guarded;

#[async_trait]
impl Election for Api {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        self.unary(Rpc::Campaign, false, request, |request, caller| async move {
            self.campaign(request, caller)
                .await
                .map_err(Denied::through_client)
        })
        .await
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        self.unary(Rpc::Proclaim, false, request, |request, caller| async move {
            let leader = request.leader.ok_or(Denied::LeaderFieldMissing)?;
            let header = self
                .proclaim(&leader, &request.value, caller)
                .await
                .map_err(Denied::through_client)?;
            Ok(ProclaimResponse { header })
        })
        .await
    }

    async fn leader(&self, request: Request<LeaderRequest>) -> Result<Response<LeaderResponse>, Status> {
        self.unary(Rpc::Leader, false, request, |request, caller| async move {
            let found = self
                .range(oldest(&prefix(&request.name)), caller)
                .await
                .map_err(Denied::through_client)?;
            let kv = found.kvs.into_iter().next().ok_or(Denied::ElectionNoLeader)?;
            Ok(LeaderResponse {
                header: found.header,
                kv: Some(kv),
            })
        })
        .await
    }

    type ObserveStream = Guarded<Answers<LeaderResponse>>;

    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.stream(Rpc::Observe, false, request, |request, caller| {
            self.metrics.rpc(Rpc::Observe).msg_received.inc();
            Ok(Box::pin(Observed::new(self.shared(), &request.name, caller).into_stream()) as Answers<_>)
        })
        .await
    }

    async fn resign(&self, request: Request<ResignRequest>) -> Result<Response<ResignResponse>, Status> {
        self.unary(Rpc::Resign, false, request, |request, caller| async move {
            let leader = request.leader.ok_or(Denied::LeaderFieldMissing)?;
            let resign = pb::TxnRequest {
                compare: vec![created_at(&leader.key, leader.rev)],
                success: vec![delete_op(&leader.key)],
                ..Default::default()
            };
            let resigned = self.txn(resign, caller).await.map_err(Denied::through_client)?;
            Ok(ResignResponse {
                header: resigned.header,
            })
        })
        .await
    }
}

impl Api {
    /// Returns once elected.
    async fn campaign(&self, request: CampaignRequest, caller: Caller) -> Result<CampaignResponse, Denied> {
        let lease = self.contender_lease(request.lease, &caller).await?;
        let prefix = prefix(&request.name);
        let own = key(&prefix, lease);
        let enter = pb::TxnRequest {
            compare: vec![created_at(&own, 0)],
            success: vec![put_op(&own, &request.value, lease)],
            failure: vec![range_op(get(&own))],
        };
        let entered = self.txn(enter, caller.clone()).await?;
        let held = found(&entered, 0).filter(|_| !entered.succeeded);
        let created = held.map_or(revision(&entered.header), |held| held.create_revision);
        let claim = Claim::new(self, &caller, &own, created);
        let leader = LeaderKey {
            name: request.name,
            key: own.into(),
            rev: created,
            lease,
        };
        if held.is_some_and(|held| held.value != request.value) {
            self.proclaim(&leader, &request.value, caller.clone()).await?;
        }
        self.wait_for_older(&prefix, created, &caller).await?;
        claim.keep();
        Ok(CampaignResponse {
            header: entered.header,
            leader: Some(leader),
        })
    }

    /// Another value, for as long as the leader's key lives.
    async fn proclaim(
        &self,
        leader: &LeaderKey,
        value: &Bytes,
        caller: Caller,
    ) -> Result<Option<pb::ResponseHeader>, Denied> {
        let proclaim = pb::TxnRequest {
            compare: vec![created_at(&leader.key, leader.rev)],
            success: vec![put_op(&leader.key, value, leader.lease)],
            ..Default::default()
        };
        let response = self.txn(proclaim, caller).await?;
        if response.succeeded {
            Ok(response.header)
        } else {
            Err(Denied::ElectionNotLeader)
        }
    }
}

/// Who leads, from now on: at least the latest value of each leader, in order.
struct Observed {
    api: Shared,
    prefix: Vec<u8>,
    caller: Caller,
    /// Follows the present leader's key; `None`: the leader has to be found.
    watch: Option<BoxStream<'static, Result<pb::WatchResponse, Status>>>,
    ready: VecDeque<LeaderResponse>,
    done: bool,
}

impl Observed {
    fn new(api: Shared, name: &[u8], caller: Caller) -> Self {
        Observed {
            api,
            prefix: prefix(name),
            caller,
            watch: None,
            ready: VecDeque::new(),
            done: false,
        }
    }

    fn into_stream(self) -> impl futures_util::Stream<Item = Result<LeaderResponse, Status>> + Send {
        stream::unfold(self, |mut observed| async move {
            if observed.done {
                return None;
            }
            let next = observed.next().await;
            observed.done = next.is_err();
            Some((next.map_err(|denied| status(denied.through_client())), observed))
        })
    }

    async fn next(&mut self) -> Result<LeaderResponse, Denied> {
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(response);
            }
            match &mut self.watch {
                None => self.find().await?,
                Some(watch) => {
                    let response = watch.next().await.and_then(Result::ok);
                    let response = response.ok_or(Denied::LostWatcher)?;
                    if response.canceled {
                        return Err(watch_refused(&response));
                    }
                    self.take(response);
                }
            }
        }
    }

    /// The values that a response brings; none of the key's next life, which is another leader's.
    fn take(&mut self, response: pb::WatchResponse) {
        for event in response.events {
            if is_deletion(&event) {
                self.watch = None;
                return;
            }
            self.ready.push_back(LeaderResponse {
                header: response.header,
                kv: event.kv,
            });
        }
    }

    /// Waits for a leader and begins to follow it.
    async fn find(&mut self) -> Result<(), Denied> {
        let found = self.api.range(oldest(&self.prefix), self.caller.clone()).await?;
        let (mut header, mut kv) = (found.header, found.kvs.into_iter().next());
        if kv.is_none() {
            let mut watch = self
                .api
                .watch_prefix(&self.prefix, revision(&header), &self.caller);
            while kv.is_none() {
                let response = watch.next().await.and_then(Result::ok);
                let response = response.ok_or(Denied::LostWatcher)?;
                if response.canceled {
                    return Err(watch_refused(&response));
                }
                let put = response.events.into_iter().find(|event| !is_deletion(event));
                kv = put.and_then(|event| event.kv);
                header = response.header;
            }
            if let (Some(header), Some(kv)) = (&mut header, &kv) {
                header.revision = kv.mod_revision;
            }
        }
        if let Some(kv) = &kv {
            self.watch = Some(
                self.api
                    .watch_from(&kv.key, &[], revision(&header) + 1, &self.caller),
            );
        }
        self.ready.push_back(LeaderResponse { header, kv });
        Ok(())
    }
}
