//! The accepting side: a handshake, then the handler's work, one task per connection.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::mpsc;

use super::handshake::{self, Identity, Purpose};
use super::reverse::{BACK, Caller, InboundConnections};
use super::rpc::{Calls, lock, split_id};
use super::{FrameReader, FrameWriter};
use crate::base::{MemberId, limits};
use crate::runtime::admission::{AtMostOncePerSecond, Newcomer, Newcomers};
use crate::runtime::buggify::{Site, buggify, pause};
use crate::runtime::tls::Security;
use crate::runtime::{BoxFuture, Env, Listener, Stream, Task};

/// Pause after a failed accept: out of file descriptors, most likely.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Requests of one connection that may be under way.
const REQUESTS_UNDER_WAY_MAX: usize = 256;
/// The longest pause before an answer, in a simulation.
const ANSWER_PAUSE: Duration = Duration::from_millis(500);

/// What a member does with its peers' connections.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers one request; requests of a connection are answered as they finish.
    fn request(&self, from: MemberId, request: Bytes) -> BoxFuture<'static, Bytes>;
    /// Serves a leader's stream of entries until it ends.
    fn append(
        &self,
        from: MemberId,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> BoxFuture<'static, io::Result<()>>;
    /// Whether a member was removed from the cluster for good.
    fn is_removed(&self, member: MemberId) -> bool;
    /// What a stranger who is about to join has to know.
    fn discover(&self) -> BoxFuture<'static, Bytes>;
    /// Receives a snapshot.
    fn snapshot(
        &self,
        from: MemberId,
        reader: FrameReader,
        writer: FrameWriter,
    ) -> BoxFuture<'static, io::Result<()>>;
}

/// Connections that end with the task that accepted them.
#[derive(Default)]
struct Connections {
    tasks: Vec<Task<()>>,
    /// Finished ones are looked for when this many are held.
    look_at: usize,
}

impl Connections {
    fn add(&mut self, task: Task<()>) {
        if self.tasks.len() >= self.look_at {
            self.tasks.retain_mut(|task| task.now_or_never().is_none());
            self.look_at = 2 * self.tasks.len() + 16;
        }
        self.tasks.push(task);
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.tasks.iter().for_each(Task::abort);
    }
}

/// Accepts peers until the task is aborted, and ends their connections then.
pub async fn accept(
    env: Env,
    identity: Identity,
    listener: Box<dyn Listener>,
    security: Security,
    newcomers: Newcomers,
    handler: Arc<dyn PeerHandler>,
    callers: InboundConnections,
) {
    let mut connections = Connections::default();
    let mut trouble = AtMostOncePerSecond::default();
    loop {
        match listener.accept().await {
            Ok(stream) => {
                let peer = stream.peer.clone();
                let serving = Serving {
                    env: env.clone(),
                    identity,
                    security: security.clone(),
                    handler: handler.clone(),
                    callers: callers.clone(),
                };
                let newcomer = newcomers.enter();
                connections.add(env.spawn(async move {
                    if let Err(error) = serving.serve(stream, newcomer).await {
                        tracing::debug!(%peer, %error, "peer connection ended");
                    }
                }));
            }
            Err(error) => {
                if trouble.is_due(env.now()) {
                    tracing::warn!(%error, "cannot accept a peer connection");
                }
                env.sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// What one accepted connection needs.
struct Serving {
    env: Env,
    identity: Identity,
    security: Security,
    handler: Arc<dyn PeerHandler>,
    callers: InboundConnections,
}

impl Serving {
    async fn serve(self, stream: Stream, newcomer: Newcomer) -> io::Result<()> {
        let hello = self.welcome(stream);
        let hello = newcomer.until(&self.env, limits::PEER_HELLO_TIMEOUT, hello).await;
        let (from, purpose, mut reader, mut writer) = hello??;
        let Serving {
            env,
            handler,
            callers,
            ..
        } = self;
        if purpose != Purpose::Discover {
            let metrics = env.metrics().peers.of(from);
            reader.count(metrics.clone());
            writer.count(metrics);
        }
        match purpose {
            Purpose::Control => answer(env, from, reader, writer, handler, None).await,
            Purpose::Request => answer(env, from, reader, writer, handler, Some(callers)).await,
            Purpose::Discover => {
                writer.send(&handler.discover().await).await?;
                writer.end().await
            }
            Purpose::Append => handler.append(from, reader, writer).await,
            Purpose::Snapshot => handler.snapshot(from, reader, writer).await,
        }
    }

    /// Both handshakes: TLS, if connections begin with that here, and who calls for what.
    async fn welcome(&self, stream: Stream) -> io::Result<(MemberId, Purpose, FrameReader, FrameWriter)> {
        let peer = stream.peer.clone();
        let accepted = self.security.accept(&self.env, stream).await;
        let accepted = accepted.inspect_err(|refused| {
            tracing::warn!(
                "remote-addr" = peer,
                "server-name" = refused.server_name,
                "dns-names" = ?refused.names,
                error = refused.error,
                "rejected connection on peer endpoint"
            );
        })?;
        let is_removed = |member| self.handler.is_removed(member);
        handshake::welcome(self.identity, is_removed, accepted.stream).await
    }
}

/// Reads requests, works on them side by side, writes responses as they come. Meanwhile the peer may be asked over the
/// connection, too.
async fn answer(
    env: Env,
    from: MemberId,
    mut reader: FrameReader,
    mut writer: FrameWriter,
    handler: Arc<dyn PeerHandler>,
    callers: Option<InboundConnections>,
) -> io::Result<()> {
    let (responses, mut finished) = mpsc::channel::<(u64, Bytes)>(REQUESTS_UNDER_WAY_MAX);
    let write = env.spawn(async move {
        while let Some((id, response)) = finished.recv().await {
            writer.push(&[&id.to_le_bytes()[..], &response]);
            while let Ok((id, response)) = finished.try_recv() {
                writer.push(&[&id.to_le_bytes()[..], &response]);
            }
            if writer.flush().await.is_err() {
                return;
            }
        }
    });
    let calls = Arc::new(Mutex::new(Calls::default()));
    let _entry = callers.map(|callers| Entry::new(callers, from, responses.clone(), calls.clone()));
    let result = loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let (id, request) = split_id(frame)?;
        if id & BACK != 0 {
            lock(&calls).finish(id & !BACK, request);
            continue;
        }
        if handler.is_removed(from) || buggify(Site::PeerCut) {
            break Ok(());
        }
        // A place in the response queue is a place among the requests under way.
        let Ok(place) = responses.clone().reserve_owned().await else {
            break Ok(());
        };
        let (response, task_env) = (handler.request(from, request), env.clone());
        env.spawn(async move {
            let response = response.await;
            pause(&task_env, Site::PeerAnsweredLate, ANSWER_PAUSE).await;
            place.send((id, response));
        });
    };
    write.abort();
    result
}

/// A caller among those that may be asked, as long as its connection lasts.
struct Entry {
    callers: InboundConnections,
    peer: MemberId,
    caller: Caller,
}

impl Entry {
    fn new(
        callers: InboundConnections,
        peer: MemberId,
        frames: mpsc::Sender<(u64, Bytes)>,
        calls: Arc<Mutex<Calls>>,
    ) -> Entry {
        let caller = Caller { frames, calls };
        callers.enter(peer, caller.clone());
        Entry {
            callers,
            peer,
            caller,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.callers.leave(self.peer, &self.caller);
        lock(&self.caller.calls).close(&io::ErrorKind::ConnectionReset.into());
    }
}
