//! The Watch service: a [`Session`] per stream.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::session::{Asked, Session, Setup};
use crate::consensus::Consensus;
use crate::proto::command::Header;
use crate::proto::etcdserverpb::{self as pb, watch_request::RequestUnion, watch_server::Watch};
use crate::runtime::buggify::{self, Site, buggify};
use crate::server::api::Api;
use crate::server::auth::Caller;
use crate::server::services::kv::Answers;
use crate::server::wire::rpc::{CODES, Rpc};
use crate::server::wire::streams::Guarded;
use crate::state::State;

#[async_trait]
impl Watch for Api {
    type WatchStream = Guarded<Answers<pb::WatchResponse>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.exchange(Rpc::Watch, "watch", request, |requests, caller| {
            self.watch_stream(requests, caller) as Answers<_>
        })
        .await
    }
}

impl Api {
    /// The responses to a stream of requests.
    pub(in crate::server) fn watch_stream(
        &self,
        requests: impl Stream<Item = Result<pb::WatchRequest, Status>> + Send + 'static,
        caller: Caller,
    ) -> BoxStream<'static, Result<pb::WatchResponse, Status>> {
        let (api, caller) = (self.shared(), Arc::new(caller));
        let requests = requests.then(move |request| {
            let (api, caller) = (api.clone(), caller.clone());
            async move {
                let request = request?;
                let refused = api.watch_refused(&request, &caller).await;
                Ok(Asked { request, refused })
            }
        });
        Session::new(self.watch_setup(), Box::pin(requests)).boxed()
    }

    /// Why a watch may not be created, as it stands in its cancel reason: the text of a gRPC error in Go. The
    /// range is judged as the client gave it, before an open end is made into anything else.
    async fn watch_refused(&self, request: &pb::WatchRequest, caller: &Caller) -> Option<String> {
        let Some(RequestUnion::CreateRequest(create)) = &request.request_union else {
            return None;
        };
        let key = match create.key.is_empty() {
            true => Bytes::from_static(&[0]),
            false => create.key.clone(),
        };
        let range_end = create.range_end.clone();
        let permit = move |state: &State, caller: &Header| state.auth().permit_read(caller, &key, &range_end);
        let denied = self.permit(caller, permit).await.err()?;
        Some(format!(
            "rpc error: code = {} desc = {}",
            CODES[denied.code() as usize],
            denied.text()
        ))
    }

    fn watch_setup(&self) -> Setup<Consensus> {
        // All streams of a server that tick at once would be a burst every ten minutes.
        let interval = self.options.watch_progress_interval;
        let jitter = interval.mul_f64(0.1 * (self.env.random_u64() as f64 / u64::MAX as f64));
        let (api, env) = (self.shared(), self.env.clone());
        Setup {
            env: self.env.clone(),
            hub: self.hub.clone(),
            source: self.consensus.clone(),
            header: Box::new(move |revision| api.header(revision)),
            tick: Box::new(move || {
                let early = buggify(Site::WatchProgressEarly);
                env.sleep(if early { jitter } else { interval + jitter })
            }),
            fragment_bytes: buggify::limit(Site::WatchTinyFragments, self.message_bytes_max(), 500),
        }
    }
}
