//! One watch stream: requests in, responses out, made where they are sent.
//!
//! The stream does its work when it is polled, so a client that does not read costs what is queued and no more:
//! neither its requests nor history are read until it takes what is ready. Each turn looks at every
//! source (requests, feed, history, the progress ticker), so none starves another. Events that lack the pairs which they
//! replaced stand in line with the other responses, and are completed when it is their turn.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use tonic::Status;

use super::catch_up::{Catching, Reserved};
use super::events::{complete, fragment, replaces};
use super::feed::{Command, FEED, Filter, Update};
use super::registry::Keys;
use super::{Source, WatchHub};
use crate::base::{Broken, Denied, Revision};
use crate::proto::etcdserverpb::{
    ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse, watch_create_request::FilterType,
    watch_request::RequestUnion,
};
use crate::proto::mvccpb::Event;
use crate::runtime::channel::{Receiver, channel};
use crate::runtime::{BoxFuture, Crossing, Env, Instant};
use crate::server::wire::status::status;
use crate::state::validate::RangeEnd;

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
    /// Under which the dispatcher knows it.
    number: u64,
    pub filter: Filter,
    /// How its events are sent.
    pub target: Target,
    /// As asked for; 0: from now on.
    start: Revision,
    /// The next revision it wants.
    pub next: Revision,
    /// Whether the dispatcher sends it events.
    is_synced: bool,
    /// Whether the client wants progress, and had no response since the last tick.
    progress_due: Option<bool>,
    /// Compacted away under the watch; its id stays taken until the client cancels it.
    dead: bool,
}

/// Whose events they are, and how they are sent.
#[derive(Clone, Copy)]
pub(super) struct Target {
    id: i64,
    pub prev_kv: bool,
    fragment: bool,
}

/// A watch, the header's revision, and events for it.
pub(super) type Batch = (Target, Revision, Vec<Event>);

