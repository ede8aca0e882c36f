//! Handing out what is applied, on the core's thread: it owns who watches what, and looks up the watches of each event.
//!
//! A revision is handed out once, in order. `handed_out` says how far that went. A watch is *in sync* if it wants nothing up to
//! `handed_out` any more; only then does handing out serve it. One thread does all this, so no revision falls between
//! history and what is told, or comes twice.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Poll, Waker};

use futures_util::future::select;

use super::WatchHub;
use super::feed::{Ask, Backlog, Delivery, Filter, Told, event_bytes};
use super::registry::Registry;
use crate::base::{Revision, limits};
use crate::consensus::Observer;
use crate::proto::mvccpb::Event;
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::channel::{Receiver, Sender, TrySendError};
use crate::runtime::{Crossing, Env, let_others_run};
use crate::server::metrics::Metrics;

/// Revisions that the task hands out before it lets others run.
const REVISIONS_PER_TURN: usize = 64;
/// Asks that are answered before others have their turn.
const ASKS_PER_TURN: usize = 64;

/// See the module.
pub struct Handout {
    metrics: Arc<Metrics>,
    /// The revision of the state, for those who look at it from other threads.
    revision: Arc<AtomicI64>,
    inner: RefCell<Inner>,
    /// Wakes the task that hands out.
    waker: Cell<Option<Waker>>,
}

#[derive(Default)]
struct Inner {
    /// The last revision that was applied.
    applied: Revision,
    /// The last revision whose events were handed out.
    handed_out: Revision,
    /// Applied and not handed out.
    backlog: VecDeque<(Revision, Arc<[Event]>)>,
    backlog_bytes: usize,
    registry: Registry<Rc<Watched>>,
    /// The same watches by number, and the streams.
    watches: BTreeMap<u64, Rc<Watched>>,
    streams: BTreeMap<u64, Stream>,
    /// Of the last watch.
    number: u64,
}

/// A stream, and the numbers of its watches.
struct Stream {
    told: Rc<Sender<Told>>,
    watches: BTreeSet<u64>,
}

/// A watch.
struct Watched {
    number: u64,
    stream: u64,
    told: Rc<Sender<Told>>,
    filter: Filter,
    /// The next revision it wants, while it is in sync.
    next: Cell<Revision>,
    is_synced: Cell<bool>,
}

impl Watched {
    fn tell(&self, told: Told) {
        tell(&self.told, told);
    }

    /// Passes events on, or lets the watch fall behind if they do not fit.
    fn offer(&self, delivery: Delivery) {
        let (revision, bytes) = (delivery.revision, delivery.bytes());
        let sent = match buggify(Site::WatchQueueFull) {
            true => Err(TrySendError::Full(())),
            false => {
                let sent = self.told.try_send(Told::Events(delivery), bytes);
                sent.map_err(|error| match error {
                    TrySendError::Full(_) => TrySendError::Full(()),
                    TrySendError::Closed(_) => TrySendError::Closed(()),
                })
            }
        };
        match sent {
            Err(TrySendError::Full(())) => self.fall_behind(revision),
            // If the stream is gone, it says so, too.
            Ok(()) | Err(TrySendError::Closed(())) => self.next.set(revision + 1),
        }
    }

    fn fall_behind(&self, next: Revision) {
        self.is_synced.set(false);
        let number = self.number;
        self.tell(Told::Behind { number, next });
    }
}

/// Tells a stream what it has to hear, beyond the bounds of its queue: of such messages there are few for each watch.
fn tell(stream: &Sender<Told>, told: Told) {
    // A stream that is gone says so, too.
    let _ = stream.send_beyond(told, 0);
}

impl Inner {
    /// Hands out up to `max` revisions; true if there are more.
    fn hand_out(&mut self, max: usize) -> bool {
        for _ in 0..max {
            let Some((revision, events)) = self.backlog.pop_front() else {
                return false;
            };
            self.backlog_bytes -= events.iter().map(event_bytes).sum::<usize>();
            self.offer(revision, &events);
            self.handed_out = revision;
        }
        !self.backlog.is_empty()
    }

    fn offer(&self, revision: Revision, events: &Arc<[Event]>) {
        if let [event] = &**events {
            self.visit(revision, event, |watch| {
                watch.offer(Delivery::new(watch.number, revision, events.clone(), None));
            });
            return;
        }
        // One response per watch, with all that the revision holds for it.
        let mut picked: BTreeMap<u64, (&Rc<Watched>, Vec<u32>)> = BTreeMap::new();
        for (at, event) in (0u32..).zip(events.iter()) {
            self.visit(revision, event, |watch| {
                picked
                    .entry(watch.number)
                    .or_insert((watch, Vec::new()))
                    .1
                    .push(at);
            });
        }
        for (watch, picked) in picked.into_values() {
            let picked = Some(picked).filter(|picked| picked.len() < events.len());
            watch.offer(Delivery::new(watch.number, revision, events.clone(), picked));
        }
    }

    /// Visits the watches in sync that want an event.
    fn visit<'a>(&'a self, revision: Revision, event: &Event, mut visit: impl FnMut(&'a Rc<Watched>)) {
        let Some(kv) = &event.kv else { return };
        self.registry.visit(&kv.key, &mut |_, watch| {
            if watch.is_synced.get() && watch.next.get() <= revision && watch.filter.passes(event) {
                visit(watch);
            }
        });
    }

