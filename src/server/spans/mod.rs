//! Distributed tracing: a span for each sampled call, sent to a collector over OTLP (gRPC).
//!
//! ```text
//!   call ── traceparent, or by chance ──► Span ── end ──► queue (bounded) ──► batches ──► collector
//! ```
//!
//! Names and attributes are those of etcd and its gRPC instrumentation: "etcdserverpb.KV/Put", and below it "put" with the
//! request's key. Who sampled the client's span decides for ours; without a parent it is chance. A collector that is slow
//! or away costs spans, never calls.

mod describe;
mod traceparent;

use std::any::Any;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::Code;
use tonic::metadata::MetadataMap;

use super::wire::rpc::Rpc;
use crate::client::Channel;
use crate::config::TracingOptions;
use crate::proto::otlp::any_value::Value;
use crate::proto::otlp::trace_service_client::TraceServiceClient;
use crate::proto::otlp::{self, SpanKind, StatusCode};
use crate::runtime::{Env, Instant};
use traceparent::Parent;

/// Ended spans that wait for the collector; more are dropped. This and the next three are OpenTelemetry's defaults.
const QUEUE_MAX: usize = 2048;
const BATCH_MAX: usize = 512;
/// How long a span waits for company.
const BATCH_DELAY: Duration = Duration::from_secs(5);
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// W3C's "sampled"; OTLP's "it is known whether the parent is remote" and "it is".
const FLAG_SAMPLED: u32 = 1;
const FLAG_REMOTE_KNOWN: u32 = 1 << 8;
const FLAG_REMOTE: u32 = 1 << 9;

/// See the module.
pub struct Spans {
    env: Env,
    options: TracingOptions,
    /// `None` once no more spans are taken.
    queue: Mutex<Option<mpsc::Sender<otlp::Span>>>,
    dropped: AtomicU64,
}

/// A call that is traced.
pub struct Span {
    spans: Arc<Spans>,
    span: otlp::Span,
    inner: Option<otlp::Span>,
}

impl Spans {
    /// With the work that sends them, until [`Spans::close`].
    pub fn new(env: Env, options: TracingOptions) -> (Arc<Spans>, impl Future<Output = ()> + Send + 'static) {
        let (sender, queue) = mpsc::channel(QUEUE_MAX);
        let spans = Arc::new(Spans {
            env,
            options,
            queue: Mutex::new(Some(sender)),
            dropped: AtomicU64::new(0),
        });
        let exporter = Exporter {
            spans: spans.clone(),
            channel: None,
        };
        (spans, exporter.run(queue))
    }

    /// The span of a call that begins, if it is sampled.
    pub fn begin<T: Any>(self: &Arc<Self>, rpc: Rpc, metadata: &MetadataMap, request: &T) -> Option<Span> {
        let parent = metadata
            .get("traceparent")
            .and_then(|value| traceparent::parse(value.as_encoded_bytes()));
        let sampled = match &parent {
            Some(parent) => parent.is_sampled,
            None => self.env.random_u64() % 1_000_000 < u64::from(self.options.sampled_per_million),
        };
        if !sampled {
            return None;
        }
        let (service, method, _) = rpc.describe();
        let mut span = self.span(format!("{service}/{method}"), SpanKind::Server, parent.as_ref());
        span.trace_state = metadata
            .get("tracestate")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        span.attributes = vec![
            attribute("rpc.system", Value::StringValue("grpc".to_owned())),
            attribute("rpc.service", Value::StringValue(service.to_owned())),
            attribute("rpc.method", Value::StringValue(method.to_owned())),
        ];
        let inner = describe::request(request).map(|(name, attributes)| {
            let mut inner = self.span(name.to_owned(), SpanKind::Internal, None);
            inner.trace_id = span.trace_id.clone();
            inner.parent_span_id = span.span_id.clone();
            inner.attributes = attributes;
            inner
        });
        Some(Span {
            spans: self.clone(),
            span,
            inner,
        })
    }

    fn span(&self, name: String, kind: SpanKind, parent: Option<&Parent>) -> otlp::Span {
        let trace_id = match parent {
            Some(parent) => parent.trace_id.to_vec(),
            None => [self.id(), self.id()].concat(),
        };
        let remote = if parent.is_some() { FLAG_REMOTE } else { 0 };
        otlp::Span {
            trace_id: trace_id.into(),
            span_id: self.id().to_vec().into(),
            parent_span_id: parent
                .map(|parent| parent.span_id.to_vec())
                .unwrap_or_default()
                .into(),
            flags: FLAG_SAMPLED | FLAG_REMOTE_KNOWN | remote,
            name,
            kind: kind.into(),
            start_time_unix_nano: self.nanoseconds(),
            ..otlp::Span::default()
        }
    }

