use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt;

use super::queue::KEPT_WHEN_EMPTY;
use super::*;

/// A queue of so many messages, of any weight.
fn of_count<T>(count: usize) -> (Sender<T>, Receiver<T>) {
    let bytes = usize::MAX;
    channel(Limits { count, bytes })
}

/// A queue of messages that weigh so much together.
fn of_bytes<T>(bytes: usize) -> (Sender<T>, Receiver<T>) {
    channel(Limits { count: 100, bytes })
}

/// All that is there now.
fn received<T>(receiver: &mut Receiver<T>) -> Vec<T> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}

/// A task that does nothing but count how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn poll<F: Future>(self: &Arc<Self>, future: Pin<&mut F>) -> Poll<F::Output> {
        let waker = Waker::from(self.clone());
        future.poll(&mut Context::from_waker(&waker))
    }
}

#[test]
fn messages_come_in_the_order_in_which_they_were_taken_in() {
    let (sender, mut receiver) = of_count(4);
    let other = sender.clone();
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    for (sender, message) in [(&sender, 1), (&other, 2), (&other, 3), (&sender, 4)] {
        assert_eq!(sender.try_send(message, 1), Ok(()));
    }
    assert_eq!(sender.try_send(5, 0), Err(TrySendError::Full(5)));
    assert_eq!(receiver.recv().now_or_never(), Some(Some(1)));
    drop((sender, other));
    assert_eq!(receiver.try_recv(), Ok(2));
    let mut rest = Vec::new();
    assert_eq!(receiver.recv_many(&mut rest, 9).now_or_never(), Some(2));
    assert_eq!(rest, [3, 4]);
    assert_eq!(receiver.recv_many(&mut rest, 9).now_or_never(), Some(0));
    assert_eq!(receiver.recv().now_or_never(), Some(None));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Closed));
}

#[test]
fn bytes_are_bounded_and_given_back() {
    let (sender, mut receiver) = of_bytes(10);
    for _ in 0..3 {
        assert_eq!(sender.try_send('a', 4), Ok(()));
        assert_eq!(sender.try_send('b', 6), Ok(()));
        assert_eq!(sender.try_send('c', 1), Err(TrySendError::Full('c')));
        assert_eq!(sender.try_send('d', 0), Ok(()));
        assert_eq!(received(&mut receiver), ['a', 'b', 'd']);
    }
}

#[test]
fn a_message_that_is_alone_always_fits() {
    let (sender, mut receiver) = of_bytes(10);
    assert_eq!(sender.try_send('a', usize::MAX), Ok(()));
    assert_eq!(sender.try_send('b', 1), Err(TrySendError::Full('b')));
    assert_eq!(received(&mut receiver), ['a']);
    assert_eq!(sender.try_send('b', 1), Ok(()));
    assert_eq!(sender.try_send('a', usize::MAX), Err(TrySendError::Full('a')));
    let (sender, _receiver) = of_count(0);
    assert_eq!(sender.try_send('a', 1), Ok(()));
}

#[test]
fn who_waits_is_served_first_come_first_served() {
    let (sender, mut receiver) = of_count(1);
    sender.try_send(0, 1).unwrap();
    let tasks: [Arc<Woken>; 2] = Default::default();
    let (mut first, mut second) = (pin!(sender.send(1, 1)), pin!(sender.send(2, 1)));
    assert!(tasks[0].poll(first.as_mut()).is_pending());
    assert!(tasks[1].poll(second.as_mut()).is_pending());
    assert_eq!(receiver.try_recv(), Ok(0));
    assert_eq!([tasks[0].times(), tasks[1].times()], [1, 0]);
    assert_eq!(receiver.try_recv(), Ok(1));
    assert_eq!([tasks[0].times(), tasks[1].times()], [1, 1]);
    assert_eq!(receiver.try_recv(), Ok(2));
    assert_eq!(tasks[1].poll(second), Poll::Ready(Ok(())));
    assert_eq!(tasks[0].poll(first), Poll::Ready(Ok(())));
}

