//! One watch stream: requests in, responses out, made where they are sent.
//!
//! The stream does its work when it is polled, so a client that does not read costs what is queued and no more:
//! neither its requests nor history are read until it takes what is ready. Each turn looks at every
//! source (requests, feed, history, the progress ticker), so none starves another. Events that lack the pairs which they
//! replaced stand in line with the other responses, and are completed when it is their turn.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::Stream;
use prost::Message;
use tonic::Status;

use super::catch_up::{Catching, Reserved};
use super::feed::{Delivery, Feed, WatchOptions, Watcher};
use super::registry::Keys;
use super::{Source, WatchHub};
use crate::base::kv::Read;
use crate::base::{Broken, Denied, Revision, limits};
use crate::proto::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType,
    watch_request::RequestUnion,
};
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use crate::runtime::{BoxFuture, Env, Instant};
use crate::server::wire::status::status;
use crate::state::validate::RangeEnd;
use crate::state::{Picked, SharedStore, State};

/// Requests that are taken in one turn.
const REQUESTS_PER_TURN: usize = 16;
/// The watch id of a refusal, and of progress on behalf of all watches.
const NO_WATCH: i64 = -1;
const EMPTY_RANGE: &str = "mvcc: watcher range is empty";
const DUPLICATE_ID: &str = "mvcc: duplicate watch ID provided on the WatchStream";

/// What a stream needs of its server.
pub struct Setup<S> {
    /// For its clock.
    pub env: Env,
    pub hub: Arc<WatchHub>,
    pub source: S,
    /// Completes a header around a revision.
    pub header: Box<dyn Fn(Revision) -> ResponseHeader + Send>,
    /// Resolves when progress is due; asked again each time.
    pub tick: Box<dyn Fn() -> BoxFuture<'static, ()> + Send>,
    /// The encoded size from which a response is cut, if its watch wants fragments.
    pub fragment_bytes: usize,
}

/// A request, and why it is refused if the client may not make it.
pub struct Asked {
    pub request: WatchRequest,
    pub refused: Option<String>,
}

impl From<WatchRequest> for Asked {
    fn from(request: WatchRequest) -> Self {
        Asked {
            request,
            refused: None,
        }
    }
}

/// A watch as its stream knows it.
pub(super) struct Watch {
    pub watcher: Arc<Watcher>,
    /// Whether the client wants progress, and had no response since the last tick.
    progress_due: Option<bool>,
    /// Compacted away under the watch; its id stays taken until the client cancels it.
    pub dead: bool,
}

/// A watch, the header's revision, and events for it.
type Batch = (Arc<Watcher>, Revision, Vec<Event>);

/// What is to be sent.
enum Ready {
    Response(WatchResponse),
    /// Some of these events lack the pairs that they replaced.
    Incomplete(Vec<Batch>),
}

/// Events that are being completed, and since when.
struct Completing {
    begun: Instant,
    completed: BoxFuture<'static, Result<Vec<Batch>, Broken>>,
}

/// See the module.
pub struct Session<R, S> {
    pub(super) setup: Setup<S>,
    requests: R,
    number: u64,
    feed: Arc<Feed>,
    pub(super) watches: BTreeMap<i64, Watch>,
    next_id: i64,
    /// Watches that read history, in turn.
    pub(super) behind: VecDeque<Arc<Watcher>>,
    /// History that is being read for some of them, who are not in line meanwhile.
    pub(super) catching: Option<Catching>,
    /// In the order in which it is sent.
    ready: VecDeque<Ready>,
    /// What comes before all that.
    completing: Option<Completing>,
    /// What the last round holds of the memory for all, until its responses are taken.
    pub(super) reserved: Option<Reserved>,
    tick: BoxFuture<'static, ()>,
    /// The client will ask nothing more. As with etcd, its watches go on until it leaves.
    ended: bool,
    /// A pair that must be there could not be read: nothing that would need it is sent.
    damaged: bool,
}

impl<R, S: Source> Session<R, S> {
    pub fn new(setup: Setup<S>, requests: R) -> Self {
        let (number, feed) = setup.hub.open();
        Session {
            requests,
            number,
            feed,
            watches: BTreeMap::new(),
            next_id: 0,
            behind: VecDeque::new(),
            catching: None,
            ready: VecDeque::new(),
            completing: None,
            reserved: None,
            tick: (setup.tick)(),
            ended: false,
            damaged: false,
            setup,
        }
    }

    fn header(&self, revision: Revision) -> Option<ResponseHeader> {
        Some((self.setup.header)(revision))
    }