    /// All zeros is no id.
    fn id(&self) -> [u8; 8] {
        self.env.random_u64().max(1).to_be_bytes()
    }

    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.env.wall_clock().as_nanos()).unwrap_or(u64::MAX)
    }

    fn push(&self, span: otlp::Span) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.as_ref().is_none_or(|queue| queue.try_send(span).is_err()) {
            self.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Takes no more spans; what waits is sent, and then the work ends.
    pub fn close(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    fn resource(&self) -> otlp::Resource {
        let text = |key, value: &String| attribute(key, Value::StringValue(value.clone()));
        let mut attributes = vec![text("service.name", &self.options.service_name)];
        if !self.options.instance_id.is_empty() {
            attributes.push(text("service.instance.id", &self.options.instance_id));
        }
        otlp::Resource { attributes }
    }
}

impl Span {
    /// The call is over.
    pub fn end(mut self, code: Code) {
        let now = self.spans.nanoseconds();
        if let Some(mut inner) = self.inner.take() {
            inner.end_time_unix_nano = now;
            self.spans.push(inner);
        }
        self.span.end_time_unix_nano = now;
        let code_value = Value::IntValue(i64::from(code as i32));
        self.span
            .attributes
            .push(attribute("rpc.grpc.status_code", code_value));
        // What a server answers for is an error; what the client asked for wrongly is not.
        let is_ours = matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        );
        self.span.status = Some(otlp::Status {
            message: String::new(),
            code: if is_ours {
                StatusCode::Error
            } else {
                StatusCode::Unset
            }
            .into(),
        });
        self.spans.push(self.span);
    }
}

fn attribute(key: &str, value: Value) -> otlp::KeyValue {
    otlp::KeyValue {
        key: key.to_owned(),
        value: Some(otlp::AnyValue { value: Some(value) }),
    }
}

struct Exporter {
    spans: Arc<Spans>,
    channel: Option<Channel>,
}

impl Exporter {
    async fn run(mut self, mut queue: mpsc::Receiver<otlp::Span>) {
        let env = self.spans.env.clone();
        while let Some(first) = queue.recv().await {
            let mut batch = vec![first];
            let full_or_late = env.now() + BATCH_DELAY;
            while batch.len() < BATCH_MAX {
                match env.timeout_at(full_or_late, queue.recv()).await {
                    Ok(Some(span)) => batch.push(span),
                    Ok(None) | Err(_) => break,
                }
            }
            let count = batch.len();
            let sent = self.send(batch, env.now() + EXPORT_TIMEOUT).await;
            let dropped = self.spans.dropped.swap(0, Relaxed);
            if let Err(error) = sent {
                self.channel = None;
                let address = &self.spans.options.address;
                tracing::warn!(address, count, dropped, error, "spans could not be sent");
            } else if dropped > 0 {
                tracing::warn!(
                    dropped,
                    "spans were dropped: there are too many for the collector"
                );
            }
        }
    }

    async fn send(&mut self, batch: Vec<otlp::Span>, deadline: Instant) -> Result<(), String> {
        let env = &self.spans.env;
        let channel = match self.channel.take().filter(|channel| !channel.is_closed()) {
            Some(channel) => channel,
            None => Channel::connect(env, &self.spans.options.address, EXPORT_TIMEOUT)
                .await
                .map_err(|error| error.to_string())?,
        };
        let mut client = TraceServiceClient::new(channel.clone());
        let request = otlp::ExportTraceServiceRequest {
            resource_spans: vec![otlp::ResourceSpans {
                resource: Some(self.spans.resource()),
                scope_spans: vec![otlp::ScopeSpans {
                    scope: Some(otlp::InstrumentationScope {
                        name: env!("CARGO_PKG_NAME").to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                    }),
                    spans: batch,
                }],
            }],
        };
        let sent = env.timeout_at(deadline, client.export(request)).await;
        let answer = sent
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|status| status.to_string())?
            .into_inner();
        self.channel = Some(channel);
        match answer.partial_success {
            Some(partial) if partial.rejected_spans > 0 => Err(format!(
                "{} rejected: {}",
                partial.rejected_spans, partial.error_message
            )),
            _ => Ok(()),
        }
    }
}
