//! Dispatches what is applied to watch streams, on the core's thread: it owns the registry, and finds the watches of each event.
//!
//! A revision is dispatched once, in order. `dispatched` says how far that went. A watch is *synced* if it wants nothing up to
//! `dispatched` any more; only then is it served from here. One thread does all this, so no revision falls between
//! history and the stream's updates, or comes twice.

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
use super::feed::{Backlog, Command, Delivery, Filter, Update, event_bytes};
use super::registry::Registry;
use crate::base::{Revision, limits};
use crate::consensus::Observer;
use crate::proto::mvccpb::Event;
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::channel::{Receiver, Sender, TrySendError};
use crate::runtime::{Crossing, Env, let_others_run};
use crate::server::metrics::Metrics;

/// Events that are passed to watches before others have their turn; a revision is never cut.
const DELIVERIES_PER_TURN: usize = 1_000;
/// Watches of streams that have ended which are forgotten before others have their turn.
const CLOSED_PER_TURN: usize = 256;
/// Commands that are executed before others have their turn.
const COMMANDS_PER_TURN: usize = 64;

/// See the module.
pub struct Dispatcher {
    metrics: Arc<Metrics>,
    /// The revision of the state, for those who look at it from other threads.
    revision: Arc<AtomicI64>,
    inner: RefCell<Inner>,
    /// Wakes the task that dispatches.
    waker: Cell<Option<Waker>>,
}

#[derive(Default)]
struct Inner {
    /// The last revision that was applied.
    applied: Revision,
    /// The last revision whose events were dispatched.
    dispatched: Revision,
    /// Applied and not dispatched.
    backlog: VecDeque<(Revision, Arc<[Event]>)>,
    backlog_bytes: usize,
    registry: Registry<Rc<WatchEntry>>,
    /// The same watches by number, and the streams.
    watches: BTreeMap<u64, Rc<WatchEntry>>,
    streams: BTreeMap<u64, Stream>,
    /// Of the last watch.
    number: u64,
    /// Streams that wait until everything up to a revision is dispatched, in the order of these.
    settling: VecDeque<(u64, Revision)>,
    /// Watches of streams that have ended.
    closing: Vec<u64>,
}

/// A stream, and the numbers of its watches.
struct Stream {
    updates: Rc<Sender<Update>>,
    watches: BTreeSet<u64>,
}

/// A watch.
struct WatchEntry {
    number: u64,
    stream: u64,
    updates: Rc<Sender<Update>>,
    filter: Filter,
    /// The next revision it wants, while it is synced.
    next: Cell<Revision>,
    is_synced: Cell<bool>,
}

impl WatchEntry {
    fn report(&self, update: Update) {
        report(&self.updates, update);
    }

    /// Passes events on, or leaves the watch unsynced if they do not fit.
    fn offer(&self, delivery: Delivery) {
        let (revision, bytes) = (delivery.revision, delivery.bytes());
        // A stream that is gone says so, too.
        let is_full = buggify(Site::WatchQueueFull)
            || matches!(
                self.updates.try_send(Update::Events(delivery), bytes),
                Err(TrySendError::Full(_))
            );
        match is_full {
            true => self.unsync(revision),
            false => self.next.set(revision + 1),
        }
    }

    fn unsync(&self, next: Revision) {
        self.is_synced.set(false);
        let number = self.number;
        self.report(Update::Unsynced { number, next });
    }
}

/// Reports to a stream what it must not miss, beyond the bounds of its queue: there are few such updates for each watch.
fn report(stream: &Sender<Update>, update: Update) {
    // A stream that is gone says so, too.
    let _ = stream.send_beyond(update);
}

impl Inner {
    /// Dispatches as many revisions as one turn may; true if there are more.
    fn dispatch(&mut self) -> bool {
        let mut deliveries = 0;
        while deliveries < DELIVERIES_PER_TURN {
            let Some((revision, events)) = self.backlog.pop_front() else {
                return false;
            };
            self.backlog_bytes -= events.iter().map(event_bytes).sum::<usize>();
            deliveries += self.offer(revision, &events);
            self.reach(revision);
        }
        !self.backlog.is_empty()
    }

