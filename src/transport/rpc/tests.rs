use super::super::handshake::{Address, AddressBook, Identity, welcome};
use super::*;
use crate::base::{ClusterId, MemberId};
use crate::runtime::{Env, Listener};

const PATIENCE: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn identity(member: MemberId) -> Identity {
    let cluster: ClusterId = 7;
    Identity { cluster, member }
}

async fn client() -> (Env, RpcClient, Box<dyn Listener>) {
    let env = crate::runtime::tokio::env().counting_anew();
    let listener = env.listen("127.0.0.1:0").await.unwrap();
    let book = AddressBook::default();
    let address = Address {
        address: listener.local_address(),
        secure: false,
    };
    book.set(2, vec![address]);
    let dialer = Dialer {
        env: env.clone(),
        identity: identity(1),
        peer: 2,
        book,
        dial: Default::default(),
        timeout: PATIENCE,
        removed: Arc::default(),
        trouble: Arc::default(),
    };
    (env, RpcClient::new(dialer, Purpose::Request, None), listener)
}

/// The next connection, with the handshake done.
async fn accept(listener: &dyn Listener) -> (FrameReader, FrameWriter) {
    let stream = listener.accept().await.unwrap();
    let (_, _, reader, writer) = welcome(identity(2), |_| false, stream).await.unwrap();
    (reader, writer)
}

async fn request(reader: &mut FrameReader) -> (u64, Bytes) {
    split_id(reader.next().await.unwrap().unwrap()).unwrap()
}

#[tokio::test]
async fn dialing_goes_on_after_the_call_that_began_it_gave_up() {
    let (env, client, listener) = client().await;
    // The system accepts; the handshake waits.
    let error = client.call("too early", SHORT).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
    let serving = env.spawn(async move {
        let (mut reader, mut writer) = accept(&*listener).await;
        let (id, body) = request(&mut reader).await;
        assert_eq!(body, "in time", "what was given up is not sent");
        writer.push(&[&id.to_le_bytes()[..], b"answer"]);
        writer.flush().await.unwrap();
        (reader, writer)
    });
    assert_eq!(client.call("in time", PATIENCE).await.unwrap(), "answer");
    assert!(serving.await.is_some());
}

/// Seed 1681: over a slow network each call ended the connection that it had waited for.
#[tokio::test]
async fn a_connection_that_has_just_been_opened_is_not_silent() {
    let (env, client, _listener) = client().await;
    let silent_after = |timeout| {
        let (answer, _response) = oneshot::channel();
        let mut calls = Calls {
            opened: Some(env.now()),
            ..Calls::default()
        };
        calls.waiting.insert(
            1,
            Call {
                answer,
                sent: Some(0),
            },
        );
        let calls = Mutex::new(calls);
        let error = client.give_up(1, &calls, timeout, io::ErrorKind::TimedOut.into());
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        lock(&calls).closed
    };
    assert!(!silent_after(PATIENCE));
    assert!(silent_after(Duration::ZERO));
}

#[tokio::test]
async fn a_connection_that_fell_silent_is_replaced() {
    let (env, client, listener) = client().await;
    let serving = env.spawn(async move {
        let (mut silent, _open) = accept(&*listener).await;
        request(&mut silent).await;
        let (mut reader, mut writer) = accept(&*listener).await;
        let (id, _) = request(&mut reader).await;
        writer.push(&[&id.to_le_bytes()[..], b"answer"]);
        writer.flush().await.unwrap();
        (silent, reader, writer)
    });
    let error = client.call("lost", SHORT).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "the peer may have seen it");
    assert_eq!(client.call("again", PATIENCE).await.unwrap(), "answer");
    assert!(serving.await.is_some());
    let peer = env.metrics().peers.of(2);
    assert_eq!(peer.sent_failures.get(), 1, "what was lost");
    assert_eq!(peer.disconnects.get(), 1);
    assert!(peer.is_active(), "it has been reached again");
    let framed = |bodies: &[&str]| -> u64 {
        let bytes = bodies.iter().map(|body| 8 + 8 + body.len() as u64);
        bytes.sum()
    };
    assert_eq!(peer.sent_bytes.get(), framed(&["lost", "again"]));
    assert_eq!(peer.received_bytes.get(), framed(&["answer"]));
}

/// Some systems answer `ENOTCONN` on a socket whose connection is lost: the request had left all the same.
#[test]
fn what_was_sent_is_never_said_not_to_have_been() {
    for (sent, kind) in [
        (Some(0), io::ErrorKind::ConnectionReset),
        (None, io::ErrorKind::NotConnected),
    ] {
        let (answer, mut response) = oneshot::channel();
        let mut calls = Calls::default();
        calls.waiting.insert(1, Call { answer, sent });
        calls.close(&io::ErrorKind::NotConnected.into());
        let error = response.try_recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), kind);
    }
}

#[tokio::test]
async fn a_refused_connection_says_that_nothing_was_sent() {
    let (env, client, listener) = client().await;
    drop(listener);
    let error = client.call("to nobody", PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
    let peer = env.metrics().peers.of(2);
    assert_eq!((peer.sent_failures.get(), peer.disconnects.get()), (1, 0));
}
