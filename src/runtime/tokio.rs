//! The production environment: tokio's scheduler, timers and sockets, and the file system.
//!
//! The only module of the product that may name the operating system's clock, sockets and threads.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod mailbox;
mod sockets;
mod threads;
mod wakes;

use std::fs;
use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use futures_util::future::{AbortHandle, BoxFuture};
use rand::Rng;

use super::{
    Abort, Aside, Begin, Disk, Env, File, Instant, Listener, LocalBoxFuture, Runtime, Stream, Work, dns,
    install,
};
pub use sockets::{raise_descriptor_limit, reuse_ports};
use threads::io_threads;
pub use threads::new_runtime;
use wakes::Routed;

/// What the clock shows at the start: ahead of zero, so that "a minute ago" exists.
const AT_START: Duration = Duration::from_secs(3600);

/// The environment of a production process. Used inside a tokio runtime only.
pub struct TokioRuntime {
    start: tokio::time::Instant,
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

impl Abort for AbortHandle {
    fn abort(&self) {
        AbortHandle::abort(self);
    }
}

impl Abort for tokio::task::AbortHandle {
    fn abort(&self) {
        tokio::task::AbortHandle::abort(self);
    }
}

impl Runtime for TokioRuntime {
    fn now(&self) -> Instant {
        let now = tokio::time::Instant::now();
        let time = match now.checked_duration_since(self.start) {
            Some(passed) => AT_START + passed,
            // The paused clock of a test that began before.
            None => AT_START.saturating_sub(self.start - now),
        };
        let nanos = time.as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn wall_clock(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(deadline - self.now()))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(io_threads().spawn(Routed::on_io(task)).abort_handle())
    }

    fn spawn_detached(&self, task: BoxFuture<'static, ()>) {
        io_threads().spawn(Routed::on_io(task));
    }

    fn start_core(&self, begin: Begin, ended: Work) -> io::Result<()> {
        threads::start_core(begin, ended)
    }

    fn spawn_log(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        threads::start_log(task)
    }

    fn spawn_local(&self, task: LocalBoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(tokio::task::spawn_local(Routed::on_core(task)).abort_handle())
    }

    fn post(&self, work: Work) {
        mailbox::post_work(work);
    }

    fn run_blocking(&self, work: Work) {
        io_threads().spawn_blocking(work);
    }

    fn run_aside(&self, aside: Aside, work: Work) {
        sockets::run_aside(aside, work);
    }

    fn descriptors(&self) -> Option<usize> {
        sockets::descriptors()
    }

    fn random_u64(&self) -> u64 {
        rand::rng().next_u64()
    }

    fn listen<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(sockets::listen(address, false))
    }

    fn listen_to_peers<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(sockets::listen(address, true))
    }

    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(sockets::connect(None, address))
    }

    fn connect_from<'a>(&'a self, from: IpAddr, address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(sockets::connect(Some(from), address))
    }

    fn resolve<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(sockets::resolve(address))
    }

    fn lookup_services<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<dns::Service>>> {
        Box::pin(dns::lookup(name))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(FileSystem)
    }
}

struct FileSystem;

/// Runs a file operation where it delays no task.
fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> BoxFuture<'static, io::Result<T>> {
    if threads::does_files() {
        return Box::pin(ready(work()));
    }
    Box::pin(async {
        match io_threads().spawn_blocking(work).await {
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