#[test]
fn nobody_overtakes_who_waits() {
    let (sender, mut receiver) = of_bytes(10);
    sender.try_send('a', 5).unwrap();
    let mut large = pin!(sender.send('b', 9));
    assert!(large.as_mut().now_or_never().is_none());
    assert_eq!(sender.try_send('c', 1), Err(TrySendError::Full('c')));
    assert_eq!(received(&mut receiver), ['a', 'b']);
    assert_eq!(large.now_or_never(), Some(Ok(())));
}

#[test]
fn one_look_makes_room_for_many() {
    let (sender, mut receiver) = of_count(2);
    sender.try_send(0, 1).unwrap();
    sender.try_send(1, 1).unwrap();
    let task = Arc::<Woken>::default();
    let mut waiting: Vec<_> = (2..5).map(|message| Box::pin(sender.send(message, 1))).collect();
    for sending in &mut waiting {
        assert!(task.poll(sending.as_mut()).is_pending());
    }
    let mut batch = Vec::new();
    assert_eq!(receiver.recv_many(&mut batch, 9).now_or_never(), Some(2));
    assert_eq!((task.times(), batch), (2, vec![0, 1]));
    assert_eq!(received(&mut receiver), [2, 3, 4]);
}

#[test]
fn who_gives_up_sends_nothing_and_lets_others_move_up() {
    let (sender, mut receiver) = of_bytes(10);
    sender.try_send('a', 5).unwrap();
    let task = Arc::<Woken>::default();
    let mut large = Box::pin(sender.send('b', 9));
    let mut small = pin!(sender.send('c', 5));
    assert!(large.as_mut().now_or_never().is_none());
    assert!(task.poll(small.as_mut()).is_pending());
    drop(large);
    assert_eq!(task.times(), 1);
    assert_eq!(received(&mut receiver), ['a', 'c']);
    assert_eq!(task.poll(small), Poll::Ready(Ok(())));
}

#[test]
fn a_sending_that_was_never_polled_or_is_over_holds_no_place() {
    let (sender, mut receiver) = of_count(1);
    drop(sender.send(1, 1));
    assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    sender.try_send(1, 1).unwrap();
    let mut sending = Box::pin(sender.send(2, 1));
    assert!(sending.as_mut().now_or_never().is_none());
    assert_eq!(receiver.try_recv(), Ok(1));
    // It was taken in: to give up now is too late.
    drop(sending);
    assert_eq!(received(&mut receiver), [2]);
}

#[test]
fn a_receiver_that_goes_closes_the_queue_for_all() {
    let (sender, receiver) = of_count(1);
    let held = Arc::new(());
    sender.try_send(held.clone(), 1).unwrap();
    let task = Arc::<Woken>::default();
    let mut sending = pin!(sender.send(held.clone(), 1));
    assert!(task.poll(sending.as_mut()).is_pending());
    drop(receiver);
    assert_eq!(task.times(), 1);
    assert_eq!(task.poll(sending), Poll::Ready(Err(Closed(held.clone()))));
    assert_eq!(Arc::strong_count(&held), 1, "what was queued is dropped");
    assert_eq!(
        sender.try_send(held.clone(), 1),
        Err(TrySendError::Closed(held.clone()))
    );
    let closed = sender.send(held.clone(), 1).now_or_never();
    assert_eq!(closed, Some(Err(Closed(held))));
}

/// A message that is dropped may own a sender of the same queue.
#[test]
fn messages_are_dropped_without_the_lock() {
    let (sender, receiver) = of_count::<Box<dyn Send>>(2);
    let inner = sender.clone();
    assert!(sender.try_send(Box::new(inner), 1).is_ok());
    drop(receiver);
    let (sender, _receiver) = of_count::<Box<dyn Send>>(0);
    assert!(sender.try_send(Box::new(()), 1).is_ok());
    let inner = sender.clone();
    assert!(sender.send(Box::new(inner), 1).now_or_never().is_none());
}

