//! The JSON gateway: `POST /v3/…` with a JSON body, as grpc-gateway serves it for etcd.
//!
//! ```text
//!   JSON body ─► json::parse ─► message ─► call (gRPC within the process) ─► message ─► json::print ─► body
//! ```
//!
//! Nothing here knows what a method means: names and types come from the compiled `.proto` files, so the gateway
//! serves whatever the gRPC services serve, with their checks, limits and texts. A call through it has the
//! caller's token and never the identity of a certificate.

mod call;
mod decode;
pub mod json;
mod paths;
mod websocket;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use prost_reflect::MethodDescriptor;
use tonic::body::Body;
use tonic::{Code, Status};

use super::unread;
use crate::server::api::Api;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
/// How much larger than the message its JSON may be: base64, names and escapes.
const JSON_FACTOR: usize = 2;

/// Answers a request. `path`: what stands behind `/v3/`.
pub async fn answer<B>(api: &Arc<Api>, path: &str, request: Request<B>) -> Response<Body>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(method) = paths::method(path).and_then(|(service, method)| json::method(service, method)) else {
        return refused(&Status::not_found("Not Found"));
    };
    if websocket::is_upgrade(&request) {
        return websocket::answer(api, method, request);
    }
    if request.method() != Method::POST {
        return refused(&Status::unimplemented("Method Not Allowed"));
    }
    let max = json_bytes_max(api);
    let (parts, body) = request.into_parts();
    let metadata = match call::metadata(&parts.headers) {
        Ok(metadata) => metadata,
        Err(status) => return refused(&status),
    };
    let held = parts
        .extensions
        .get::<unread::Answer>()
        .cloned()
        .unwrap_or_default();
    let answers = if method.is_client_streaming() {
        let messages = requests(&method, body_bytes(body), max);
        call::call(api, &method, metadata, held, messages).await
    } else {
        let message = match only_message(&method, body, max).await {
            Ok(message) => message,
            Err(status) => return refused(&status),
        };
        call::call(api, &method, metadata, held, stream::iter([Ok(message)])).await
    };
    if method.is_server_streaming() {
        many(method, answers).await
    } else {
        one(&method, answers).await
    }
}

fn json_bytes_max(api: &Api) -> usize {
    JSON_FACTOR * api.message_bytes_max()
}

fn respond(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

fn refused(status: &Status) -> Response<Body> {
    let mut response = respond(json::http_status(status.code()), json::refusal(status));
    if status.code() == Code::Unauthenticated
        && let Ok(message) = HeaderValue::from_str(status.message())
    {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, message);
    }
    response
}

/// The message of a unary call: the first value of the body, defaults if there is none. Of a body that is cut off, what
/// came is judged first, as in etcd: the client may have left, or have sent less than it announced.
async fn only_message<B>(method: &MethodDescriptor, body: B, max: usize) -> Result<Bytes, Status>
where
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut body, mut text, mut is_cut) = (Limited::new(body, max), BytesMut::new(), false);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(error) if error.is::<LengthLimitError>() => return Err(too_large(max)),
            Err(_) => {
                is_cut = true;
                break;
            }
        }
    }
    match (json::parse(&method.input(), &text)?, is_cut) {
        (message, false) => Ok(message.unwrap_or_default()),
        (Some(_), true) => Err(Status::cancelled("context canceled")),
        (None, true) => Err(Status::invalid_argument("unexpected EOF")),
    }
}

fn too_large(max: usize) -> Status {
    Status::resource_exhausted(format!("the JSON of a request is larger than max ({max})"))
}

fn body_bytes<B>(body: B) -> BoxStream<'static, Bytes>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
{
    let frames = stream::unfold(body, |mut body| async move {
        let frame = body.frame().await?.ok()?;
        Some((frame.into_data().unwrap_or_default(), body))
    });
    frames.boxed()
}

/// The messages of a client's stream: JSON objects one after the other. What is none ends the stream, as in etcd, and
/// is not answered.
fn requests(
    method: &MethodDescriptor,
    chunks: BoxStream<'static, Bytes>,
    max: usize,
) -> impl Stream<Item = Result<Bytes, Status>> + Send + 'static {
    struct Reader {
        kind: prost_reflect::MessageDescriptor,
        chunks: BoxStream<'static, Bytes>,
        buffer: BytesMut,
        objects: json::Objects,
    }
    let reader = Reader {
        kind: method.input(),
        chunks,
        buffer: BytesMut::new(),
        objects: json::Objects::default(),
    };
    stream::unfold(Some(reader), move |reader| async move {
        let mut reader = reader?;
        loop {
            if let Some(end) = reader.objects.end(&reader.buffer).ok()? {
                let object = reader.buffer.split_to(end);
                let message = json::parse(&reader.kind, &object).ok()??;
                return Some((Ok(message), Some(reader)));
            }
            let chunk = reader.chunks.next().await?;
            reader.buffer.extend_from_slice(&chunk);
            if reader.buffer.len() > max {
                return Some((Err(too_large(max)), None));
            }
        }
    })
}

async fn one(
    method: &MethodDescriptor,
    mut answers: BoxStream<'static, Result<Bytes, Status>>,
) -> Response<Body> {
    let answer = answers.next().await;
    let answer = answer.unwrap_or_else(|| Err(Status::internal("no answer")));
    match answer.and_then(|message| json::print(&method.output(), message)) {
        Ok(text) => {
            let mut response = respond(StatusCode::OK, text);
            response.headers_mut().insert("grpc-metadata-content-type", GRPC);
            response
        }
        Err(status) => refused(&status),
    }
}

/// A line of a streamed answer, with its end.
fn line(method: &MethodDescriptor, answer: Result<Bytes, Status>) -> Bytes {
    let (before, text) = match answer.and_then(|message| json::print(&method.output(), message)) {
        Ok(text) => ("{\"result\":", text),
        Err(status) => ("{\"error\":", json::refusal(&status)),
    };
    [before.as_bytes(), &text, b"}\n"].concat().into()
}

/// A streamed answer: an object per line. The HTTP status is that of the first.
async fn many(
    method: MethodDescriptor,
    mut answers: BoxStream<'static, Result<Bytes, Status>>,
) -> Response<Body> {
    let Some(first) = answers.next().await else {
        return Response::new(Body::empty());
    };
    let code = first.as_ref().err().map_or(Code::Ok, Status::code);
    let lines = stream::iter([first])
        .chain(answers)
        .map(move |answer| Ok::<_, Status>(http_body::Frame::data(line(&method, answer))));
    let mut response = Response::new(Body::new(StreamBody::new(lines)));
    *response.status_mut() = json::http_status(code);
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert("grpc-metadata-content-type", GRPC);
    response
}
