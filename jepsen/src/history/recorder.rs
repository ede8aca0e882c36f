//! Collects a history from many concurrent clients.
//!
//! Promise: an operation's invocation is recorded before its bytes leave, its return after its answer
//! came in, and the running numbers are drawn under one lock; so "returned before invoked" in the
//! history was true in the world. The caller supplies the time, from whatever clock it has.

use std::sync::{Arc, Mutex, MutexGuard};

use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::KeyValue;
use tonic::Code;

use super::{
    Alarm, Answer, Claim, FinalState, History, InOrder, Moment, Nanos, Note, OpId, Operation, Outcome,
    Permission, Request, Unguarded, WatchEntry, WatchEvent, WatchId, WatchRecord,
};

/// Fewer are not worth a comparison.
const SHARED_PAIRS_MIN: usize = 1_000;

/// A shared, growing history. Clones record into the same one.
#[derive(Clone, Default)]
pub struct Recorder(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    history: History,
    order: u64,
    streams: u64,
    /// The answer with most pairs so far.
    largest: Option<OpId>,
}

impl Inner {
    fn moment(&mut self, nanos: Nanos) -> Moment {
        self.order += 1;
        let order = self.order;
        Moment { nanos, order }
    }

    /// Keys and values that the largest answer shows, too, are kept once: at the end of a long run every member is asked for
    /// everything, twice.
    fn share(&self, kvs: &mut [KeyValue]) {
        if kvs.len() < SHARED_PAIRS_MIN {
            return;
        }
        let largest = self.largest.and_then(|id| self.history.operations.get(id));
        let Some(Outcome::Ok(Answer::Range(largest))) = largest.map(|operation| &operation.outcome) else {
            return;
        };
        let mut known = InOrder::of(&largest.kvs);
        for kv in kvs {
            if let Some(same) = known.seek(&kv.key).filter(|same| same.value == kv.value) {
                kv.key = same.key.clone();
                kv.value = same.value.clone();
            }
        }
    }

    fn pairs_of_largest(&self) -> usize {
        let largest = self.largest.and_then(|id| self.history.operations.get(id));
        match largest.map(|operation| &operation.outcome) {
            Some(Outcome::Ok(Answer::Range(answer))) => answer.kvs.len(),
            _ => 0,
        }
    }
}