    fn respond(&mut self, response: WatchResponse) {
        self.ready.push_back(Ready::Response(response));
    }

    fn request(&mut self, Asked { request, refused }: Asked, waker: &Waker) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(_)) if let Some(why) = refused => self.refuse(&why),
            Some(RequestUnion::CreateRequest(request)) => self.create(request),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.progress_of_all(waker),
            None => {}
        }
    }

    fn create(&mut self, request: WatchCreateRequest) {
        if request.start_revision < 0 {
            return self.refuse(Denied::COMPACTED.text);
        }
        let Some(keys) = keys(request.key.clone(), &request.range_end) else {
            return self.refuse(EMPTY_RANGE);
        };
        let id = match request.watch_id {
            0 => self.pick_id(),
            id if self.watches.contains_key(&id) => return self.refuse(DUPLICATE_ID),
            id => id,
        };
        let filtered = |kind: FilterType| request.filters.contains(&i32::from(kind));
        let wishes = WatchOptions {
            id,
            keys,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            start: request.start_revision,
        };
        let (watcher, synced, revision) = self.setup.hub.watch(wishes, &self.feed);
        if !synced {
            self.behind.push_back(watcher.clone());
        }
        let progress_due = request.progress_notify.then_some(true);
        self.watches.insert(
            id,
            Watch {
                watcher,
                progress_due,
                dead: false,
            },
        );
        let header = self.header(revision);
        self.respond(WatchResponse {
            header,
            watch_id: id,
            created: true,
            ..WatchResponse::default()
        });
    }

    /// The lowest id from where the last was picked that is not taken.
    fn pick_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    fn refuse(&mut self, why: &str) {
        let response = WatchResponse {
            header: self.header(self.setup.hub.revision()),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: why.to_owned(),
            ..WatchResponse::default()
        };
        self.respond(response);
    }

    fn cancel(&mut self, id: i64) {
        let Some(watch) = self.watches.remove(&id) else {
            return;
        };
        self.setup.hub.unwatch(&watch.watcher);
        self.behind
            .retain(|watcher| !Arc::ptr_eq(watcher, &watch.watcher));
        let header = self.header(self.setup.hub.revision());
        self.respond(WatchResponse {
            header,
            watch_id: id,
            canceled: true,
            ..WatchResponse::default()
        });
    }

    /// Makes responses of all that was applied, and says which revision that reaches.
    fn settle(&mut self, waker: &Waker) -> Revision {
        let feed = self.feed.clone();
        let (revision, taken) = self.setup.hub.settle(|revision| (revision, feed.take(waker)));
        self.deliver(taken);
        revision
    }

    /// Whether progress at `revision` may be told for a watch: all its events up to there were sent.
    fn has_reached(watch: &Watch, revision: Revision) -> bool {
        !watch.dead && watch.watcher.is_synced() && watch.watcher.start <= revision
    }

    /// Manual progress: for all watches or, if one is not there yet, not at all.
    fn progress_of_all(&mut self, waker: &Waker) {
        let revision = self.settle(waker);
        let mut watches = self.watches.values();
        if !self.watches.is_empty() && watches.all(|watch| Self::has_reached(watch, revision)) {
            self.progress(NO_WATCH, revision);
        }
    }

    fn progress(&mut self, watch_id: i64, revision: Revision) {
        let header = self.header(revision);
        self.respond(WatchResponse {
            header,
            watch_id,
            ..WatchResponse::default()
        });
    }

    /// The ticker: progress for each watch that wants it and had nothing since the last tick.
    fn tick(&mut self, waker: &Waker) {
        if self.watches.values().all(|watch| watch.progress_due.is_none()) {
            return;
        }
        let revision = self.settle(waker);
        let mut idle = Vec::new();
        for (&id, watch) in &mut self.watches {
            let Some(due) = &mut watch.progress_due else {
                continue;
            };
            if std::mem::replace(due, true) && Self::has_reached(watch, revision) {
                idle.push(id);
            }
        }
        idle.into_iter().for_each(|id| self.progress(id, revision));
    }

    /// Makes responses of what a feed held.
    fn deliver(&mut self, (queue, behind): (VecDeque<Delivery>, Vec<Arc<Watcher>>)) {
        let mut batches = Vec::with_capacity(queue.len());
        for delivery in queue {
            if self.is_current(&delivery.watcher) {
                let events = delivery.events();
                batches.push((delivery.watcher, delivery.revision, events));
            }
        }
        self.send(batches);
        for watcher in behind {
            if self.is_current(&watcher) {
                self.behind.push_back(watcher);
            }
        }
    }

    /// Whether a watch is still the one that its id names.
    pub(super) fn is_current(&self, watcher: &Arc<Watcher>) -> bool {
        self.watches
            .get(&watcher.id)
            .is_some_and(|watch| Arc::ptr_eq(&watch.watcher, watcher))
    }

    /// Makes a response of each batch, at once if its events lack nothing.
    pub(super) fn send(&mut self, batches: Vec<Batch>) {
        for (watcher, ..) in &batches {
            if let Some(Watch {
                progress_due: Some(due),
                ..
            }) = self.watches.get_mut(&watcher.id)
            {
                *due = false;
            }
        }
        let lacks = |(watcher, _, events): &Batch| watcher.prev_kv && events.iter().any(replaces);
        if batches.iter().any(lacks) {
            self.ready.push_back(Ready::Incomplete(batches));
        } else {
            let responses = self.responses(batches, self.setup.env.now());
            self.ready.extend(responses.into_iter().map(Ready::Response));
        }
    }

    /// The responses for batches that lack nothing, which was begun at some moment.
    fn responses(&self, batches: Vec<Batch>, begun: Instant) -> VecDeque<WatchResponse> {
        let events: usize = batches.iter().map(|(.., events)| events.len()).sum();
        let mut responses = VecDeque::with_capacity(batches.len());
        for (watcher, revision, events) in batches {
            let header = self.header(revision);
            let response = WatchResponse {
                header,
                watch_id: watcher.id,
                events,
                ..WatchResponse::default()
            };
            if watcher.fragment {
                fragment(response, self.setup.fragment_bytes, &mut responses);
            } else {
                responses.push_back(response);
            }
        }
        let metrics = &self.setup.hub.metrics;
        metrics.events.inc_by(events as u64);
        if let Ok(events) = u32::try_from(events)
            && events > 0
        {
            let (took, durations) = (self.setup.env.now() - begun, &metrics.watch);
            durations.events.observe(took);
            durations.per_event.observe(took / events);
        }
        responses
    }

    /// Waits for the next response of those that are ready or nearly so; `None`: there is none.
    fn next_ready(&mut self, cx: &mut Context<'_>) -> Poll<Option<WatchResponse>> {
        loop {
            if let Some(Completing { begun, completed }) = &mut self.completing {
                let (begun, completed) = (*begun, ready!(completed.as_mut().poll(cx)));
                self.completing = None;
                match completed {
                    Ok(batches) => {
                        let responses = self.responses(batches, begun).into_iter().rev();
                        responses.for_each(|response| self.ready.push_front(Ready::Response(response)));
                    }
                    Err(broken) => {
                        self.setup.source.damaged(broken);
                        self.damaged = true;
                        self.ready.clear();
                    }
                }
            }
            match self.ready.pop_front() {
                Some(Ready::Response(response)) => return Poll::Ready(Some(response)),
                Some(Ready::Incomplete(batches)) => {
                    self.completing = Some(Completing {
                        begun: self.setup.env.now(),
                        completed: Box::pin(complete(self.setup.source.clone(), batches)),
                    });
                }
                None => return Poll::Ready(None),
            }
        }
    }

    /// A compaction has passed where a watch stands: tells its client.
    pub(super) fn compacted(&mut self, watcher: &Arc<Watcher>, compact_revision: Revision) {
        if let Some(watch) = self.watches.get_mut(&watcher.id) {
            watch.dead = true;
        }
        self.setup.hub.unwatch(watcher);
        let response = WatchResponse {
            // etcd leaves the revision out of this header.
            header: self.header(0),
            watch_id: watcher.id,
            canceled: true,
            compact_revision,
            ..WatchResponse::default()
        };
        self.respond(response);
    }
}

