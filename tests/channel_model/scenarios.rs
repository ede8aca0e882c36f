//! What threads can do to one another by way of a channel: one function each, executed in every order.
//!
//! The queues are so small that each of the few messages meets a full one in some order. Assertions are about what
//! must hold in all orders; that everybody gets to an end is asserted by loom.
#![allow(dead_code, reason = "a mutant need not go through all of them")]

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use loom::thread;

use super::queue::{Closed, Limits, Receiver, Sender, channel};
use crate::looms::block_on;

/// A queue of so many messages of weight 1.
fn of_count<T>(count: usize) -> (Sender<T>, Receiver<T>) {
    let bytes = usize::MAX;
    channel(Limits { count, bytes })
}

fn send<T>(sender: &Sender<T>, message: T) {
    let sent = block_on(sender.send(message, 1));
    assert!(sent.is_ok(), "the receiver is there");
}

/// All that is still to come.
fn rest<T>(mut receiver: Receiver<T>) -> Vec<T> {
    let next = || block_on(receiver.recv());
    std::iter::from_fn(next).collect()
}

/// Looks at a future once, as a task does that will not come back.
fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

pub fn two_senders() {
    let (sender, receiver) = of_count(1);
    let other = sender.clone();
    let first = thread::spawn(move || {
        send(&sender, 10);
        send(&sender, 11);
    });
    let second = thread::spawn(move || send(&other, 20));
    let received = rest(receiver);
    let of_the_first: Vec<u32> = received.iter().copied().filter(|message| *message < 20).collect();
    assert_eq!((received.len(), of_the_first), (3, vec![10, 11]));
    first.join().unwrap();
    second.join().unwrap();
}

/// One message goes beyond what the queue may hold, past whoever waits for room.
pub fn one_goes_beyond() {
    let (sender, receiver) = of_count(1);
    let other = sender.clone();
    let first = thread::spawn(move || {
        send(&sender, 10);
        send(&sender, 11);
    });
    let second = thread::spawn(move || assert!(other.send_beyond(20).is_ok()));
    let received = rest(receiver);
    let of_the_first: Vec<u32> = received.iter().copied().filter(|message| *message < 20).collect();
    assert_eq!((received.len(), of_the_first), (3, vec![10, 11]));
    first.join().unwrap();
    second.join().unwrap();
}

/// A sender finds the queue full, unless the receiver was faster.
pub fn room_is_made() {
    let (sender, receiver) = of_count(1);
    send(&sender, 0);
    let thread = thread::spawn(move || send(&sender, 1));
    assert_eq!(rest(receiver), [0, 1]);
    thread.join().unwrap();
}

/// Two wait, and one look of the receiver makes room for both.
pub fn room_for_two() {
    let (sender, mut receiver) = of_count(2);
    send(&sender, 0);
    send(&sender, 1);
    let threads = [2, 3].map(|message| {
        let sender = sender.clone();
        thread::spawn(move || send(&sender, message))
    });
    drop(sender);
    let mut received = Vec::new();
    assert_eq!(block_on(receiver.recv_many(&mut received, 9)), 2);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    received.extend(rest(receiver));
    assert_eq!(received[..2], [0, 1]);
    received.sort_unstable();
    assert_eq!(received, [0, 1, 2, 3]);
}

/// A message that waits for room is overtaken neither by one behind it nor by one for which there would be room.
pub fn first_come_first_served() {
    let (sender, receiver) = channel(Limits { count: 9, bytes: 2 });
    assert_eq!(sender.try_send(0, 1), Ok(()));
    let thread = thread::spawn(move || {
        let (mut first, mut second) = (pin!(sender.send(1, 2)), pin!(sender.send(2, 2)));
        let first_look = poll_once(first.as_mut());
        let second_look = poll_once(second.as_mut());
        let was_sent = sender.try_send(3, 1).is_ok();
        if first_look.is_pending() {
            assert_eq!(block_on(first), Ok(()));
        }
        if second_look.is_pending() {
            assert_eq!(block_on(second), Ok(()));
        }
        was_sent
    });
    let received = rest(receiver);
    match thread.join().unwrap() {
        true => assert_eq!(received, [0, 1, 2, 3]),
        false => assert_eq!(received, [0, 1, 2]),
    }
}

