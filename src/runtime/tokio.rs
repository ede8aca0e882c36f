//! The production environment: tokio's scheduler, timers and sockets, and the file system.
//!
//! The only module of the product that may name the operating system's clock, sockets and threads.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use rand::Rng;

use super::{Abort, Disk, Env, File, Instant, Listener, Runtime, Stream, dns, install};

/// The environment of a production process. Used inside a tokio runtime only.
pub struct TokioRuntime {
    start: tokio::time::Instant,
}

/// Connections that may wait to be accepted, as tokio's own.
const BACKLOG: u32 = 1024;
/// `--socket-reuse-port`: ports are bound with SO_REUSEPORT.
static REUSE_PORT: AtomicBool = AtomicBool::new(false);

/// From now on, ports are bound even if other sockets that were bound so have them.
pub fn reuse_ports() {
    REUSE_PORT.store(true, Ordering::Relaxed);
}

/// The one environment of this process; the first call creates it.
pub fn env() -> Env {
    static ENV: OnceLock<Env> = OnceLock::new();
    fn current() -> Env {
        ENV.get_or_init(|| {
            Env::new(TokioRuntime {
                start: tokio::time::Instant::now(),
            })
        })
        .clone()
    }
    install(current);
    current()
}

impl Abort for tokio::task::AbortHandle {
    fn abort(&self) {
        tokio::task::AbortHandle::abort(self);
    }
}

impl Runtime for TokioRuntime {
    fn now(&self) -> Instant {
        let nanos = self.start.elapsed().as_nanos();
        // One second ahead of zero, so that "a second ago" exists from the start.
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)) + Duration::from_secs(1)
    }

    fn wall_clock(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(deadline - self.now()))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(tokio::spawn(task).abort_handle())
    }

    fn spawn_detached(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        tokio::task::spawn_blocking(work);
    }

    fn random_u64(&self) -> u64 {
        rand::rng().next_u64()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            if let Some(path) = address.strip_prefix(UNIX) {
                // What an earlier process left behind would be in the way.
                match fs::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
                let listener = tokio::net::UnixListener::bind(path)?;
                return Ok(Box::new(UnixPort(listener, address.to_owned())) as Box<dyn Listener>);
            }
            let listener = match REUSE_PORT.load(Ordering::Relaxed) {
                true => bind_shared(address).await?,
                false => tokio::net::TcpListener::bind(address).await?,
            };
            Ok(Box::new(TcpPort(listener)) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            if let Some(path) = address.strip_prefix(UNIX) {
                let stream = tokio::net::UnixStream::connect(path).await?;
                return Ok(Stream::new(stream, address));
            }
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Stream::new(stream, address))
        })
    }

    fn connect_from<'a>(&'a self, from: IpAddr, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async move {
            let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
            let found = tokio::net::lookup_host(address).await?;
            for to in found.filter(|to| to.is_ipv4() == from.is_ipv4()) {
                let socket = match from {
                    IpAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
                    IpAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
                };
                socket.bind(SocketAddr::new(from, 0))?;
                match socket.connect(to).await {
                    Ok(stream) => {
                        stream.set_nodelay(true)?;
                        return Ok(Stream::new(stream, address));
                    }
                    Err(error) => refused = error,
                }
            }
            Err(refused)
        })
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(address).await?.collect()) })
    }

    fn lookup_services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<dns::Service>>> {
        Box::pin(dns::lookup(name))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(FileSystem)
    }
}

/// The first address that can be bound beside whoever has it already.
async fn bind_shared(address: &str) -> io::Result<tokio::net::TcpListener> {
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in tokio::net::lookup_host(address).await? {
        let socket = match address.is_ipv4() {
            true => tokio::net::TcpSocket::new_v4()?,
            false => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

struct TcpPort(tokio::net::TcpListener);

impl Listener for TcpPort {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async {
            let (stream, peer) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Stream::new(stream, peer.to_string()))
        })
    }

    fn local_address(&self) -> String {
        self.0
            .local_addr()
            .map(|address| address.to_string())
            .unwrap_or_default()
    }
}

/// What the address of a Unix socket begins with.
const UNIX: &str = "unix:";

struct UnixPort(tokio::net::UnixListener, String);

impl Listener for UnixPort {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async {
            let (stream, _) = self.0.accept().await?;
            Ok(Stream::new(stream, self.1.clone()))
        })
    }

    fn local_address(&self) -> String {
        self.1.clone()
    }
}

struct FileSystem;

/// Runs a file operation off the async threads.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, io::Result<T>> {
    Box::pin(async {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(error) => Err(io::Error::other(error)),
        }
    })
}

/// [`blocking`] on one path.
fn on_path<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce(PathBuf) -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, io::Result<T>> {
    let path = path.to_owned();
    blocking(move || work(path))
}

fn open_options() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true);
    options
}

impl Disk for FileSystem {
    fn create_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        on_path(path, |path| {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
        })
    }

    fn read_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Vec<String>>> {
        on_path(path, |path| {
            let name =
                |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
            let mut names = fs::read_dir(path)?.map(name).collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names)
        })
    }

    fn open<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        on_path(path, |path| {
            Ok(Arc::new(OsFile(Arc::new(open_options().open(path)?))) as Arc<dyn File>)
        })
    }

    fn create<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        on_path(path, |path| {
            let file = open_options().create(true).truncate(true).open(path)?;
            Ok(Arc::new(OsFile(Arc::new(file))) as Arc<dyn File>)
        })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        let to = to.to_owned();
        on_path(from, move |from| fs::rename(from, to))
    }

    fn remove_file<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        on_path(path, fs::remove_file)
    }

    fn remove_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        on_path(path, fs::remove_dir_all)
    }

    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        on_path(path, |path| fs::File::open(path)?.sync_all())
    }

    fn lock<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Box<dyn Send + Sync>>> {
        on_path(path, |path| {
            let file = open_options().create(true).truncate(false).open(path)?;
            rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
            Ok(Box::new(file) as Box<dyn Send + Sync>)
        })
    }
}

struct OsFile(Arc<fs::File>);

impl OsFile {
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&fs::File) -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        let file = self.0.clone();
        blocking(move || work(&file))
    }
}

impl File for OsFile {
    fn len(&self) -> BoxFuture<'_, io::Result<u64>> {
        self.blocking(|file| Ok(file.metadata()?.len()))
    }

    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        self.blocking(move |file| {
            let mut buffer = BytesMut::zeroed(length);
            let mut filled = 0;
            while filled < length {
                match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(read) => filled += read,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            buffer.truncate(filled);
            Ok(buffer.freeze())
        })
    }

    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        self.blocking(move |file| file.write_all_at(&data, offset))
    }

    fn set_len(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        self.blocking(move |file| {
            if length > file.metadata()?.len() {
                match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length) {
                    Ok(()) => return Ok(()),
                    // Not every file system can reserve; a sparse file then has to do.
                    Err(rustix::io::Errno::OPNOTSUPP) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            file.set_len(length)
        })
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        self.blocking(fs::File::sync_data)
    }

    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<Duration>> {
        self.blocking(move |file| {
            file.write_all_at(&data, offset)?;
            let begun = tokio::time::Instant::now();
            file.sync_data()?;
            Ok(begun.elapsed())
        })
    }
}
