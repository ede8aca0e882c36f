//! One watch, and the queue through which applied events reach the stream it belongs to.
//!
//! A queue is bounded in responses and bytes. A watch whose event does not fit falls *behind*: it gets
//! nothing more from the queue, and its stream reads history for it, from just that revision on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use super::registry::Keys;
use crate::base::{Revision, limits};
use crate::proto::mvccpb::{Event, event::EventType};
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::panics::poisoned;

/// What a client asked to watch, and how far its stream was served.
pub struct Watcher {
    pub id: i64,
    /// Unique in the process: the same id on one stream can belong to one watch after another.
    pub number: u64,
    pub keys: Keys,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
    /// As asked for; 0: from now on.
    pub start: Revision,
    pub feed: Arc<Feed>,
    /// The next revision this watch wants. Changed by the hub while it is in sync, else by its stream.
    next: AtomicI64,
    /// Whether events are pushed. Changed under the hub's lock and the feed's.
    synced: AtomicBool,
}

/// The wishes of a new watch.
pub struct WatchOptions {
    pub id: i64,
    pub keys: Keys,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
    pub fragment: bool,
    pub start: Revision,
}

impl Watcher {
    pub fn new(wishes: WatchOptions, number: u64, feed: Arc<Feed>, next: Revision, synced: bool) -> Self {
        let WatchOptions {
            id,
            keys,
            no_put,
            no_delete,
            prev_kv,
            fragment,
            start,
        } = wishes;
        Watcher {
            id,
            number,
            keys,
            no_put,
            no_delete,
            prev_kv,
            fragment,
            start,
            feed,
            next: AtomicI64::new(next),
            synced: AtomicBool::new(synced),
        }
    }

    pub fn next(&self) -> Revision {
        self.next.load(Relaxed)
    }

    pub fn set_next(&self, next: Revision) {
        self.next.store(next, Relaxed);
    }

    pub fn is_synced(&self) -> bool {
        self.synced.load(Relaxed)
    }

    pub fn set_synced(&self, synced: bool) {
        self.synced.store(synced, Relaxed);
    }

    /// Whether the filters let an event of the watched keys pass.
    pub fn passes(&self, event: &Event) -> bool {
        match event.r#type() {
            EventType::Put => !self.no_put,
            EventType::Delete => !self.no_delete,
        }
    }

    pub fn wants(&self, event: &Event) -> bool {
        self.passes(event) && event.kv.as_ref().is_some_and(|kv| self.keys.contains(&kv.key))
    }
}

/// Events of one revision for one watch.
pub struct Delivery {
    pub watcher: Arc<Watcher>,
    pub revision: Revision,
    events: Arc<[Event]>,
    /// Which of them; `None`: all.
    picked: Option<Vec<u32>>,
    bytes: usize,
}

impl Delivery {
    pub fn new(
        watcher: Arc<Watcher>,
        revision: Revision,
        events: Arc<[Event]>,
        picked: Option<Vec<u32>>,
    ) -> Self {
        let mut delivery = Delivery {
            watcher,
            revision,
            events,
            picked,
            bytes: 0,
        };
        delivery.bytes = match &delivery.picked {
            None => delivery.events.iter().map(event_bytes).sum(),
            Some(picked) => picked
                .iter()
                .map(|&at| event_bytes(&delivery.events[at as usize]))
                .sum(),
        };
        delivery
    }

    pub fn events(&self) -> Vec<Event> {
        match &self.picked {
            None => self.events.to_vec(),
            Some(picked) => picked
                .iter()
                .map(|&at| self.events[at as usize].clone())
                .collect(),
        }
    }
}

/// What an event takes in memory and on the wire, nearly.
pub fn event_bytes(event: &Event) -> usize {
    const FIXED_BYTES: usize = 64;
    FIXED_BYTES + event.kv.as_ref().map_or(0, |kv| kv.key.len() + kv.value.len())
}

/// The queue between the hub and one stream.
#[derive(Default)]
pub struct Feed(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    queue: VecDeque<Delivery>,
    bytes: usize,
    /// Watches that fell behind since the stream looked last.
    behind: Vec<Arc<Watcher>>,
    waker: Option<Waker>,
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(poisoned)
    }

    /// Queues a delivery, or lets its watch fall behind. Called under the hub's lock.
    pub fn offer(&self, delivery: Delivery) {
        let mut inner = self.lock();
        let full = inner.queue.len() >= limits::WATCH_BUFFERED_RESPONSES_MAX
            || (inner.bytes + delivery.bytes > limits::WATCH_BUFFERED_BYTES_MAX && !inner.queue.is_empty())
            || buggify(Site::WatchQueueFull);
        if full {
            delivery.watcher.set_next(delivery.revision);
            delivery.watcher.set_synced(false);
            inner.behind.push(delivery.watcher);
        } else {
            delivery.watcher.set_next(delivery.revision + 1);
            inner.bytes += delivery.bytes;
            inner.queue.push_back(delivery);
        }
        inner.wake();
    }

    /// Lets a watch that is in sync fall behind. Called under the hub's lock.
    pub fn fall_behind(&self, watcher: &Arc<Watcher>, next: Revision) {
        let mut inner = self.lock();
        watcher.set_next(next);
        watcher.set_synced(false);
        inner.behind.push(watcher.clone());
        inner.wake();
    }

    /// Takes all that is queued and, of the same moment, the watches that fell behind it. `waker` is woken when
    /// there is more.
    pub fn take(&self, waker: &Waker) -> (VecDeque<Delivery>, Vec<Arc<Watcher>>) {
        let mut inner = self.lock();
        if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            inner.waker = Some(waker.clone());
        }
        inner.bytes = 0;
        (
            std::mem::take(&mut inner.queue),
            std::mem::take(&mut inner.behind),
        )
    }

    /// Deliveries that wait.
    pub fn len(&self) -> usize {
        self.lock().queue.len()
    }
}
