//! `Env` for one life of one simulated process.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use madsim::runtime::NodeHandle;
use madsim::task::AbortHandle;
use quorate::runtime::{
    Abort, Begin, BoxFuture, Crossing, Disk, File, Instant, Listener, LocalBoxFuture, Runtime, Stream, Work,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Nanos;
use super::clock::Clock;
use super::crossing;
use super::disk::{Drive, Point};
use super::net::{Binding, EndId, HostId, Knock, Net};
use super::timer::Time;
use crate::seed::Dice;

/// The longest wait between two first packets of a connection, as a power of two seconds.
const CONNECT_RETRIES: u32 = 6;

pub(super) fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared
        .lock()
        .expect("a panic ends the run before anybody locks again")
}

/// What one process of a host sees of the world.
pub(super) struct Process {
    pub time: Time,
    pub host: HostId,
    /// Which life of the disk's host this is.
    pub life: u64,
    pub tasks: NodeHandle,
    pub net: Arc<Mutex<Net>>,
    pub drive: Arc<Mutex<Drive>>,
    pub clock: Arc<Mutex<Clock>>,
    pub dice: Mutex<Dice>,
}

struct TaskAbort(AbortHandle);

impl Abort for TaskAbort {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Runtime for Process {
    fn now(&self) -> Instant {
        let mut clock = locked(&self.clock);
        clock.looks.1 += 1;
        Instant::from_nanos(clock.monotonic(self.time.now()))
    }

    fn wall_clock(&self) -> Duration {
        let mut clock = locked(&self.clock);
        clock.looks.0 += 1;
        clock.wall(self.time.now())
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let at = locked(&self.clock).world_time_of(deadline.as_nanos());
        Box::pin(self.time.sleep_until(at))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(TaskAbort(self.tasks.spawn(task).abort_handle()))
    }

    fn start_core(&self, begin: Begin, ended: Work) -> io::Result<()> {
        madsim::task::spawn_local(async {
            begin().await;
            ended();
        });
        Ok(())
    }

    fn spawn_local(&self, task: LocalBoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(TaskAbort(madsim::task::spawn_local(task).abort_handle()))
    }

    fn run_blocking(&self, work: Work) {
        let delay = Duration::from_micros(20 + locked(&self.dice).below(80));
        let sleep = self.time.sleep(delay);
        self.tasks.spawn(async move {
            sleep.await;
            work();
        });
    }

    fn random_u64(&self) -> u64 {
        locked(&self.dice).u64()
    }

    fn cross(&self, crossing: Crossing) -> Option<Duration> {
        crossing::delay(crossing)
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut net = locked(&self.net);
            let (_, port) = net.resolve(self.host, address)?;
            let name = address.rsplit_once(':').map_or("", |(name, _)| name);
            let binding = net.bind(self.host, port)?;
            Ok(Box::new(Port {
                name: name.to_owned(),
                binding,
                socket: self.socket(),
            }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let (to, port) = locked(&self.net).resolve(self.host, address)?;
            let end = connect(self.socket(), to, port).await?;
            Ok(Stream::new(end, address))
        })
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(SimDisk {
            time: self.time.clone(),
            life: self.life,
            drive: self.drive.clone(),
        })
    }
}

impl Process {
    fn socket(&self) -> Socket {
        Socket {
            time: self.time.clone(),
            host: self.host,
            net: self.net.clone(),
        }
    }
}

/// What ports and streams need of the world.
#[derive(Clone)]
struct Socket {
    time: Time,
    host: HostId,
    net: Arc<Mutex<Net>>,
}

/// The handshake: a packet there, a packet back; silence is answered by patience, as TCP does it.
async fn connect(socket: Socket, to: HostId, port: u16) -> io::Result<SimStream> {
    let from = socket.host;
    for attempt in 0..=CONNECT_RETRIES {
        let there = locked(&socket.net).packet(socket.time.now(), from, to);
        if let Some(delay) = there {
            socket.time.sleep(Duration::from_nanos(delay)).await;
            let knock = locked(&socket.net).knock(from, to, port);
            let opened = match knock {
                Knock::Silence => None,
                Knock::Refused => Some(Err(io::ErrorKind::ConnectionRefused.into())),
                Knock::Opened(end) => Some(Ok(SimStream::new(socket.clone(), end))),
            };
            let back = locked(&socket.net).packet(socket.time.now(), to, from);
            if let (Some(result), Some(delay)) = (opened, back) {
                socket.time.sleep(Duration::from_nanos(delay)).await;
                return result;
            }
        }
        socket.time.sleep(Duration::from_secs(1 << attempt)).await;
    }
    Err(io::ErrorKind::TimedOut.into())
}

struct Port {
    name: String,
    binding: Binding,
    socket: Socket,
}

impl Listener for Port {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async {
            let accept = |cx: &mut Context<'_>| locked(&self.socket.net).poll_accept(self.binding, cx);
            let end = std::future::poll_fn(accept).await?;
            let peer = locked(&self.socket.net).peer(end);
            Ok(Stream::new(SimStream::new(self.socket.clone(), end), peer))
        })
    }

    fn local_address(&self) -> String {
        format!("{}:{}", self.name, self.binding.port)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let now = self.socket.time.now();
        locked(&self.socket.net).unbind(now, self.binding);
    }
}

