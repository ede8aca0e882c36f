//! What a process may use up: descriptors, by connections of strangers that say nothing.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use prost::Message;
use quorate::client::Channel;
use quorate::proto::etcdserverpb::RangeRequest;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::support::{Client, Cluster, Member, PATIENCE, run};
use super::tls::{Authority, connect, secure, start};
use tower_service::Service;

/// How many strangers connect, all together.
const STRANGERS_VARIABLE: &str = "QUORATE_STRANGERS";
const STRANGERS: usize = 4_000;
/// Enough that the engine has to write tables.
const LARGE_VALUES: usize = 450;
const LARGE_VALUE_BYTES: usize = 100_000;

/// Answers that are asked for and not read, and the bytes of each.
const UNREAD_ANSWERS: usize = 150;
const UNREAD_ANSWER_BYTES: usize = 8 << 20;
/// What a connection may hold and one answer more, as they are read and as they are sent, and the requests.
const UNREAD_MEBIBYTES_MAX: u64 = 250;

/// This process holds the other ends of all connections.
fn take_all_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit can be raised to the hard one");
}

/// Starts a member with another limit on its descriptors: "-n" for both limits, "-Sn" for the soft one.
fn limit_descriptors(member: &mut Member, which: &str, limit: usize) {
    let script = format!("ulimit {which} {limit} && exec \"$@\"");
    member.launcher = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
}

/// Connections of somebody who says nothing.
fn strangers(address: &str, count: usize) -> Vec<TcpStream> {
    let connect = |_| TcpStream::connect(address).expect("the system takes connections");
    (0..count).map(connect).collect()
}

fn port_of(url: &str) -> String {
    url.rsplit('/').next().expect("a URL has a host").to_owned()
}

async fn put_large_values(env: &quorate::runtime::Env, client: &mut Client) {
    let value = "x".repeat(LARGE_VALUE_BYTES);
    for n in 0..LARGE_VALUES {
        client.put(env, &format!("large-{}", n % 50), &value).await;
    }
}

#[test]
fn a_member_goes_on_when_strangers_take_all_descriptors_that_it_may_have() {
    run(async |env| {
        take_all_descriptors();
        let mut cluster = Cluster::new(1, &[]);
        limit_descriptors(&mut cluster.members[0], "-n", 1024);
        cluster.members[0].start();
        let member = &cluster.members[0];
        let mut inside = Vec::new();
        for n in 0..20 {
            let mut client = member.connect(&env).await;
            client.put(&env, &format!("before-{n}"), "1").await;
            inside.push(client);
        }
        let quiet = strangers(&member.address, 2_000);
        put_large_values(&env, &mut inside[0]).await;
        for (n, client) in inside.iter_mut().enumerate() {
            client.put(&env, &format!("after-{n}"), "1").await;
        }
        // Who speaks is not kept out by those who say nothing.
        let mut late = member.connect(&env).await;
        late.put(&env, "late", "1").await;
        let line = "as many clients are connected as the limit on file descriptors allows";
        let lines = member.log().lines().filter(|found| found.contains(line)).count();
        assert!(
            lines > 0,
            "no line says why clients have to wait:\n{}",
            member.log()
        );
        drop(quiet);
    });
}

#[test]
fn the_soft_limit_on_descriptors_is_raised_and_who_says_nothing_is_hung_up_on() {
    run(async |env| {
        take_all_descriptors();
        let mut cluster = Cluster::new(1, &[]);
        limit_descriptors(&mut cluster.members[0], "-Sn", 1024);
        cluster.members[0].start();
        let member = &cluster.members[0];
        let mut quiet = strangers(&member.address, 1);
        quiet.extend(strangers(&port_of(&member.peer_url()), 1));
        // They have asked once, and may stay.
        let mut idle = strangers(&member.address, 1_200);
        let request = format!("GET /version HTTP/1.1\r\nHost: {}\r\n\r\n", member.address);
        for stream in &mut idle {
            stream
                .write_all(request.as_bytes())
                .expect("a request can be sent");
        }
        let mut answer = [0; 12];
        for stream in &mut idle {
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("a timeout can be set");
            stream.read_exact(&mut answer).expect("an answer comes");
            assert_eq!(&answer, b"HTTP/1.1 200");
        }
        let mut client = member.connect(&env).await;
        put_large_values(&env, &mut client).await;
        for stream in &mut quiet {
            stream
                .set_read_timeout(Some(PATIENCE))
                .expect("a timeout can be set");
            assert_eq!(stream.read(&mut answer).expect("an end comes"), 0, "nobody asked");
        }
        let again = &mut idle[0];
        again
            .write_all(request.as_bytes())
            .expect("who has asked may stay");
        while !answer.ends_with(b"HTTP/1.1 200") {
            answer.rotate_left(1);
            again
                .read_exact(&mut answer[11..])
                .expect("who has asked is answered again");
        }
    });
}

