//! A process's life as a member: start, serve, stop.
//!
//! ```text
//!   Node::start ──► ready ──► serving ──► SIGTERM/SIGINT ──► Node::stop ──► the signal again (143, 130)
//!        │                       └──────► Node::failed ───► logged, exit code 1
//!        └─► error: logged, exit code 1        (removed from the cluster: exit code 0, as etcd)
//! ```
//!
//! The signal is raised again after the stop, so that whoever waits for the process sees why it ended. As
//! process 1 of a container that would not end it: exit code 0 then, as etcd.

use std::future::Future;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::pin::pin;
use std::process::ExitCode;

use futures_util::future::{Either, select};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};

use super::logging::FATAL;
use crate::base::limits;
use crate::config::Config;
use crate::node::{Node, NodeError};
use crate::runtime::Env;

/// How a member's life ended.
enum End {
    Signal(i32),
    Failed(NodeError),
}

/// Runs a member until a signal or a failure ends it.
pub async fn run(env: Env, config: Config) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            error!(target: FATAL, error = %error, "cannot handle signals");
            return ExitCode::FAILURE;
        }
    };
    let discovery = config.discovery.clone();
    let (name, data_dir) = (config.name.clone(), config.data_dir.display().to_string());
    let node = match first(signals.next(), Node::start(env.clone(), config)).await {
        Either::Left(number) => return raise_again(number),
        Either::Right(Ok(node)) => node,
        Either::Right(Err(reason)) if reason.is_discovery() => {
            let (token, endpoints) = discovery
                .map(|asked| (asked.token, asked.endpoints.join(",")))
                .unwrap_or_default();
            warn!(
                "discovery-token" = token,
                "discovery-endpoints" = endpoints,
                error = reason.to_string(),
                "failed to bootstrap; discovery token was already used"
            );
            warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
            return ExitCode::FAILURE;
        }
        Either::Right(Err(reason)) => {
            error!(target: FATAL, error = reason.to_string(), "failed to start");
            return ExitCode::FAILURE;
        }
    };
    match live(&node, &mut signals).await {
        End::Signal(number) => {
            info!(signal = signal_text(number), "received signal; shutting down");
            info!(name, "data-dir" = data_dir, "closing etcd server");
            if env.timeout(limits::STOP_TIMEOUT, node.stop()).await.is_err() {
                warn!(name, "data-dir" = data_dir, "the server did not stop in time");
            } else {
                info!(name, "data-dir" = data_dir, "closed etcd server");
            }
            raise_again(number)
        }
        End::Failed(removal) if removal.is_removal() => {
            warn!(
                name,
                "data-dir" = data_dir,
                reason = removal.to_string(),
                "closing etcd server"
            );
            let _ = env.timeout(limits::STOP_TIMEOUT, node.stop()).await;
            ExitCode::SUCCESS
        }
        End::Failed(reason) => {
            error!(target: FATAL, error = reason.to_string(), "the server failed");
            ExitCode::FAILURE
        }
    }
}

/// From a started member to the event that ends it.
async fn live(node: &Node, signals: &mut Signals) -> End {
    let life = async {
        if let Err(error) = node.ready().await {
            return error;
        }
        info!("ready to serve client requests");
        notify_ready();
        node.failed().await
    };
    match first(signals.next(), life).await {
        Either::Left(number) => End::Signal(number),
        Either::Right(error) => End::Failed(error),
    }
}

/// The output of the future that is ready first.
async fn first<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    match select(pin!(a), pin!(b)).await {
        Either::Left((output, _)) => Either::Left(output),
        Either::Right((output, _)) => Either::Right(output),
    }
}

/// The two signals that stop a member.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The number of the next signal.
    async fn next(&mut self) -> i32 {
        match first(self.terminate.recv(), self.interrupt.recv()).await {
            Either::Left(_) => SignalKind::terminate().as_raw_value(),
            Either::Right(_) => SignalKind::interrupt().as_raw_value(),
        }
    }
}

/// Go's words.
fn signal_text(number: i32) -> &'static str {
    match number == SignalKind::interrupt().as_raw_value() {
        true => "interrupt",
        false => "terminated",
    }
}

/// Ends the process by the signal it was sent.
fn raise_again(number: i32) -> ExitCode {
    if std::process::id() != 1 {
        // Returns only if the signal could not be raised.
        if let Err(error) = signal_hook::low_level::emulate_default_handler(number) {
            warn!(error = %error, "cannot raise the signal again");
        }
    }
    ExitCode::SUCCESS
}

/// Tells systemd (`Type=notify`) that the member serves.
fn notify_ready() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&*path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    match sent {
        Ok(_) => info!("successfully notified init daemon"),
        Err(error) => warn!(error = %error, "failed to notify init daemon"),
    }
}
