//! Watch streams over the wire, and what a stop, or a request that cannot be read, does to open streams.

use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use quorate::client::Channel;
use quorate::proto::etcdserverpb::{
    self as pb, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};
use tower_service::Service;

use crate::{Member, PATIENCE, put, refusal, with_member};

struct Watch {
    requests: mpsc::UnboundedSender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watch {
    async fn open(channel: Channel) -> Watch {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut client = WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let responses = client
            .watch(UnboundedReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Watch { requests, responses }
    }

    fn ask(&self, request: RequestUnion) {
        self.requests
            .send(WatchRequest {
                request_union: Some(request),
            })
            .unwrap();
    }

    fn create(&self, key: &str, start_revision: i64) {
        let key = key.to_owned().into();
        self.ask(RequestUnion::CreateRequest(WatchCreateRequest {
            key,
            start_revision,
            ..Default::default()
        }));
    }

    async fn next(&mut self, member: &Member) -> WatchResponse {
        let next = member.env.timeout(PATIENCE, self.responses.message()).await;
        next.expect("a response in time")
            .unwrap()
            .expect("the stream goes on")
    }
}

#[test]
fn a_watch_sees_history_and_then_what_happens() {
    with_member(|member| async move {
        let mut kv = member.kv().await;
        kv.put(put("a", "1")).await.unwrap();
        let mut watch = Watch::open(member.channel().await).await;
        watch.create("a", 2);
        let created = watch.next(&member).await;
        assert!(created.created && created.watch_id == 0);
        assert_ne!(created.header.unwrap().cluster_id, 0);
        for value in ["2", "3"] {
            kv.put(put("a", value)).await.unwrap();
        }
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let response = watch.next(&member).await;
            seen.extend(
                response
                    .events
                    .into_iter()
                    .map(|event| event.kv.expect("a pair").mod_revision),
            );
        }
        assert_eq!(seen, [2, 3, 4]);
        let revision = kv
            .put(put("other", "1"))
            .await
            .unwrap()
            .into_inner()
            .header
            .unwrap()
            .revision;
        watch.ask(RequestUnion::ProgressRequest(WatchProgressRequest {}));
        let progress = watch.next(&member).await;
        assert_eq!(
            (progress.watch_id, progress.header.unwrap().revision),
            (-1, revision)
        );
    });
}

/// Many clients, few of which read: all writes go on, and who reads later misses nothing.
#[test]
fn slow_clients_hold_up_nobody_and_miss_nothing() {
    const STREAMS: usize = 40;
    const WRITES: i64 = 600;
    with_member(|member| async move {
        let mut kv = member.kv().await;
        let mut watches = Vec::new();
        for _ in 0..STREAMS {
            let watch = Watch::open(member.channel().await).await;
            watch.create("a", 0);
            watches.push(watch);
        }
        for watch in &mut watches {
            assert!(watch.next(&member).await.created);
        }
        for number in 0..WRITES {
            kv.put(put("a", vec![number as u8; 10_000])).await.unwrap();
        }
        for watch in &mut watches {
            let mut expected = 2;
            while expected < 2 + WRITES {
                for event in watch.next(&member).await.events {
                    assert_eq!(event.kv.expect("a pair").mod_revision, expected);
                    expected += 1;
                }
            }
        }
    });
}

#[test]
fn a_stop_ends_streams_with_the_reason_and_closes() {
    with_member(|member| async move {
        let channel = member.channel().await;
        let mut watch = Watch::open(channel.clone()).await;
        watch.create("a", 0);
        assert!(watch.next(&member).await.created);
        let Member { env, node, _dir } = member;
        let address = node.client_addresses()[0].clone();
        node.stop().await;
        let ended = refusal(env.timeout(PATIENCE, watch.responses.message()).await.unwrap());
        assert_eq!(ended, (Code::Unavailable, "etcdserver: server stopped".into()));
        assert!(
            Channel::connect(&env, &address, PATIENCE).await.is_err(),
            "nobody listens any more"
        );
        let mut kv = pb::kv_client::KvClient::new(channel);
        assert!(kv.put(put("a", "1")).await.is_err());
    });
}

/// The messages of a stream of answers to these bytes, after which the client waits, and its status.
async fn answers(channel: &mut Channel, path: &str, bytes: &[u8], is_over: bool) -> (usize, Status) {
    let piece = Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(bytes)));
    let (held, waiting) = mpsc::unbounded_channel();
    let body =
        tokio_stream::StreamExt::chain(tokio_stream::once(piece), UnboundedReceiverStream::new(waiting));
    let held = (!is_over).then_some(held);
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(StreamBody::new(body)))
        .unwrap();
    let mut answer = channel.call(request).await.unwrap().into_body();
    let mut count = 0;
    let status = loop {
        let frame = answer.frame().await.expect("a status").unwrap();
        match frame.trailers_ref() {
            Some(trailers) => break Status::from_header_map(trailers).expect("a status"),
            None => count += 1,
        }
    };
    drop(held);
    (count, status)
}

#[test]
fn a_request_that_cannot_be_read_ends_its_stream() {
    with_member(|member| async move {
        let mut channel = member.channel().await;
        for path in ["/etcdserverpb.Watch/Watch", "/etcdserverpb.Lease/LeaseKeepAlive"] {
            for (bytes, is_over, count, code) in [
                // A tag that is none, once alone and once after an empty request.
                (&b"\0\0\0\0\x01\x07"[..], false, 0, Code::Internal),
                (b"\0\0\0\0\0\0\0\0\0\x01\x07", false, 1, Code::Internal),
                (b"\0\x7f\xff\xff\xff", false, 0, Code::ResourceExhausted),
                (b"\x09\0\0\0\0", false, 0, Code::Internal),
                // Its end in the middle of a message, and before its first byte.
                (b"\0\0\0\0\x09\x07", true, 0, Code::Internal),
                (b"\0\0\0\0\x09", true, 0, Code::Internal),
            ] {
                let answers = answers(&mut channel, path, bytes, is_over);
                let (answered, status) = member.env.timeout(PATIENCE, answers).await.expect("in time");
                // To an empty request there is no answer of a watch.
                let count = if path.ends_with("Watch") { 0 } else { count };
                assert_eq!(
                    (answered, status.code()),
                    (count, code),
                    "{path} {bytes:?}: {status:?}"
                );
            }
        }
    });
}
