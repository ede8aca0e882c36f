//! The client-facing server end to end: one member in this process, on loopback and real files, and the generated
//! clients over the product's own channel.
//!
//! Rules of the state machine have their own tests; here it is what lies between: connections, deadlines, limits,
//! headers, statuses, streams, HTTP.
// Helpers of tests are tests too.
#![allow(clippy::unwrap_used)]

mod auth;
mod extremes;
mod fairness;
mod gateway;
mod http;
mod kv;
mod leaderless;
mod leases;
mod limits;
mod locks;
mod maintenance;
mod nesting;
mod noise;
mod spans;
mod streams;

use std::future::Future;
use std::sync::LazyLock;
use std::time::Duration;

use quorate::client::Channel;
use quorate::config::Config;
use quorate::node::Node;
use quorate::proto::etcdserverpb::{self as pb, kv_client::KvClient};
use quorate::runtime::Env;

/// How long anything may take on a loaded machine. Nothing depends on it being short.
const PATIENCE: Duration = Duration::from_secs(60);

/// One runtime for all tests: the environment of a process belongs to one. Its threads have half the stack that
/// production's have: see `nesting`.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_stack_size(quorate::base::limits::THREAD_STACK_BYTES / 2);
    builder.enable_all().build().expect("a runtime can be built")
});

/// A member that serves.
struct Member {
    env: Env,
    node: Node,
    _dir: tempfile::TempDir,
}

impl Member {
    async fn start(env: &Env, adjust: impl FnOnce(&mut Config)) -> Member {
        let dir = tempfile::tempdir().unwrap();
        let peer_urls = vec!["http://127.0.0.1:1".to_owned()];
        let mut config = Config {
            name: "solo".into(),
            data_dir: dir.path().join("data"),
            listen_client: vec!["127.0.0.1:0".into()],
            listen_peer: vec!["127.0.0.1:0".into()],
            listen_metrics: vec!["127.0.0.1:0".into()],
            advertise_client_urls: vec!["http://solo.example:2379".into()],
            advertise_peer_urls: peer_urls.clone(),
            initial_cluster: vec![("solo".into(), peer_urls)],
            // Small, so that tests on a loaded disk do not wait for zeroes.
            log_segment_bytes: 1 << 20,
            ..Config::default()
        };
        adjust(&mut config);
        let node = Node::start(env.clone(), config).await.unwrap();
        env.timeout(PATIENCE, node.ready())
            .await
            .expect("ready in time")
            .unwrap();
        Member {
            env: env.clone(),
            node,
            _dir: dir,
        }
    }

    fn client_address(&self) -> &str {
        &self.node.client_addresses()[0]
    }

    fn metrics_address(&self) -> &str {
        &self.node.client_addresses()[1]
    }

    async fn channel(&self) -> Channel {
        Channel::connect(&self.env, self.client_address(), PATIENCE)
            .await
            .unwrap()
    }

    async fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel().await)
    }
}

/// Runs a test against a member of its own.
fn with_member<F: Future>(body: impl FnOnce(Member) -> F) -> F::Output {
    with_adjusted(|_| {}, body)
}

fn with_adjusted<F: Future>(adjust: impl FnOnce(&mut Config), body: impl FnOnce(Member) -> F) -> F::Output {
    RUNTIME.block_on(async {
        let env = quorate::runtime::tokio::env();
        body(Member::start(&env, adjust).await).await
    })
}

fn put(key: &str, value: impl Into<Vec<u8>>) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.into().into(),
        ..Default::default()
    }
}

fn range(key: &str, range_end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    }
}

/// Code and text of a refusal.
fn refusal<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> (tonic::Code, String) {
    let status = result.expect_err("the server should refuse");
    (status.code(), status.message().to_owned())
}
