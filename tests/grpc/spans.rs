//! Distributed tracing: what a collector is told of calls, and which.

use std::sync::{Arc, Mutex};

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use quorate::client::{Channel, EnvExecutor};
use quorate::config::TracingOptions;
use quorate::proto::etcdserverpb::{self as pb, kv_client::KvClient};
use quorate::proto::otlp::any_value::Value;
use quorate::proto::otlp::trace_service_server::{TraceService, TraceServiceServer};
use quorate::proto::otlp::{self, SpanKind, StatusCode};
use quorate::runtime::Env;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Request, Response, Status};

use crate::{Member, PATIENCE, RUNTIME, put, range};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Keeps what it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<otlp::ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().extend(request.into_inner().resource_spans);
        Ok(Response::new(otlp::ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens; its address.
    async fn start(&self, env: &Env) -> String {
        let listener = env.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_address();
        let (collector, of_task) = (self.clone(), env.clone());
        env.spawn(async move {
            loop {
                let stream = listener.accept().await.unwrap();
                let service = TraceServiceServer::new(collector.clone());
                let serve = service_fn(move |request| {
                    let mut service = service.clone();
                    async move { service.call(hyper::Request::map(request, Body::new)).await }
                });
                let connection = hyper::server::conn::http2::Builder::new(EnvExecutor(of_task.clone()));
                let connection = connection.serve_connection(TokioIo::new(stream), serve);
                of_task.spawn(async move { connection.await.is_ok() });
            }
        });
        address
    }

    fn spans(&self) -> Vec<otlp::Span> {
        let received = self.0.lock().unwrap();
        let scopes = received.iter().flat_map(|resource| &resource.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }
}

/// Runs a body against a member that tells a collector; then stops the member, which sends what is left.
fn traced<F: Future>(per_million: u32, body: impl FnOnce(KvClient<Channel>) -> F) -> Collector {
    RUNTIME.block_on(async {
        let env = quorate::runtime::tokio::env();
        let collector = Collector::default();
        let address = collector.start(&env).await;
        let member = Member::start(&env, |config| {
            config.tracing = Some(TracingOptions {
                address,
                service_name: "store".into(),
                instance_id: "one".into(),
                sampled_per_million: per_million,
            });
        });
        let member = member.await;
        body(member.kv().await).await;
        env.timeout(PATIENCE, member.node.stop()).await.unwrap();
        collector
    })
}

/// From a client whose own span is sampled, or is not.
fn from_parent<T>(message: T, is_sampled: bool) -> Request<T> {
    let mut request = Request::new(message);
    let header = format!("00-{TRACE}-{PARENT}-0{}", u8::from(is_sampled));
    request
        .metadata_mut()
        .insert("traceparent", header.parse().unwrap());
    request
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// "key=value" of each attribute.
fn attributes(span: &otlp::Span) -> Vec<String> {
    let shown = |attribute: &otlp::KeyValue| {
        let value = match attribute.value.clone().and_then(|value| value.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::BoolValue(boolean)) => boolean.to_string(),
            None => "nothing".to_owned(),
        };
        format!("{}={value}", attribute.key)
    };
    span.attributes.iter().map(shown).collect()
}

#[test]
fn a_sampled_call_is_told_with_what_etcd_says_of_it() {
    let collector = traced(0, async |mut kv| {
        kv.put(from_parent(put("a", "1"), true)).await.unwrap();
        let compare = pb::Compare {
            key: "cmp".into(),
            ..Default::default()
        };
        let op = |request| pb::RequestOp {
            request: Some(request),
        };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![
                op(pb::request_op::Request::RequestPut(put("b", "2"))),
                op(pb::request_op::Request::RequestRange(range("c", ""))),
            ],
            failure: Vec::new(),
        };
        kv.txn(from_parent(txn, true)).await.unwrap();
        kv.range(from_parent(range("", ""), true)).await.unwrap_err();
        // Neither its client nor chance wants these.
        kv.range(from_parent(range("unsampled", ""), false))
            .await
            .unwrap();
        kv.range(range("alone", "")).await.unwrap();
    });
    let resources = collector.0.lock().unwrap().clone();
    let resource = otlp::Span {
        attributes: resources[0].resource.clone().unwrap().attributes,
        ..Default::default()
    };
    assert_eq!(
        attributes(&resource),
        ["service.name=store", "service.instance.id=one"]
    );

    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let expected = [
        "put",
        "etcdserverpb.KV/Put",
        "txn",
        "etcdserverpb.KV/Txn",
        "range",
        "etcdserverpb.KV/Range",
    ];
    assert_eq!(names, expected);
    for pair in spans.chunks_exact(2) {
        let [inner, call] = pair else { unreachable!() };
        assert_eq!(
            (inner.kind(), call.kind()),
            (SpanKind::Internal, SpanKind::Server)
        );
        assert_eq!(hexadecimal(&call.trace_id), TRACE);
        assert_eq!(hexadecimal(&call.parent_span_id), PARENT);
        assert_eq!(
            (&inner.trace_id, &inner.parent_span_id),
            (&call.trace_id, &call.span_id)
        );
        assert!(call.start_time_unix_nano > 0 && call.start_time_unix_nano <= call.end_time_unix_nano);
        assert_eq!(call.status.as_ref().unwrap().code(), StatusCode::Unset);
    }
    assert_eq!(
        attributes(&spans[1]),
        [
            "rpc.system=grpc",
            "rpc.service=etcdserverpb.KV",
            "rpc.method=Put",
            "rpc.grpc.status_code=0"
        ]
    );
    assert_eq!(attributes(&spans[0]), ["key=a"]);
    assert_eq!(
        attributes(&spans[2]),
        [
            "compare_first_key=cmp",
            "success_first_key=b",
            "success_first_type=put",
            "success_first_lease=0",
            "compare_len=1",
            "success_len=2",
            "failure_len=0",
            "read_only=false"
        ]
    );
    assert_eq!(
        attributes(&spans[5])[3],
        "rpc.grpc.status_code=3",
        "its client's fault"
    );
}

#[test]
fn without_a_parent_it_is_chance() {
    let collector = traced(1_000_000, async |mut kv| {
        kv.range(range("a", "")).await.unwrap();
        kv.range(from_parent(range("b", ""), false)).await.unwrap();
    });
    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    assert!(spans[1].parent_span_id.is_empty() && spans[1].trace_id.len() == 16);
}

#[test]
fn a_collector_that_is_away_costs_spans_alone() {
    RUNTIME.block_on(async {
        let env = quorate::runtime::tokio::env();
        let nobody = env.listen("127.0.0.1:0").await.unwrap().local_address();
        let member = Member::start(&env, |config| {
            config.tracing = Some(TracingOptions {
                address: nobody,
                service_name: "store".into(),
                instance_id: String::new(),
                sampled_per_million: 1_000_000,
            });
        });
        let member = member.await;
        let mut kv = member.kv().await;
        // More than may wait.
        for number in 0..1500 {
            kv.range(range(&number.to_string(), "")).await.unwrap();
        }
        env.timeout(PATIENCE, member.node.stop()).await.unwrap();
    });
}