/// One end of a connection.
struct SimStream {
    socket: Socket,
    end: EndId,
}

impl SimStream {
    fn new(socket: Socket, end: EndId) -> Self {
        SimStream { socket, end }
    }

    fn now(&self) -> Nanos {
        self.socket.time.now()
    }
}

impl AsyncRead for SimStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        let put = |data: &[u8]| buf.put_slice(data);
        locked(&self.socket.net).poll_read(self.now(), self.end, room, put, cx)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        locked(&self.socket.net).poll_write(self.now(), self.end, bufs, cx)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(locked(&self.socket.net).finish(self.now(), self.end))
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        let now = self.socket.time.now();
        locked(&self.socket.net).close(now, self.end);
    }
}

/// The disk as one process sees it.
#[derive(Clone)]
struct SimDisk {
    time: Time,
    life: u64,
    drive: Arc<Mutex<Drive>>,
}

impl SimDisk {
    /// Waits while the disk answers nothing.
    async fn unstalled(&self) {
        loop {
            let until = locked(&self.drive).stalled_until();
            match until {
                Some(until) if until > self.time.now() => {
                    locked(&self.drive).counters.stalled += 1;
                    self.time.sleep_until(until).await;
                }
                _ => return,
            }
        }
    }

    /// Ends here, for good, if a nemesis has set its trap at this point.
    async fn pass(&self, point: Point) {
        let is_trapped = locked(&self.drive).reach(point);
        if is_trapped {
            std::future::pending::<()>().await;
        }
    }

    async fn sync_wait(&self) {
        let latency = locked(&self.drive).sync_latency();
        self.time.sleep(latency).await;
        self.unstalled().await;
    }

    fn boxed<'a, T: Send + 'a>(
        &'a self,
        verb: impl FnOnce(&mut Drive) -> io::Result<T> + Send + 'a,
    ) -> BoxFuture<'a, io::Result<T>> {
        Box::pin(async move {
            self.unstalled().await;
            verb(&mut locked(&self.drive))
        })
    }

    fn file(&self, inode: u64) -> Arc<dyn File> {
        Arc::new(SimFile {
            disk: self.clone(),
            inode,
        })
    }
}

impl Disk for SimDisk {
    fn create_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        self.boxed(|drive| drive.create_dir_all(path))
    }

    fn read_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Vec<String>>> {
        self.boxed(|drive| drive.read_dir(path))
    }

    fn open<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        self.boxed(|drive| Ok(self.file(drive.open(path)?)))
    }

    fn create<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        self.boxed(|drive| Ok(self.file(drive.create(path)?)))
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        self.boxed(|drive| drive.rename(from, to))
    }

    fn remove_file<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        self.boxed(|drive| drive.remove_file(path))
    }

    fn remove_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        self.boxed(|drive| drive.remove_dir_all(path))
    }

    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            self.sync_wait().await;
            locked(&self.drive).sync_dir(path)
        })
    }

    fn lock<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Box<dyn Send + Sync>>> {
        self.boxed(|drive| {
            let inode = drive.lock(self.life, path)?;
            Ok(Box::new(Lock {
                disk: self.clone(),
                inode,
            }) as Box<dyn Send + Sync>)
        })
    }
}

struct Lock {
    disk: SimDisk,
    inode: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        locked(&self.disk.drive).unlock(self.disk.life, self.inode);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl File for SimFile {
    fn len(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.disk.boxed(|drive| drive.length(self.disk.life, self.inode))
    }

    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let verb = move |drive: &mut Drive| drive.read(self.disk.life, self.inode, offset, length);
        self.disk.boxed(verb)
    }

    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        let verb = move |drive: &mut Drive| drive.write(self.disk.life, self.inode, offset, data);
        self.disk.boxed(verb)
    }

    fn set_len(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        let verb = move |drive: &mut Drive| drive.set_len(self.disk.life, self.inode, length);
        self.disk.boxed(verb)
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            let mark = locked(&self.disk.drive).begin_sync(self.disk.life, self.inode)?;
            self.disk.pass(Point::BeforeSync).await;
            self.disk.sync_wait().await;
            locked(&self.disk.drive).finish_sync(self.disk.life, self.inode, mark)?;
            self.disk.pass(Point::AfterSync).await;
            Ok(())
        })
    }

    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<Duration>> {
        Box::pin(async move {
            self.write_at(offset, data).await?;
            let begun = self.disk.time.now();
            self.sync().await?;
            Ok(Duration::from_nanos(self.disk.time.now() - begun))
        })
    }
}
