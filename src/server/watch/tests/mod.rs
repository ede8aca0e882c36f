//! Watches against a real state machine: scripts of writes and requests, and the responses that must come.

mod progress;
mod slow;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tonic::Status;

use super::session::{Session, Setup};
use super::*;
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, RevisionAt, limits};
use crate::consensus::Observer;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb::{
    self as pb, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
    watch_request::RequestUnion,
};
use crate::proto::mvccpb::event::EventType;
use crate::runtime::let_others_run;
use crate::state::{Pending, Position};

/// A store in memory.
#[derive(Clone, Default)]
struct Memory(BTreeMap<(Space, Bytes), Bytes>);

impl Read for Memory {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, Broken> {
        Ok(self.0.get(&(space, Bytes::copy_from_slice(key))).cloned())
    }

    fn scan(
        &self,
        space: Space,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], Bytes) -> Visit,
    ) -> Result<(), Broken> {
        let within = |key: &Bytes| key.as_ref() >= from && to.is_none_or(|to| key.as_ref() < to);
        for ((_, key), value) in self
            .0
            .iter()
            .filter(|((found, key), _)| *found == space && within(key))
        {
            if visit(key, value.clone()) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

/// What a member without raft keeps.
struct Kept(RwLock<(State, Memory)>);

/// The member: what is written is applied at once, and the dispatcher hears of it.
struct Member {
    hub: Arc<WatchHub>,
    dispatcher: Dispatcher,
    commands: RefCell<Receiver<Command>>,
    kept: Arc<Kept>,
    index: AtomicU64,
}

impl Source for Arc<Kept> {
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, &dyn Fn() -> SharedStore) -> T + Send + 'static,
    ) -> T {
        // In production it is made on another thread.
        let_others_run().await;
        let inner = self.0.read().unwrap();
        look(&inner.0, &|| Arc::new(inner.1.clone()))
    }

    fn damaged(&self, _broken: Broken) -> Denied {
        Denied::Corrupt
    }
}

/// What is dead now.
fn swept(state: &mut State, store: &mut Memory) -> Vec<RevisionAt> {
    let Some(mut sweep) = state.begin_sweep() else {
        return Vec::new();
    };
    state.sweep_on(&mut sweep, usize::MAX).unwrap();
    let swept = sweep.finish(&*store).unwrap();
    state.end_sweep(&swept).unwrap();
    for row in swept.rows {
        store.0.insert((row.space, row.key), row.value.unwrap());
    }
    swept.dead
}

impl Member {
    fn new() -> Rc<Member> {
        let store = Memory::default();
        let state = State::open(&store).unwrap();
        let (hub, commands) = WatchHub::open(Arc::default());
        let dispatcher = Dispatcher::new(&hub);
        dispatcher.installed(state.revision());
        Rc::new(Member {
            hub,
            dispatcher,
            commands: RefCell::new(commands),
            kept: Arc::new(Kept(RwLock::new((state, store)))),
            index: AtomicU64::new(0),
        })
    }

    /// What streams have asked is answered, as on the core's thread.
    fn answer(&self) {
        while let Ok(command) = self.commands.borrow_mut().try_recv() {
            self.dispatcher.execute(command);
        }
        while self.dispatcher.close_some() {}
    }

    /// Unsynced watches, and what waits.
    fn backlog(&self) -> (usize, usize) {
        self.answer();
        let (answer, mut answered) = answer();
        self.dispatcher.execute(Command::Backlog(answer));
        let Backlog { unsynced, pending } = (&mut answered).now_or_never().unwrap().unwrap();
        (unsynced, pending)
    }

    /// Applies a command; the hub hears of it in the same turn, as in production.
    fn apply(&self, request: &Request) {
        self.apply_to(request, true);
    }

    fn apply_to(&self, request: &Request, tell: bool) {
        let mut inner = self.kept.0.write().unwrap();
        let (state, store) = &mut *inner;
        let index = self.index.fetch_add(1, Ordering::Relaxed) + 1;
        let mut pending = Pending::new(store);
        let outcome = state
            .apply(Position { term: 1, index }, None, request, &mut pending, false)
            .unwrap();
        let batch = pending.into_batch();
        for change in batch.changes {
            match change.value {
                Some(value) => store.0.insert((change.space, change.key), value),
                None => store.0.remove(&(change.space, change.key)),
            };
        }
        outcome.answer.expect("the script's commands are valid");
        for dead in swept(state, store) {
            store
                .0
                .remove(&(Space::Records, Bytes::copy_from_slice(&dead.to_bytes())));
        }
        if tell && !outcome.events.is_empty() {
            self.dispatcher.applied(outcome.revision, &outcome.events);
        }
        if tell && matches!(request, Request::Compaction(_)) {
            self.dispatcher.compacted(state.compact_revision());
        }
    }

