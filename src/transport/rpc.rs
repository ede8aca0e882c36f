//! Requests and responses over one lazily opened connection, many at a time.
//!
//! A frame is `id: u64 LE | body`; the response carries the request's id. When the connection breaks,
//! every call that waits fails, and the next call dials again.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::sync::{mpsc, oneshot};

use super::handshake::{Dialer, Purpose};
use super::{FrameReader, FrameWriter, malformed};
use crate::runtime::Task;

/// Requests that may wait for the connection's writer.
const QUEUED_REQUESTS_MAX: usize = 1024;
/// Bytes after which the writer sends before it looks for more.
const WRITE_BATCH_BYTES: usize = 256 * 1024;

/// Calls one peer for one purpose. Clones share the connection.
#[derive(Clone)]
pub struct RpcClient {
    dialer: Arc<Dialer>,
    purpose: Purpose,
    connection: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

struct Connection {
    requests: mpsc::Sender<(u64, Bytes)>,
    waiting: Arc<Mutex<Waiting>>,
    tasks: [Task<()>; 2],
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    calls: BTreeMap<u64, oneshot::Sender<Bytes>>,
    closed: bool,
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().expect("no code that panics runs under this lock")
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.iter().for_each(Task::abort);
    }
}

impl RpcClient {
    pub fn new(dialer: Dialer, purpose: Purpose) -> Self {
        RpcClient {
            dialer: Arc::new(dialer),
            purpose,
            connection: Arc::default(),
        }
    }

    /// Sends a request and waits for its response. An error leaves open whether the peer saw it, unless
    /// its kind is `NotConnected`: then it was never sent.
    pub async fn call(&self, request: impl Into<Bytes>, timeout: Duration) -> io::Result<Bytes> {
        let deadline = self.dialer.env.now() + timeout;
        let request = request.into();
        let (id, response) = match self.dialer.env.timeout_at(deadline, self.send(request)).await {
            Ok(sent) => sent.map_err(|error| io::Error::new(io::ErrorKind::NotConnected, error))?,
            Err(elapsed) => return Err(elapsed.into()),
        };
        match self.dialer.env.timeout_at(deadline, response).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            Err(elapsed) => {
                self.give_up(id).await;
                Err(elapsed.into())
            }
        }
    }

    async fn send(&self, request: Bytes) -> io::Result<(u64, oneshot::Receiver<Bytes>)> {
        let mut slot = self.connection.lock().await;
        if slot
            .as_ref()
            .is_none_or(|connection| lock(&connection.waiting).closed)
        {
            *slot = None;
            let (reader, writer) = self.dialer.dial(self.purpose).await?;
            *slot = Some(self.open(reader, writer));
        }
        let connection = slot.as_ref().expect("filled above");
        let (sender, receiver) = oneshot::channel();
        let id = {
            let mut waiting = lock(&connection.waiting);
            waiting.next_id += 1;
            let id = waiting.next_id;
            waiting.calls.insert(id, sender);
            id
        };
        let requests = connection.requests.clone();
        drop(slot);
        requests
            .send((id, request))
            .await
            .map_err(|_| io::ErrorKind::ConnectionReset)?;
        Ok((id, receiver))
    }

    /// Forgets a call whose caller stopped waiting.
    async fn give_up(&self, id: u64) {
        if let Some(connection) = self.connection.lock().await.as_ref() {
            lock(&connection.waiting).calls.remove(&id);
        }
    }

    fn open(&self, reader: FrameReader, writer: FrameWriter) -> Connection {
        let (requests, queue) = mpsc::channel(QUEUED_REQUESTS_MAX);
        let waiting = Arc::new(Mutex::new(Waiting::default()));
        let env = &self.dialer.env;
        let tasks = [
            env.spawn(write_requests(writer, queue, waiting.clone())),
            env.spawn(read_responses(reader, waiting.clone())),
        ];
        Connection {
            requests,
            waiting,
            tasks,
        }
    }
}

/// Marks the connection as gone; every waiting call fails.
fn close(waiting: &Mutex<Waiting>) {
    let mut waiting = lock(waiting);
    waiting.closed = true;
    waiting.calls.clear();
}

async fn write_requests(
    mut writer: FrameWriter,
    mut queue: mpsc::Receiver<(u64, Bytes)>,
    waiting: Arc<Mutex<Waiting>>,
) {
    while let Some((id, request)) = queue.recv().await {
        writer.push(&id.to_le_bytes(), &request);
        while writer.buffered() < WRITE_BATCH_BYTES
            && let Ok((id, request)) = queue.try_recv()
        {
            writer.push(&id.to_le_bytes(), &request);
        }
        if writer.flush().await.is_err() {
            break;
        }
    }
    close(&waiting);
}

async fn read_responses(mut reader: FrameReader, waiting: Arc<Mutex<Waiting>>) {
    while let Ok(Some(frame)) = reader.next().await {
        let Ok((id, body)) = split_id(frame) else { break };
        let call = lock(&waiting).calls.remove(&id);
        if let Some(call) = call {
            // The caller may have given up.
            let _ = call.send(body);
        }
    }
    close(&waiting);
}

/// Takes the id off a frame.
pub(super) fn split_id(mut frame: Bytes) -> io::Result<(u64, Bytes)> {
    if frame.len() < 8 {
        return Err(malformed("a request without an id"));
    }
    Ok((frame.get_u64_le(), frame))
}
