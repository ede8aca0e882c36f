//! Where a request goes: to gRPC by its content type, else to the HTTP endpoints.
//!
//! One type serves every connection. gRPC goes straight into tonic's generated code, without layers;
//! bodies are wrapped once on the way to count bytes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus::IntCounter;
use tonic::Status;
use tower_service::Service;

use super::{Api, http as endpoints, status};
use crate::proto::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use crate::runtime::BoxFuture;

/// What a port is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// gRPC and every HTTP endpoint.
    Clients,
    /// gRPC alone: HTTP has ports of its own.
    GrpcOnly,
    /// Every HTTP endpoint.
    HttpOnly,
    /// Metrics and health checks alone.
    MetricsOnly,
}

impl Role {
    /// etcd's word for what a port serves.
    pub fn traffic(self) -> &'static str {
        match self {
            Role::Clients => "grpc+http",
            Role::GrpcOnly => "grpc",
            Role::HttpOnly | Role::MetricsOnly => "http",
        }
    }
}

/// The service behind every connection of a port.
#[derive(Clone)]
pub struct Front {
    api: Arc<Api>,
    role: Role,
    is_tls: bool,
    /// Of the client's verified certificate.
    common_name: Option<CommonName>,
}

/// The common name of the verified certificate of a call's client; travels in the extensions of its request.
#[derive(Clone, Debug)]
pub struct CommonName(pub Arc<str>);

impl Front {
    pub fn new(api: Arc<Api>, role: Role) -> Self {
        Front {
            api,
            role,
            is_tls: false,
            common_name: None,
        }
    }

    /// The service behind one connection.
    pub fn of(self, is_tls: bool, common_name: Option<Arc<str>>) -> Self {
        Front {
            is_tls,
            common_name: common_name.filter(|name| !name.is_empty()).map(CommonName),
            ..self
        }
    }
}

pub(super) type Answer = BoxFuture<'static, Result<Response<tonic::body::Body>, Infallible>>;

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<Metered<tonic::body::Body>>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        if self.role != Role::MetricsOnly && self.role != Role::HttpOnly && is_grpc(request.headers()) {
            if self.api.options.trace_http2 {
                trace_authority(&request);
            }
            let counter = self.api.metrics.bytes_received.clone();
            if let Some(name) = &self.common_name {
                request.extensions_mut().insert(name.clone());
            }
            let request = request.map(|body| Metered {
                body,
                counter: Some(counter),
            });
            let sent = Some(self.api.metrics.bytes_sent.clone());
            return Answering {
                answer: grpc(&self.api, request),
                sent,
            };
        }
        let connection = endpoints::Connection {
            role: self.role,
            is_tls: self.is_tls,
            has_common_name: self.common_name.is_some(),
        };
        let api = self.api.clone();
        let answer = async move { Ok(endpoints::answer(&api, connection, request).await) };
        Answering {
            answer: answer.boxed(),
            sent: None,
        }
    }
}

/// The line by which a Go server shows what a client calls it, for whoever looks into a proxy or a balancer; raw, as
/// Go's.
fn trace_authority<B>(request: &Request<B>) {
    use std::io::Write;
    let renamed = request.headers().get(super::authority::RENAMED);
    let renamed = renamed.and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let authority = authority.or(renamed).unwrap_or_default();
    let line = format!("http2: decoded hpack field header field \":authority\" = {authority:?}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Hands a request to the generated code of its service.
pub(super) fn grpc<B>(api: &Arc<Api>, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let max = api.message_bytes_max();
    macro_rules! serve {
        ($server:ident) => {
            $server::from_arc(api.clone())
                .max_decoding_message_size(max)
                .call(request)
        };
    }
    let path = request.uri().path();
    let service = path
        .strip_prefix('/')
        .and_then(|path| path.split_once('/'))
        .map(|(service, _)| service);
    match service {
        Some("etcdserverpb.KV") => serve!(KvServer),
        Some("etcdserverpb.Watch") => serve!(WatchServer),
        Some("etcdserverpb.Lease") => serve!(LeaseServer),
        Some("etcdserverpb.Cluster") => serve!(ClusterServer),
        Some("etcdserverpb.Maintenance") => serve!(MaintenanceServer),
        Some("etcdserverpb.Auth") => serve!(AuthServer),
        Some("v3lockpb.Lock") => serve!(LockServer),
        Some("v3electionpb.Election") => serve!(ElectionServer),
        Some("grpc.health.v1.Health") => serve!(HealthServer),
        Some(service) => refuse(Status::unimplemented(format!("unknown service {service}"))),
        None => refuse(Status::unimplemented(format!("malformed method name: {path:?}"))),
    }
}

fn refuse(status: Status) -> Answer {
    std::future::ready(Ok(status.into_http())).boxed()
}

/// The answer to one request on its way.
pub struct Answering {
    answer: Answer,
    /// For gRPC: where sent bytes are counted.
    sent: Option<IntCounter>,
}

impl Future for Answering {
    type Output = Result<Response<Metered<tonic::body::Body>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut response) = ready!(self.answer.as_mut().poll(cx));
        // A status in the headers is a refusal before the first message: rare, so looking costs nothing.
        if self.sent.is_some() && response.headers().contains_key(Status::GRPC_STATUS) {
            status::correct(response.headers_mut());
        }
        let counter = self.sent.take();
        Poll::Ready(Ok(response.map(|body| Metered { body, counter })))
    }
}

/// A body whose bytes are counted as they pass.
pub struct Metered<B> {
    body: B,
    counter: Option<IntCounter>,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Metered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let (Some(Ok(frame)), Some(counter)) = (&frame, &self.counter)
            && let Some(data) = frame.data_ref()
        {
            counter.inc_by(data.remaining() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
