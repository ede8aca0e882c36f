//! A stream of watches that resumes by itself and records everything it receives.
//!
//! Resuming follows clientv3: at the revision after the last one received in events or progress, on
//! a new stream, at another member. A watch that compaction has overtaken goes on at the compact
//! revision, or, if it begins with a list as the informers of Kubernetes do, with a list again.

use std::time::Duration;

use futures_util::stream;
use quorate::proto::etcdserverpb as pb;
use quorate::proto::etcdserverpb::watch_client::WatchClient;
use quorate::proto::etcdserverpb::watch_request::RequestUnion;
use quorate::runtime::{Env, Instant};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::intent::page_end;
use super::{Clock, Connection, Stop, User, WatchPlan, call};
use crate::history::{Answer, Outcome, Recorder, Request, WatchEvent, WatchId};

/// Why a healthy stream was closed.
const CLOSED_BY_CLIENT: &str = "closed by the client";
/// Largest response a watcher accepts.
const RESPONSE_BYTES_MAX: usize = 64 << 20;
/// Keys on a page of a list.
const PAGE_LIMIT: i64 = 5;
/// How often a waiting watcher looks whether the run is over.
const TICK: Duration = Duration::from_millis(100);

/// How a watcher behaves.
#[derive(Clone, Debug)]
pub struct WatcherOptions {
    pub client: u32,
    pub user: Option<User>,
    /// The members' client addresses ("host:port"), by member number.
    pub addresses: Vec<String>,
    /// The member to begin with; a broken stream moves on to the next.
    pub member: usize,
    pub connect_timeout: Duration,
    /// Time between manual progress requests.
    pub progress_interval: Duration,
    /// A stream on which nothing came for so long is given up.
    pub silence_timeout: Duration,
    /// A healthy stream is closed after this time, to exercise resumption.
    pub stream_lifetime: Duration,
    /// A slow reader reads for a time, and then for a time it does not; a rest of zero: it always reads.
    pub reads: Duration,
    pub rests: Duration,
}

/// One watch of the stream.
struct Watching {
    record: WatchId,
    request: pb::WatchCreateRequest,
    rewinds: bool,
    lists: bool,
    /// The next revision it has not seen; 0 until that is known.
    next: i64,
    /// Its id on the wire.
    watch_id: i64,
}

/// Why a stream ended.
enum End {
    Resume,
    Stop,
}

/// Keeps `plans` watched on one stream until told to stop.
pub async fn run_watches(
    env: Env,
    clock: Clock,
    recorder: Recorder,
    plans: Vec<WatchPlan>,
    options: WatcherOptions,
    stop: Stop,
) {
    let mut watches: Vec<Watching> = plans
        .into_iter()
        .zip(1..)
        .map(|(plan, watch_id)| Watching {
            record: recorder.watch(options.client, plan.request()),
            next: plan.start_revision.max(0),
            request: plan.request(),
            rewinds: plan.rewinds,
            lists: plan.lists,
            watch_id,
        })
        .collect();
    let watcher = Watcher {
        env,
        clock,
        recorder,
        options,
        stop,
    };
    let mut member = watcher.options.member % watcher.options.addresses.len();
    while !watcher.stop.watches_stopped() {
        if let End::Stop = watcher.one_stream(member, &mut watches).await {
            break;
        }
        member = (member + 1) % watcher.options.addresses.len();
        watcher.env.sleep(Duration::from_millis(20)).await;
    }
    let due = watcher.stop.watches_due();
    for watch in &watches {
        if let Some(revision) = due {
            watcher.record(watch, WatchEvent::Due { revision });
        }
    }
}

struct Watcher {
    env: Env,
    clock: Clock,
    recorder: Recorder,
    options: WatcherOptions,
    stop: Stop,
}

type Requests = mpsc::UnboundedSender<pb::WatchRequest>;

impl Watcher {
    fn record(&self, watch: &Watching, event: WatchEvent) {
        self.recorder.watch_event(watch.record, self.clock.now(), event);
    }

