//! Sockets of the operating system, with what a server wants of them.
//!
//! * The backlog of a listener is the system's (`somaxconn`), as Go's: after a restart thousands come at once.
//! * Every connection is kept alive by the system (Go's times), so that one whose other side is gone without a word ends.
//! * Between members, what is sent has to be acknowledged in time as well: the system would go on trying for a quarter of
//!   an hour. A client may read as slowly as it likes.
//! * Names are looked up by threads of their own: the C library may take many seconds for one, and the log's syncs must
//!   not wait for that.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use rustix::net::sockopt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixSocket, UnixStream};

use super::super::{Aside, Listener, Stream, Work};
use crate::base::limits;

/// What the address of a Unix socket begins with.
const UNIX: &str = "unix:";
/// More than any system allows: the most that this one does.
const BACKLOG: u32 = i32::MAX as u32;
/// `--socket-reuse-port`: ports are bound with SO_REUSEPORT.
static REUSE_PORT: AtomicBool = AtomicBool::new(false);

/// From now on, ports are bound even if other sockets that were bound so have them.
pub fn reuse_ports() {
    REUSE_PORT.store(true, Ordering::Relaxed);
}

/// Files and sockets that this process may have open; `None`: no limit.
pub(super) fn descriptors() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current?;
    Some(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Takes as many descriptors as the system allows, as Go's programs do: the soft limit is there for programs that use
/// `select`.
///
/// # Errors
/// The system's; the limit is what it was.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

/// A tenth of the share of a thread that serves somebody.
const BACKGROUND_NICENESS: i32 = 10;

/// Runs work on threads that do nothing else than that sort of work.
pub(super) fn run_aside(aside: Aside, work: Work) {
    static POOLS: [OnceLock<tokio::runtime::Runtime>; 4] = [const { OnceLock::new() }; 4];
    let [names, files, background, upkeep] = &POOLS;
    let (pool, threads) = match aside {
        Aside::Names => (names, limits::NAME_LOOKUPS_MAX),
        Aside::Files => (files, limits::HANDSHAKE_READS_MAX),
        Aside::Background => (background, limits::BACKGROUND_THREADS_MAX),
        Aside::Upkeep => (upkeep, 1),
    };
    let pool = pool.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        if [Aside::Background, Aside::Upkeep].contains(&aside) {
            builder.on_thread_start(|| {
                // On Linux a thread has a niceness of its own. Without it, it is only less polite.
                let _ =
                    rustix::process::setpriority_process(Some(rustix::thread::gettid()), BACKGROUND_NICENESS);
            });
        }
        let pool = builder.max_blocking_threads(threads).build();
        pool.expect("a runtime without drivers asks the system for nothing")
    });
    pool.spawn_blocking(work);
}

/// The addresses behind "host:port".
pub(super) async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let (sender, found) = tokio::sync::oneshot::channel();
    let name = address.to_owned();
    let look_up = move || {
        // Whoever asked may have given up while this waited for a thread.
        if !sender.is_closed() {
            let _ = sender.send(name.to_socket_addrs().map(Iterator::collect));
        }
    };
    run_aside(Aside::Names, Box::new(look_up));
    found.await.map_err(io::Error::other)?
}

/// What every connection is given. Whoever has to acknowledge in time cannot be slow without being taken for gone.
fn prepare(socket: &TcpStream, has_to_acknowledge: bool) -> io::Result<()> {
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, limits::TCP_KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepintvl(socket, limits::TCP_KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, limits::TCP_KEEPALIVE_PROBES)?;
    if has_to_acknowledge {
        let millis = limits::PEER_UNACKNOWLEDGED_MAX.as_millis();
        sockopt::set_tcp_user_timeout(socket, u32::try_from(millis).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

fn new_socket(address: &SocketAddr) -> io::Result<TcpSocket> {
    match address.is_ipv4() {
        true => TcpSocket::new_v4(),
        false => TcpSocket::new_v6(),
    }
}

/// Connects to "host:port" or a Unix socket, from an address of this machine's if one is named.
pub(super) async fn connect(from: Option<IpAddr>, address: &str) -> io::Result<Stream> {
    if let Some(path) = address.strip_prefix(UNIX) {
        let stream = UnixStream::connect(path).await?;
        return Ok(Stream::new(stream, address));
    }
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for to in resolve(address).await? {
        if from.is_some_and(|from| from.is_ipv4() != to.is_ipv4()) {
            continue;
        }
        match connect_to(from, to).await {
            Ok(stream) => return Ok(Stream::new(stream, address)),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

async fn connect_to(from: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = new_socket(&to)?;
    if let Some(from) = from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let stream = socket.connect(to).await?;
    prepare(&stream, true)?;
    Ok(stream)
}

/// Binds "host:port" or a Unix socket. Peers have to acknowledge what they are sent.
pub(super) async fn listen(address: &str, for_peers: bool) -> io::Result<Box<dyn Listener>> {
    if let Some(path) = address.strip_prefix(UNIX) {
        // What an earlier process left behind would be in the way.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        return Ok(Box::new(UnixPort(socket.listen(BACKLOG)?, address.to_owned())));
    }
    let mut refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in resolve(address).await? {
        match bind(&address) {
            Ok(listener) => return Ok(Box::new(TcpPort { listener, for_peers })),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn bind(address: &SocketAddr) -> io::Result<TcpListener> {
    let socket = new_socket(address)?;
    socket.set_reuseaddr(true)?;
    if REUSE_PORT.load(Ordering::Relaxed) {
        socket.set_reuseport(true)?;
    }
    socket.bind(*address)?;
    socket.listen(BACKLOG)
}

struct TcpPort {
    listener: TcpListener,
    for_peers: bool,
}

impl Listener for TcpPort {
    fn accept(&self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async {
            let (stream, peer) = self.listener.accept().await?;
            prepare(&stream, self.for_peers)?;
            Ok(Stream::new(stream, peer.to_string()))
        })
    }

    fn local_address(&self) -> String {
        self.listener
            .local_addr()
            .map(|address| address.to_string())
            .unwrap_or_default()
    }
}

struct UnixPort(UnixListener, String);

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

#[cfg(test)]
mod tests;
