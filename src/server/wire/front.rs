//! Where a request goes: to gRPC by its protocol and content type, else to the HTTP endpoints.
//!
//! One type serves every connection. gRPC goes straight into tonic's generated code; the only layer is the
//! [`boundary`](super::boundary), which counts bytes and ends a request that panics.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use tonic::Status;
use tonic::codec::CompressionEncoding;
use tower_service::Service;

use super::boundary::{Answer, AnswerBody, Answering, Protocol, Received};
use super::call::parse_timeout;
use super::http as endpoints;
use super::status::status;
use super::unread::Unread;
use crate::base::Denied;
use crate::proto::etcdserverpb::{
    auth_server::AuthServer, cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
    maintenance_server::MaintenanceServer, watch_server::WatchServer,
};
use crate::proto::health::health_server::HealthServer;
use crate::proto::v3electionpb::election_server::ElectionServer;
use crate::proto::v3lockpb::lock_server::LockServer;
use crate::server::api::Api;

/// What is over before a call can have begun.
const TIMEOUT_MIN: Duration = Duration::from_micros(1);

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
    /// What the client has not read.
    unread: Unread,
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
            unread: Unread::default(),
        }
    }

    /// The service behind one connection.
    pub fn of(self, is_tls: bool, common_name: Option<Arc<str>>) -> Self {
        Front {
            is_tls,
            common_name: common_name.filter(|name| !name.is_empty()).map(CommonName),
            unread: Unread::default(),
            ..self
        }
    }

    /// The answers of this connection.
    pub fn answers(&self) -> Unread {
        self.unread.clone()
    }
}

impl hyper::service::Service<Request<Incoming>> for Front {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, mut request: Request<Incoming>) -> Answering {
        request.extensions_mut().insert(self.unread.answer());
        if self.role != Role::MetricsOnly && self.role != Role::HttpOnly && is_grpc(&request) {
            if self.api.options.trace_http2 {
                trace_authority(&request);
            }
            if let Some(name) = &self.common_name {
                request.extensions_mut().insert(name.clone());
            }
            return grpc(&self.api, request);
        }
        let connection = endpoints::Connection {
            role: self.role,
            is_tls: self.is_tls,
            has_common_name: self.common_name.is_some(),
        };
        let api = self.api.clone();
        Answering::new(&self.api.env, Protocol::Http, None, request, |request| {
            async move { Ok(endpoints::answer(&api, connection, request).await) }.boxed()
        })
    }
}

/// The line by which a Go server shows what a client calls it, for whoever looks into a proxy or a balancer; raw, as
/// Go's.
fn trace_authority<B>(request: &Request<B>) {
    use std::io::Write;
    let renamed = request.headers().get(super::authority_header::RENAMED);
    let renamed = renamed.and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let authority = authority.or(renamed).unwrap_or_default();
    let line = format!("http2: decoded hpack field header field \":authority\" = {authority:?}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// gRPC needs HTTP/2. Over HTTP/1.1 nothing is gRPC, whatever it calls itself: it goes the way of HTTP, past the
/// access control.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Serves a gRPC request.
pub fn grpc<B>(api: &Arc<Api>, request: Request<B>) -> Answering
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let request = request.map(|body| Received::new(body, &api.metrics.bytes_received));
    let sent = Some(api.metrics.bytes_sent.clone());
    Answering::new(&api.env, Protocol::Grpc, sent, request, |request| {
        dispatch(api, request)
    })
}

/// Hands a request to the generated code of its service.
fn dispatch<B>(api: &Arc<Api>, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    let max = api.message_bytes_max();
    // As grpc-go: an answer is compressed if its request was. What a message grows to is bounded like the message.
    let compressed = request
        .headers()
        .get("grpc-encoding")
        .is_some_and(|encoding| encoding == "gzip");
    macro_rules! serve {
        ($server:ident) => {{
            let server = $server::from_arc(api.clone())
                .max_decoding_message_size(max)
                .accept_compressed(CompressionEncoding::Gzip);
            match compressed {
                true => server.send_compressed(CompressionEncoding::Gzip).call(request),
                false => { server }.call(request),
            }
        }};
    }
    if let Some(timeout) = request.headers().get("grpc-timeout") {
        match parse_timeout(timeout.as_bytes()) {
            None => return refuse(Status::internal(format!("malformed grpc-timeout: {timeout:?}"))),
            // A timer may be coarser than what is left: a deadline that is over must not depend on it. As in grpc-go,
            // nothing else of the call is looked at, so it is counted nowhere.
            Some(timeout) if timeout < TIMEOUT_MIN => {
                return refuse(status(Denied::ContextDeadlineExceeded));
            }
            Some(_) => {}
        }
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
