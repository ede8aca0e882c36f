//! Keep-alive streams at scale and at a distance, and other streams of which much waits unread.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use quorate::client::Channel;
use quorate::config::Config;
use quorate::node::Node;
use quorate::proto::etcdserverpb::{
    self as pb, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, lease_client::LeaseClient,
    watch_request::RequestUnion,
};
use quorate::runtime::{Env, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{PATIENCE, RUNTIME, put, range, with_adjusted, with_member};

/// Passes on what comes, `delay` later.
async fn relay(env: Env, listener: Box<dyn Listener>, to: String, delay: Duration) {
    while let Ok(near) = listener.accept().await {
        let Ok(far) = env.connect(&to).await else { continue };
        let (near, far) = (tokio::io::split(near), tokio::io::split(far));
        for (mut from, mut to) in [(near.0, far.1), (far.0, near.1)] {
            let (sender, mut pieces) = tokio::sync::mpsc::unbounded_channel();
            let reading = env.clone();
            env.spawn(async move {
                loop {
                    let mut piece = BytesMut::with_capacity(64 * 1024);
                    let read = from.read_buf(&mut piece).await;
                    let over = !matches!(read, Ok(bytes) if bytes > 0);
                    if over || sender.send((reading.now() + delay, piece)).is_err() {
                        return;
                    }
                }
            });
            let writing = env.clone();
            env.spawn(async move {
                while let Some((due, piece)) = pieces.recv().await {
                    writing.sleep_until(due).await;
                    if to.write_all(&piece).await.is_err() {
                        return;
                    }
                }
                let _ = to.shutdown().await;
            });
        }
    }
}

/// Three members, each `delay` away from the others.
async fn far_apart(env: &Env, dir: &std::path::Path, delay: Duration) -> Vec<Node> {
    let mut urls = Vec::new();
    let mut ports = Vec::new();
    for _ in 0..3 {
        // Held by nobody for a moment, below the range from which the kernel gives ports to connections.
        let mut port = 20_000 + (env.random_u64() % 10_000) as u16;
        let listener = loop {
            match env.listen(&format!("127.0.0.1:{port}")).await {
                Ok(listener) => break listener,
                Err(_) => port += 1,
            }
        };
        let near = listener.local_address();
        drop(listener);
        let outside = env.listen("127.0.0.1:0").await.unwrap();
        urls.push(vec![format!("http://{}", outside.local_address())]);
        env.spawn(relay(env.clone(), outside, near.clone(), delay));
        ports.push(near);
    }
    let cluster: Vec<_> = urls
        .iter()
        .enumerate()
        .map(|(at, urls)| (format!("m{at}"), urls.clone()))
        .collect();
    let mut nodes = Vec::new();
    for (at, port) in ports.into_iter().enumerate() {
        let config = Config {
            name: format!("m{at}"),
            data_dir: dir.join(format!("m{at}")),
            listen_client: vec!["127.0.0.1:0".into()],
            listen_peer: vec![port.into()],
            advertise_peer_urls: urls[at].clone(),
            initial_cluster: cluster.clone(),
            heartbeat_interval: Duration::from_millis(200),
            election_timeout: Duration::from_secs(2),
            log_segment_bytes: 1 << 20,
            ..Config::default()
        };
        nodes.push(Node::start(env.clone(), config).await.unwrap());
    }
    for node in &nodes {
        env.timeout(PATIENCE, node.ready())
            .await
            .expect("ready in time")
            .unwrap();
    }
    nodes
}

/// One confirmation of leadership takes 40 ms here; each renewal one of its own would take minutes.
#[test]
fn renewals_of_a_stream_share_confirmations_through_every_member() {
    const RENEWALS: i64 = 4_000;
    RUNTIME.block_on(async {
        let env = quorate::runtime::tokio::env();
        let dir = tempfile::tempdir().unwrap();
        let nodes = far_apart(&env, dir.path(), Duration::from_millis(20)).await;
        for node in &nodes {
            let channel = Channel::connect(&env, &node.client_addresses()[0], PATIENCE)
                .await
                .unwrap();
            let mut lease = LeaseClient::new(channel);
            let grant = pb::LeaseGrantRequest { ttl: 600, id: 0 };
            let known = lease.lease_grant(grant).await.unwrap().into_inner().id;
            let id = move |number: i64| if number % 5 == 0 { -1 - number } else { known };
            let asked = (0..RENEWALS).map(move |number| pb::LeaseKeepAliveRequest { id: id(number) });
            let all = async {
                let asked = tokio_stream::iter(asked);
                let mut answers = lease.lease_keep_alive(asked).await.unwrap().into_inner();
                for number in 0..RENEWALS {
                    let answer = answers.message().await.unwrap().expect("one answer per request");
                    let ttl = if id(number) == known { 600 } else { 0 };
                    assert_eq!((answer.id, answer.ttl), (id(number), ttl), "in order");
                }
                assert!(answers.message().await.unwrap().is_none());
            };
            env.timeout(PATIENCE, all).await.expect("all answers in time");
        }
    });
}

/// etcd's rule: who is told that a lease is gone does not find its keys.
#[test]
fn a_lease_that_has_run_out_is_called_gone_when_its_keys_are() {
    const LEASES: i64 = 8;
    let quick = |config: &mut Config| {
        config.heartbeat_interval = Duration::from_millis(20);
        config.election_timeout = Duration::from_millis(200);
    };
    with_adjusted(quick, |member| async move {
        let mut kv = member.kv().await;
        let mut lease = LeaseClient::new(member.channel().await);
        // At different times between two looks at what is over.
        for id in 1..=LEASES {
            let grant = pb::LeaseGrantRequest { ttl: 1, id };
            assert_eq!(lease.lease_grant(grant).await.unwrap().into_inner().ttl, 1);
            let attached = pb::PutRequest {
                lease: id,
                ..put(&format!("leased/{id}"), "1")
            };
            kv.put(attached).await.unwrap();
            member.env.sleep(Duration::from_millis(60)).await;
        }
        member.env.sleep(Duration::from_millis(540)).await;
        let mut ended = 0;
        while ended < LEASES {
            let (mut kv, key) = (kv.clone(), format!("leased/{}", ended + 1));
            let asked = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: ended + 1 }]);
            let mut answers = lease.lease_keep_alive(asked).await.unwrap().into_inner();
            let answer = answers.message().await.unwrap().expect("an answer");
            if answer.ttl == 0 {
                let left = kv.range(range(&key, "")).await.unwrap().into_inner();
                assert_eq!(left.kvs, [], "lease {}", answer.id);
                ended += 1;
            } else {
                member.env.sleep(Duration::from_millis(1_010)).await;
            }
        }
    });
}

