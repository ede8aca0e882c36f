//! Watches: from applied revisions to the streams that want them.
//!
//! ```text
//!   apply ─► Observer ─► backlog ─► hand out: registry finds the watches ─► feed of each stream ─► Session
//!   (state locked)       (hub locked)                                       bounded             │
//!                                                  history, bounded rounds ◄── watches behind ──┘
//! ```
//!
//! What a client may rely on: events of a watch come in order, each once, all of one revision in one response; and
//! progress at revision r comes after every event up to r. Why it holds:
//!
//! * A revision is handed out once, in order, under the hub's lock. `handed_out` says how far that went. A watch is
//!   *in sync* if it wants nothing up to `handed_out` any more; only then does handing out serve it, and only
//!   under the same lock does it become so. So no revision falls between history and the feed, or comes twice.
//! * A stream's responses are made in one place ([`session::Session`]), in the order in which they are sent. What a watch
//!   gets from its feed is sent before what its stream reads for it from history, since it falls behind only after
//!   its last queued event, and stream and feed look at both under one lock.
//! * Applying waits for no client: it appends to the backlog, and a task hands out, unless watches are
//!   few. Only a backlog beyond its limit is handed out by who applies.

mod catch_up;
mod feed;
mod registry;
mod service;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use super::metrics::Metrics;
use crate::base::{Broken, Denied, Figures, Revision, limits};
use crate::consensus::{Consensus, Observer};
use crate::proto::mvccpb::Event;
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::panics::poisoned;
use crate::state::{SharedStore, State};
use catch_up::Budget;
use feed::{Delivery, Feed, WatchOptions, Watcher, event_bytes};
use registry::Registry;

/// Revisions that the task hands out before it lets others run.
const REVISIONS_PER_TURN: usize = 64;

/// Where history and replaced pairs are read.
pub trait Source: Clone + Send + Sync + Unpin + 'static {
    /// Looks at the local state, and may keep the store as it is at that moment. Nothing is applied meanwhile.
    fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send;

    /// A store that was kept is damaged, which ends the member: what clients hear.
    fn damaged(&self, broken: Broken) -> Denied;
}

impl Source for Consensus {
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> T {
        Consensus::look(self, look).await
    }

    fn damaged(&self, broken: Broken) -> Denied {
        self.met_damage(broken)
    }
}

/// Every watch of this member. Created before consensus, which tells it what is applied.
pub struct WatchHub {
    inner: Mutex<Inner>,
    /// The revision of the state, where requests read it without a lock.
    revision: AtomicI64,
    metrics: Arc<Metrics>,
    /// What the rounds of all streams may hold in memory.
    catching_up: Arc<Budget>,
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
    registry: Registry<Arc<Watcher>>,
    /// The same watches by number, and the feeds of open streams.
    watchers: BTreeMap<u64, Arc<Watcher>>,
    feeds: BTreeMap<u64, Arc<Feed>>,
    next_number: u64,
    /// Wakes the task that hands out.
    waker: Option<Waker>,
}

impl Inner {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

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
            self.visit(revision, event, |watcher| {
                let delivery = Delivery::new(watcher.clone(), revision, events.clone(), None);
                watcher.feed.offer(delivery);
            });
            return;
        }
        // One response per watch, with all that the revision holds for it.
        let mut picked: BTreeMap<u64, (&Arc<Watcher>, Vec<u32>)> = BTreeMap::new();
        for (at, event) in (0u32..).zip(events.iter()) {
            self.visit(revision, event, |watcher| {
                picked
                    .entry(watcher.number)
                    .or_insert((watcher, Vec::new()))
                    .1
                    .push(at);
            });
        }
        for (watcher, picked) in picked.into_values() {
            let picked = Some(picked).filter(|picked| picked.len() < events.len());
            let delivery = Delivery::new(watcher.clone(), revision, events.clone(), picked);
            watcher.feed.offer(delivery);
        }
    }

    /// Visits the watches in sync that want an event.
    fn visit<'a>(&'a self, revision: Revision, event: &Event, mut visit: impl FnMut(&'a Arc<Watcher>)) {
        let Some(kv) = &event.kv else { return };
        self.registry.visit(&kv.key, &mut |_, watcher| {
            if watcher.is_synced() && watcher.next() <= revision && watcher.passes(event) {
                visit(watcher);
            }
        });
    }
}

