//! Tests of the state machine: rules and quirks as data, and a naive model beside it on random commands.

mod hash;
mod index;
mod model;
mod pending;
mod quirks;
mod restart;
mod rules;
mod sweep;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    Answer, Filled, HashPlan, KvHash, Outcome, Part, Pending, Position, Replaced, State, Sweep, Swept,
    history,
};
use crate::base::kv::{Batch, Read, Space, Visit};
use crate::base::{Broken, Denied, RevisionAt};
use crate::proto::command::{Header, command::Request};
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::{request_op, response_op};
use crate::proto::mvccpb::{Event, KeyValue};

/// A store in memory.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Maps(BTreeMap<(Space, Bytes), Bytes>);

impl Maps {
    pub fn write(&mut self, batch: Batch) {
        for change in batch.changes {
            match change.value {
                Some(value) => self.0.insert((change.space, change.key), value),
                None => self.0.remove(&(change.space, change.key)),
            };
        }
    }

    /// Whether there was one.
    pub fn remove_record(&mut self, at: RevisionAt) -> bool {
        let key = Bytes::copy_from_slice(&at.to_bytes());
        self.0.remove(&(Space::Records, key)).is_some()
    }
}

impl Read for Maps {
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
        for ((found, key), value) in self.0.range((space, Bytes::copy_from_slice(from))..) {
            if *found != space || to.is_some_and(|to| key.as_ref() >= to) {
                break;
            }
            if visit(key, value.clone()) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}

/// A state with its store.
pub struct Machine {
    pub state: State,
    pub store: Maps,
    index: u64,
    cache_bytes: usize,
    /// Whether somebody waits for answers.
    pub asked: bool,
    sweep: Option<Sweep>,
    swept: Option<Swept>,
    /// What sweeps left to be discarded.
    dead: Vec<RevisionAt>,
    /// What compactions hashed.
    hashes: Vec<KvHash>,
}

impl Machine {
    pub fn new() -> Machine {
        Machine::over(Maps::default())
    }

    /// The state that a store holds.
    pub fn over(store: Maps) -> Machine {
        Machine::with_cache(store, 1 << 20)
    }

