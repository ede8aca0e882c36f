//! A gRPC call within the process: the gateway's messages go through the very code that serves the network.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::Stream;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost_reflect::MethodDescriptor;
use tonic::{Code, Status};

use crate::server::api::Api;
use crate::server::wire::boundary::AnswerBody;
use crate::server::wire::{front, unread};

/// Length of what stands before each message of gRPC: a flag and a length.
const PREFIX_BYTES: usize = 5;
/// Marks a call of the gateway, which never has the identity of a certificate.
const VIA_GATEWAY: HeaderName = HeaderName::from_static("grpcgateway-accept");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// gRPC's timeouts are below this number of a unit.
const TIMEOUT_MAX: i64 = 100_000_000;
/// A header with this prefix becomes metadata.
const METADATA_PREFIX: &str = "grpc-metadata-";

/// The answers to `messages`, in order; a refusal ends them.
pub async fn call(
    api: &Arc<Api>,
    method: &MethodDescriptor,
    metadata: HeaderMap,
    held: unread::Answer,
    messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static,
) -> BoxStream<'static, Result<Bytes, Status>> {
    // What the client sent wrong is told instead of an answer.
    let (failed, failure) = tokio::sync::oneshot::channel();
    let failed = std::sync::Mutex::new(Some(failed));
    let frames = messages.scan((), move |(), message| {
        let frame = match message {
            Ok(message) => Some(Ok::<_, Infallible>(Frame::data(framed(&message)))),
            Err(status) => {
                let sender = failed.lock().ok().and_then(|mut failed| failed.take());
                sender.map(|sender| sender.send(status));
                None
            }
        };
        std::future::ready(frame)
    });
    let mut request = Request::new(StreamBody::new(frames.boxed()));
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    *request.uri_mut() = path.parse().expect("names of services and methods make a path");
    *request.method_mut() = http::Method::POST;
    *request.headers_mut() = metadata;
    request.extensions_mut().insert(held);
    let Ok(response) = front::grpc(api, request).await;
    answers(response, failure)
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).expect("bodies are limited"));
    frame.put_slice(message);
    frame.freeze()
}

/// The metadata that HTTP headers stand for.
pub fn metadata(headers: &HeaderMap) -> Result<HeaderMap, Status> {
    let mut metadata = HeaderMap::new();
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    metadata.insert(VIA_GATEWAY, HeaderValue::from_static("*/*"));
    if let Some(timeout) = headers.get(GRPC_TIMEOUT).filter(|value| !value.is_empty()) {
        let text = String::from_utf8_lossy(timeout.as_bytes());
        let nanos = timeout_nanos(&text)
            .ok_or_else(|| Status::invalid_argument(format!("invalid grpc-timeout: {text}")))?;
        // Zero is none; less than zero is over.
        if nanos != 0 {
            metadata.insert(GRPC_TIMEOUT, written_timeout(nanos.max(0)));
        }
    }
    for (name, value) in headers {
        let name = match name.as_str() {
            "authorization" => name.clone(),
            name => match name.strip_prefix(METADATA_PREFIX).map(str::parse) {
                Some(Ok(name)) => name,
                _ => continue,
            },
        };
        metadata.append(name, value.clone());
    }
    Ok(metadata)
}

/// A timeout as grpc-gateway reads it: any whole number, and a unit.
fn timeout_nanos(text: &str) -> Option<i64> {
    let unit = text.chars().next_back()?;
    let nanos = 1_000_i64.pow(match unit {
        'n' => 0,
        'u' => 1,
        'm' => 2,
        'S' | 'M' | 'H' => 3,
        _ => return None,
    });
    let seconds = match unit {
        'M' => 60,
        'H' => 3600,
        _ => 1,
    };
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    Some(number.saturating_mul(nanos * seconds))
}

/// The same as gRPC writes it: at most eight digits.
fn written_timeout(nanos: i64) -> HeaderValue {
    let units = [('n', 1), ('u', 1_000), ('m', 1_000_000), ('S', 1_000_000_000)];
    let fits = units.iter().find(|(_, unit)| nanos / unit < TIMEOUT_MAX);
    let (unit, nanos_each) = fits.copied().unwrap_or(('H', 3_600_000_000_000));
    let text = format!("{}{unit}", nanos / nanos_each);
    HeaderValue::from_str(&text).expect("digits and a letter")
}

type Failure = tokio::sync::oneshot::Receiver<Status>;

struct Answers {
    body: AnswerBody,
    buffer: BytesMut,
    failure: Failure,
    done: bool,
}

fn answers(response: Response<AnswerBody>, failure: Failure) -> BoxStream<'static, Result<Bytes, Status>> {
    let (parts, body) = response.into_parts();
    let mut answers = Answers {
        body,
        buffer: BytesMut::new(),
        failure,
        done: false,
    };
    if let Some(status) = Status::from_header_map(&parts.headers).filter(|status| status.code() != Code::Ok) {
        let status = answers.failure.try_recv().unwrap_or(status);
        return stream::once(std::future::ready(Err(status))).boxed();
    }
    stream::unfold(answers, |mut answers| async move {
        let next = answers.next().await.transpose()?;
        answers.done |= next.is_err();
        Some((next, answers))
    })
    // Whoever reads the first answer apart asks again after the end.
    .fuse()
    .boxed()
}

impl Answers {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while !self.done {
            if let Some(message) = self.take() {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else {
                self.done = true;
                break;
            };
            let frame = frame.map_err(|error| Status::internal(error.to_string()))?;
            let frame = match frame.into_data() {
                Ok(data) => {
                    self.buffer.extend_from_slice(&data);
                    continue;
                }
                Err(frame) => frame,
            };
            if let Ok(trailers) = frame.into_trailers() {
                self.done = true;
                if let Ok(failure) = self.failure.try_recv() {
                    return Err(failure);
                }
                match Status::from_header_map(&trailers) {
                    Some(status) if status.code() != Code::Ok => return Err(status),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// A message that is complete.
    fn take(&mut self) -> Option<Bytes> {
        let (_, rest) = self.buffer.split_first()?;
        let length = u32::from_be_bytes(*rest.first_chunk::<4>()?) as usize;
        if self.buffer.len() < PREFIX_BYTES + length {
            return None;
        }
        self.buffer.advance(PREFIX_BYTES);
        Some(self.buffer.split_to(length).freeze())
    }
}

#[cfg(test)]
mod tests;