impl<A: Into<Asked>, R: Stream<Item = Result<A, Status>> + Unpin, S: Source> Session<R, S> {
    /// Takes requests that have arrived; true if there were some.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        let mut worked = false;
        for _ in 0..REQUESTS_PER_TURN {
            if self.ended {
                break;
            }
            match Pin::new(&mut self.requests).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Err(status))) => return Err(status),
                Poll::Ready(Some(Ok(asked))) => {
                    let begun = self.setup.env.now();
                    self.request(asked.into(), cx.waker());
                    let took = self.setup.env.now() - begun;
                    self.setup.hub.metrics.watch.control.observe(took);
                }
            }
            worked = true;
        }
        Ok(worked)
    }
}

impl<A: Into<Asked>, R: Stream<Item = Result<A, Status>> + Unpin, S: Source> Stream for Session<R, S> {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(response) = ready!(this.next_ready(cx)) {
                return Poll::Ready(Some(Ok(response)));
            }
            this.reserved = None;
            if this.damaged {
                return Poll::Ready(Some(Err(status(Denied::CORRUPT))));
            }
            let asked = match this.take_requests(cx) {
                Ok(asked) => asked,
                Err(status) => return Poll::Ready(Some(Err(status))),
            };
            let taken = this.feed.take(cx.waker());
            this.deliver(taken);
            let caught_up = match this.catch_up(cx) {
                Poll::Ready(Err(status)) => return Poll::Ready(Some(Err(status))),
                caught_up => caught_up.is_ready(),
            };
            let ticked = this.tick.as_mut().poll(cx).is_ready();
            if ticked {
                this.tick = (this.setup.tick)();
                let begun = this.setup.env.now();
                this.tick(cx.waker());
                let took = this.setup.env.now() - begun;
                this.setup.hub.metrics.watch.progress.observe(took);
            }
            if !this.ready.is_empty() || asked || ticked {
                continue;
            }
            if caught_up {
                // There may be much history without a single event for us: others' turn.
                cx.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
    }
}