/// A client that writes each message as a frame of its own, without waiting for answers.
struct RawClient {
    requests: h2::SendStream<Bytes>,
    response: h2::client::ResponseFuture,
}

impl RawClient {
    async fn open(env: &Env, address: &str, path: &str) -> RawClient {
        let stream = env.connect(address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder
            .initial_window_size(64 << 20)
            .initial_connection_window_size(64 << 20);
        let (client, connection) = builder.handshake(stream).await.unwrap();
        env.spawn_detached(async move {
            // Its end shows in the stream.
            let _ = connection.await;
        });
        let request = http::Request::post(format!("http://{address}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut client = client.ready().await.unwrap();
        let (response, requests) = client.send_request(request, false).unwrap();
        RawClient { requests, response }
    }

    async fn send(&mut self, message: &impl Message) {
        let mut frame = BytesMut::from([0; 5].as_slice());
        frame[1..].copy_from_slice(&(message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut frame).unwrap();
        self.requests.reserve_capacity(frame.len());
        while self.requests.capacity() < frame.len() {
            let granted = poll_fn(|cx| self.requests.poll_capacity(cx)).await;
            granted
                .expect("the stream is open")
                .expect("the connection lives");
        }
        self.requests.send_data(frame.freeze(), false).unwrap();
    }

    /// The next answers, as many as are wanted.
    async fn answers<M: Message + Default>(self, count: usize) -> Vec<M> {
        let mut requests = self.requests;
        let mut body = self.response.await.expect("the connection lives").into_body();
        let (mut answers, mut unread) = (Vec::new(), BytesMut::new());
        while answers.len() < count {
            let piece = body
                .data()
                .await
                .expect("more answers")
                .expect("the connection lives");
            body.flow_control().release_capacity(piece.len()).unwrap();
            unread.extend_from_slice(&piece);
            while let Some(length) = unread.get(1..5).map(|mut length| length.get_u32() as usize)
                && unread.len() >= 5 + length
            {
                unread.advance(5);
                answers.push(M::decode(unread.split_to(length)).unwrap());
            }
        }
        requests.send_data(Bytes::new(), true).unwrap();
        answers
    }
}

/// Small frames that wait to be read are what HTTP/2 servers end connections for.
#[test]
fn fifty_thousand_renewals_at_once_are_answered_in_order() {
    const RENEWALS: i64 = 50_000;
    with_member(|member| async move {
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let mut client = RawClient::open(&member.env, member.client_address(), path).await;
        for number in 0..RENEWALS {
            client.send(&pb::LeaseKeepAliveRequest { id: 1 + number }).await;
        }
        let answers = client.answers::<pb::LeaseKeepAliveResponse>(RENEWALS as usize);
        let answers = member.env.timeout(PATIENCE, answers).await.expect("in time");
        assert!(
            (1..)
                .zip(&answers)
                .all(|(id, answer)| (answer.id, answer.ttl) == (id, 0))
        );
    });
}

#[test]
fn twenty_thousand_requests_of_a_watch_stream_at_once_are_answered() {
    const WATCHES: i64 = 7_000;
    with_member(|member| async move {
        let path = "/etcdserverpb.Watch/Watch";
        let mut client = RawClient::open(&member.env, member.client_address(), path).await;
        let mut ask = async |request| {
            let request = pb::WatchRequest {
                request_union: Some(request),
            };
            client.send(&request).await;
        };
        for watch_id in 1..=WATCHES {
            ask(RequestUnion::CreateRequest(WatchCreateRequest {
                key: "a".into(),
                watch_id,
                ..WatchCreateRequest::default()
            }))
            .await;
            ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
            ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id })).await;
        }
        let answers = client.answers::<pb::WatchResponse>(3 * WATCHES as usize);
        let answers = member.env.timeout(PATIENCE, answers).await.expect("in time");
        let mut counts = BTreeMap::new();
        for answer in answers {
            *counts.entry((answer.created, answer.canceled)).or_insert(0) += 1;
        }
        let expected = [
            ((false, false), WATCHES),
            ((false, true), WATCHES),
            ((true, false), WATCHES),
        ];
        assert_eq!(counts, BTreeMap::from(expected));
    });
}
