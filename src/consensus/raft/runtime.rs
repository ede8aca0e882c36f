//! openraft's `AsyncRuntime` on the environment of the node that runs the code.
//!
//! openraft's trait has only associated functions, so the environment is found through
//! [`runtime::current`]. Channels are tokio's (they need no runtime), the watch is our first-in-first-out
//! [`signal`], and `spawn_blocking` goes to the environment instead of a new thread.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::async_runtime::{
    self as rt, AsyncRuntime, Mpsc, MpscReceiver, MpscSender, MpscWeakSender, Mutex, Oneshot, OneshotSender,
    RecvError, TryRecvError, Watch, WatchReceiver, WatchSender,
};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::{mpsc, oneshot};

use crate::runtime::{self, BoxFuture, Elapsed, Instant, signal};

/// See the module.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RaftRuntime;

/// A task of openraft's panicked or was aborted.
#[derive(Debug)]
pub struct JoinError;

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a raft task panicked")
    }
}

pub struct JoinHandle<T>(runtime::Task<T>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(cx)
            .map(|output| output.ok_or(JoinError))
    }
}

/// Randomness of the environment as a generator.
#[derive(Debug, Clone, Copy)]
pub struct EnvRng;

impl rand::TryRng for EnvRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        // The low half is as random as the whole.
        Ok(runtime::current().random_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(runtime::current().random_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in bytes.chunks_mut(8) {
            let random = runtime::current().random_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        Ok(())
    }
}

impl rt::Instant for Instant {
    fn now() -> Self {
        runtime::current().now()
    }
}

impl AsyncRuntime for RaftRuntime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = BoxFuture<'static, ()>;
    type Instant = Instant;
    type TimeoutError = Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = runtime::Timeout<T>;
    type ThreadLocalRng = EnvRng;
    type Mpsc = TokioMpsc;
    type Watch = SignalWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(future: T) -> JoinHandle<T::Output>
    where
        T: Future + 'static,
        T::Output: 'static,
    {
        JoinHandle(runtime::current().spawn_local(future))
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        runtime::current().sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        runtime::current().sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        runtime::current().timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        runtime::current().timeout_at(deadline, future)
    }

    fn is_panic(_join_error: &JoinError) -> bool {
        true
    }

    fn thread_rng() -> EnvRng {
        EnvRng
    }

    fn new(_threads: usize) -> Self {
        RaftRuntime
    }

    fn block_on<F, T>(&mut self, _future: F) -> T
    where
        F: Future<Output = T>,
    {
        unreachable!("raft runs inside a node's environment and never starts one")
    }

    fn spawn_blocking<F, T>(work: F) -> impl Future<Output = Result<T, io::Error>>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let done = runtime::current().run_blocking(work);
        async { Ok(done.await) }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct TokioMpsc;

pub struct Sender<T>(mpsc::Sender<T>);
pub struct Receiver<T>(mpsc::Receiver<T>);
pub struct WeakSender<T>(mpsc::WeakSender<T>);

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Clone for WeakSender<T> {
    fn clone(&self) -> Self {
        WeakSender(self.0.clone())
    }
}

impl Mpsc for TokioMpsc {
    type Sender<T: OptionalSend> = Sender<T>;
    type Receiver<T: OptionalSend> = Receiver<T>;
    type WeakSender<T: OptionalSend> = WeakSender<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::channel(buffer);
        (Sender(sender), Receiver(receiver))
    }
}

impl<T: OptionalSend> MpscSender<TokioMpsc, T> for Sender<T> {
    async fn send(&self, msg: T) -> Result<(), rt::mpsc::SendError<T>> {
        self.0
            .send(msg)
            .await
            .map_err(|error| rt::mpsc::SendError(error.0))
    }

    fn downgrade(&self) -> WeakSender<T> {
        WeakSender(self.0.downgrade())
    }
}

impl<T: OptionalSend> MpscReceiver<T> for Receiver<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T: OptionalSend> MpscWeakSender<TokioMpsc, T> for WeakSender<T> {
    fn upgrade(&self) -> Option<Sender<T>> {
        self.0.upgrade().map(Sender)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct TokioOneshot;

pub struct OnceSender<T>(oneshot::Sender<T>);

impl Oneshot for TokioOneshot {
    type Sender<T: OptionalSend> = OnceSender<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;

    fn channel<T: OptionalSend>() -> (OnceSender<T>, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (OnceSender(sender), receiver)
    }
}

impl<T: OptionalSend> OneshotSender<T> for OnceSender<T> {
    fn send(self, value: T) -> Result<(), T> {
        self.0.send(value)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct SignalWatch;

pub struct SignalSender<T>(signal::Sender<T>);
pub struct SignalReceiver<T>(signal::Receiver<T>);

impl<T> Clone for SignalSender<T> {
    fn clone(&self) -> Self {
        SignalSender(self.0.clone())
    }
}

impl<T> Clone for SignalReceiver<T> {
    fn clone(&self) -> Self {
        SignalReceiver(self.0.clone())
    }
}

impl Watch for SignalWatch {
    type Sender<T: OptionalSend + OptionalSync> = SignalSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = SignalReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = signal::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (SignalSender<T>, SignalReceiver<T>) {
        let (sender, receiver) = signal::channel(init);
        (SignalSender(sender), SignalReceiver(receiver))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<SignalWatch, T> for SignalSender<T> {
    fn send(&self, value: T) -> Result<(), rt::watch::SendError<T>> {
        self.0.send(value);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> signal::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> SignalReceiver<T> {
        SignalReceiver(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<SignalWatch, T> for SignalReceiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|signal::Closed| RecvError(()))
    }

    fn borrow_watched(&self) -> signal::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> signal::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

pub struct TokioMutex<T>(Arc<tokio::sync::Mutex<T>>);

impl<T: OptionalSend + 'static> Mutex<T> for TokioMutex<T> {
    type Guard<'a> = tokio::sync::MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        TokioMutex(Arc::new(tokio::sync::Mutex::new(value)))
    }

    async fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().await
    }
}
