//! `Env`: the only door to time, randomness, tasks, network and disk.
//!
//! ```text
//!            product code
//!                 |
//!                Env  (this trait object)
//!               /    \
//!   runtime::tokio    sim's world (madsim executor, SimNet, SimDisk, a clock per node)
//! ```
//!
//! Production and simulation run the same code above this line. What follows from it:
//! * no behaviour may depend on thread timing, hash order or addresses: the simulator runs everything
//!   on one thread and compares traces;
//! * time does not move while a task runs, so nothing may spin on the clock;
//! * `tokio::sync` channels are used freely (they need no runtime), except `watch`, which wakes its
//!   waiters in an order drawn from a process-global counter: use [`signal`] instead.

pub mod admission;
pub mod buggify;
pub mod channel;
pub mod crossing;
pub mod disk;
pub mod dns;
pub mod net;
pub mod panics;
pub mod signal;
pub mod time;
pub mod timer;
pub mod tls;
pub mod tokio;

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use ::tokio::sync::Semaphore;

use crate::base::{MemberMetrics, limits};
pub use crossing::Crossing;
pub use disk::{Disk, File};
pub use futures_util::future::{BoxFuture, LocalBoxFuture};
pub use net::{Listener, Stream};
use panics::Panic;
pub use time::{Instant, Silence};

/// Work that has threads of its own, so that nothing else waits for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aside {
    /// Names are looked up: a name server may be away.
    Names,
    /// Files are read because somebody connects.
    Files,
    /// What computes for long because a client asks for it, and may take longer: others have the processors first.
    Background,
    /// The same for what the member itself has to do: it does not wait for clients' work.
    Upkeep,
}

/// What a piece of long work takes where nothing else is done.
const PIECE_USUAL: Duration = Duration::from_millis(2);
/// The longest pause after a piece.
const PIECE_PAUSE_MAX: Duration = Duration::from_millis(20);

/// Makes, on the thread of a core, the future that is this core.
pub type Begin = Box<dyn FnOnce() -> LocalBoxFuture<'static, ()> + Send>;

/// Something to be done on another thread.
pub type Work = Box<dyn FnOnce() + Send>;

/// What an environment has to provide. Implemented twice: for tokio and by the simulator.
pub trait Runtime: Send + Sync + 'static {
    /// Monotonic time of this node.
    fn now(&self) -> Instant;
    /// Time of day: since the Unix epoch. For log lines and ids, never for decisions.
    fn wall_clock(&self) -> Duration;
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
    /// Starts a task on the threads that serve connections; it goes on when the handle is dropped.
    fn spawn(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort>;
    /// Starts a task that nobody waits for and nobody ends, where that is cheaper.
    fn spawn_detached(&self, task: BoxFuture<'static, ()>) {
        self.spawn(task);
    }
    /// Starts the thread of one member's core, which runs the future that `begin` makes there to its end, and all that
    /// it starts by [`spawn_local`](Self::spawn_local) meanwhile; `ended` when nothing of that is left. In the simulator
    /// there is one thread for everything.
    fn start_core(&self, begin: Begin, ended: Work) -> io::Result<()>;
    /// Starts a task on the thread of the core that calls this.
    fn spawn_local(&self, task: LocalBoxFuture<'static, ()>) -> Box<dyn Abort>;
    /// Starts the task that writes a log: on a thread of its own, which does its file operations itself, where that is
    /// cheaper.
    fn spawn_log(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        self.spawn(task)
    }
    /// Has the threads that serve connections do something short for the core that calls this. Where there is one thread for
    /// everything, it is done at once.
    fn post(&self, work: Work) {
        work();
    }
    /// Runs work that blocks or computes for long where it delays no task.
    fn run_blocking(&self, work: Work);
    /// The same for what strangers can cause, or hold up: in threads of its own, which are few, so that neither the log
    /// nor other work of another sort waits for it.
    fn run_aside(&self, _aside: Aside, work: Work) {
        self.run_blocking(work);
    }
    fn random_u64(&self) -> u64;
    /// How long a message is under way between two threads; `None`: it is there.
    fn cross(&self, _crossing: Crossing) -> Option<Duration> {
        None
    }
    /// Files and connections that this process may have open at a time; `None`: as many as it likes.
    fn descriptors(&self) -> Option<usize> {
        None
    }
    /// Binds `address` ("host:port"; port 0 picks one).
    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
    /// The same for a port that peers connect to: one that acknowledges nothing for long is gone.
    fn listen_to_peers<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        self.listen(address)
    }
    /// Connects to `address` ("host:port"). May take as long as TCP does: bound it with a time-out.
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>>;
    /// The same, from an address of this machine.
    fn connect_from<'a>(&'a self, _from: IpAddr, _address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
    /// The addresses behind "host:port".
    fn resolve<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
    /// The services that stand behind a name (SRV records), best first.
    fn lookup_services<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, io::Result<Vec<dns::Service>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
    fn disk(&self) -> Arc<dyn Disk>;
}

/// Ends a task.
pub trait Abort: Send + Sync {
    fn abort(&self);
}

