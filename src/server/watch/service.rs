//! The Watch service: a [`Session`] per stream.

use std::sync::Arc;

use futures_util::StreamExt;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::session::{Session, Setup};
use crate::proto::etcdserverpb::{self as pb, watch_server::Watch};
use crate::server::Api;
use crate::server::kv::Answers;
use crate::server::rpc::Rpc;
use crate::server::status::of_request;
use crate::server::streams::Guarded;

#[async_trait]
impl Watch for Api {
    type WatchStream = Guarded<Answers<pb::WatchResponse>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        self.stream(Rpc::Watch, false, request, |requests| {
            let received = self.metrics.rpc(Rpc::Watch).msg_received.clone();
            let requests = requests.map(move |request| {
                received.inc();
                request.map_err(of_request)
            });
            Ok(Box::pin(Session::new(self.watch_setup(), requests)) as Answers<_>)
        })
    }
}

impl Api {
    fn watch_setup(&self) -> Setup {
        // All streams of a server that tick at once would be a burst every ten minutes.
        let interval = self.options.watch_progress_interval;
        let jitter = interval.mul_f64(0.1 * (self.env.random_u64() as f64 / u64::MAX as f64));
        let (api, env) = (self.shared(), self.env.clone());
        Setup {
            hub: self.hub.clone(),
            source: Arc::new(self.consensus.clone()),
            header: Box::new(move |revision| api.header(revision)),
            tick: Box::new(move || env.sleep(interval + jitter)),
            fragment_bytes: self.message_bytes_max(),
        }
    }
}
