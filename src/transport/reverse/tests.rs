use std::time::Duration;

use super::super::handshake::{Address, AddressBook, DialOptions, Dialer, Identity, Purpose};
use super::super::rpc::RpcClient;
use super::super::{FrameReader, FrameWriter, accept};
use super::*;
use crate::runtime::admission::Newcomers;
use crate::runtime::tls::Security;
use crate::runtime::{BoxFuture, Env};

const PATIENCE: Duration = Duration::from_secs(20);

/// Says who was asked what.
struct Echo(MemberId);

impl PeerHandler for Echo {
    fn request(&self, from: MemberId, request: Bytes) -> BoxFuture<'static, Bytes> {
        let text = format!("{} to {}: {}", from, self.0, String::from_utf8_lossy(&request));
        Box::pin(async { text.into() })
    }

    fn append(&self, _: MemberId, _: FrameReader, _: FrameWriter) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }

    fn is_removed(&self, _: MemberId) -> bool {
        false
    }

    fn discover(&self) -> BoxFuture<'static, Bytes> {
        Box::pin(async { Bytes::new() })
    }

    fn snapshot(&self, _: MemberId, _: FrameReader, _: FrameWriter) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(async { Ok(()) })
    }
}

/// Member `member`, which calls the other one at `address`.
fn client(env: &Env, member: MemberId, address: String, callers: &InboundConnections) -> RpcClient {
    let (peer, book) = (3 - member, AddressBook::default());
    let secure = false;
    book.set(peer, vec![Address { address, secure }]);
    let dialer = Dialer {
        env: env.clone(),
        identity: Identity { cluster: 7, member },
        peer,
        dial: DialOptions::default(),
        book,
        timeout: PATIENCE,
        removed: Arc::default(),
        trouble: Arc::default(),
    };
    let back = ReverseConnections {
        handler: Arc::new(Echo(member)),
        callers: callers.clone(),
    };
    RpcClient::new(dialer, Purpose::Request, Some(back))
}

#[tokio::test]
async fn who_cannot_dial_asks_over_the_connection_of_who_can() {
    let env = crate::runtime::tokio::env();
    let listener = env.listen("127.0.0.1:0").await.unwrap();
    let nowhere = env.listen("127.0.0.1:0").await.unwrap().local_address();
    let (address, callers) = (listener.local_address(), InboundConnections::default());
    let identity = Identity {
        cluster: 7,
        member: 2,
    };
    let serving = env.spawn(accept(
        env.clone(),
        identity,
        listener,
        Security::plain(),
        Newcomers::new(8),
        Arc::new(Echo(2)),
        callers.clone(),
    ));
    let one = client(&env, 1, address, &InboundConnections::default());
    let two = client(&env, 2, nowhere, &callers);
    let error = two.call("a", PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected, "nobody has called yet");

    assert_eq!(one.call("b", PATIENCE).await.unwrap(), "1 to 2: b");
    assert_eq!(two.call("c", PATIENCE).await.unwrap(), "2 to 1: c");
    let (there, back) = futures_util::join!(one.call("d", PATIENCE), two.call("e", PATIENCE));
    assert_eq!(
        (there.unwrap(), back.unwrap()),
        ("1 to 2: d".into(), "2 to 1: e".into())
    );

    // The connection is gone, and with it the way back.
    drop(one);
    while callers.get(1).is_some() {
        env.sleep(Duration::from_millis(1)).await;
    }
    let error = two.call("f", PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotConnected, "{error}");
    serving.abort();
}