/// A handle on one environment: cheap to clone, one per node.
#[derive(Clone)]
pub struct Env {
    runtime: Arc<dyn Runtime>,
    metrics: Arc<MemberMetrics>,
    /// Who wants [background](Aside::Background) work done waits here: whoever leaves takes along what it would have held.
    background: Arc<Semaphore>,
}

/// Time ran out before the future was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

impl From<Elapsed> for io::Error {
    fn from(_: Elapsed) -> Self {
        io::Error::new(io::ErrorKind::TimedOut, "timed out")
    }
}

impl Env {
    pub fn new(runtime: impl Runtime) -> Self {
        Env {
            runtime: Arc::new(runtime),
            metrics: Arc::default(),
            background: Arc::new(Semaphore::new(limits::BACKGROUND_THREADS_MAX)),
        }
    }

    /// The same environment for a member of its own, of which nothing has been counted yet.
    pub fn counting_anew(&self) -> Env {
        Env {
            runtime: self.runtime.clone(),
            metrics: Arc::default(),
            background: Arc::new(Semaphore::new(limits::BACKGROUND_THREADS_MAX)),
        }
    }

    /// What is counted of this member. To be written; what it says decides nothing.
    pub fn metrics(&self) -> &Arc<MemberMetrics> {
        &self.metrics
    }

    pub fn now(&self) -> Instant {
        self.runtime.now()
    }

    pub fn wall_clock(&self) -> Duration {
        self.runtime.wall_clock()
    }

    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.runtime.sleep_until(self.now() + duration)
    }

    pub fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.runtime.sleep_until(deadline)
    }

    /// The future's output, unless `duration` passes first.
    pub fn timeout<F: Future>(&self, duration: Duration, future: F) -> Timeout<F> {
        self.timeout_at(self.now() + duration, future)
    }

    /// The future's output, unless `deadline` passes first.
    pub fn timeout_at<F: Future>(&self, deadline: Instant, future: F) -> Timeout<F> {
        Timeout {
            future: Box::pin(future),
            sleep: self.runtime.sleep_until(deadline),
        }
    }

    /// Starts a task. It ends when it is done, when [`Task::abort`] is called, or with the process;
    /// dropping the handle leaves it running.
    pub fn spawn<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let (sender, receiver) = ::tokio::sync::oneshot::channel();
        let abort = self.runtime.spawn(Box::pin(async move {
            // The receiver is gone when nobody waits for the output.
            let _ = sender.send(future.await);
        }));
        Task { abort, receiver }
    }

    /// Starts the task that writes a log: see [`Runtime::spawn_log`].
    pub fn spawn_log(&self, future: impl Future<Output = ()> + Send + 'static) -> Task<()> {
        let (sender, receiver) = ::tokio::sync::oneshot::channel();
        let abort = self.runtime.spawn_log(Box::pin(async move {
            future.await;
            // The receiver is gone when nobody waits for the end.
            let _ = sender.send(());
        }));
        Task { abort, receiver }
    }

    /// Starts a task that nobody waits for and nobody ends: there is one per request, so it has no handle.
    pub fn spawn_detached(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn_detached(Box::pin(future));
    }

    /// Starts the thread of a core: see [`Runtime::start_core`].
    pub fn start_core<F>(
        &self,
        begin: impl FnOnce() -> F + Send + 'static,
        ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<()>
    where
        F: Future<Output = ()> + 'static,
    {
        let begin = Box::new(|| Box::pin(begin()) as LocalBoxFuture<'static, ()>);
        self.runtime.start_core(begin, Box::new(ended))
    }

    /// What a future of one thread comes to, on a core's thread of its own.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left, or is at its end.
    pub async fn on_core<F>(&self, begin: impl FnOnce() -> F + Send + 'static) -> io::Result<F::Output>
    where
        F: Future + 'static,
        F::Output: Send + 'static,
    {
        let (sender, output) = ::tokio::sync::oneshot::channel();
        let core = move || async move {
            // The receiver is gone when nobody waits for the output.
            let _ = sender.send(begin().await);
        };
        self.start_core(core, || ())?;
        output.await.map_err(io::Error::other)
    }

    /// Starts a task on the thread of the core that calls this. Otherwise as [`spawn`](Self::spawn).
    pub fn spawn_local<F>(&self, future: F) -> Task<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let (sender, receiver) = ::tokio::sync::oneshot::channel();
        let abort = self.runtime.spawn_local(Box::pin(async move {
            // The receiver is gone when nobody waits for the output.
            let _ = sender.send(future.await);
        }));
        Task { abort, receiver }
    }

    /// Has the threads that serve connections do something short for the core that calls this, in the order of the calls: what
    /// would cost it more than to say so, such as sending many answers.
    pub fn post(&self, work: impl FnOnce() + Send + 'static) {
        self.runtime.post(Box::new(work));
    }

    /// Runs work that blocks or computes for long where it delays no task.
    pub fn run_blocking<T, W>(&self, work: W) -> impl Future<Output = T> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = ::tokio::sync::oneshot::channel();
        // What a request has others do for it panics at its cost, too.
        let for_request = panics::is_contained();
        self.runtime.run_blocking(Box::new(move || {
            let output = match for_request {
                true => panics::contain(work),
                false => Ok(work()),
            };
            // The receiver is gone when nobody waits for the output.
            let _ = sender.send(output);
        }));
        async {
            let output = receiver.await;
            output
                .expect("blocking work runs to its end")
                .unwrap_or_else(|panic| panic.resume())
        }
    }

    /// To be called after each piece of long work, of when that began: if it took longer than usual, others want the processors, or
    /// the core, and are left them for twice as long.
    pub async fn give_way(&self, begun: Instant) {
        let took = self.now() - begun;
        match took > PIECE_USUAL {
            true => self.sleep((2 * took).min(PIECE_PAUSE_MAX)).await,
            false => let_others_run().await,
        }
    }

    /// The same in threads that do only such work. It is not begun if nobody waits for it any more.
    pub fn run_aside<T, W>(&self, aside: Aside, work: W) -> impl Future<Output = T> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce() -> T + Send + 'static,
    {
        let (sender, receiver) = ::tokio::sync::oneshot::channel();
        let for_request = panics::is_contained();
        let work = move || {
            if !sender.is_closed() {
                let output = match for_request {
                    true => panics::contain(work),
                    false => Ok(work()),
                };
                // The receiver may go while the work is done.
                let _ = sender.send(output);
            }
        };
        let (runtime, background) = (self.runtime.clone(), self.background.clone());
        async move {
            let _place = match aside {
                Aside::Background => background.acquire_owned().await.ok(),
                Aside::Names | Aside::Files | Aside::Upkeep => None,
            };
            runtime.run_aside(aside, Box::new(work));
            let output = receiver.await;
            output
                .expect("work that is waited for runs to its end")
                .unwrap_or_else(|panic| panic.resume())
        }
    }

    /// Counts and logs a panic that ended `what`.
    pub fn panicked(&self, what: &dyn fmt::Display, panic: &Panic) {
        self.metrics.requests.panics.inc();
        tracing::error!(
            request = %what,
            error = panic.message,
            place = panic.place,
            stacktrace = panic.stack,
            "a request ended in a panic"
        );
    }

    pub fn random_u64(&self) -> u64 {
        self.runtime.random_u64()
    }

    /// For whoever has received a message from another thread: what to wait for before looking at it, if anything.
    /// Only in the simulator there is something.
    pub fn cross(&self, crossing: Crossing) -> Option<BoxFuture<'static, ()>> {
        let delay = self.runtime.cross(crossing)?;
        Some(self.sleep(delay))
    }

    /// Files and connections that this process may have open at a time; `None`: as many as it likes.
    pub fn descriptors(&self) -> Option<usize> {
        self.runtime.descriptors()
    }

    pub async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        self.runtime.listen(address).await
    }

    /// The same for a port that peers connect to.
    pub async fn listen_to_peers(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        self.runtime.listen_to_peers(address).await
    }

    pub async fn connect(&self, address: &str) -> io::Result<Stream> {
        self.runtime.connect(address).await
    }

    /// Connects from an address of this machine's own, if one is named. Unix sockets have none.
    pub async fn connect_from(&self, from: Option<IpAddr>, address: &str) -> io::Result<Stream> {
        match from {
            Some(from) if !address.starts_with("unix:") => self.runtime.connect_from(from, address).await,
            _ => self.runtime.connect(address).await,
        }
    }

    /// The addresses behind "host:port". Not in the simulator.
    pub async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        self.runtime.resolve(address).await
    }

    /// The services that stand behind a name (SRV records), best first. Not in the simulator.
    pub async fn lookup_services(&self, name: &str) -> io::Result<Vec<dns::Service>> {
        self.runtime.lookup_services(name).await
    }

    pub fn disk(&self) -> Arc<dyn Disk> {
        self.runtime.disk()
    }
}