#[test]
fn the_receiver_is_woken_only_when_it_waits() {
    let (sender, mut receiver) = of_count(9);
    let task = Arc::<Woken>::default();
    sender.try_send(1, 1).unwrap();
    assert_eq!(task.poll(pin!(receiver.recv())), Poll::Ready(Some(1)));
    sender.try_send(2, 1).unwrap();
    assert_eq!(task.times(), 0);
    assert_eq!(task.poll(pin!(receiver.recv())), Poll::Ready(Some(2)));
    assert!(task.poll(pin!(receiver.recv())).is_pending());
    for message in 3..6 {
        sender.try_send(message, 1).unwrap();
    }
    assert_eq!(task.times(), 1);
    assert_eq!(received(&mut receiver), [3, 4, 5]);
    assert!(task.poll(pin!(receiver.recv())).is_pending());
    let other = sender.clone();
    drop(sender);
    assert_eq!(task.times(), 1);
    drop(other);
    assert_eq!(task.times(), 2);
}

#[test]
fn the_memory_of_a_burst_is_given_back() {
    let (sender, mut receiver) = of_count(10_000);
    let burst = || (0..10_000).try_for_each(|message| sender.try_send(message, 1));
    let capacity = |receiver: &Receiver<i32>| receiver.shared.lock().queue.capacity();
    burst().unwrap();
    assert!(capacity(&receiver) >= 10_000);
    assert_eq!(received(&mut receiver).len(), 10_000);
    assert!(capacity(&receiver) <= 2 * KEPT_WHEN_EMPTY);
    burst().unwrap();
    let mut batch = Vec::new();
    assert_eq!(
        receiver.recv_many(&mut batch, 20_000).now_or_never(),
        Some(10_000)
    );
    assert!(capacity(&receiver) <= 2 * KEPT_WHEN_EMPTY);
}

/// Real threads on both sides of a queue that is nearly always full.
#[test]
#[expect(clippy::disallowed_methods, reason = "several threads are what is tested")]
fn threads_pass_on_every_message() {
    const SENDERS: usize = 4;
    const EACH: usize = 2_000;
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let (sender, mut receiver) = channel(Limits { count: 3, bytes: 40 });
        for number in 0..SENDERS {
            let sender = sender.clone();
            tokio::spawn(async move {
                for message in 0..EACH {
                    sender.send((number, message), message % 50).await.unwrap();
                }
            });
        }
        drop(sender);
        let mut next = [0; SENDERS];
        let mut batch = Vec::new();
        while receiver.recv_many(&mut batch, 2).await > 0 {
            for (number, message) in batch.drain(..) {
                assert_eq!(message, next[number], "in the order of its sender");
                next[number] += 1;
            }
        }
        assert_eq!(next, [EACH; SENDERS]);
    });
}

#[test]
fn an_answer_reaches_whoever_asked() {
    let (answer, mut answered) = super::answer();
    assert!(!answer.is_closed());
    assert!((&mut answered).now_or_never().is_none());
    answer.send(7);
    assert_eq!(answered.now_or_never(), Some(Some(7)));
}

#[test]
fn either_side_of_an_answer_may_go() {
    let (answer, answered) = super::answer::<u32>();
    drop(answered);
    assert!(answer.is_closed());
    answer.send(7);
    let (answer, answered) = super::answer::<u32>();
    drop(answer);
    assert_eq!(answered.now_or_never(), Some(None));
}

#[test]
fn what_must_not_be_lost_goes_beyond_the_limits() {
    let (sender, mut receiver) = of_count(1);
    assert_eq!(sender.try_send(1, 1), Ok(()));
    let task = Arc::new(Woken::default());
    let mut waits = pin!(sender.send(2, 1));
    assert!(task.poll(waits.as_mut()).is_pending());
    assert_eq!(sender.send_beyond(3), Ok(()));
    assert_eq!(sender.queued(), 2);
    assert_eq!(received(&mut receiver), [1, 3, 2]);
    let reader = Arc::new(Woken::default());
    let waker = Waker::from(reader.clone());
    let mut taken = Vec::new();
    let mut cx = Context::from_waker(&waker);
    assert!(receiver.poll_recv_many(&mut cx, &mut taken).is_pending());
    assert_eq!(sender.send_beyond(4), Ok(()));
    assert_eq!(reader.times(), 1);
    assert_eq!(sender.send_beyond(5), Ok(()));
    assert_eq!(receiver.poll_recv_many(&mut cx, &mut taken), Poll::Ready(2));
    assert_eq!(taken, [4, 5]);
    drop(receiver);
    assert_eq!(sender.send_beyond(6), Err(Closed(6)));
}
