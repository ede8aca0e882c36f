//! Requests and responses over one lazily opened connection, many at a time.
//!
//! A frame is `id: u64 LE | body`; the response carries the request's id. When the connection breaks,
//! every call that waits fails, and the next call dials again. Dialing takes three ways over the network
//! and a call perhaps one: it goes on when the call that began it has run out of time.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::{mpsc, oneshot};

use super::handshake::{Dialer, Purpose};
use super::link::Link;
use super::reverse::{BACK, ReverseConnections};
use super::{FrameReader, FrameWriter, malformed};
use crate::runtime::buggify::{self, Site};
use crate::runtime::panics::poisoned;
use crate::runtime::{AbortOnDrop, Instant, Task};

/// Requests that may wait for the connection's writer.
const QUEUED_REQUESTS_MAX: usize = 1024;
/// Bytes after which the writer sends before it looks for more.
const WRITE_BATCH_BYTES: usize = 256 * 1024;

/// Calls one peer for one purpose. Clones share the connection.
#[derive(Clone)]
pub struct RpcClient {
    dialer: Arc<Dialer>,
    purpose: Purpose,
    back: Option<ReverseConnections>,
    connection: Arc<Mutex<Option<Connection>>>,
    link: Arc<Link>,
}

/// A connection, or the attempt to open one.
struct Connection {
    requests: mpsc::Sender<(u64, Bytes)>,
    calls: Arc<Mutex<Calls>>,
    task: Task<()>,
}

/// Calls of one connection that wait for their answers.
#[derive(Default)]
pub(super) struct Calls {
    last_id: u64,
    waiting: BTreeMap<u64, Call>,
    /// Frames that came back so far.
    heard: u64,
    /// When dialing had come to its end.
    opened: Option<Instant>,
    closed: bool,
}

pub(super) struct Call {
    answer: oneshot::Sender<io::Result<Bytes>>,
    /// Set when the request was handed to the network: what had been heard by then.
    sent: Option<u64>,
}

impl Calls {
    /// Takes a call out, to be made in another way.
    pub fn take(&mut self, id: u64) -> Option<Call> {
        self.waiting.remove(&id)
    }

    /// Adds a call that is about to be sent; its id.
    pub fn begin(&mut self, call: Call) -> u64 {
        // Who gave up does not say so here.
        self.waiting.retain(|_, call| !call.answer.is_closed());
        self.last_id += 1;
        let sent = Some(self.heard);
        self.waiting.insert(self.last_id, Call { sent, ..call });
        if self.closed {
            self.refuse(self.last_id, &io::ErrorKind::ConnectionReset.into());
        }
        self.last_id
    }

    /// A call that was not sent after all.
    pub fn refuse(&mut self, id: u64, reason: &io::Error) {
        if let Some(call) = self.waiting.remove(&id) {
            // The caller may have given up.
            let _ = call.answer.send(Err(never_sent(reason)));
        }
    }

    /// An answer has come.
    pub fn finish(&mut self, id: u64, body: Bytes) {
        self.heard += 1;
        if let Some(call) = self.waiting.remove(&id) {
            // The caller may have given up.
            let _ = call.answer.send(Ok(body));
        }
    }