    fn put(&self, key: &str, value: &str) {
        self.apply(&put(key, value));
    }

    fn delete(&self, key: &str) {
        let request = pb::DeleteRangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        self.apply(&Request::DeleteRange(request));
    }

    fn txn(&self, puts: &[(&str, &str)]) {
        let op = |&(key, value): &(&str, &str)| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put_request(key, value))),
        };
        let txn = pb::TxnRequest {
            success: puts.iter().map(op).collect(),
            ..Default::default()
        };
        self.apply(&Request::Txn(txn));
    }

    fn compact(&self, revision: i64) {
        self.apply(&Request::Compaction(pb::CompactionRequest {
            revision,
            physical: false,
        }));
    }

    /// What a snapshot brings: changes nobody told the hub of, and then the news that they are there.
    fn install(&self, requests: &[Request]) {
        requests.iter().for_each(|request| self.apply_to(request, false));
        let revision = self.kept.0.read().unwrap().0.revision();
        self.dispatcher.installed(revision);
    }
}

fn put_request(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn put(key: &str, value: &str) -> Request {
    Request::Put(put_request(key, value))
}

type Requests = Pin<Box<dyn Stream<Item = Result<WatchRequest, Status>> + Send>>;

/// Whether a stream asked to be polled again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client's side of one stream.
struct Client {
    requests: mpsc::UnboundedSender<Result<WatchRequest, Status>>,
    session: Session<Requests, Arc<Kept>>,
    member: Rc<Member>,
    tick: Arc<Mutex<Vec<tokio::sync::oneshot::Sender<()>>>>,
}

impl Client {
    fn new(member: &Rc<Member>) -> Client {
        let (requests, receiver) = mpsc::unbounded_channel();
        let receiver = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let tick: Arc<Mutex<Vec<tokio::sync::oneshot::Sender<()>>>> = Arc::default();
        let ticks = tick.clone();
        let setup = Setup {
            env: crate::runtime::tokio::env(),
            hub: member.hub.clone(),
            source: member.kept.clone(),
            header: Box::new(|revision| pb::ResponseHeader {
                revision,
                ..Default::default()
            }),
            tick: Box::new(move || {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                ticks.lock().unwrap().push(sender);
                receiver.map(drop).boxed()
            }),
            fragment_bytes: 1000,
        };
        Client {
            requests,
            session: Session::new(setup, Box::pin(receiver)),
            member: member.clone(),
            tick,
        }
    }

    fn command(&self, request: RequestUnion) {
        self.requests
            .send(Ok(WatchRequest {
                request_union: Some(request),
            }))
            .unwrap();
    }

    fn create(&self, create: WatchCreateRequest) {
        self.command(RequestUnion::CreateRequest(create));
    }

    fn cancel(&self, watch_id: i64) {
        self.command(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    fn progress(&self) {
        self.command(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    fn tick(&self) {
        let due = self
            .tick
            .lock()
            .unwrap()
            .pop()
            .expect("a session always waits for the next tick");
        due.send(()).unwrap();
    }

    /// Polls the stream for as long as it asks for that at once: while it looks at the state, or finds nothing in a round of
    /// history.
    fn poll(&mut self) -> Poll<Option<Result<WatchResponse, Status>>> {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        for _ in 0..1000 {
            let polled = self.session.poll_next_unpin(&mut Context::from_waker(&waker));
            self.member.answer();
            if polled.is_ready() || !woken.0.swap(false, Ordering::Relaxed) {
                return polled;
            }
        }
        panic!("a watch never catches up");
    }

    /// The next response as text; `None`: there is none now.
    fn next(&mut self) -> Option<String> {
        match self.poll() {
            Poll::Ready(next) => Some(next.map_or("end".into(), |response| text(&response.unwrap()))),
            Poll::Pending => None,
        }
    }

    /// Everything that is there now.
    fn all(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.next().filter(|text| text != "end")).collect()
    }

    fn check(&mut self, expected: &[&str]) {
        assert_eq!(self.all(), expected);
    }
}

/// A response in short: `id@revision flags: key=value/mod …`; a delete is `-key/mod`, a previous pair `(value)`.
fn text(response: &WatchResponse) -> String {
    let revision = response.header.map_or(-9, |header| header.revision);
    let mut text = format!("{}@{revision}", response.watch_id);
    for (flag, set) in [
        (" created", response.created),
        (" canceled", response.canceled),
        (" fragment", response.fragment),
    ] {
        if set {
            text.push_str(flag);
        }
    }
    if response.compact_revision != 0 {
        text.push_str(&format!(" compacted={}", response.compact_revision));
    }
    if !response.cancel_reason.is_empty() {
        text.push_str(&format!(" '{}'", response.cancel_reason));
    }
    for event in &response.events {
        let kv = event.kv.as_ref().expect("every event has a pair");
        let (key, value) = (
            String::from_utf8_lossy(&kv.key),
            String::from_utf8_lossy(&kv.value),
        );
        text.push_str(&match event.r#type() {
            EventType::Put => format!(" {key}={}/{}", &value[..value.len().min(8)], kv.mod_revision),
            EventType::Delete => format!(" -{key}/{}", kv.mod_revision),
        });
        if let Some(prev) = &event.prev_kv {
            text.push_str(&format!("({})", String::from_utf8_lossy(&prev.value)));
        }
    }
    text
}

/// The mod revisions of a client's events for one watch.
fn revisions(texts: &[String], id: i64) -> Vec<i64> {
    let of_watch = texts.iter().filter(|text| text.starts_with(&format!("{id}@")));
    let events = of_watch.flat_map(|text| text.split(' ').filter_map(|word| word.split_once('/')));
    events
        .map(|(_, revision)| revision.parse().expect("a revision"))
        .collect()
}

fn create(key: &str, range_end: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: range_end.to_owned().into(),
        ..Default::default()
    }
}

fn from(key: &str, range_end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        start_revision,
        ..create(key, range_end)
    }
}

#[test]
fn events_are_pushed_to_the_watches_that_want_them() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", ""));
    client.create(create("a", "c"));
    client.create(create("b", "\0"));
    client.check(&["0@1 created", "1@1 created", "2@1 created"]);
    member.put("a", "1");
    client.check(&["0@2 a=1/2", "1@2 a=1/2"]);
    member.put("c", "1");
    client.check(&["2@3 c=1/3"]);
    member.delete("a");
    client.check(&["0@4 -a/4", "1@4 -a/4"]);
}

