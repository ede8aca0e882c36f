//! A bounded queue from many senders to one receiver.
//!
//! ```text
//!                    room, and nobody waits
//!   send, try_send ──────────────────────────► queue ──► recv, recv_many
//!         │                                      ▲
//!         └─(send) line of messages that wait ───┘ moved on by whoever makes room
//! ```
//!
//! * Messages are received in the order in which the queue took them in. Who waits is served first come, first served, and
//!   is not overtaken by `try_send`.
//! * A sender that waits leaves its message in the line. Whoever makes room moves it on, and the sender only
//!   learns of it: there is no room that was promised and not used, so none can be lost when a sender gives up.
//! * Each message has a weight in bytes. One that is alone in the queue always fits. What was received no longer counts: who is
//!   busy with more than one message has to bound that by itself.
//! * Nothing foreign runs while the lock is held: messages are dropped and tasks are woken after it. (Apart from
//!   cloning a waker, which only counts.)
//! * The receiver is woken only if it waits.

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::sync::{Arc, Mutex, MutexGuard, poisoned, wake_receiver, wake_sender};

/// Messages for which an empty queue keeps its memory; what a burst needed beyond goes with it.
pub(super) const KEPT_WHEN_EMPTY: usize = 64;

/// How much may be in a queue. A message that is alone in it always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages.
    pub count: usize,
    /// The sum of their weights.
    pub bytes: usize,
}

impl Limits {
    /// Of a queue to which is only [sent beyond](Sender::send_beyond) its limits: who sends bounds what is in it.
    pub const NO_ROOM: Limits = Limits { count: 0, bytes: 0 };
}

/// A queue, with its first sender and its only receiver.
pub fn channel<T>(limits: Limits) -> (Sender<T>, Receiver<T>) {
    let state = State {
        limits,
        queue: VecDeque::new(),
        bytes: 0,
        beyond: 0,
        line: BTreeMap::new(),
        next_place: 0,
        receiver: None,
        senders: 1,
        is_closed: false,
    };
    let shared = Arc::new(Shared {
        state: Mutex::new(state),
    });
    (
        Sender {
            shared: shared.clone(),
        },
        Receiver { shared },
    )
}

/// The receiver is gone; the message comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receiver is gone")]
pub struct Closed<T>(pub T);

/// A message that was not taken in comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TrySendError<T> {
    #[error("the queue is full")]
    Full(T),
    #[error("the receiver is gone")]
    Closed(T),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    #[error("the queue is empty")]
    Empty,
    /// All that was sent has been received, and nobody is left to send more.
    #[error("all senders are gone")]
    Closed,
}

pub(super) struct Shared<T> {
    state: Mutex<State<T>>,
}

impl<T> Shared<T> {
    pub(super) fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(poisoned)
    }
}

pub(super) struct State<T> {
    limits: Limits,
    pub(super) queue: VecDeque<Message<T>>,
    /// The sum of the weights in the queue.
    bytes: usize,
    /// Messages in it that were sent beyond the limits: they take no room from the others.
    beyond: usize,
    /// Who waits for room, in order of arrival. Somebody does only while the queue has something in it: the first
    /// message always fits into an empty one.
    line: BTreeMap<u64, Waiting<T>>,
    next_place: u64,
    /// Set while the receiver waits, which it does only while the queue is empty.
    receiver: Option<Waker>,
    senders: usize,
    /// The receiver is gone.
    is_closed: bool,
}

pub(super) struct Message<T> {
    content: T,
    bytes: usize,
    is_beyond: bool,
}

struct Waiting<T> {
    message: Message<T>,
    /// `None` until the sender is polled for the first time.
    waker: Option<Waker>,
}

impl<T> State<T> {
    fn has_room_for(&self, bytes: usize) -> bool {
        let sum = self.bytes.checked_add(bytes);
        let is_within = self.queue.len() - self.beyond < self.limits.count
            && sum.is_some_and(|sum| sum <= self.limits.bytes);
        !self.is_closed && (is_within || self.queue.len() == self.beyond)
    }

