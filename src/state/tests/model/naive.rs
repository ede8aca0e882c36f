//! The simplest model there is: every change ever made in one list, and etcd's rules in their plainest form.
//!
//! No index, no cache, no store, and a compaction drops nothing. It answers whole outcomes, so that a test compares
//! everything a client or a watch could see.

use std::collections::BTreeSet;

use super::super::*;
use crate::proto::etcdserverpb::compare::{CompareTarget, TargetUnion};
use crate::proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::proto::mvccpb::{Event, KeyValue, event::EventType};
use request_op::Request as Op;
use response_op::Response;

#[derive(Clone)]
pub struct Change {
    pub main: i64,
    pub kv: KeyValue,
    pub living: bool,
}

impl Change {
    pub fn event(&self) -> Event {
        let kind = if self.living {
            EventType::Put
        } else {
            EventType::Delete
        };
        Event {
            r#type: kind.into(),
            kv: Some(self.kv.clone()),
            prev_kv: None,
        }
    }
}

pub struct Naive {
    pub changes: Vec<Change>,
    pub revision: i64,
    pub compacted: i64,
    pub leases: BTreeSet<i64>,
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}

impl Naive {
    pub fn new() -> Naive {
        Naive {
            changes: Vec::new(),
            revision: 1,
            compacted: -1,
            leases: BTreeSet::new(),
        }
    }

    /// The pair of a key after all changes up to `revision`.
    pub fn at(&self, key: &[u8], revision: i64) -> Option<KeyValue> {
        let newest = self
            .changes
            .iter()
            .rev()
            .find(|change| change.main <= revision && change.kv.key == key);
        newest
            .filter(|change| change.living)
            .map(|change| change.kv.clone())
    }

    /// The pairs of a range, by key.
    fn pairs(&self, from: &[u8], to: &[u8], revision: i64) -> Vec<KeyValue> {
        let within = |key: &&[u8]| match to {
            [] => *key == from,
            [0] => *key >= from,
            _ => *key >= from && *key < to,
        };
        let keys: BTreeSet<&[u8]> = self.changes.iter().map(|change| change.kv.key.as_ref()).collect();
        keys.into_iter()
            .filter(within)
            .filter_map(|key| self.at(key, revision))
            .collect()
    }