    /// Marks the connection as gone; every waiting call fails.
    pub fn close(&mut self, reason: &io::Error) {
        self.closed = true;
        for call in std::mem::take(&mut self.waiting).into_values() {
            let error = match call.sent {
                Some(_) => perhaps_arrived(reason),
                None => never_sent(reason),
            };
            // The caller may have given up.
            let _ = call.answer.send(Err(error));
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(poisoned)
}

fn never_sent(reason: &io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, reason.to_string())
}

/// Systems, too, say `NotConnected` of a connection that was lost, and then what was sent may have arrived.
fn perhaps_arrived(reason: &io::Error) -> io::Error {
    let kind = match reason.kind() {
        io::ErrorKind::NotConnected => io::ErrorKind::ConnectionReset,
        kind => kind,
    };
    io::Error::new(kind, reason.to_string())
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RpcClient {
    /// `back` is for peers that cannot be dialled, or cannot dial.
    pub fn new(dialer: Dialer, purpose: Purpose, back: Option<ReverseConnections>) -> Self {
        RpcClient {
            link: Arc::new(Link::new(dialer.timeout)),
            dialer: Arc::new(dialer),
            purpose,
            back,
            connection: Arc::default(),
        }
    }

    /// Sends a request and waits for its response. An error leaves open whether the peer saw it, unless
    /// its kind is `NotConnected`: then it was never sent.
    pub async fn call(&self, request: impl Into<Bytes>, timeout: Duration) -> io::Result<Bytes> {
        let (id, calls, response) = self.queue(request.into())?;
        match self.dialer.env.timeout(timeout, response).await {
            Ok(Ok(response)) => response,
            Ok(Err(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(elapsed) => Err(self.give_up(id, &calls, timeout, elapsed.into())),
        }
    }

    /// Since when the peer is connected without a gap; `None`: it is not.
    pub fn connected_since(&self) -> Option<Instant> {
        self.link.connected_since(self.dialer.env.now())
    }

    #[expect(clippy::type_complexity, reason = "three things that belong to one call")]
    fn queue(
        &self,
        request: Bytes,
    ) -> io::Result<(u64, Arc<Mutex<Calls>>, oneshot::Receiver<io::Result<Bytes>>)> {
        let mut slot = lock(&self.connection);
        let connection = match slot.take().filter(|connection| !lock(&connection.calls).closed) {
            Some(connection) => connection,
            None => self.open(),
        };
        let connection = slot.insert(connection);
        let (answer, response) = oneshot::channel();
        let mut calls = lock(&connection.calls);
        calls.last_id += 1;
        let id = calls.last_id;
        if connection.requests.try_send((id, request)).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "too many requests wait for the connection",
            ));
        }
        calls.waiting.insert(id, Call { answer, sent: None });
        drop(calls);
        Ok((id, connection.calls.clone(), response))
    }

    /// Forgets a call that ran out of time; what its caller is told.
    fn give_up(&self, id: u64, calls: &Mutex<Calls>, timeout: Duration, elapsed: io::Error) -> io::Error {
        let mut calls = lock(calls);
        // A call that was sent when dialing had taken most of its time says nothing of the connection: over a slow
        // network every call would end the one that the next could use.
        let now = self.dialer.env.now();
        let was_open = calls.opened.is_some_and(|opened| now - opened >= timeout / 2);
        match calls.waiting.remove(&id).map(|call| call.sent) {
            Some(None) => never_sent(&elapsed),
            Some(Some(heard)) if was_open && heard == calls.heard => {
                // Not a word since: the peer may have lost the connection without a trace (its power, a
                // router's memory), and the system here would go on believing in it for a quarter of an hour.
                calls.close(&elapsed);
                if let Some(metrics) = self.dialer.metrics() {
                    metrics.lost();
                }
                elapsed
            }
            _ => elapsed,
        }
    }

    fn open(&self) -> Connection {
        let queued_max = buggify::limit(Site::PeerTinyQueue, QUEUED_REQUESTS_MAX, 4);
        let (requests, queue) = mpsc::channel(queued_max);
        let calls = Arc::new(Mutex::new(Calls::default()));
        let serve = Serve {
            dialer: self.dialer.clone(),
            purpose: self.purpose,
            back: self.back.clone(),
            frames: requests.clone(),
            calls: calls.clone(),
            link: self.link.clone(),
        };
        Connection {
            requests,
            calls,
            task: self.dialer.env.spawn(serve.run(queue)),
        }
    }
}

/// What one connection's task knows.
struct Serve {
    dialer: Arc<Dialer>,
    purpose: Purpose,
    back: Option<ReverseConnections>,
    /// Where frames that go out wait.
    frames: mpsc::Sender<(u64, Bytes)>,
    calls: Arc<Mutex<Calls>>,
    link: Arc<Link>,
}

impl Serve {
    /// Dials, then writes requests and reads responses until either fails.
    async fn run(self, mut queue: mpsc::Receiver<(u64, Bytes)>) {
        let over = match (self.dialer.dial(self.purpose).await, &self.back) {
            (Ok((reader, writer)), _) => {
                self.link.heard(self.dialer.env.now());
                let over = self.exchange(reader, writer, queue).await;
                self.link.lost();
                if let Some(metrics) = self.dialer.metrics() {
                    metrics.gone();
                }
                over
            }
            (Err(error), Some(back)) => back.relay(self.dialer.peer, &mut queue, &self.calls, error).await,
            (Err(error), None) => {
                if error.kind() != io::ErrorKind::TimedOut {
                    self.link.lost();
                }
                error
            }
        };
        lock(&self.calls).close(&over);
    }