    fn watch(&mut self, stream: u64, filter: Filter, start: Revision) -> bool {
        let Some(Stream { told, watches }) = self.streams.get_mut(&stream) else {
            return false;
        };
        let next = if start == 0 { self.applied + 1 } else { start };
        let is_synced = next > self.handed_out && !buggify(Site::WatchStartsBehind);
        self.number += 1;
        let number = self.number;
        let watch = Rc::new(Watched {
            number,
            stream,
            told: told.clone(),
            filter,
            next: Cell::new(next),
            is_synced: Cell::new(is_synced),
        });
        watches.insert(number);
        watch.tell(Told::Watched {
            number,
            next,
            is_synced,
            revision: self.applied,
        });
        self.registry.insert(&watch.filter.keys, number, watch.clone());
        self.watches.insert(number, watch);
        true
    }

    /// Whether there was such a watch.
    fn unwatch(&mut self, number: u64) -> bool {
        let Some(watch) = self.watches.remove(&number) else {
            return false;
        };
        self.registry.remove(&watch.filter.keys, number);
        if let Some(stream) = self.streams.get_mut(&watch.stream) {
            stream.watches.remove(&number);
        }
        true
    }

    /// Brings a watch in sync, if it wants nothing that was handed out already.
    fn sync(&self, number: u64, next: Revision) {
        if let Some(watch) = self.watches.get(&number) {
            let is_synced = next > self.handed_out;
            watch.next.set(next);
            watch.is_synced.set(is_synced);
            watch.tell(Told::Synced { number, is_synced });
        }
    }

    fn backlog(&self) -> Backlog {
        let behind = self.watches.values().filter(|watch| !watch.is_synced.get());
        let queued: usize = self.streams.values().map(|stream| stream.told.len()).sum();
        Backlog {
            behind: behind.count(),
            pending: queued + self.backlog.len(),
        }
    }
}

impl Handout {
    /// It holds nothing through which it is asked: when nobody is left who could ask, it ends.
    pub fn new(hub: &WatchHub) -> Handout {
        Handout {
            metrics: hub.metrics.clone(),
            revision: hub.revision.clone(),
            inner: RefCell::default(),
            waker: Cell::default(),
        }
    }

    /// Does what is asked, and hands out what is applied, for as long as somebody may ask.
    pub async fn run(self: Rc<Self>, env: Env, asks: Receiver<Ask>) {
        select(pin!(self.serve(env, asks)), pin!(self.hand_out())).await;
    }

    async fn serve(&self, env: Env, mut asks: Receiver<Ask>) {
        let mut asked = Vec::new();
        while asks.recv_many(&mut asked, ASKS_PER_TURN).await > 0 {
            if let Some(late) = env.cross(Crossing::ToCore) {
                late.await;
            }
            asked.drain(..).for_each(|ask| self.answer(ask));
            let_others_run().await;
        }
    }

    pub(super) fn answer(&self, ask: Ask) {
        let mut inner = self.inner.borrow_mut();
        let metrics = &self.metrics;
        match ask {
            Ask::Open { stream, told } => {
                let (told, watches) = (Rc::new(told), BTreeSet::new());
                inner.streams.insert(stream, Stream { told, watches });
                metrics.watch_streams.inc();
            }
            Ask::Watch {
                stream,
                filter,
                start,
            } => {
                if inner.watch(stream, filter, start) {
                    metrics.watchers.inc();
                }
            }
            Ask::Unwatch { number } => {
                if inner.unwatch(number) {
                    metrics.watchers.dec();
                }
            }
            Ask::Sync { number, next } => inner.sync(number, next),
            Ask::Settle { stream } => {
                inner.hand_out(usize::MAX);
                if let Some(Stream { told, .. }) = inner.streams.get(&stream) {
                    tell(told, Told::Reached(inner.applied));
                }
            }
            Ask::Close { stream } => {
                let watches = inner.streams.get(&stream).map(|stream| stream.watches.clone());
                for number in watches.into_iter().flatten() {
                    inner.unwatch(number);
                    metrics.watchers.dec();
                }
                if inner.streams.remove(&stream).is_some() {
                    metrics.watch_streams.dec();
                }
            }
            Ask::Backlog(answer) => answer.send(inner.backlog()),
        }
    }

    /// Hands out what is applied; never ends.
    pub(super) async fn hand_out(&self) {
        poll_fn(|cx| {
            if self.inner.borrow_mut().hand_out(REVISIONS_PER_TURN) {
                cx.waker().wake_by_ref();
            } else {
                self.waker.set(Some(cx.waker().clone()));
            }
            Poll::<()>::Pending
        })
        .await;
    }
}

impl Observer for Handout {
    fn applied(&self, revision: Revision, events: &[Event]) {
        let mut inner = self.inner.borrow_mut();
        inner.applied = revision;
        self.revision.store(revision, Ordering::Release);
        if inner.registry.len() == 0 {
            inner.backlog.clear();
            (inner.backlog_bytes, inner.handed_out) = (0, revision);
            return;
        }
        inner.backlog_bytes += events.iter().map(event_bytes).sum::<usize>();
        inner.backlog.push_back((revision, events.into()));
        let few =
            inner.registry.len() <= limits::WATCHES_SERVED_AT_ONCE_MAX && !buggify(Site::WatchHandedOutLate);
        if few || inner.backlog_bytes > limits::WATCH_BACKLOG_BYTES_MAX {
            inner.hand_out(usize::MAX);
        } else if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn installed(&self, revision: Revision) {
        let mut inner = self.inner.borrow_mut();
        for watch in inner.watches.values().filter(|watch| watch.is_synced.get()) {
            // It got all that was handed out, whether or not it wanted any of it.
            let next = watch.next.get().max(inner.handed_out + 1);
            watch.fall_behind(next);
        }
        inner.backlog.clear();
        inner.backlog_bytes = 0;
        (inner.applied, inner.handed_out) = (revision, revision);
        self.revision.store(revision, Ordering::Release);
    }

    /// Nothing: a watch in sync does not care, and one behind finds out when it reads.
    fn compacted(&self, _revision: Revision) {}
}