impl<R, S> Drop for Session<R, S> {
    fn drop(&mut self) {
        self.setup
            .hub
            .close(self.number, self.watches.values().map(|watch| &watch.watcher));
    }
}

/// Whether an event may have replaced a pair; a key that is created replaces none.
fn replaces(event: &Event) -> bool {
    let is_put = event.r#type == i32::from(EventType::Put);
    let replaces = |kv: &KeyValue| !is_put || kv.create_revision != kv.mod_revision;
    event.kv.as_ref().is_some_and(replaces)
}

/// Picks the pairs that events replaced in bounded looks, and reads what is not in memory without the state.
async fn complete<S: Source>(source: S, mut batches: Vec<Batch>) -> Result<Vec<Batch>, Broken> {
    let wanting = batches.iter_mut().filter(|(watcher, ..)| watcher.prev_kv);
    let events = wanting.flat_map(|(.., events)| events);
    let mut lacking: Vec<&mut Event> = events.filter(|event| replaces(event)).collect();
    for events in lacking.chunks_mut(limits::LOOK_ENTRIES_MAX) {
        let pairs = events.iter().filter_map(|event| event.kv.as_ref());
        let changes: Vec<(Bytes, Revision)> = pairs.map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        let look = move |state: &State, store: &dyn Fn() -> SharedStore| {
            let pick = |(key, revision): &(Bytes, Revision)| state.pick_prev(key, *revision);
            let picked: Vec<Option<Picked>> = changes.iter().map(pick).collect();
            let kept = picked.iter().flatten().any(Picked::is_stored).then(store);
            (picked, kept)
        };
        let (picked, kept) = source.look(look).await;
        let store = kept.as_deref().map(|store| store as &dyn Read);
        for (event, picked) in events.iter_mut().zip(picked) {
            event.prev_kv = picked.map(|picked| picked.into_pair(store)).transpose()?;
        }
    }
    Ok(batches)
}

/// The keys that a request means; `None` if it means none.
fn keys(key: Bytes, range_end: &Bytes) -> Option<Keys> {
    let key = if key.is_empty() {
        Bytes::from_static(&[0])
    } else {
        key
    };
    match RangeEnd::of(range_end) {
        RangeEnd::Single => Some(Keys::One(key)),
        RangeEnd::Open => Some(Keys::Range(key, None)),
        RangeEnd::Before(end) if key < end => Some(Keys::Range(key, Some(range_end.clone()))),
        RangeEnd::Before(_) => None,
    }
}

/// Cuts a response so that each part with more than one event stays below `bytes_max`.
fn fragment(response: WatchResponse, bytes_max: usize, out: &mut VecDeque<WatchResponse>) {
    if response.events.len() < 2 || response.encoded_len() < bytes_max {
        out.push_back(response);
        return;
    }
    let empty = WatchResponse {
        events: Vec::new(),
        fragment: true,
        ..response.clone()
    };
    let mut part = empty.clone();
    let mut bytes = part.encoded_len();
    for event in response.events {
        // Tag and length of a field come on top of the event itself.
        let length = event.encoded_len();
        let event_bytes = 1 + prost::length_delimiter_len(length) + length;
        if !part.events.is_empty() && bytes + event_bytes >= bytes_max {
            out.push_back(std::mem::replace(&mut part, empty.clone()));
            bytes = empty.encoded_len();
        }
        bytes += event_bytes;
        part.events.push(event);
    }
    part.fragment = false;
    out.push_back(part);
}