    /// Everything up to a revision was dispatched.
    fn reach(&mut self, revision: Revision) {
        self.dispatched = revision;
        while let Some((stream, _)) = self.settling.pop_front_if(|(_, target)| *target <= revision) {
            if let Some(Stream { updates, .. }) = self.streams.get(&stream) {
                report(updates, Update::Reached(revision));
            }
        }
    }

    /// Passes a revision on to the watches that want it; to how many.
    fn offer(&self, revision: Revision, events: &Arc<[Event]>) -> usize {
        let mut deliveries = 0;
        let mut offer = |watch: &WatchEntry, picked: Option<Vec<u32>>| {
            deliveries += 1;
            watch.offer(Delivery::new(watch.number, revision, events.clone(), picked));
        };
        if let [event] = &**events {
            self.visit(revision, event, |watch| offer(watch, None));
            return deliveries;
        }
        // One response per watch, with all that the revision holds for it.
        let mut picked: BTreeMap<u64, (&Rc<WatchEntry>, Vec<u32>)> = BTreeMap::new();
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
            offer(watch, Some(picked).filter(|picked| picked.len() < events.len()));
        }
        deliveries
    }

    /// Visits the synced watches that want an event.
    fn visit<'a>(&'a self, revision: Revision, event: &Event, mut visit: impl FnMut(&'a Rc<WatchEntry>)) {
        let Some(kv) = &event.kv else { return };
        self.registry.visit(&kv.key, &mut |_, watch| {
            if watch.is_synced.get() && watch.next.get() <= revision && watch.filter.passes(event) {
                visit(watch);
            }
        });
    }

    fn watch(&mut self, stream: u64, filter: Filter, start: Revision) -> bool {
        let Some(Stream { updates, watches }) = self.streams.get_mut(&stream) else {
            return false;
        };
        let next = if start == 0 { self.applied + 1 } else { start };
        let is_synced = next > self.dispatched && !buggify(Site::WatchStartsBehind);
        self.number += 1;
        let number = self.number;
        let watch = Rc::new(WatchEntry {
            number,
            stream,
            updates: updates.clone(),
            filter,
            next: Cell::new(next),
            is_synced: Cell::new(is_synced),
        });
        watches.insert(number);
        watch.report(Update::Created {
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

    /// Makes a watch synced, if it wants nothing that was dispatched already.
    fn sync(&self, number: u64, next: Revision) {
        if let Some(watch) = self.watches.get(&number) {
            let is_synced = next > self.dispatched;
            watch.next.set(next);
            watch.is_synced.set(is_synced);
            watch.report(Update::Synced { number, is_synced });
        }
    }

    fn backlog(&self) -> Backlog {
        let unsynced = self.watches.values().filter(|watch| !watch.is_synced.get());
        let queued: usize = self.streams.values().map(|stream| stream.updates.queued()).sum();
        Backlog {
            unsynced: unsynced.count(),
            pending: queued + self.backlog.len(),
        }
    }
}

impl Dispatcher {
    /// It holds no sender of commands: when no other is left, it ends.
    pub fn new(hub: &WatchHub) -> Dispatcher {
        Dispatcher {
            metrics: hub.metrics.clone(),
            revision: hub.revision.clone(),
            inner: RefCell::default(),
            waker: Cell::default(),
        }
    }

    /// Executes commands and dispatches what is applied, for as long as commands may come.
    pub async fn run(self: Rc<Self>, env: Env, commands: Receiver<Command>) {
        select(pin!(self.serve(env, commands)), pin!(self.dispatch())).await;
    }

    async fn serve(&self, env: Env, mut commands: Receiver<Command>) {
        let mut received = Vec::new();
        while commands.recv_many(&mut received, COMMANDS_PER_TURN).await > 0 {
            if let Some(late) = env.cross(Crossing::ToCore) {
                late.await;
            }
            received.drain(..).for_each(|command| self.execute(command));
            let_others_run().await;
            while self.close_some() {
                let_others_run().await;
            }
        }
    }

    pub(super) fn execute(&self, command: Command) {
        let mut inner = self.inner.borrow_mut();
        let metrics = &self.metrics;
        match command {
            Command::Open { stream, updates } => {
                let (updates, watches) = (Rc::new(updates), BTreeSet::new());
                inner.streams.insert(stream, Stream { updates, watches });
                metrics.watch_streams.inc();
            }
            Command::Watch {
                stream,
                filter,
                start,
            } => {
                if inner.watch(stream, filter, start) {
                    metrics.watchers.inc();
                }
            }
            Command::Unwatch { number } => {
                if inner.unwatch(number) {
                    metrics.watchers.dec();
                }
            }
            Command::Sync { number, next } => inner.sync(number, next),
            Command::Settle { stream } => {
                let (applied, dispatched) = (inner.applied, inner.dispatched);
                inner.settling.push_back((stream, applied));
                match dispatched >= applied {
                    true => inner.reach(dispatched),
                    false => self.wake(),
                }
            }
            Command::Close { stream } => {
                if let Some(Stream { watches, .. }) = inner.streams.remove(&stream) {
                    inner.closing.extend(watches);
                    metrics.watch_streams.dec();
                }
            }
            Command::Backlog(answer) => answer.send(inner.backlog()),
        }
    }

    /// Forgets some watches of streams that have ended; true if there are more.
    pub(super) fn close_some(&self) -> bool {
        let mut inner = self.inner.borrow_mut();
        let from = inner.closing.len().saturating_sub(CLOSED_PER_TURN);
        for number in inner.closing.split_off(from) {
            if inner.unwatch(number) {
                self.metrics.watchers.dec();
            }
        }
        !inner.closing.is_empty()
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Dispatches what is applied; never ends.
    pub(super) async fn dispatch(&self) {
        poll_fn(|cx| {
            if self.inner.borrow_mut().dispatch() {
                cx.waker().wake_by_ref();
            } else {
                self.waker.set(Some(cx.waker().clone()));
            }
            Poll::<()>::Pending
        })
        .await;
    }
}

impl Observer for Dispatcher {
    fn applied(&self, revision: Revision, events: &[Event]) {
        let mut inner = self.inner.borrow_mut();
        inner.applied = revision;
        self.revision.store(revision, Ordering::Release);
        if inner.registry.len() == 0 {
            inner.backlog.clear();
            inner.backlog_bytes = 0;
            return inner.reach(revision);
        }
        inner.backlog_bytes += events.iter().map(event_bytes).sum::<usize>();
        inner.backlog.push_back((revision, events.into()));
        let few =
            inner.registry.len() <= limits::WATCHES_SERVED_AT_ONCE_MAX && !buggify(Site::WatchHandedOutLate);
        if few || inner.backlog_bytes > limits::WATCH_BACKLOG_BYTES_MAX {
            // At least the oldest: so the backlog grows no further.
            inner.dispatch();
        }
        if !inner.backlog.is_empty() {
            self.wake();
        }
    }

    fn installed(&self, revision: Revision) {
        let mut inner = self.inner.borrow_mut();
        for watch in inner.watches.values().filter(|watch| watch.is_synced.get()) {
            // It got all that was dispatched, whether or not it wanted any of it.
            let next = watch.next.get().max(inner.dispatched + 1);
            watch.unsync(next);
        }
        inner.backlog.clear();
        inner.backlog_bytes = 0;
        inner.applied = revision;
        inner.reach(revision);
        self.revision.store(revision, Ordering::Release);
    }

    /// Nothing: a synced watch does not care, and an unsynced one finds out when it reads.
    fn compacted(&self, _revision: Revision) {}
}