    /// Takes a message in, if there is room and nobody waits. The receiver is to be woken then, if it waits.
    fn offer(&mut self, content: T, bytes: usize) -> Result<Option<Waker>, TrySendError<T>> {
        if self.is_closed {
            return Err(TrySendError::Closed(content));
        }
        if !self.line.is_empty() || !self.has_room_for(bytes) {
            return Err(TrySendError::Full(content));
        }
        self.take_in(Message {
            content,
            bytes,
            is_beyond: false,
        });
        Ok(self.receiver.take())
    }

    fn take_in(&mut self, message: Message<T>) {
        self.bytes += message.bytes;
        self.beyond += usize::from(message.is_beyond);
        self.queue.push_back(message);
    }

    /// Lines a message up for room, and says at which place.
    fn line_up(&mut self, content: T, bytes: usize) -> u64 {
        let place = self.next_place;
        self.next_place += 1;
        let message = Message {
            content,
            bytes,
            is_beyond: false,
        };
        self.line.insert(place, Waiting { message, waker: None });
        place
    }

    /// Moves those on for whom there is room now. Their senders are to be woken.
    fn move_on(&mut self) -> Vec<Waker> {
        let mut senders = Vec::new();
        while let Some((_, first)) = self.line.first_key_value()
            && self.has_room_for(first.message.bytes)
            && let Some((_, first)) = self.line.pop_first()
        {
            self.take_in(first.message);
            senders.extend(first.waker);
        }
        senders
    }

    /// Hands out up to `max` messages.
    fn hand_out(&mut self, max: usize, mut into: impl FnMut(T)) -> usize {
        let count = max.min(self.queue.len());
        for message in self.queue.drain(..count) {
            self.bytes -= message.bytes;
            self.beyond -= usize::from(message.is_beyond);
            into(message.content);
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(KEPT_WHEN_EMPTY);
        }
        count
    }
}

/// One of the sides that send. Clones send into the same queue.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Sends, if there is room now and nobody waits for it.
    ///
    /// # Errors
    /// The message, with the reason.
    pub fn try_send(&self, message: T, bytes: usize) -> Result<(), TrySendError<T>> {
        let receiver = self.shared.lock().offer(message, bytes)?;
        receiver.into_iter().for_each(wake_receiver);
        Ok(())
    }

    /// Sends even if there is no room, past those that wait for it, and takes none: for what is few and small by itself, and must
    /// not be lost.
    ///
    /// # Errors
    /// The message: the receiver is gone.
    pub fn send_beyond(&self, message: T) -> Result<(), Closed<T>> {
        let mut state = self.shared.lock();
        if state.is_closed {
            return Err(Closed(message));
        }
        state.take_in(Message {
            content: message,
            bytes: 0,
            is_beyond: true,
        });
        let receiver = state.receiver.take();
        drop(state);
        receiver.into_iter().for_each(wake_receiver);
        Ok(())
    }

    /// Messages in the queue.
    pub fn queued(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Sends as soon as there is room. If the future is dropped before, the message goes with it, and whoever waits behind
    /// moves up.
    ///
    /// # Errors
    /// The message: the receiver is gone.
    pub async fn send(&self, message: T, bytes: usize) -> Result<(), Closed<T>> {
        let place = {
            let mut state = self.shared.lock();
            match state.offer(message, bytes) {
                Ok(receiver) => {
                    drop(state);
                    receiver.into_iter().for_each(wake_receiver);
                    return Ok(());
                }
                Err(TrySendError::Closed(message)) => return Err(Closed(message)),
                Err(TrySendError::Full(message)) => state.line_up(message, bytes),
            }
        };
        let shared = &self.shared;
        Place { shared, place }.await
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.lock().senders += 1;
        Sender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.senders -= 1;
        let receiver = match state.senders {
            0 => state.receiver.take(),
            _ => None,
        };
        drop(state);
        receiver.into_iter().for_each(wake_receiver);
    }
}

