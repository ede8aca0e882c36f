//! Bytes that no client and no member would send, to every port: nothing panics, nothing grows without end, others are served.
//!
//! `QUORATE_FUZZ_SECONDS=600 cargo test --release --test grpc noise` goes on for longer; what panics, panics with the seed.
//! What is read from files and command lines has its noise in the unit tests (`PROPTEST_CASES=1000000 cargo test --release --lib noise`).

use std::time::Duration;

use prost::Message;
use quorate::consensus::ask;
use quorate::proto::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};
use quorate::runtime::Env;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Member, PATIENCE, RUNTIME};

const SECONDS: u64 = 3;
const SECONDS_VARIABLE: &str = "QUORATE_FUZZ_SECONDS";
/// Resident memory may grow by so much: caches fill, and other tests run in this process.
const GROWTH_BYTES_MAX: u64 = 1 << 30;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_millis(3);

/// Methods of every shape.
const METHODS: &[&str] = &[
    "/etcdserverpb.KV/Range",
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.KV/Put",
    "/etcdserverpb.KV/DeleteRange",
    "/etcdserverpb.KV/Txn",
    "/etcdserverpb.KV/Compact",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseGrant",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Lease/LeaseTimeToLive",
    "/etcdserverpb.Maintenance/HashKV",
    "/etcdserverpb.Maintenance/Status",
    "/etcdserverpb.Auth/UserAdd",
    "/etcdserverpb.Auth/Authenticate",
    "/v3lockpb.Lock/Unlock",
    "/v3electionpb.Election/Leader",
    "/grpc.health.v1.Health/Watch",
    "/etcdserverpb.KV/Absent",
    "/v3/kv/range",
    "/health",
    "",
];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HPACK: a POST to a method, as gRPC.
fn headers(path: &str) -> Vec<u8> {
    let mut bytes = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        bytes.extend(name);
        bytes.push(u8::try_from(value.len()).unwrap());
        bytes.extend(value.as_bytes());
    };
    literal(&[0x44], path);
    literal(&[0x41], "localhost");
    literal(&[0x5f], "application/grpc");
    literal(b"\x40\x02te", "trailers");
    bytes
}

fn message(random: &mut StdRng) -> Vec<u8> {
    let put = |key: &str| pb::PutRequest {
        key: key.to_owned().into(),
        value: vec![b'x'; 300].into(),
        ..Default::default()
    };
    let op = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put("t"))),
    };
    let create = pb::watch_request::RequestUnion::CreateRequest(pb::WatchCreateRequest {
        key: "a".into(),
        range_end: "\0".into(),
        ..Default::default()
    });
    match random.random_range(0..5) {
        0 => put("k").encode_to_vec(),
        1 => pb::RangeRequest {
            key: "a".into(),
            range_end: "\0".into(),
            ..Default::default()
        }
        .encode_to_vec(),
        2 => pb::TxnRequest {
            success: vec![op; 3],
            ..Default::default()
        }
        .encode_to_vec(),
        3 => pb::WatchRequest {
            request_union: Some(create),
        }
        .encode_to_vec(),
        _ => {
            let mut noise = vec![0; random.random_range(0..2000)];
            random.fill(&mut noise[..]);
            noise
        }
    }
}

/// Changes some bytes, takes some out, puts some in, or leaves everything as it is.
fn spoil(random: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..random.random_range(0..4) {
        if bytes.is_empty() {
            return;
        }
        let at = random.random_range(0..bytes.len());
        match random.random_range(0..4) {
            0 => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at] = random.random(),
            2 => bytes.truncate(at),
            _ => {
                let from = random.random_range(0..=at);
                let copied: Vec<u8> = bytes[from..at].to_vec();
                bytes.splice(at..at, copied);
            }
        }
    }
}

/// A connection of HTTP/2 that begins well and goes on badly.
fn connection(random: &mut StdRng) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for number in 0..random.random_range(1..8) {
        let stream = 2 * number + 1;
        let mut block = headers(METHODS[random.random_range(0..METHODS.len())]);
        if random.random_bool(0.2) {
            spoil(random, &mut block);
        }
        bytes.extend(frame(1, 4, stream, &block));
        for _ in 0..random.random_range(0..3) {
            let mut body = message(random);
            let length = match random.random_bool(0.9) {
                true => u32::try_from(body.len()).unwrap(),
                false => random.random(),
            };
            if random.random_bool(0.5) {
                spoil(random, &mut body);
            }
            let mut data = vec![u8::from(random.random_bool(0.05))];
            data.extend(length.to_be_bytes());
            data.extend(body);
            bytes.extend(frame(0, u8::from(random.random_bool(0.5)), stream, &data));
        }
        if random.random_bool(0.3) {
            let mut payload = vec![0; random.random_range(0..40)];
            random.fill(&mut payload[..]);
            bytes.extend(frame(
                random.random_range(0..12),
                random.random(),
                random.random_range(0..20),
                &payload,
            ));
        }
    }
    if random.random_bool(0.2) {
        spoil(random, &mut bytes);
    }
    bytes
}