    async fn one_stream(&self, member: usize, watches: &mut [Watching]) -> End {
        let address = &self.options.addresses[member];
        let connect_timeout = self.options.connect_timeout;
        let user = self.options.user.as_ref();
        let Some(connection) = Connection::open(&self.env, address, connect_timeout, user).await else {
            return End::Resume;
        };
        for watch in watches.iter_mut().filter(|watch| watch.lists && watch.next == 0) {
            match self.list(&connection, member, &watch.request).await {
                Some(revision) => watch.next = revision + 1,
                None => return End::Resume,
            }
        }
        let stream = self.recorder.stream();
        let (requests, receiver) = mpsc::unbounded_channel();
        for watch in watches.iter() {
            let start_revision = watch.next;
            let member = member as u32;
            self.record(
                watch,
                WatchEvent::Opened {
                    stream,
                    member,
                    start_revision,
                },
            );
            send(&requests, create(watch));
        }
        let (end, reason) = self.receive(connection, requests, receiver, watches).await;
        let by_client = reason == CLOSED_BY_CLIENT;
        for watch in watches.iter_mut() {
            let reason = reason.clone();
            self.record(watch, WatchEvent::Closed { reason });
            if by_client && watch.rewinds {
                watch.next = watch.request.start_revision;
            }
        }
        end
    }

    /// Lists the keys of a watch, all pages at one revision; that revision. `None` if a page was not answered, as when the
    /// revision was compacted meanwhile.
    async fn list(
        &self,
        connection: &Connection,
        member: usize,
        watch: &pb::WatchCreateRequest,
    ) -> Option<i64> {
        let mut page = pb::RangeRequest {
            key: watch.key.clone(),
            range_end: watch.range_end.clone(),
            limit: PAGE_LIMIT,
            ..Default::default()
        };
        loop {
            let request = Request::Range(page.clone());
            let (client, now) = (self.options.client, self.clock.now());
            let id = self.recorder.invoke(client, member as u32, now, request.clone());
            let outcome = call(&self.env, connection, &request, self.options.silence_timeout).await;
            self.recorder.complete(id, self.clock.now(), outcome.clone());
            let Outcome::Ok(Answer::Range(answer)) = outcome else {
                return None;
            };
            let (revision, next) = page_end(&page, &answer);
            let Some(key) = next else {
                return Some(revision);
            };
            (page.key, page.revision) = (key, revision);
        }
    }

