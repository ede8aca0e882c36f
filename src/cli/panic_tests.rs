//! What a panic costs, in a process of its own: one in a request costs the request, any other the process.
//!
//! The process is this very test binary, run again for one test with a variable set. The member in it runs on an
//! environment in which a sleep of a certain length panics, so that the product needs no switch for it: a request
//! brings such a sleep with it as its deadline, and a task of the member's own as its interval.

use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Request, Status};

use super::logging::Logger;
use crate::client::Channel;
use crate::config::Config;
use crate::node::Node;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::kv_client::KvClient;
use crate::proto::etcdserverpb::lease_client::LeaseClient;
use crate::proto::etcdserverpb::watch_client::WatchClient;
use crate::runtime::{
    Abort, Begin, BoxFuture, Disk, Env, Instant, Listener, LocalBoxFuture, Runtime, Stream, Task, panics,
};

/// Says what the process that is a test is to do.
const PART: &str = "QUORATE_PANIC_TEST";
const PATIENCE: Duration = Duration::from_secs(60);
const DEADLY_DEADLINE: &str = "77777S";
const DEADLY_SLEEP: Duration = Duration::from_secs(77_777);
/// Of heartbeats, once it is armed.
const DEADLY_INTERVAL: Duration = Duration::from_millis(101);
/// The moment at which a sleep is asked for is not that at which it begins.
const TOLERANCE: Duration = Duration::from_millis(3);

/// The production environment, but for sleeps that panic.
struct Sabotaged {
    inner: Env,
    heartbeats_panic: Arc<AtomicBool>,
}

struct Handle(Task<()>);

impl Abort for Handle {
    fn abort(&self) {
        self.0.abort();
    }
}

fn is_about(duration: Duration, wanted: Duration) -> bool {
    duration <= wanted && wanted - duration < TOLERANCE
}

impl Runtime for Sabotaged {
    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn wall_clock(&self) -> Duration {
        self.inner.wall_clock()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let duration = deadline - self.now();
        if is_about(duration, DEADLY_SLEEP) {
            return Box::pin(async { panic!("a request panics on purpose") });
        }
        let sleep = self.inner.sleep_until(deadline);
        if !is_about(duration, DEADLY_INTERVAL) {
            return sleep;
        }
        let heartbeats_panic = self.heartbeats_panic.clone();
        Box::pin(async move {
            sleep.await;
            assert!(
                !heartbeats_panic.load(Ordering::SeqCst),
                "a core task panics on purpose"
            );
        })
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(Handle(self.inner.spawn(task)))
    }

    fn start_core(&self, begin: Begin, ended: Box<dyn FnOnce() + Send>) -> std::io::Result<()> {
        self.inner.start_core(begin, ended)
    }

    fn spawn_local(&self, task: LocalBoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(Handle(self.inner.spawn_local(task)))
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        drop(self.inner.run_blocking(work));
    }

    fn random_u64(&self) -> u64 {
        self.inner.random_u64()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, std::io::Result<Box<dyn Listener>>> {
        Box::pin(self.inner.listen(address))
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, std::io::Result<Stream>> {
        Box::pin(self.inner.connect(address))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.inner.disk()
    }
}

/// Runs a part of this file in a process of its own.
fn run(part: &str) -> (Output, String) {
    let binary = std::env::current_exe().expect("this binary is a file");
    let output = Command::new(binary)
        .args(["cli::panic_tests::the_process", "--exact", "--nocapture"])
        .env(PART, part)
        .env("RUST_BACKTRACE", "0")
        .output()
        .expect("it can be run again");
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, log)
}

fn was_aborted(output: &Output) -> bool {
    use std::os::unix::process::ExitStatusExt;
    const SIGABRT: i32 = 6;
    output.status.signal() == Some(SIGABRT)
}

/// The lines of a log with this text, as JSON.
fn lines(log: &str, text: &str) -> Vec<serde_json::Value> {
    let lines = log.lines().filter(|line| line.contains(text));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[test]
fn a_request_that_panics_ends_alone() {
    let (output, log) = run("requests");
    assert!(output.status.success(), "{:?}\n{log}", output.status);
    let lines = lines(&log, "a request ended in a panic");
    let requests: Vec<_> = lines.iter().filter_map(|line| line["request"].as_str()).collect();
    let expected = [
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.Watch/Watch",
        "/etcdserverpb.Lease/LeaseKeepAlive",
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.Watch/Watch",
    ];
    assert_eq!(requests, expected, "{log}");
    for line in lines {
        assert_eq!(line["level"], "error");
        assert_eq!(line["error"], "a request panics on purpose");
        let place = line["place"].as_str().unwrap_or_default();
        assert!(place.starts_with("src/cli/panic_tests.rs:"), "{place}");
        assert!(
            line["stacktrace"]
                .as_str()
                .is_some_and(|stack| stack.contains("panic_tests"))
        );
    }
}

#[test]
fn a_core_task_that_panics_ends_the_process_with_its_reason() {
    let (output, log) = run("core");
    assert!(was_aborted(&output), "{:?}\n{log}", output.status);
    let lines = lines(&log, "a core task panics on purpose");
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(lines[0]["level"], "panic");
    assert!(
        lines[0]["caller"]
            .as_str()
            .is_some_and(|place| place.contains("panic_tests.rs"))
    );
}

#[test]
fn a_lock_that_a_request_panicked_under_ends_the_process() {
    let (output, log) = run("lock");
    assert!(was_aborted(&output), "{:?}\n{log}", output.status);
    assert!(log.contains("half changed"), "{log}");
    assert!(!log.contains("still there"), "{log}");
}

/// What the other process does; nothing where this is just a test among others.
#[test]
fn the_process() {
    let Some(part) = std::env::var_os(PART) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let inner = crate::runtime::tokio::env();
        Logger::install(&inner);
        let heartbeats_panic = Arc::new(AtomicBool::new(false));
        let env = Env::new(Sabotaged {
            inner,
            heartbeats_panic: heartbeats_panic.clone(),
        });
        match part.to_str() {
            Some("requests") => with_member(&env, async |address| requests(&env, &address).await).await,
            Some("core") => {
                with_member(&env, async |_| {
                    heartbeats_panic.store(true, Ordering::SeqCst);
                    env.sleep(PATIENCE).await;
                })
                .await;
            }
            _ => under_a_lock(),
        }
    });
}