/// A running task; as a future, its output (`None`: it was aborted or it panicked).
pub struct Task<T> {
    abort: Box<dyn Abort>,
    receiver: ::tokio::sync::oneshot::Receiver<T>,
}

impl<T> Task<T> {
    pub fn abort(&self) {
        self.abort.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.receiver).poll(cx).map(Result::ok)
    }
}

/// A task that ends with whoever waits for it.
pub struct AbortOnDrop<T>(pub Task<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for AbortOnDrop<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0).poll(cx)
    }
}

/// See [`Env::timeout`].
pub struct Timeout<F> {
    future: Pin<Box<F>>,
    sleep: BoxFuture<'static, ()>,
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Poll::Ready(output) = self.future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        self.sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    }
}

/// Lets other tasks of this thread run between two pieces of work.
pub async fn let_others_run() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// How code without an `Env` in its hands finds the one of the node that runs it.
static CURRENT: OnceLock<fn() -> Env> = OnceLock::new();

/// Names the function that tells which node's environment the running code belongs to. Needed because
/// openraft's runtime trait has only associated functions. The first caller wins: a process is either a
/// node or a simulator.
pub fn install(current: fn() -> Env) {
    let _ = CURRENT.set(current);
}

/// The environment of the node that runs this code.
pub fn current() -> Env {
    CURRENT
        .get()
        .expect("runtime::install is called before a node starts")()
}