    pub fn with_cache(store: Maps, cache_bytes: usize) -> Machine {
        let state = State::open_with_cache(&store, cache_bytes).unwrap();
        let index = state.position().index;
        Machine {
            state,
            store,
            index,
            cache_bytes,
            asked: true,
            sweep: None,
            swept: None,
            dead: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// The same, rebuilt from the store.
    pub fn reopened(&self) -> Machine {
        Machine::with_cache(self.store.clone(), self.cache_bytes)
    }

    /// Applies requests as one batch.
    pub fn batch(&mut self, requests: &[Request]) -> Vec<Outcome> {
        self.batch_for(None, requests)
    }

    fn batch_for(&mut self, caller: Option<&Header>, requests: &[Request]) -> Vec<Outcome> {
        let mut pending = Pending::new(&self.store);
        let mut outcomes = Vec::new();
        for request in requests {
            self.index += 1;
            let at = Position {
                term: 1,
                index: self.index,
            };
            outcomes.push(
                self.state
                    .apply(at, caller, request, &mut pending, self.asked)
                    .unwrap(),
            );
        }
        self.state.seal(&mut pending);
        let batch = pending.into_batch();
        self.store.write(batch);
        outcomes.iter_mut().for_each(|outcome| self.complete(outcome));
        outcomes
    }

    /// Reads what an answer still lacks, as its member does once it has written what was applied.
    fn complete(&self, outcome: &mut Outcome) {
        let read = |part| match part {
            Part::Range(cursor) => {
                let (cursor, kvs) = self.state.read_rest(*cursor, &self.store).unwrap().unwrap();
                Filled::Range(cursor.answer(kvs))
            }
            Part::Pairs(pairs) => {
                let pairs = pairs.into_iter().map(|pair| pair.into_pair(Some(&self.store)));
                Filled::Pairs(pairs.collect::<Result<_, _>>().unwrap())
            }
        };
        let unread = std::mem::take(&mut outcome.unread);
        if !self.asked {
            return;
        }
        if let Ok(answer) = &mut outcome.answer {
            answer.fill(unread.parts.into_iter().map(read).collect());
        }
    }

    pub fn apply(&mut self, request: Request) -> Outcome {
        self.batch(&[request]).remove(0)
    }

    /// The same on behalf of a client.
    pub fn apply_for(&mut self, caller: &Header, request: Request) -> Outcome {
        self.batch_for(Some(caller), &[request]).remove(0)
    }

    pub fn ok(&mut self, request: Request) -> Answer {
        self.apply(request).answer.unwrap()
    }

    pub fn put(&mut self, key: &str, value: &str) -> i64 {
        self.apply(put(key, value)).revision
    }

    pub fn delete(&mut self, key: &str, end: &str) -> i64 {
        let Answer::DeleteRange(response) = self.ok(delete(key, end)) else {
            panic!("another answer")
        };
        response.deleted
    }

    /// History, as watches read it.
    pub fn history(
        &self,
        from: i64,
        most: i64,
        visit: &mut dyn FnMut(i64, Vec<Event>) -> bool,
    ) -> Result<i64, Denied> {
        if from < self.state.compact_revision() {
            return Err(Denied::Compacted);
        }
        let end = self.state.revision().min(from + most - 1);
        Ok(history(&self.store, from, end, visit).unwrap())
    }

    pub fn prev_kv(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let picked = self.state.pick_prev(key, revision);
        picked.map(|picked| picked.into_pair(Some(&self.store)).unwrap())
    }

    pub fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, Denied> {
        self.state.range(&request, &self.store).unwrap()
    }

    /// "key=value" of a range, in the order of the answer.
    pub fn pairs(&self, request: pb::RangeRequest) -> Vec<String> {
        self.range(request)
            .unwrap()
            .kvs
            .iter()
            .map(|kv| format!("{}={}", text(&kv.key), text(&kv.value)))
            .collect()
    }

    pub fn get(&self, key: &str) -> Option<String> {
        self.range(range(key, ""))
            .unwrap()
            .kvs
            .first()
            .map(|kv| text(&kv.value))
    }
}

pub fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn range(key: &str, end: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: bytes(key),
        range_end: bytes(end),
        ..Default::default()
    }
}

pub fn put_request(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: bytes(key),
        value: bytes(value),
        ..Default::default()
    }
}

pub fn put(key: &str, value: &str) -> Request {
    Request::Put(put_request(key, value))
}

pub fn leased(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(pb::PutRequest {
        lease,
        ..put_request(key, value)
    })
}

pub fn delete(key: &str, end: &str) -> Request {
    let (key, range_end) = (bytes(key), bytes(end));
    Request::DeleteRange(pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv: false,
    })
}

pub fn compact(revision: i64) -> Request {
    Request::Compaction(pb::CompactionRequest {
        revision,
        physical: false,
    })
}

pub fn op(request: request_op::Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

pub fn put_op(key: &str, value: &str) -> pb::RequestOp {
    op(request_op::Request::RequestPut(put_request(key, value)))
}

pub fn range_op(key: &str, end: &str) -> pb::RequestOp {
    op(request_op::Request::RequestRange(range(key, end)))
}

pub fn delete_op(key: &str, end: &str) -> pb::RequestOp {
    let (key, range_end) = (bytes(key), bytes(end));
    op(request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv: false,
    }))
}

pub fn txn_op(txn: pb::TxnRequest) -> pb::RequestOp {
    op(request_op::Request::RequestTxn(txn))
}

pub fn then(success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest {
        success,
        ..Default::default()
    }
}

pub fn responses(answer: Answer) -> (bool, Vec<response_op::Response>) {
    let Answer::Txn(response) = answer else {
        panic!("another answer")
    };
    (
        response.succeeded,
        response
            .responses
            .into_iter()
            .map(|one| one.response.unwrap())
            .collect(),
    )
}