async fn with_member(env: &Env, body: impl AsyncFnOnce(String)) {
    let dir = tempfile::tempdir().unwrap();
    let peer_urls = vec!["http://127.0.0.1:1".to_owned()];
    let config = Config {
        name: "solo".into(),
        data_dir: dir.path().join("data"),
        listen_client: vec!["127.0.0.1:0".into()],
        listen_peer: vec!["127.0.0.1:0".into()],
        advertise_peer_urls: peer_urls.clone(),
        initial_cluster: vec![("solo".into(), peer_urls)],
        heartbeat_interval: DEADLY_INTERVAL,
        log_segment_bytes: 1 << 20,
        ..Config::default()
    };
    let node = Node::start(env.clone(), config).await.unwrap();
    env.timeout(PATIENCE, node.ready())
        .await
        .expect("ready in time")
        .unwrap();
    body(node.client_addresses()[0].clone()).await;
}

fn deadly<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let deadline = DEADLY_DEADLINE.parse().expect("metadata");
    request.metadata_mut().insert("grpc-timeout", deadline);
    request
}

fn put(key: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

/// A unary call, streams, and both through the gateway: each fails, and all others go on.
async fn requests(env: &Env, address: &str) {
    let channel = Channel::connect(env, address, PATIENCE).await.unwrap();
    let mut kv = KvClient::new(channel.clone());
    let mut watch = WatchClient::new(channel.clone());
    let create = pb::WatchCreateRequest {
        key: "b".into(),
        ..Default::default()
    };
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    let open = || futures_util::StreamExt::chain(stream::iter([create.clone()]), stream::pending());
    let mut living = watch.watch(open()).await.unwrap().into_inner();
    assert!(living.message().await.unwrap().unwrap().created);

    let failed = |status: Status| assert_eq!(status.code(), Code::Internal, "{status:?}");
    failed(kv.put(deadly(put("a"))).await.unwrap_err());
    let mut dying = watch.watch(deadly(open())).await.unwrap().into_inner();
    failed(dying.message().await.unwrap_err());
    let mut lease = LeaseClient::new(channel);
    let renewals = stream::iter([pb::LeaseKeepAliveRequest { id: 1 }]);
    let mut dying = lease
        .lease_keep_alive(deadly(renewals))
        .await
        .unwrap()
        .into_inner();
    failed(dying.message().await.unwrap_err());
    for (path, body) in [
        ("/v3/kv/put", r#"{"key":"YQ=="}"#),
        ("/v3/watch", r#"{"create_request":{"key":"YQ=="}}"#),
    ] {
        let headers = format!("Grpc-Timeout: {DEADLY_DEADLINE}\r\n");
        let answer = http(env, address, &format!("POST {path}"), &headers, body).await;
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert!(answer.contains(r#""code":13"#), "{answer}");
    }

    kv.put(put("b")).await.unwrap();
    let seen = living.message().await.unwrap().unwrap();
    assert_eq!(seen.events.len(), 1, "a watch of the same connection goes on");
    let metrics = http(env, address, "GET /metrics", "", "").await;
    assert!(
        metrics.contains("quorate_server_request_panics_total 5\n"),
        "counted"
    );
    let internal = "grpc_server_handled_total{grpc_code=\"Internal\",grpc_method=\"Watch\",\
                    grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"} 2\n";
    assert!(metrics.contains(internal), "counted by its code");
}

async fn http(env: &Env, address: &str, what: &str, headers: &str, body: &str) -> String {
    let mut stream = env.connect(address).await.unwrap();
    let length = body.len();
    let request = format!(
        "{what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    env.timeout(PATIENCE, read).await.expect("in time").unwrap();
    answer
}

fn under_a_lock() {
    let lock = std::sync::Mutex::new(0);
    let held = panics::contain(|| {
        let _held = lock.lock().unwrap_or_else(panics::poisoned);
        panic!("under a lock");
    });
    assert!(held.is_err());
    let _ = panics::contain(|| drop(lock.lock().unwrap_or_else(panics::poisoned)));
    eprintln!("still there");
}
