//! Which threads there are: those that serve connections, and one for each core and each log.

use std::cell::{Cell, OnceCell};
use std::future::pending;
use std::io;

use futures_util::future::{BoxFuture, abortable, select};
use tokio::runtime::{Builder, Handle, LocalOptions, Runtime};
use tokio::sync::oneshot;

use super::mailbox::Mailbox;
use super::wakes::{self, Routed};
use crate::base::limits;
use crate::runtime::{Abort, Begin, Work};

/// What the thread of a core is called, for those who measure it.
const CORE_THREAD: &str = "quorate-core";
const LOG_THREAD: &str = "quorate-log";

thread_local! {
    /// On the thread of a core: the threads that serve connections.
    static IO: OnceCell<Handle> = const { OnceCell::new() };
    /// This thread waits for its files itself.
    static DOES_FILES: Cell<bool> = const { Cell::new(false) };
}

/// The runtime of a process: threads that serve connections.
///
/// # Errors
/// The system's.
pub fn new_runtime() -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.thread_stack_size(limits::THREAD_STACK_BYTES);
    wakes::prepare(&mut builder);
    builder.enable_all().build()
}

pub(super) fn does_files() -> bool {
    DOES_FILES.get()
}

/// Where connections are served and blocking work is done, also for who runs on the thread of a core.
pub(super) fn io_threads() -> Handle {
    IO.with(|io| io.get().cloned()).unwrap_or_else(Handle::current)
}

/// Resolves when the threads that serve connections are no more: nothing goes on without them.
fn gone(io: &Handle) -> oneshot::Receiver<()> {
    let (alive, gone) = oneshot::channel();
    io.spawn(async move {
        let _alive = alive;
        pending::<()>().await;
    });
    gone
}

/// See [`Runtime::spawn_log`](crate::runtime::Runtime::spawn_log).
///
/// # Panics
/// The system has no thread left.
pub(super) fn start_log(task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
    let io = io_threads();
    let gone = gone(&io);
    let (task, abort) = abortable(task);
    let log = move || {
        DOES_FILES.set(true);
        io.block_on(select(gone, Box::pin(task)));
    };
    let started = std::thread::Builder::new().name(LOG_THREAD.into()).spawn(log);
    started.expect("the system has a thread for the log");
    Box::new(abort)
}

/// See [`Runtime::start_core`](crate::runtime::Runtime::start_core).
pub(super) fn start_core(begin: Begin, ended: Work) -> io::Result<()> {
    let io = io_threads();
    let mailbox = Mailbox::new(&io)?;
    let gone = gone(&io);
    let core = move || {
        IO.with(|slot| slot.set(io)).expect("a new thread");
        mailbox.install();
        // It touches no socket, so it needs no driver of them: it is woken by whoever has a message for it.
        let mut builder = Builder::new_current_thread();
        let runtime = builder.enable_time().build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime without sockets asks the system for nothing");
        runtime.block_on(async { select(gone, Routed::on_core(begin())).await });
        drop(runtime);
        ended();
    };
    std::thread::Builder::new()
        .name(CORE_THREAD.into())
        .stack_size(limits::THREAD_STACK_BYTES)
        .spawn(core)?;
    Ok(())
}