    async fn exchange(
        &self,
        reader: FrameReader,
        writer: FrameWriter,
        queue: mpsc::Receiver<(u64, Bytes)>,
    ) -> io::Error {
        lock(&self.calls).opened = Some(self.dialer.env.now());
        // A task of its own: a peer that reads slowly must not keep its answers from being heard.
        let write = write_requests(writer, queue, self.calls.clone());
        let write = AbortOnDrop(self.dialer.env.spawn(write));
        let over = self.read_responses(reader).await;
        drop(write);
        over
    }

    async fn read_responses(&self, mut reader: FrameReader) -> io::Error {
        loop {
            let (id, body) = match reader
                .next()
                .await
                .and_then(|frame| frame.map(split_id).transpose())
            {
                Ok(Some(response)) => response,
                Ok(None) => return io::ErrorKind::ConnectionReset.into(),
                Err(error) => return error,
            };
            self.link.heard(self.dialer.env.now());
            match id & BACK {
                0 => lock(&self.calls).finish(id, body),
                _ => self.answer(id, body),
            }
        }
    }

    /// Answers what the peer asks over this connection.
    fn answer(&self, id: u64, request: Bytes) {
        let peer = self.dialer.peer;
        let Some(back) = self.back.as_ref().filter(|back| !back.handler.is_removed(peer)) else {
            return;
        };
        let (response, frames) = (back.handler.request(peer, request), self.frames.clone());
        self.dialer.env.spawn_detached(async move {
            // The connection may be gone.
            let _ = frames.send((id, response.await)).await;
        });
    }
}

async fn write_requests(
    mut writer: FrameWriter,
    mut queue: mpsc::Receiver<(u64, Bytes)>,
    calls: Arc<Mutex<Calls>>,
) {
    let push = |writer: &mut FrameWriter, (id, request): (u64, Bytes)| {
        if id & BACK != 0 {
            return writer.push(&[&id.to_le_bytes()[..], &request]);
        }
        let mut calls = lock(&calls);
        let heard = calls.heard;
        // Its caller may have been told that it was never sent.
        if let Some(call) = calls.waiting.get_mut(&id) {
            call.sent = Some(heard);
            writer.push(&[&id.to_le_bytes()[..], &request]);
        }
    };
    while let Some(request) = queue.recv().await {
        push(&mut writer, request);
        let batch_bytes = buggify::limit(Site::PeerSmallWrites, WRITE_BATCH_BYTES, 1);
        while writer.buffered() < batch_bytes
            && let Ok(request) = queue.try_recv()
        {
            push(&mut writer, request);
        }
        if let Err(error) = writer.flush().await {
            return lock(&calls).close(&error);
        }
    }
}

/// Takes the id off a frame.
pub(super) fn split_id(mut frame: Bytes) -> io::Result<(u64, Bytes)> {
    if frame.len() < 8 {
        return Err(malformed("a request without an id"));
    }
    Ok((frame.get_u64_le(), frame))
}

#[cfg(test)]
mod tests;