/// A place in the line. As a future: ready when the message was taken in, or never will be.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    place: u64,
}

impl<T> Future for Place<'_, T> {
    type Output = Result<(), Closed<T>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.lock();
        if state.is_closed
            && let Some(waiting) = state.line.remove(&self.place)
        {
            drop(state);
            return Poll::Ready(Err(Closed(waiting.message.content)));
        }
        let Some(waiting) = state.line.get_mut(&self.place) else {
            // It was moved on. Closed or not by now: that is as with any message in the queue.
            return Poll::Ready(Ok(()));
        };
        let earlier = waiting.waker.replace(cx.waker().clone());
        drop(state);
        drop(earlier);
        Poll::Pending
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let withdrawn = state.line.remove(&self.place);
        // A large message may have held up small ones.
        let senders = state.move_on();
        drop(state);
        drop(withdrawn);
        senders.into_iter().for_each(wake_sender);
    }
}

/// The side that receives. Dropped, it closes the channel, and what is queued is dropped, too.
pub struct Receiver<T> {
    pub(super) shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// The next message; `None`: all senders are gone, and all that they sent was received.
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn recv(&mut self) -> Option<T> {
        let mut received = None;
        self.wait_for(1, |message| received = Some(message)).await;
        received
    }

    /// Appends up to `max` messages, of those that are there when the first is, and says how many; 0: all senders are gone,
    /// and all that they sent was received.
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn recv_many(&mut self, into: &mut Vec<T>, max: usize) -> usize {
        self.wait_for(max, |message| into.push(message)).await
    }

    /// Appends all messages that are there. Pending: there is none, and `cx` is woken when there is. None is appended: all
    /// senders are gone.
    pub fn poll_recv_many(&mut self, cx: &mut Context<'_>, into: &mut Vec<T>) -> Poll<usize> {
        match self.take(Some(cx.waker()), usize::MAX, |message| into.push(message)) {
            Ok(count) => Poll::Ready(count),
            Err(TryRecvError::Closed) => Poll::Ready(0),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }

    /// The next message, if there is one now.
    ///
    /// # Errors
    /// There is none now, or there will never be one.
    pub fn try_recv(&mut self) -> Result<T, TryRecvError> {
        let mut received = None;
        self.take(None, 1, |message| received = Some(message))?;
        received.ok_or(TryRecvError::Empty)
    }

    async fn wait_for(&mut self, max: usize, mut into: impl FnMut(T)) -> usize {
        assert!(max > 0, "who receives wants a message");
        let poll = |cx: &mut Context<'_>| match self.take(Some(cx.waker()), max, &mut into) {
            Ok(count) => Poll::Ready(count),
            Err(TryRecvError::Closed) => Poll::Ready(0),
            Err(TryRecvError::Empty) => Poll::Pending,
        };
        poll_fn(poll).await
    }

    /// Takes up to `max` messages. If there is none yet, `waker` is woken when there is.
    fn take(&self, waker: Option<&Waker>, max: usize, into: impl FnMut(T)) -> Result<usize, TryRecvError> {
        let mut state = self.shared.lock();
        if state.queue.is_empty() {
            if state.senders == 0 {
                return Err(TryRecvError::Closed);
            }
            let earlier = waker.and_then(|waker| state.receiver.replace(waker.clone()));
            drop(state);
            drop(earlier);
            return Err(TryRecvError::Empty);
        }
        let count = state.hand_out(max, into);
        let senders = state.move_on();
        drop(state);
        senders.into_iter().for_each(wake_sender);
        Ok(count)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.is_closed = true;
        let queued = std::mem::take(&mut state.queue);
        let receiver = state.receiver.take();
        // Their messages are theirs again: each sender takes its own back when it is polled.
        let waiting = state.line.values_mut();
        let senders: Vec<Waker> = waiting.filter_map(|waiting| waiting.waker.take()).collect();
        drop(state);
        senders.into_iter().for_each(wake_sender);
        drop((queued, receiver));
    }
}