#[test]
fn strangers_do_not_keep_a_member_from_joining_again() {
    run(async |env| {
        take_all_descriptors();
        let wanted = std::env::var(STRANGERS_VARIABLE).ok();
        let wanted = wanted.and_then(|count| count.parse().ok()).unwrap_or(STRANGERS);
        let authority = Authority::new();
        authority.issue("member", 1);
        let flags = authority.flags(&[
            "--cert-file=@/member.pem",
            "--key-file=@/member.key",
            "--peer-cert-file=@/member.pem",
            "--peer-key-file=@/member.key",
            "--peer-trusted-ca-file=@/ca.pem",
            "--peer-client-cert-auth",
        ]);
        let mut cluster = start(secure(3, "all", &flags));
        cluster.members[2].kill();
        let mut quiet = Vec::new();
        for member in &cluster.members[..2] {
            for address in [member.address.clone(), port_of(&member.peer_url())] {
                quiet.push(strangers(&address, wanted / 4));
            }
        }
        cluster.members[2].start();
        for member in &cluster.members {
            let connected = connect(&env, &member.address, authority.client(None)).await;
            let mut client = connected.expect("a client that speaks is served").client;
            client.put_eventually(&env, &member.name, "1").await;
        }
        drop(quiet);
    });
}

/// Thousands come at once after a restart: each finds a place to wait, as far as the system has them.
#[test]
fn many_may_connect_before_the_first_is_accepted() {
    take_all_descriptors();
    let system = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("a limit of the system's");
    let system: usize = system.trim().parse().expect("a number");
    let mut cluster = Cluster::start(1, &[]);
    let address = cluster.members[0].address.parse().expect("an address");
    cluster.members[0].pause();
    let mut connected = Vec::new();
    for _ in 0..system.min(1_500) {
        let stream = TcpStream::connect_timeout(&address, Duration::from_millis(900));
        connected.push(stream.expect("there is a place to wait"));
    }
    cluster.members[0].resume();
}

/// A request for all keys with a prefix, as gRPC frames it.
fn list(prefix: &'static str) -> http::Request<tonic::body::Body> {
    let request = RangeRequest {
        key: prefix.into(),
        range_end: format!("{prefix}~").into(),
        serializable: true,
        ..RangeRequest::default()
    };
    let message = request.encode_to_vec();
    let mut frame = BytesMut::from(&[0][..]);
    frame.extend_from_slice(&u32::try_from(message.len()).expect("it is short").to_be_bytes());
    frame.extend_from_slice(&message);
    let body = tonic::body::Body::new(Full::new(Bytes::from(frame)));
    let request = http::Request::post("/etcdserverpb.KV/Range").header("content-type", "application/grpc");
    request.header("te", "trailers").body(body).expect("a request")
}

/// 1.2 GB in flight, if they were all in memory; and all come when they are read.
#[test]
fn answers_that_nobody_reads_are_not_kept_in_memory() {
    run(async |env| {
        let cluster = Cluster::start(1, &[]);
        let member = &cluster.members[0];
        let mut client = member.connect(&env).await;
        let value = "x".repeat(1 << 20);
        for n in 0..UNREAD_ANSWER_BYTES >> 20 {
            client.put(&env, &format!("large-{n}"), &value).await;
        }
        let mut channel = Channel::connect(&env, &member.address, PATIENCE)
            .await
            .expect("the server listens");
        let before = member.resident_mebibytes();
        let mut answers = Vec::new();
        for _ in 0..UNREAD_ANSWERS {
            answers.push(env.spawn(channel.call(list("large"))));
        }
        let mut most = 0;
        for n in 0..30 {
            env.sleep(Duration::from_millis(100)).await;
            most = most.max(member.resident_mebibytes());
            // Others do not notice.
            client.put(&env, &format!("small-{n}"), "1").await;
        }
        assert!(
            most < before + UNREAD_MEBIBYTES_MAX,
            "{before} MiB, and {most} with answers that nobody reads"
        );
        let read = answers.into_iter().map(async |answer| {
            let answer = answer
                .await
                .expect("the client lives")
                .expect("there is an answer");
            answer
                .into_body()
                .collect()
                .await
                .expect("it comes whole")
                .to_bytes()
                .len()
        });
        for length in join_all(read).await {
            assert!(length > UNREAD_ANSWER_BYTES, "an answer of {length} bytes");
        }
    });
}
