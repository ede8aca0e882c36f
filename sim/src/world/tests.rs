//! The joined world, on madsim: `cargo sim-test`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use quorate::client::{Channel, EnvExecutor};
use quorate::proto::health::health_client::HealthClient;
use quorate::proto::health::health_server::{Health, HealthServer};
use quorate::proto::health::{HealthCheckRequest, HealthCheckResponse};
use quorate::runtime::Env;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::{Service, http};
use tonic::{Request, Response, Status};

use super::net::Speed;
use super::{Kill, World, disk, net};
use crate::seed::Seed;
use crate::trace::Trace;

fn world(seed: u64) -> World {
    let network = net::Settings {
        speed: Speed {
            latency: 500_000,
            jitter: 200_000,
            per_kibibyte: 8_000,
        },
        window: 256 << 10,
        give_up: Duration::from_secs(30),
    };
    let disks = disk::Settings {
        sync_latency_min: Duration::from_micros(100),
        sync_latency_mean: Duration::from_micros(400),
        ..disk::Settings::default()
    };
    World::new(Seed(seed), network, disks, Trace::new(false))
}

/// Runs a world in a thread of its own, so that each has the same hash keys.
fn run<T, F>(seed: u64, test: impl FnOnce(World) -> F + Send + 'static) -> T
where
    T: Send + 'static,
    F: std::future::Future<Output = T>,
{
    #[allow(clippy::disallowed_methods)]
    let thread = std::thread::spawn(move || {
        let runtime = madsim::runtime::Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.block_on(async move { test(world(seed)).await })
    });
    thread.join().expect("the test passes")
}

struct Serving;

#[tonic::async_trait]
impl Health for Serving {
    type WatchStream = ReceiverStream<Result<HealthCheckResponse, Status>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: 1 }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("not part of this test"))
    }
}

/// hyper's HTTP/2 server under the generated health service.
async fn serve(env: Env, address: &'static str) {
    let listener = env.listen(address).await.expect("a free port");
    while let Ok(stream) = listener.accept().await {
        let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async {
            HealthServer::new(Serving).call(request).await
        });
        let connection = hyper::server::conn::http2::Builder::new(EnvExecutor(env.clone()))
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
        env.spawn(connection);
    }
}

/// Calls without a pause for a while; how many were answered.
async fn call_for(env: Env, duration: Duration) -> u64 {
    let end = env.now() + duration;
    let mut answered = 0;
    while env.now() < end {
        let connected = Channel::connect(&env, "m1:2379", Duration::from_secs(1)).await;
        let Ok(channel) = connected else {
            env.sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut client = HealthClient::new(channel);
        while env.now() < end {
            let call = client.check(HealthCheckRequest::default());
            match env.timeout(Duration::from_secs(1), call).await {
                Ok(Ok(_)) => answered += 1,
                Ok(Err(_)) | Err(_) => break,
            }
        }
    }
    answered
}

/// One server, four clients, some faults: the number of answers and the trace's hash.
async fn health_checks(world: World, faults: bool) -> (u64, u64) {
    let server = world.add_host("m1");
    world.start(server, |env| serve(env, "m1:2379"));
    let answered = Arc::new(AtomicU64::new(0));
    for client in 0..4 {
        let host = world.add_host(&format!("c{client}"));
        let (answered, inside) = (answered.clone(), world.clone());
        world.start(host, |env| async move {
            let count = call_for(env, Duration::from_secs(10)).await;
            inside.event("client", format_args!("answered {count}"));
            answered.fetch_add(count, Ordering::Relaxed);
        });
    }
    if faults {
        world.sleep(Duration::from_secs(2)).await;
        world.net(|net, now| net.cut(now, 1, server));
        world.sleep(Duration::from_secs(2)).await;
        world.net(|net, now| net.heal(now, 1, server));
        world.kill(server, Kill::Power);
        world.sleep(Duration::from_secs(1)).await;
        world.start(server, |env| serve(env, "m1:2379"));
        world.sleep(Duration::from_secs(1)).await;
        assert!(world.pause(server));
        world.sleep(Duration::from_secs(1)).await;
        assert!(world.resume(server));
    }
    world.sleep(Duration::from_secs(20)).await;
    (answered.load(Ordering::Relaxed), world.trace().hash())
}

#[test]
fn grpc_crosses_the_network_byte_for_byte_and_survives_faults() {
    let (undisturbed, _) = run(1, |world| health_checks(world, false));
    let (disturbed, _) = run(1, |world| health_checks(world, true));
    assert!(undisturbed > 20_000, "answered {undisturbed}");
    assert!(
        disturbed > 5_000 && disturbed < undisturbed,
        "answered {disturbed}"
    );
}

#[test]
fn a_seed_gives_the_same_trace_again_and_another_seed_another() {
    let first = run(7, |world| health_checks(world, true));
    assert_eq!(first, run(7, |world| health_checks(world, true)));
    assert_ne!(first, run(8, |world| health_checks(world, true)));
}

#[test]
fn timers_are_exact_and_follow_the_nodes_clock() {
    run(1, |world| async move {
        let host = world.add_host("m1");
        let inside = world.clone();
        world.start(host, move |env| async move {
            let (start, before) = (inside.now(), env.now());
            env.sleep(Duration::from_micros(50)).await;
            let passed = inside.now() - start;
            assert!((50_000..60_000).contains(&passed), "{passed} ns");
            inside.clock(host, |clock, now| clock.drift(now, 50_000));
            env.sleep(Duration::from_secs(21)).await;
            let passed = inside.now() - start;
            assert!((19_900_000_000..20_100_000_000).contains(&passed), "{passed} ns");
            assert!(env.now() > before);
            inside.event("m1", format_args!("done"));
        });
        world.sleep(Duration::from_secs(30)).await;
        assert_eq!(world.trace().lines(), 2);
    });
}