/// Sends, listens for a moment, hangs up.
async fn send(env: &Env, address: &str, bytes: &[u8]) {
    let mut stream = env.connect(address).await.unwrap();
    // The server may hang up in the middle.
    let _ = env.timeout(PATIENCE, stream.write_all(bytes)).await;
    let mut answer = vec![0; 4096];
    while let Ok(Ok(1..)) = env.timeout(ANSWER, stream.read(&mut answer)).await {}
}

async fn resident_bytes(member: &Member) -> u64 {
    let mut stream = member.env.connect(member.metrics_address()).await.unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    found.unwrap().parse::<f64>().unwrap() as u64
}

/// Sends what `draw` makes of one seed after the other to a member of its own.
fn go_on(draw: impl AsyncFn(&Env, &mut StdRng) -> Vec<u8>, address: impl Fn(u16, &Member) -> String) {
    let seconds = std::env::var(SECONDS_VARIABLE).map_or(SECONDS, |text| text.parse().unwrap());
    let port = free_port();
    RUNTIME.block_on(async {
        let env = quorate::runtime::tokio::env();
        let member = Member::start(&env, |config| {
            config.listen_peer = vec![format!("127.0.0.1:{port}").into()];
            config.advertise_peer_urls = vec![format!("http://127.0.0.1:{port}")];
            config.initial_cluster = vec![("solo".into(), config.advertise_peer_urls.clone())];
        })
        .await;
        let before = resident_bytes(&member).await;
        let end = env.now() + Duration::from_secs(seconds);
        let mut seed = 0;
        while env.now() < end {
            let mut random = StdRng::seed_from_u64(seed);
            let bytes = draw(&env, &mut random).await;
            let sent = env
                .timeout(PATIENCE, send(&env, &address(port, &member), &bytes))
                .await;
            assert!(sent.is_ok(), "seed {seed} is never done with");
            seed += 1;
        }
        let mut client = MaintenanceClient::new(member.channel().await);
        let status = env.timeout(PATIENCE, client.status(pb::StatusRequest {})).await;
        status.expect("an answer").expect("the member serves");
        let grown = resident_bytes(&member).await.saturating_sub(before);
        assert!(
            grown < GROWTH_BYTES_MAX,
            "{grown} bytes more after {seed} connections"
        );
        println!("{seed} connections, {} MiB more", grown >> 20);
    });
}

/// A port that is free now.
#[allow(clippy::disallowed_types, clippy::disallowed_methods)]
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn noise_of_clients_harms_nobody() {
    go_on(
        async |_, random| connection(random),
        |_, member| member.client_address().to_owned(),
    );
}

/// What a member says first, as it is on the wire.
async fn greeting(env: &Env) -> Vec<u8> {
    let listener = env.listen("127.0.0.1:0").await.unwrap();
    let urls = vec![format!("http://{}", listener.local_address())];
    let asking = env.clone();
    env.spawn_detached(async move {
        // Nobody answers: only the question is wanted.
        let _ = ask(&asking, Default::default(), &urls, ANSWER * 100).await;
    });
    let mut stream = listener.accept().await.unwrap();
    let mut bytes = vec![0; 4096];
    let length = stream.read(&mut bytes).await.unwrap();
    bytes.truncate(length);
    bytes
}

#[test]
fn noise_of_members_harms_nobody() {
    go_on(
        async |env, random| {
            let mut bytes = greeting(env).await;
            spoil(random, &mut bytes);
            for _ in 0..random.random_range(0..4) {
                let mut body = message(random);
                let length = match random.random_bool(0.8) {
                    true => u32::try_from(body.len()).unwrap(),
                    false => random.random(),
                };
                spoil(random, &mut body);
                bytes.extend(length.to_le_bytes());
                bytes.extend(body);
            }
            bytes
        },
        |port, _| format!("127.0.0.1:{port}"),
    );
}