impl Recorder {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("nothing under this lock panics")
    }

    /// A call is about to be sent.
    pub fn invoke(&self, client: u32, member: u32, now: Nanos, request: Request) -> OpId {
        let mut inner = self.lock();
        let invoked = inner.moment(now);
        let id = inner.history.operations.len();
        inner.history.operations.push(Operation {
            id,
            client,
            member,
            again: Vec::new(),
            invoked,
            returned: None,
            request,
            outcome: Outcome::unknown("no answer before the end"),
        });
        id
    }

    /// A call whose attempt ended so is sent again, to another member, and is the same call.
    pub fn again(&self, id: OpId, ended: Code, member: u32) {
        let mut inner = self.lock();
        let operation = inner
            .history
            .operations
            .get_mut(id)
            .expect("ids come from invoke()");
        operation.again.push(ended);
        operation.member = member;
    }

    /// A call has ended. A second completion of the same call is a defect of the tester.
    pub fn complete(&self, id: OpId, now: Nanos, mut outcome: Outcome) {
        let mut inner = self.lock();
        let returned = inner.moment(now);
        if let Outcome::Ok(Answer::Range(answer)) = &mut outcome {
            inner.share(&mut answer.kvs);
            if answer.kvs.len() > inner.pairs_of_largest() {
                inner.largest = Some(id);
            }
        }
        let operation = inner
            .history
            .operations
            .get_mut(id)
            .expect("ids come from invoke()");
        debug_assert!(operation.returned.is_none(), "operation {id} completed twice");
        operation.returned = Some(returned);
        operation.outcome = outcome;
    }

    /// A user wants a watch. Its streams follow as [`WatchEvent::Opened`].
    pub fn watch(&self, client: u32, request: pb::WatchCreateRequest) -> WatchId {
        let mut inner = self.lock();
        let id = inner.history.watches.len();
        inner.history.watches.push(WatchRecord {
            id,
            client,
            request,
            entries: Vec::new(),
        });
        id
    }

    /// A number for a new watch stream.
    pub fn stream(&self) -> u64 {
        let mut inner = self.lock();
        inner.streams += 1;
        inner.streams
    }

    /// Something happened to a watch. A progress answer for a whole stream (watch id -1) is recorded
    /// for each watch of the stream.
    pub fn watch_event(&self, id: WatchId, now: Nanos, event: WatchEvent) {
        let mut inner = self.lock();
        let at = inner.moment(now);
        let watch = inner.history.watches.get_mut(id).expect("ids come from watch()");
        watch.entries.push(WatchEntry { at, event });
    }

    /// What a member holds at `revision`, asked at the quiet end.
    pub fn final_state(
        &self,
        member: u32,
        now: Nanos,
        revision: i64,
        mut range: pb::RangeResponse,
        hash_kv: Option<pb::HashKvResponse>,
        digest: Option<u64>,
    ) {
        let mut inner = self.lock();
        let at = inner.moment(now);
        inner.share(&mut range.kvs);
        inner.history.finals.push(FinalState {
            member,
            at,
            revision,
            range,
            hash_kv,
            digest,
        });
    }

    /// The moment of now.
    pub fn moment(&self, now: Nanos) -> Moment {
        self.lock().moment(now)
    }

    /// Auth is about to be switched off; the number of that time.
    pub fn auth_off(&self, now: Nanos) -> usize {
        let mut inner = self.lock();
        let from = inner.moment(now);
        inner.history.unguarded.push(Unguarded { from, until: None });
        inner.history.unguarded.len() - 1
    }

    /// Auth is on again for certain.
    pub fn auth_on(&self, number: usize, now: Nanos) {
        let mut inner = self.lock();
        let until = inner.moment(now);
        inner.history.unguarded[number].until = Some(until);
    }

    /// From now on a client may do only what permissions say.
    pub fn limited(&self, client: u32) {
        self.lock().history.limited.push(client);
    }

    /// A permission is about to be given.
    pub fn permission(&self, permission: Permission) -> usize {
        let mut inner = self.lock();
        inner.history.permissions.push(permission);
        inner.history.permissions.len() - 1
    }

    /// What has become of a permission.
    pub fn change_permission(&self, number: usize, change: impl FnOnce(&mut Permission)) {
        change(&mut self.lock().history.permissions[number]);
    }

    pub fn claim(&self, claim: Claim) {
        self.lock().history.claims.push(claim);
    }

    /// An alarm was seen.
    pub fn alarm(&self, now: Nanos) -> usize {
        let mut inner = self.lock();
        let seen = inner.moment(now);
        let disarmed = None;
        inner.history.alarms.push(Alarm { seen, disarmed });
        inner.history.alarms.len() - 1
    }

    /// An alarm is about to be switched off.
    pub fn disarm(&self, number: usize, now: Nanos) {
        let mut inner = self.lock();
        let at = inner.moment(now);
        inner.history.alarms[number].disarmed = Some(at);
    }

    /// A remark on the timeline, such as a fault.
    pub fn note(&self, now: Nanos, text: impl Into<String>) {
        let mut inner = self.lock();
        let at = inner.moment(now);
        let text = text.into();
        inner.history.notes.push(Note { at, text });
    }

    /// Calls recorded so far.
    pub fn operation_count(&self) -> usize {
        self.lock().history.operations.len()
    }

    /// A copy of the history so far; calls under way have an unknown outcome in it.
    pub fn history(&self) -> History {
        self.lock().history.clone()
    }

    /// The history, taken out; the recorder starts again empty.
    pub fn take(&self) -> History {
        std::mem::take(&mut self.lock().history)
    }
}