#[test]
fn a_revision_is_one_response_per_watch() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", "c"));
    client.create(create("b", ""));
    client.check(&["0@1 created", "1@1 created"]);
    member.txn(&[("a", "1"), ("b", "2"), ("z", "3")]);
    client.check(&["0@2 a=1/2 b=2/2", "1@2 b=2/2"]);
}

#[test]
fn history_comes_first_and_nothing_twice() {
    let member = Member::new();
    member.put("a", "1");
    member.txn(&[("a", "2"), ("b", "2")]);
    let mut client = Client::new(&member);
    client.create(from("a", "z", 2));
    client.check(&["0@3 created", "0@3 a=1/2 a=2/3 b=2/3"]);
    member.put("a", "3");
    client.check(&["0@4 a=3/4"]);
}

#[test]
fn writes_between_creation_and_catching_up_are_neither_lost_nor_repeated() {
    let member = Member::new();
    member.put("a", "1");
    let mut client = Client::new(&member);
    client.create(from("a", "", 2));
    assert_eq!(client.next().as_deref(), Some("0@2 created"));
    member.put("a", "2");
    member.put("a", "3");
    let mut texts = client.all();
    member.put("a", "4");
    texts.extend(client.all());
    assert_eq!(revisions(&texts, 0), [2, 3, 4, 5]);
}

#[test]
fn a_future_watch_is_silent_until_its_revision() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(from("a", "", 4));
    client.check(&["0@1 created"]);
    client.progress();
    client.check(&[]);
    member.put("a", "1");
    member.put("a", "2");
    client.check(&[]);
    member.put("a", "3");
    client.check(&["0@4 a=3/4"]);
    client.progress();
    client.check(&["-1@4"]);
}

#[test]
fn refusals_say_why_and_take_no_id() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("b", "a"));
    client.create(create("b", "b"));
    client.create(from("a", "", -1));
    client.create(WatchCreateRequest {
        watch_id: 7,
        ..create("a", "")
    });
    client.create(WatchCreateRequest {
        watch_id: 7,
        ..create("b", "")
    });
    client.create(create("a", ""));
    client.command(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 99 }));
    client
        .requests
        .send(Ok(WatchRequest { request_union: None }))
        .unwrap();
    client.check(&[
        "-1@1 created canceled 'mvcc: watcher range is empty'",
        "-1@1 created canceled 'mvcc: watcher range is empty'",
        "-1@1 created canceled 'etcdserver: mvcc: required revision has been compacted'",
        "7@1 created",
        "-1@1 created canceled 'mvcc: duplicate watch ID provided on the WatchStream'",
        "0@1 created",
    ]);
}

#[test]
fn an_empty_key_is_the_smallest_key() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("", "\0"));
    client.check(&["0@1 created"]);
    member.put("a", "1");
    client.check(&["0@2 a=1/2"]);
}

#[test]
fn picked_ids_skip_what_is_taken_and_are_not_reused_at_once() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        watch_id: 1,
        ..create("a", "")
    });
    client.create(create("a", ""));
    client.create(create("a", ""));
    client.cancel(0);
    client.create(create("a", ""));
    client.check(&[
        "1@1 created",
        "0@1 created",
        "2@1 created",
        "0@1 canceled",
        "3@1 created",
    ]);
}