    pub fn range(&self, request: &pb::RangeRequest, now: i64) -> Result<pb::RangeResponse, Denied> {
        if request.revision > now {
            return Err(Denied::FutureRevision);
        }
        let revision = if request.revision <= 0 {
            now
        } else {
            request.revision
        };
        if revision < self.compacted {
            return Err(Denied::Compacted);
        }
        let mut kvs = self.pairs(&request.key, &request.range_end, revision);
        let count = kvs.len() as i64;
        if request.count_only {
            return Ok(pb::RangeResponse {
                header: header(now),
                count,
                ..Default::default()
            });
        }
        let (target, mut order) = (request.sort_target(), request.sort_order());
        let bounds = [
            (request.min_mod_revision, request.max_mod_revision),
            (request.min_create_revision, request.max_create_revision),
        ];
        let default_order =
            order == SortOrder::None || (target == SortTarget::Key && order == SortOrder::Ascend);
        let limit = if request.limit > 0 {
            request.limit as usize
        } else {
            usize::MAX - 1
        };
        if default_order && bounds == [(0, 0); 2] {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            [kv.mod_revision, kv.create_revision]
                .iter()
                .zip(bounds)
                .all(|(revision, (min, max))| {
                    (min == 0 || *revision >= min) && (max == 0 || *revision <= max)
                })
        });
        if target != SortTarget::Key && order == SortOrder::None {
            order = SortOrder::Ascend;
        }
        kvs.sort_by(|a, b| {
            let ordering = match target {
                SortTarget::Key => a.key.cmp(&b.key),
                SortTarget::Version => a.version.cmp(&b.version),
                SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                SortTarget::Value => a.value.cmp(&b.value),
            };
            if order == SortOrder::Descend {
                ordering.reverse()
            } else {
                ordering
            }
        });
        let more = kvs.len() > limit;
        kvs.truncate(limit);
        if request.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                kv.lease = if target == SortTarget::Value { kv.lease } else { 0 };
            }
        }
        Ok(pb::RangeResponse {
            header: header(now),
            kvs,
            more,
            count,
        })
    }

    fn now(&self, begun: usize) -> i64 {
        self.revision + i64::from(self.changes.len() > begun)
    }

    fn check_put(&self, request: &pb::PutRequest) -> Result<(), Denied> {
        if request.lease != 0 && !self.leases.contains(&request.lease) {
            return Err(Denied::LeaseNotFound);
        }
        let keeps = request.ignore_value || request.ignore_lease;
        match self.at(&request.key, i64::MAX) {
            None if keeps => Err(Denied::KeyNotFound),
            _ => Ok(()),
        }
    }

    fn put(&mut self, request: &pb::PutRequest) -> pb::PutResponse {
        let main = self.revision + 1;
        let old = self.at(&request.key, i64::MAX);
        let kept = old.clone().unwrap_or_default();
        let kv = KeyValue {
            key: request.key.clone(),
            value: if request.ignore_value {
                kept.value
            } else {
                request.value.clone()
            },
            create_revision: old.as_ref().map_or(main, |old| old.create_revision),
            mod_revision: main,
            version: kept.version + 1,
            lease: if request.ignore_lease {
                kept.lease
            } else {
                request.lease
            },
        };
        self.changes.push(Change {
            main,
            kv,
            living: true,
        });
        pb::PutResponse {
            header: header(main),
            prev_kv: old.filter(|_| request.prev_kv),
        }
    }

    fn delete(&mut self, request: &pb::DeleteRangeRequest, begun: usize) -> pb::DeleteRangeResponse {
        let gone = self.pairs(&request.key, &request.range_end, i64::MAX);
        self.bury(&gone);
        pb::DeleteRangeResponse {
            header: header(self.now(begun)),
            deleted: gone.len() as i64,
            prev_kvs: if request.prev_kv { gone } else { Vec::new() },
        }
    }

    fn bury(&mut self, gone: &[KeyValue]) {
        let main = self.revision + 1;
        for kv in gone {
            let kv = KeyValue {
                key: kv.key.clone(),
                mod_revision: main,
                ..Default::default()
            };
            self.changes.push(Change {
                main,
                kv,
                living: false,
            });
        }
    }

    fn holds(&self, compare: &pb::Compare) -> bool {
        let found = self.pairs(&compare.key, &compare.range_end, i64::MAX);
        if found.is_empty() {
            return compare.target() != CompareTarget::Value && holds_for(compare, &KeyValue::default());
        }
        found.iter().all(|kv| holds_for(compare, kv))
    }

    /// The operations that will run, nested ones with their own.
    fn path<'a>(&self, txn: &'a pb::TxnRequest) -> Path<'a> {
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let step = |op: &'a pb::RequestOp| match op.request.as_ref().unwrap() {
            Op::RequestTxn(nested) => Step::Nested(self.path(nested)),
            op => Step::Op(op),
        };
        Path {
            succeeded,
            steps: ops.iter().map(step).collect(),
        }
    }

    fn check_path(&self, path: &Path<'_>) -> Result<(), Denied> {
        path.steps.iter().try_for_each(|step| match step {
            Step::Op(Op::RequestPut(put)) => self.check_put(put),
            Step::Op(Op::RequestRange(range)) if range.revision > self.revision => {
                Err(Denied::FutureRevision)
            }
            Step::Op(Op::RequestRange(range)) if range.revision != 0 && range.revision < self.compacted => {
                Err(Denied::Compacted)
            }
            Step::Op(_) => Ok(()),
            Step::Nested(path) => self.check_path(path),
        })
    }

    fn run(&mut self, path: &Path<'_>, begun: usize) -> pb::TxnResponse {
        let mut responses = Vec::new();
        for step in &path.steps {
            let response = match step {
                Step::Op(Op::RequestPut(put)) => Response::ResponsePut(self.put(put)),
                Step::Op(Op::RequestDeleteRange(delete)) => {
                    Response::ResponseDeleteRange(self.delete(delete, begun))
                }
                Step::Op(Op::RequestRange(range)) => {
                    Response::ResponseRange(self.range(range, self.now(begun)).unwrap())
                }
                Step::Op(Op::RequestTxn(_)) => unreachable!("a nested path"),
                Step::Nested(path) => Response::ResponseTxn(self.run(path, begun)),
            };
            responses.push(pb::ResponseOp {
                response: Some(response),
            });
        }
        let succeeded = path.succeeded;
        pb::TxnResponse {
            header: header(0),
            succeeded,
            responses,
        }
    }

    fn answer(&mut self, request: &Request) -> Result<Answer, Denied> {
        let begun = self.changes.len();
        Ok(match request {
            Request::Range(request) => Answer::Range(self.range(request, self.revision)?),
            Request::Put(request) => {
                self.check_put(request)?;
                Answer::Put(self.put(request))
            }
            Request::DeleteRange(request) => Answer::DeleteRange(self.delete(request, begun)),
            Request::Txn(request) => {
                let path = self.path(request);
                self.check_path(&path)?;
                let mut response = self.run(&path, begun);
                response.header = header(self.now(begun));
                Answer::Txn(response)
            }
            Request::Compaction(request) if request.revision <= self.compacted => {
                return Err(Denied::Compacted);
            }
            Request::Compaction(request) if request.revision > self.revision => {
                return Err(Denied::FutureRevision);
            }
            Request::Compaction(request) => {
                self.compacted = request.revision;
                Answer::Compaction
            }
            Request::LeaseGrant(request) if !self.leases.insert(request.id) => {
                return Err(Denied::LeaseExists);
            }
            Request::LeaseGrant(request) => Answer::LeaseGrant {
                id: request.id,
                ttl: request.ttl,
            },
            Request::LeaseRevoke(request) if !self.leases.remove(&request.id) => {
                return Err(Denied::LeaseNotFound);
            }
            Request::LeaseRevoke(request) => {
                let mut gone = self.pairs(b"\0", b"\0", i64::MAX);
                gone.retain(|kv| kv.lease == request.id);
                self.bury(&gone);
                Answer::LeaseRevoke
            }
            other => unreachable!("not in the model: {other:?}"),
        })
    }

    pub fn apply(&mut self, request: &Request) -> Outcome {
        let begun = self.changes.len();
        let answer = self.answer(request);
        self.revision = self.now(begun);
        Outcome {
            answer,
            revision: self.revision,
            events: self.changes[begun..].iter().map(Change::event).collect(),
            unread: Default::default(),
        }
    }
}