/// Whoever polled last is woken, not whoever polled first.
pub fn a_sender_moves_to_another_task() {
    let (sender, receiver) = of_count(1);
    send(&sender, 0);
    let thread = thread::spawn(move || {
        let mut sending = pin!(sender.send(1, 1));
        if poll_once(sending.as_mut()).is_pending() {
            assert_eq!(block_on(sending), Ok(()));
        }
    });
    assert_eq!(rest(receiver), [0, 1]);
    thread.join().unwrap();
}

/// One of two that wait gives up, while the receiver makes room for one.
pub fn gives_up_while_room_is_made() {
    let (sender, receiver) = of_count(1);
    send(&sender, 0);
    let other = sender.clone();
    let gives_up = thread::spawn(move || poll_once(pin!(sender.send(1, 1))).is_ready());
    let waits = thread::spawn(move || send(&other, 2));
    let received = rest(receiver);
    let was_sent = gives_up.join().unwrap();
    waits.join().unwrap();
    match received[..] {
        [0, 2] => assert!(!was_sent),
        [0, 1, 2] | [0, 2, 1] => {}
        _ => panic!("{received:?}"),
    }
}

/// A message for which there is no room holds up one for which there is. Nobody receives before that one is sent.
pub fn gives_up_what_held_up_others() {
    let (sender, receiver) = channel(Limits { count: 9, bytes: 2 });
    send(&sender, 0);
    let other = sender.clone();
    let gives_up = thread::spawn(move || assert!(poll_once(pin!(sender.send(1, 2))).is_pending()));
    let waits = thread::spawn(move || send(&other, 2));
    gives_up.join().unwrap();
    waits.join().unwrap();
    assert_eq!(rest(receiver), [0, 2]);
}

pub fn the_receiver_goes() {
    let (sender, receiver) = of_count(1);
    send(&sender, 0);
    let thread = thread::spawn(move || assert_eq!(block_on(sender.send(1, 1)), Err(Closed(1))));
    drop(receiver);
    thread.join().unwrap();
}

/// Nothing was sent, and the last of two senders ends the wait.
pub fn the_senders_go() {
    let (sender, receiver) = of_count::<u32>(1);
    let other = sender.clone();
    let threads = [sender, other].map(|sender| thread::spawn(move || drop(sender)));
    assert_eq!(rest(receiver), []);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// What was sent is received before the end is.
pub fn the_last_sender_sends() {
    let (sender, receiver) = of_count(2);
    let thread = thread::spawn(move || {
        assert_eq!(sender.try_send(0, 1), Ok(()));
        assert_eq!(sender.try_send(1, 1), Ok(()));
    });
    assert_eq!(rest(receiver), [0, 1]);
    thread.join().unwrap();
}

/// A look that is given up, as in a `select`, takes nothing with it and leaves no wrong waker behind.
pub fn the_receiver_comes_back() {
    let (sender, mut receiver) = of_count(1);
    let thread = thread::spawn(move || send(&sender, 0));
    let first_look = poll_once(pin!(receiver.recv()));
    let received = match first_look {
        Poll::Ready(received) => received,
        Poll::Pending => block_on(receiver.recv()),
    };
    assert_eq!(received, Some(0));
    assert_eq!(rest(receiver), []);
    thread.join().unwrap();
}

/// Each message is its own weight. What is found at one look is what was queued.
pub fn bytes() {
    let (sender, mut receiver) = channel(Limits { count: 9, bytes: 2 });
    let threads = [vec![2, 3], vec![1]].map(|messages| {
        let sender = sender.clone();
        thread::spawn(move || {
            for message in messages {
                assert_eq!(block_on(sender.send(message, message)), Ok(()));
            }
        })
    });
    drop(sender);
    let mut sum = 0;
    let mut found = Vec::new();
    while block_on(receiver.recv_many(&mut found, 9)) > 0 {
        let weight: usize = found.iter().sum();
        assert!(weight <= 2 || found == [3], "{found:?}");
        sum += weight;
        found.clear();
    }
    assert_eq!(sum, 6);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}
