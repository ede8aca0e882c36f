//! What the thread of a core has the io threads do: wake their tasks, send its answers.
//!
//! ```text
//!   core: post ──► queue ──(a bell in the driver of sockets)──► one task of the io threads: does all that is in it
//! ```
//!
//! Woken from outside, tokio wakes a thread that looks for work, and that one, having found some, another, in case that
//! there is more. A bell that the driver of sockets hears wakes one thread, that on which most connections are served
//! while there is little to do; and what is posted while it is on its way costs no system call. While the thread that
//! should hear it may be busy for long, and others sleep, one of those is woken in tokio's way.

use std::cell::OnceCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker, ready};

use futures_util::task::AtomicWaker;
use rustix::event::{EventfdFlags, eventfd};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe;
use tokio::runtime::Handle;

use super::wakes;
use crate::runtime::Work;
use crate::runtime::channel::{Limits, Receiver, Sender, channel};

/// Times that the queue is emptied before others have their turn.
const ROUNDS_MAX: usize = 4;
/// Room for what was posted that is kept for the next time.
const ROOM_KEPT: usize = 64;
/// More than a bell's counter has, so that tokio sees that there is no more to read.
const READ_BYTES: usize = 2 * size_of::<u64>();

thread_local! {
    /// On the thread of a core: its mailbox.
    static MAILBOX: OnceCell<Mailbox> = const { OnceCell::new() };
}

enum Posted {
    Wake(Waker),
    Do(Work),
}

impl Posted {
    fn deliver(self) {
        match self {
            Posted::Wake(task) => task.wake(),
            Posted::Do(work) => work(),
        }
    }
}

/// A core's end. What was posted before it is dropped is still done.
///
/// It needs no bounds: a waker that was registered is posted once, and a question, of which there are only so many, is
/// answered once.
pub(super) struct Mailbox(Sender<Posted>);

impl Mailbox {
    /// Begins to do on `io` what will be posted.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub(super) fn new(io: &Handle) -> io::Result<Mailbox> {
        let counter = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let heard = {
            let _driver = io.enter();
            // A counter is no pipe, but what is asked of it here (to be read, and to say when it can be) is the same.
            pipe::Receiver::from_owned_fd_unchecked(counter.try_clone()?)?
        };
        let bell = Arc::new(Bell {
            counter,
            task: AtomicWaker::new(),
        });
        let (sender, queue) = channel(Limits::NO_ROOM);
        let posted = Vec::new();
        // The core wakes it itself: it must not be woken by the mailbox.
        io.spawn(Delivery { queue, posted }.run(bell, heard));
        Ok(Mailbox(sender))
    }

    /// Makes it the one of this thread, a new one.
    pub(super) fn install(self) {
        let is_first = MAILBOX.with(|slot| slot.set(self)).is_ok();
        assert!(is_first, "a core has a thread of its own");
    }
}

/// Posts something, on the thread of a core; else, and if the io threads have ended, it is done now.
fn post(posted: Posted) {
    let refused = MAILBOX.with(|mailbox| match mailbox.get() {
        Some(Mailbox(sender)) => sender.send_beyond(posted).err().map(|closed| closed.0),
        None => Some(posted),
    });
    if let Some(posted) = refused {
        posted.deliver();
    }
}

/// See [`Runtime::post`](crate::runtime::Runtime::post).
pub(super) fn post_work(work: Work) {
    post(Posted::Do(work));
}

/// Wakes a task of the io threads.
pub(super) fn wake(task: &Waker) {
    // Also whoever wakes while its thread ends comes here.
    match MAILBOX.try_with(|mailbox| mailbox.get().is_some()) {
        Ok(true) => post(Posted::Wake(task.clone())),
        _ => task.wake_by_ref(),
    }
}

/// Tells the task that delivers.
struct Bell {
    counter: OwnedFd,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        match wakes::is_driver_heard() {
            true => {
                let rung = rustix::io::write(&self.counter, &1u64.to_ne_bytes());
                rung.expect("a counter that is read has room for one more");
            }
            false => self.task.wake(),
        }
    }
}

/// What has to be delivered: is, even if nobody hears the bell any more.
struct Delivery {
    queue: Receiver<Posted>,
    posted: Vec<Posted>,
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.posted.drain(..).for_each(Posted::deliver);
        while let Ok(posted) = self.queue.try_recv() {
            posted.deliver();
        }
    }
}

impl Delivery {
    async fn run(mut self, bell: Arc<Bell>, mut heard: pipe::Receiver) {
        let waker = Waker::from(bell.clone());
        poll_fn(|cx| {
            bell.task.register(cx.waker());
            for _ in 0..ROUNDS_MAX {
                let received = self
                    .queue
                    .poll_recv_many(&mut Context::from_waker(&waker), &mut self.posted);
                match received {
                    Poll::Ready(0) => return Poll::Ready(()),
                    Poll::Ready(_) => {
                        self.posted.drain(..).for_each(Posted::deliver);
                        self.posted.shrink_to(ROOM_KEPT);
                    }
                    Poll::Pending => {
                        let mut read = [0; READ_BYTES];
                        let mut read = ReadBuf::new(&mut read);
                        // An error: the driver is gone, and the connections with it.
                        if ready!(Pin::new(&mut heard).poll_read(cx, &mut read)).is_err() {
                            return Poll::Ready(());
                        }
                    }
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