/// Which answer of the dispatcher is awaited: the stream takes no request meanwhile, so that it answers them in their order.
enum Pending {
    /// For a watch.
    Watch {
        filter: Filter,
        target: Target,
        start: Revision,
        progress_due: Option<bool>,
    },
    /// That all is dispatched, as the client has asked for progress.
    Progress,
    /// The same, for the ticker.
    Tick,
}

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
    /// Under which the dispatcher knows this stream.
    number: u64,
    updates: Receiver<Update>,
    /// Updates that are under way still.
    arriving: Vec<Update>,
    late: Option<BoxFuture<'static, ()>>,
    pending: Option<Pending>,
    /// Progress is to be looked for when nothing else is pending.
    is_tick_due: bool,
    /// To be sent, and what to wait for before that.
    pub(super) commands: VecDeque<Command>,
    sending: Option<BoxFuture<'static, ()>>,
    watches: BTreeMap<i64, Watch>,
    ids: BTreeMap<u64, i64>,
    next_id: i64,
    /// Watches that read history, in turn.
    pub(super) unsynced: VecDeque<u64>,
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
        let number = setup.hub.next_stream();
        let (sender, updates) = channel(FEED);
        let open = Command::Open {
            stream: number,
            updates: sender,
        };
        Session {
            requests,
            number,
            updates,
            arriving: Vec::new(),
            late: None,
            pending: None,
            is_tick_due: false,
            commands: VecDeque::from([open]),
            sending: None,
            watches: BTreeMap::new(),
            ids: BTreeMap::new(),
            next_id: 0,
            unsynced: VecDeque::new(),
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

    fn request(&mut self, Asked { request, refused }: Asked) {
        match request.request_union {
            Some(RequestUnion::CreateRequest(_)) if let Some(reason) = refused => self.refuse(&reason),
            Some(RequestUnion::CreateRequest(request)) => self.create(request),
            Some(RequestUnion::CancelRequest(request)) => self.cancel(request.watch_id),
            Some(RequestUnion::ProgressRequest(_)) => self.settle(Pending::Progress),
            None => {}
        }
    }

    fn create(&mut self, request: WatchCreateRequest) {
        if request.start_revision < 0 {
            return self.refuse(Denied::Compacted.text());
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
        let filter = Filter {
            keys,
            no_put: filtered(FilterType::Noput),
            no_delete: filtered(FilterType::Nodelete),
        };
        let start = request.start_revision;
        self.commands.push_back(Command::Watch {
            stream: self.number,
            filter: filter.clone(),
            start,
        });
        self.pending = Some(Pending::Watch {
            filter,
            target: Target {
                id,
                prev_kv: request.prev_kv,
                fragment: request.fragment,
            },
            start,
            progress_due: request.progress_notify.then_some(true),
        });
    }

    /// A watch has begun.
    fn created(&mut self, number: u64, next: Revision, is_synced: bool, revision: Revision) {
        let Some(Pending::Watch {
            filter,
            target,
            start,
            progress_due,
        }) = self.pending.take()
        else {
            unreachable!("a stream creates one watch at a time")
        };
        if !is_synced {
            self.unsynced.push_back(number);
        }
        let watch = Watch {
            number,
            filter,
            target,
            start,
            next,
            is_synced,
            progress_due,
            dead: false,
        };
        self.ids.insert(number, target.id);
        self.watches.insert(target.id, watch);
        let header = self.header(revision);
        self.respond(WatchResponse {
            header,
            watch_id: target.id,
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

    fn refuse(&mut self, reason: &str) {
        let response = WatchResponse {
            header: self.header(self.setup.hub.revision()),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..WatchResponse::default()
        };
        self.respond(response);
    }

    fn cancel(&mut self, id: i64) {
        let Some(watch) = self.watches.remove(&id) else {
            return;
        };
        let number = watch.number;
        self.ids.remove(&number);
        self.commands.push_back(Command::Unwatch { number });
        self.unsynced.retain(|unsynced| *unsynced != number);
        let header = self.header(self.setup.hub.revision());
        self.respond(WatchResponse {
            header,
            watch_id: id,
            canceled: true,
            ..WatchResponse::default()
        });
    }

    /// Has all that was applied dispatched, before any other request is taken.
    fn settle(&mut self, reason: Pending) {
        self.pending = Some(reason);
        self.commands.push_back(Command::Settle { stream: self.number });
    }

    /// Whether progress at `revision` may be reported for a watch: all its events up to there were sent.
    fn has_reached(watch: &Watch, revision: Revision) -> bool {
        !watch.dead && watch.is_synced && watch.start <= revision
    }

    /// All that was applied up to `revision` was dispatched.
    fn reached(&mut self, revision: Revision) {
        match self.pending.take() {
            Some(Pending::Tick) => self.progress_of_idle(revision),
            _ => self.progress_of_all(revision),
        }
    }

    /// Manual progress: for all watches or, if one is not there yet, not at all.
    fn progress_of_all(&mut self, revision: Revision) {
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
    fn progress_of_idle(&mut self, revision: Revision) {
        let mut idle = Vec::new();
        for (&id, watch) in &mut self.watches {
            let has_reached = Self::has_reached(watch, revision);
            let Some(due) = &mut watch.progress_due else {
                continue;
            };
            if std::mem::replace(due, true) && has_reached {
                idle.push(id);
            }
        }
        idle.into_iter().for_each(|id| self.progress(id, revision));
    }

    /// Takes in updates; whether there were some. An error: the core has ended, and dispatches nothing any more.
    fn take_updates(&mut self, cx: &mut Context<'_>) -> Result<bool, Denied> {
        if self.arriving.is_empty() {
            match self.updates.poll_recv_many(cx, &mut self.arriving) {
                Poll::Pending => return Ok(false),
                Poll::Ready(0) => return Err(Denied::Stopped),
                Poll::Ready(_) => self.late = self.setup.env.cross(Crossing::FromCore),
            }
        }
        if let Some(late) = &mut self.late {
            if late.as_mut().poll(cx).is_pending() {
                return Ok(false);
            }
            self.late = None;
        }
        let arrived = std::mem::take(&mut self.arriving);
        let mut batches = Vec::new();
        for update in arrived {
            if let Update::Events(delivery) = update {
                if let Some(watch) = self.watch(delivery.number) {
                    watch.next = delivery.revision + 1;
                    batches.push((watch.target, delivery.revision, delivery.events()));
                }
                continue;
            }
            self.send(std::mem::take(&mut batches));
            match update {
                Update::Events(_) => {}
                Update::Created {
                    number,
                    next,
                    is_synced,
                    revision,
                } => self.created(number, next, is_synced, revision),
                Update::Unsynced { number, next } => {
                    if let Some(watch) = self.watch(number) {
                        (watch.next, watch.is_synced) = (next, false);
                        self.unsynced.push_back(number);
                    }
                }
                Update::Synced { number, is_synced } => {
                    if let Some(watch) = self.watch(number) {
                        watch.is_synced = is_synced;
                        if !is_synced {
                            self.unsynced.push_back(number);
                        }
                    }
                }
                Update::Reached(revision) => self.reached(revision),
            }
        }
        self.send(batches);
        Ok(true)
    }

    /// The watch of a number, if it is still the one that its id names.
    pub(super) fn watch(&mut self, number: u64) -> Option<&mut Watch> {
        self.watches.get_mut(self.ids.get(&number)?)
    }

    /// Sends commands.
    fn send_commands(&mut self, cx: &mut Context<'_>) {
        loop {
            if let Some(sending) = &mut self.sending {
                if sending.as_mut().poll(cx).is_pending() {
                    return;
                }
                self.sending = None;
            }
            let Some(command) = self.commands.pop_front() else {
                return;
            };
            self.sending = self.setup.hub.send(command);
        }
    }

    /// Makes a response of each batch, at once if its events lack nothing.
    pub(super) fn send(&mut self, batches: Vec<Batch>) {
        if batches.is_empty() {
            return;
        }
        for (target, ..) in &batches {
            if let Some(Watch {
                progress_due: Some(due),
                ..
            }) = self.watches.get_mut(&target.id)
            {
                *due = false;
            }
        }
        let lacks = |(target, _, events): &Batch| target.prev_kv && events.iter().any(replaces);
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
        for (target, revision, events) in batches {
            let header = self.header(revision);
            let response = WatchResponse {
                header,
                watch_id: target.id,
                events,
                ..WatchResponse::default()
            };
            if target.fragment {
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
    pub(super) fn compacted(&mut self, number: u64, compact_revision: Revision) {
        let Some(watch) = self.watch(number) else { return };
        watch.dead = true;
        let watch_id = watch.target.id;
        self.commands.push_back(Command::Unwatch { number });
        let response = WatchResponse {
            // etcd leaves the revision out of this header.
            header: self.header(0),
            watch_id,
            canceled: true,
            compact_revision,
            ..WatchResponse::default()
        };
        self.respond(response);
    }
}

impl<A: Into<Asked>, R: Stream<Item = Result<A, Status>> + Unpin, S: Source> Session<R, S> {
    /// Whether a request may be taken: all before it were answered, or are on their way.
    fn is_free(&self) -> bool {
        self.pending.is_none() && self.commands.is_empty() && self.sending.is_none()
    }

    /// Takes requests that have arrived; true if there were some.
    fn take_requests(&mut self, cx: &mut Context<'_>) -> Result<bool, Status> {
        let mut worked = false;
        for _ in 0..REQUESTS_PER_TURN {
            if self.ended || !self.is_free() {
                break;
            }
            match Pin::new(&mut self.requests).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.ended = true,
                Poll::Ready(Some(Err(status))) => return Err(status),
                Poll::Ready(Some(Ok(asked))) => {
                    let begun = self.setup.env.now();
                    self.request(asked.into());
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
                return Poll::Ready(Some(Err(status(Denied::Corrupt))));
            }
            let was_free = this.is_free();
            let asked = match this.take_requests(cx) {
                Ok(asked) => asked,
                Err(status) => return Poll::Ready(Some(Err(status))),
            };
            let updated = match this.take_updates(cx) {
                Ok(updated) => updated,
                Err(denied) => return Poll::Ready(Some(Err(status(denied)))),
            };
            let caught_up = match this.catch_up(cx) {
                Poll::Ready(Err(status)) => return Poll::Ready(Some(Err(status))),
                caught_up => caught_up.is_ready(),
            };
            let ticked = this.tick.as_mut().poll(cx).is_ready();
            if ticked {
                this.tick = (this.setup.tick)();
                this.is_tick_due = this.watches.values().any(|watch| watch.progress_due.is_some());
            }
            if this.is_tick_due && this.pending.is_none() {
                this.is_tick_due = false;
                this.settle(Pending::Tick);
            }
            this.send_commands(cx);
            // Or nobody would look at requests again when they come.
            let has_become_free = !was_free && this.is_free();
            if !this.ready.is_empty() || asked || updated || ticked || has_become_free {
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
        if let Some(sending) = self.setup.hub.send(Command::Close { stream: self.number }) {
            self.setup.env.spawn_detached(sending);
        }
    }
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