#[test]
fn nothing_follows_a_cancel() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(create("a", ""));
    client.check(&["0@1 created"]);
    member.put("a", "1");
    client.cancel(0);
    client.check(&["0@2 canceled"]);
    // The same id again is another watch: what waited for the old one is not for it.
    member.put("a", "2");
    client.create(WatchCreateRequest {
        watch_id: 5,
        ..create("a", "")
    });
    client.check(&["5@3 created"]);
    member.put("a", "3");
    client.cancel(5);
    client.create(WatchCreateRequest {
        watch_id: 5,
        ..create("a", "")
    });
    client.check(&["5@4 canceled", "5@4 created"]);
    member.put("a", "4");
    client.check(&["5@5 a=4/5"]);
}

#[test]
fn filters_leave_out_and_may_leave_nothing() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        filters: vec![0],
        ..create("a", "")
    });
    client.create(WatchCreateRequest {
        filters: vec![1],
        ..create("a", "")
    });
    client.create(WatchCreateRequest {
        filters: vec![0, 1],
        ..from("a", "", 1)
    });
    client.check(&["0@1 created", "1@1 created", "2@1 created"]);
    member.put("a", "1");
    member.delete("a");
    client.check(&["1@2 a=1/2", "0@3 -a/3"]);
    client.create(WatchCreateRequest {
        filters: vec![0],
        ..from("a", "", 1)
    });
    client.check(&["3@3 created", "3@3 -a/3"]);
}

#[test]
fn prev_kv_is_what_the_event_replaced() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        prev_kv: true,
        ..create("a", "")
    });
    client.check(&["0@1 created"]);
    member.put("a", "1");
    member.put("a", "2");
    member.delete("a");
    member.put("a", "3");
    client.check(&["0@2 a=1/2", "0@3 a=2/3(1)", "0@4 -a/4(2)", "0@5 a=3/5"]);
    member.compact(3);
    client.create(WatchCreateRequest {
        prev_kv: true,
        ..from("a", "", 3)
    });
    client.check(&["1@5 created", "1@5 a=2/3 -a/4(2) a=3/5"]);
}

#[test]
fn what_comes_behind_events_waits_until_their_previous_pairs_are_found() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        prev_kv: true,
        ..create("a", "")
    });
    client.create(create("a", ""));
    client.check(&["0@1 created", "1@1 created"]);
    member.put("a", "1");
    member.put("a", "2");
    client.progress();
    client.cancel(0);
    client.create(create("b", ""));
    client.check(&[
        "0@2 a=1/2",
        "1@2 a=1/2",
        "0@3 a=2/3(1)",
        "1@3 a=2/3",
        "-1@3",
        "0@3 canceled",
        "2@3 created",
    ]);
}

#[test]
fn a_compacted_start_is_created_first_and_canceled_then() {
    let member = Member::new();
    for value in ["1", "2", "3", "4"] {
        member.put("a", value);
    }
    member.compact(4);
    let mut client = Client::new(&member);
    client.create(from("a", "", 2));
    client.check(&["0@5 created", "0@0 canceled compacted=4"]);
    client.create(from("a", "", 4));
    client.check(&["1@5 created", "1@5 a=3/4 a=4/5"]);
    // The id stays taken, and progress of all is withheld, until the client cancels it too.
    client.create(WatchCreateRequest {
        watch_id: 0,
        ..create("b", "")
    });
    client.progress();
    client.check(&["2@5 created"]);
    client.cancel(0);
    client.progress();
    client.check(&["0@5 canceled", "-1@5"]);
}

#[test]
fn fragments_are_cut_below_the_limit_and_marked() {
    let member = Member::new();
    let mut client = Client::new(&member);
    client.create(WatchCreateRequest {
        fragment: true,
        ..create("a", "\0")
    });
    client.create(create("a", "\0"));
    client.check(&["0@1 created", "1@1 created"]);
    let big = "x".repeat(400);
    member.txn(&[("a", &big), ("b", &big), ("c", &big)]);
    client.check(&[
        "0@2 fragment a=xxxxxxxx/2 b=xxxxxxxx/2",
        "0@2 c=xxxxxxxx/2",
        "1@2 a=xxxxxxxx/2 b=xxxxxxxx/2 c=xxxxxxxx/2",
    ]);
    let huge = "x".repeat(2000);
    member.put("a", &huge);
    client.check(&["0@3 a=xxxxxxxx/3", "1@3 a=xxxxxxxx/3"]);
    member.txn(&[("a", &huge), ("b", "1")]);
    client.check(&["0@4 fragment a=xxxxxxxx/4", "0@4 b=1/4", "1@4 a=xxxxxxxx/4 b=1/4"]);
}