    async fn receive(
        &self,
        connection: Connection,
        requests: Requests,
        receiver: mpsc::UnboundedReceiver<pb::WatchRequest>,
        watches: &mut [Watching],
    ) -> (End, String) {
        let mut client = WatchClient::new(connection.calls()).max_decoding_message_size(RESPONSE_BYTES_MAX);
        let outgoing = stream::unfold(receiver, |mut receiver| async {
            let request = receiver.recv().await?;
            Some((request, receiver))
        });
        let opening = client.watch(outgoing);
        let mut responses = match self.env.timeout(self.options.silence_timeout, opening).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return (End::Resume, status.to_string()),
            Err(_) => return (End::Resume, "no answer to the stream".into()),
        };
        self.receive_all(&mut responses, &requests, watches).await
    }

    async fn receive_all(
        &self,
        responses: &mut Streaming<pb::WatchResponse>,
        requests: &Requests,
        watches: &mut [Watching],
    ) -> (End, String) {
        let opened = self.env.now();
        let (mut heard, mut asked, mut rested) = (opened, opened, opened);
        loop {
            if self.is_tired(rested) {
                self.env.sleep(self.options.rests).await;
                rested = self.env.now();
                // What came meanwhile was not silence.
                heard = rested;
            }
            let now = self.env.now();
            if let Some(end) = self.finished(watches, opened, heard, now) {
                return end;
            }
            if now.saturating_since(asked) >= self.options.progress_interval {
                asked = now;
                self.ask_progress(requests, watches);
            }
            match self.env.timeout(TICK, responses.message()).await {
                Err(_) => {}
                Ok(Ok(Some(response))) => {
                    heard = self.env.now();
                    if self.take(watches, response) {
                        return (End::Resume, "a watch has to be created anew".into());
                    }
                }
                Ok(Ok(None)) => return (End::Resume, "the server ended the stream".into()),
                Ok(Err(status)) => return (End::Resume, status.to_string()),
            }
        }
    }

    /// Whether it is time for a slow reader to rest again. At the quiet end nobody is slow.
    fn is_tired(&self, rested: Instant) -> bool {
        let (reads, rests) = (self.options.reads, self.options.rests);
        let awake = self.env.now().saturating_since(rested);
        !rests.is_zero() && awake >= reads && self.stop.watches_due().is_none()
    }

    fn finished(
        &self,
        watches: &[Watching],
        opened: Instant,
        heard: Instant,
        now: Instant,
    ) -> Option<(End, String)> {
        let due = self.stop.watches_due();
        if due.is_some_and(|due| watches.iter().all(|watch| watch.next > due)) || self.stop.watches_stopped()
        {
            return Some((End::Stop, "the run is over".into()));
        }
        if now.saturating_since(heard) >= self.options.silence_timeout {
            return Some((End::Resume, "silence".into()));
        }
        // At the quiet end a stream is left alone, so that slow delivery is not mistaken for none.
        if due.is_none() && now.saturating_since(opened) >= self.options.stream_lifetime {
            return Some((End::Resume, CLOSED_BY_CLIENT.into()));
        }
        None
    }

    fn ask_progress(&self, requests: &Requests, watches: &[Watching]) {
        for watch in watches {
            self.record(watch, WatchEvent::ProgressRequested);
        }
        send(
            requests,
            RequestUnion::ProgressRequest(pb::WatchProgressRequest {}),
        );
    }

    /// Records a response; true if its watch has to be created anew.
    fn take(&self, watches: &mut [Watching], response: pb::WatchResponse) -> bool {
        let whole_stream = response.watch_id == -1 && !response.created && !response.canceled;
        // It names no watch: all are asked for again.
        let refused = response.watch_id == -1 && response.created && response.canceled;
        let mut anew = refused;
        for watch in watches.iter_mut() {
            if !whole_stream && watch.watch_id != response.watch_id {
                continue;
            }
            self.record(watch, WatchEvent::Received(Box::new(response.clone())));
            anew |= advance(watch, &response);
        }
        anew
    }
}

/// Moves a watch past a response; true if compaction has overtaken it.
fn advance(watch: &mut Watching, response: &pb::WatchResponse) -> bool {
    if response.canceled {
        let overtaken = response.compact_revision > 0;
        watch.next = match watch.lists && overtaken {
            true => 0,
            false => watch.next.max(response.compact_revision),
        };
        return true;
    }
    let revision = response.header.as_ref().map_or(0, |header| header.revision);
    if response.created {
        if watch.next == 0 {
            watch.next = revision + 1;
        }
    } else if let Some(kv) = response.events.last().and_then(|event| event.kv.as_ref()) {
        // A revision that is cut in two is resumed at its beginning.
        let seen = kv.mod_revision + i64::from(!response.fragment);
        watch.next = watch.next.max(seen);
    } else {
        watch.next = watch.next.max(revision + 1);
    }
    false
}

fn create(watch: &Watching) -> RequestUnion {
    RequestUnion::CreateRequest(pb::WatchCreateRequest {
        start_revision: watch.next,
        watch_id: watch.watch_id,
        ..watch.request.clone()
    })
}

fn send(requests: &Requests, request: RequestUnion) {
    let request = pb::WatchRequest {
        request_union: Some(request),
    };
    // The receiver is gone when the stream has ended; its end is noticed by the reading side.
    let _ = requests.send(request);
}
