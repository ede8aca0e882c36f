//! The gateway over WebSocket: each message of the client is a JSON request, each of the server a line of the
//! answer. Browsers cannot set headers, so a token may come as `Sec-WebSocket-Protocol: Bearer, <token>`.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use prost_reflect::MethodDescriptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tonic::Status;
use tonic::body::Body;

use super::{call, json_bytes_max, line, refused, requests};
use crate::runtime::panics::Contained;
use crate::server::api::Api;
use crate::server::wire::unread;

const BEARER: &str = "Bearer";

/// Whether a client wants to speak WebSocket.
pub fn is_upgrade<B>(request: &Request<B>) -> bool {
    let upgrade = request.headers().get(header::UPGRADE);
    upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Switches protocols, and serves the method until either side is done.
pub fn answer<B>(api: &Arc<Api>, method: MethodDescriptor, mut request: Request<B>) -> Response<Body> {
    let headers = request.headers();
    let key = headers.get(header::SEC_WEBSOCKET_KEY).cloned();
    let version = headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .map(HeaderValue::as_bytes);
    let (Some(key), Some(b"13")) = (key, version) else {
        return refused(&Status::invalid_argument(
            "websocket: not a handshake of version 13",
        ));
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return refused(&Status::invalid_argument("websocket: only over HTTP/1.1"));
    };
    let bearer = token(request.headers());
    let mut metadata = match call::metadata(request.headers()) {
        Ok(metadata) => metadata,
        Err(status) => return refused(&status),
    };
    if let Some(token) = &bearer {
        metadata.insert(header::AUTHORIZATION, token.clone());
    }
    let serving = api.clone();
    let serve = async move {
        match upgrade.await {
            Ok(upgraded) => serve(&serving, method, metadata, upgraded).await,
            Err(error) => tracing::debug!(%error, "a WebSocket was not opened"),
        }
    };
    api.env
        .spawn_detached(Contained::new(&api.env, "a WebSocket", serve));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(key.as_bytes());
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(accept) = HeaderValue::from_str(&accept) {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    if bearer.is_some() {
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    response
}

/// `Bearer <token>`, out of the protocols that the client offers.
fn token(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let (kind, token) = offered.split_once(',')?;
    let token = token.trim();
    (kind.trim() == BEARER && !token.is_empty())
        .then(|| HeaderValue::from_str(&format!("{BEARER} {token}")).ok())
        .flatten()
}

async fn serve(api: &Arc<Api>, method: MethodDescriptor, metadata: HeaderMap, upgraded: Upgraded) {
    let max = json_bytes_max(api);
    let config = WebSocketConfig::default()
        .max_message_size(Some(max))
        .max_frame_size(Some(max));
    let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
    let (mut sink, source) = socket.split();
    let (gone, left) = tokio::sync::oneshot::channel::<()>();
    let chunks = stream::unfold((source, Some(gone)), |(mut source, mut gone)| async move {
        loop {
            match source.next().await? {
                Ok(Message::Text(text)) => return Some((Bytes::from(text), (source, gone))),
                Ok(Message::Binary(bytes)) => return Some((bytes, (source, gone))),
                // Pings are answered by the library.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(_)) | Err(_) => {
                    gone.take().map(|gone| gone.send(()));
                    return None;
                }
            }
        }
    });
    let messages = requests(&method, chunks.boxed(), max);
    let messages = match method.is_client_streaming() {
        true => messages.left_stream(),
        false => messages.take(1).right_stream(),
    };
    let answers = call::call(api, &method, metadata, unread::Answer::default(), messages).await;
    // A client that leaves takes its watches with it. That its requests are no longer read says nothing.
    let left = async {
        if left.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let mut lines = pin!(answers.take_until(left));
    while let Some(answer) = lines.next().await {
        let line = String::from_utf8_lossy(&line(&method, answer)).into_owned();
        if sink.send(Message::text(line)).await.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}
