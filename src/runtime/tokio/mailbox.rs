//! What the thread of a core has the io threads do: wake their tasks, send its answers.
//!
//! ```text
//!   core: post ──► queue ──(a bell in the driver of sockets)──► one task of the io threads: does all that is in it
//! ```
//!
//! Woken from outside, tokio wakes a thread that looks for work, and that one, having found some, another, in case that
//! there is more. The driver of sockets wakes one, where connections are served most of the time; and what is posted while
//! that one is on its way costs no system call.

use std::cell::OnceCell;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use rustix::event::{EventfdFlags, eventfd};
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

use crate::runtime::Work;
use crate::runtime::channel::{Limits, Receiver, Sender, channel};

thread_local! {
    /// On the thread of a core: its mailbox.
    static MAILBOX: OnceCell<Mailbox> = const { OnceCell::new() };
}

enum Posted {
    Wake(Waker),
    Do(Work),
}

/// A core's end. Dropped, what was posted is done still.
///
/// It has no bounds: each task that waits is woken once, and each question, which are bounded, is answered once.
pub(super) struct Mailbox(Sender<Posted>);

impl Mailbox {
    /// Begins to do on `io` what will be posted.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(super) fn new(io: &Handle) -> io::Result<Mailbox> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let heard = {
            let _driver = io.enter();
            // It is read as a pipe is, though it is none.
            pipe::Receiver::from_owned_fd_unchecked(bell.try_clone()?)?
        };
        let (sender, posted) = channel(Limits::NO_ROOM);
        io.spawn(deliver(posted, Arc::new(Bell(bell)), heard));
        Ok(Mailbox(sender))
    }

    /// Makes it the one of this thread, a new one.
    pub(super) fn install(self) {
        let is_first = MAILBOX.with(|slot| slot.set(self)).is_ok();
        assert!(is_first, "a core has a thread of its own");
    }
}

/// Posts something, if this is the thread of a core, and nobody has ended the io threads; else it comes back.
fn post(posted: Posted) -> Result<(), Posted> {
    MAILBOX.with(|mailbox| match mailbox.get() {
        Some(Mailbox(sender)) => sender.send_beyond(posted).map_err(|closed| closed.0),
        None => Err(posted),
    })
}

/// See [`Runtime::post`](crate::runtime::Runtime::post).
pub(super) fn post_work(work: Work) {
    if let Err(Posted::Do(work)) = post(Posted::Do(work)) {
        work();
    }
}

/// Wakes a task of the io threads.
pub(super) fn wake(task: Waker) {
    if let Err(Posted::Wake(task)) = post(Posted::Wake(task)) {
        task.wake();
    }
}

struct Bell(OwnedFd);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let rung = rustix::io::write(&self.0, &1u64.to_ne_bytes());
        rung.expect("a counter that is read has room for one more");
    }
}

async fn deliver(mut queue: Receiver<Posted>, bell: Arc<Bell>, heard: pipe::Receiver) {
    let bell = Waker::from(bell);
    let mut posted = Vec::new();
    loop {
        let received = queue.poll_recv_many(&mut Context::from_waker(&bell), &mut posted);
        match received {
            Poll::Ready(0) => return,
            Poll::Ready(_) => posted.drain(..).for_each(|posted| match posted {
                Posted::Wake(task) => task.wake(),
                Posted::Do(work) => work(),
            }),
            Poll::Pending => {
                while let Err(error) = heard.try_read(&mut [0; size_of::<u64>()]) {
                    // An error of another kind: the driver is gone, and the connections with it.
                    if error.kind() != io::ErrorKind::WouldBlock || heard.readable().await.is_err() {
                        return;
                    }
                }
            }
        }
    }
}