impl WatchHub {
    pub fn new(figures: Arc<Figures>) -> Arc<WatchHub> {
        Arc::new(WatchHub {
            inner: Mutex::default(),
            revision: AtomicI64::new(0),
            metrics: Metrics::new(figures),
            catching_up: Arc::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(poisoned)
    }

    /// Where everything is counted; the hub is the first of the server to exist.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Starts from a recovered state's revision. Call it while nothing can be applied.
    pub fn attach(&self, revision: Revision) {
        let mut inner = self.lock();
        inner.applied = inner.applied.max(revision);
        inner.handed_out = inner.handed_out.max(revision);
        self.revision.store(inner.applied, Ordering::Release);
    }

    /// The revision of the local state.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Hands out what is applied, for as long as the member runs.
    pub async fn run(self: Arc<Self>) {
        poll_fn(|cx| {
            let mut inner = self.lock();
            if inner.hand_out(REVISIONS_PER_TURN) {
                cx.waker().wake_by_ref();
            } else {
                inner.waker = Some(cx.waker().clone());
            }
            Poll::<()>::Pending
        })
        .await;
    }

    /// Watches that are behind, and events that wait to be sent.
    pub fn backlog(&self) -> (usize, usize) {
        let inner = self.lock();
        let behind = inner
            .watchers
            .values()
            .filter(|watcher| !watcher.is_synced())
            .count();
        let queued: usize = inner.feeds.values().map(|feed| feed.len()).sum();
        (behind, queued + inner.backlog.len())
    }

    /// A stream begins: its number and its feed.
    fn open(&self) -> (u64, Arc<Feed>) {
        let mut inner = self.lock();
        let (number, feed) = (inner.number(), Arc::new(Feed::default()));
        inner.feeds.insert(number, feed.clone());
        self.metrics.watch_streams.inc();
        (number, feed)
    }

    /// A stream ends, with its watches.
    fn close<'a>(&self, stream: u64, watchers: impl Iterator<Item = &'a Arc<Watcher>>) {
        watchers.for_each(|watcher| self.unwatch(watcher));
        self.lock().feeds.remove(&stream);
        self.metrics.watch_streams.dec();
    }

    /// A new watch; whether it is in sync, that is, wants nothing that was handed out already; and the revision of
    /// that moment.
    fn watch(&self, wishes: WatchOptions, feed: &Arc<Feed>) -> (Arc<Watcher>, bool, Revision) {
        let mut inner = self.lock();
        let next = if wishes.start == 0 {
            inner.applied + 1
        } else {
            wishes.start
        };
        let (number, synced) = (
            inner.number(),
            next > inner.handed_out && !buggify(Site::WatchStartsBehind),
        );
        let watcher = Arc::new(Watcher::new(wishes, number, feed.clone(), next, synced));
        inner.registry.insert(&watcher.keys, number, watcher.clone());
        inner.watchers.insert(number, watcher.clone());
        self.metrics.watchers.inc();
        (watcher, synced, inner.applied)
    }

    fn unwatch(&self, watcher: &Arc<Watcher>) {
        let mut inner = self.lock();
        if inner.registry.remove(&watcher.keys, watcher.number).is_some() {
            inner.watchers.remove(&watcher.number);
            self.metrics.watchers.dec();
        }
    }

    /// Brings a watch in sync, if it wants nothing that was handed out already.
    fn try_sync(&self, watcher: &Watcher) -> bool {
        let inner = self.lock();
        let synced = watcher.next() > inner.handed_out;
        watcher.set_synced(synced);
        synced
    }

    /// Hands out everything and, before anything else can be applied, runs `then` with the revision reached.
    fn settle<T>(&self, then: impl FnOnce(Revision) -> T) -> T {
        let mut inner = self.lock();
        inner.hand_out(usize::MAX);
        then(inner.applied)
    }
}

impl Observer for WatchHub {
    fn applied(&self, revision: Revision, events: &[Event]) {
        let mut inner = self.lock();
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
        } else if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    fn installed(&self, revision: Revision) {
        let mut inner = self.lock();
        for watcher in inner.watchers.values().filter(|watcher| watcher.is_synced()) {
            // It got all that was handed out, whether or not it wanted any of it.
            let next = watcher.next().max(inner.handed_out + 1);
            watcher.feed.fall_behind(watcher, next);
        }
        inner.backlog.clear();
        inner.backlog_bytes = 0;
        (inner.applied, inner.handed_out) = (revision, revision);
        self.revision.store(revision, Ordering::Release);
    }

    /// Nothing: a watch in sync does not care, and one behind finds out when it reads.
    fn compacted(&self, _revision: Revision) {}
}