struct Path<'a> {
    succeeded: bool,
    steps: Vec<Step<'a>>,
}

enum Step<'a> {
    Op(&'a Op),
    Nested(Path<'a>),
}

fn holds_for(compare: &pb::Compare, kv: &KeyValue) -> bool {
    let number = |found: i64| match compare.target_union {
        Some(
            TargetUnion::Version(wanted)
            | TargetUnion::CreateRevision(wanted)
            | TargetUnion::ModRevision(wanted)
            | TargetUnion::Lease(wanted),
        ) => found.cmp(&wanted),
        _ => found.cmp(&0),
    };
    let ordering = match compare.target() {
        CompareTarget::Version => number(kv.version),
        CompareTarget::Create => number(kv.create_revision),
        CompareTarget::Mod => number(kv.mod_revision),
        CompareTarget::Lease => number(kv.lease),
        CompareTarget::Value => match &compare.target_union {
            Some(TargetUnion::Value(wanted)) => kv.value.cmp(wanted),
            _ => kv.value.cmp(&Bytes::new()),
        },
    };
    // EQUAL, GREATER, LESS, NOT_EQUAL.
    [
        ordering.is_eq(),
        ordering.is_gt(),
        ordering.is_lt(),
        ordering.is_ne(),
    ][compare.result as usize]
}
