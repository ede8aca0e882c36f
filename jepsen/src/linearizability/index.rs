//! A history sorted by revision: who made each revision, who read at it, who could have made the
//! revisions that nobody was told about, and what was seen of them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use quorate::proto::etcdserverpb::{self as pb};
use quorate::proto::mvccpb::{Event, KeyValue, event::EventType};

use super::timeline::Author;
use crate::history::{Answer, History, Nanos, OpId, Operation, Outcome, Request, WatchEvent, WatchRecord};
use crate::property::{Property, Violation};

/// Where an operation stands in the order of revisions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It made this revision.
    Write(i64),
    /// It saw the state of this revision and changed nothing.
    Read(i64),
    /// It was answered, but its answer tells only that this revision had been reached.
    After(i64),
    /// Unknown, refused, or without effect on keys.
    Nowhere,
}

/// A write whose revision, if it has one, nobody was told.
#[derive(Debug)]
pub(super) struct Candidate {
    pub author: Author,
    pub request: Request,
    /// The keys that the request names.
    pub footprint: Vec<KeyRange>,
    /// Running number of its invocation.
    pub invoked: u64,
    /// It has a revision above this one: seen before it was invoked.
    pub floor: i64,
    /// It has at most this revision.
    pub ceiling: i64,
    /// For the end of a lease, the moment until which it was granted or renewed; 0 for others.
    pub due: Nanos,
}

/// What was seen of one revision.
#[derive(Clone, Default, Debug)]
pub(super) struct Evidence {
    pub puts: BTreeMap<Bytes, KeyValue>,
    pub deletes: Vec<Bytes>,
    /// Nothing else changed: a watch on everything showed it.
    pub complete: bool,
}

/// Spans of revisions, by key and by where they begin: to where each is known to reach.
#[derive(Default)]
struct Spans<'a>(BTreeMap<(&'a Bytes, i64), i64>);

impl<'a> Spans<'a> {
    fn note(&mut self, key: &'a Bytes, from: i64, to: i64) {
        let end = self.0.entry((key, from)).or_default();
        *end = to.max(*end);
    }

    /// The newest one that begins at a revision or below it.
    fn at(&self, key: &Bytes, revision: i64) -> Option<(i64, i64)> {
        let spans: &BTreeMap<(&Bytes, i64), i64> = &self.0;
        let ((_, from), to) = spans.range((key, i64::MIN)..=(key, revision)).next_back()?;
        Some((*from, *to))
    }
}

/// What is known of when keys changed, and when they did not.
#[derive(Default)]
pub(super) struct Lives<'a> {
    /// From a creation to the newest revision at which a pair of that life was made.
    lives: Spans<'a>,
    /// From a pair to the event that shows it as the previous one.
    unchanged: Spans<'a>,
}

impl<'a> Lives<'a> {
    fn note(&mut self, kv: &'a KeyValue) {
        self.lives.note(&kv.key, kv.create_revision, kv.mod_revision);
    }

    /// Whether a key may have changed so at a revision: within a life it is put, and stays the same one.
    pub fn allow(&self, event: &Event, revision: i64) -> bool {
        let Some(kv) = &event.kv else { return true };
        let is_put = event.r#type == EventType::Put as i32;
        let breaks_life = |(create, newest)| revision <= newest && !(is_put && kv.create_revision == create);
        let is_between = |(before, now)| before < revision && revision < now;
        !self.lives.at(&kv.key, revision).is_some_and(breaks_life)
            && !self.unchanged.at(&kv.key, revision - 1).is_some_and(is_between)
    }
}

/// A key and a range end, as in requests.
pub type KeyRange = (Bytes, Bytes);

/// A revision and the operation that showed it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Seen {
    pub revision: i64,
    pub by: OpId,
}

pub(super) struct Index<'a> {
    pub places: Vec<Place>,
    /// The highest revision that any answer shows.
    pub last: i64,
    /// Acknowledged writers by revision: the first one, and the second, which is a violation.
    pub writers: BTreeMap<i64, (OpId, Option<OpId>)>,
    pub reads: BTreeMap<i64, Vec<OpId>>,
    /// Sorted by invocation.
    pub candidates: Vec<Candidate>,
    /// Candidates by the unique values that they put.
    pub by_value: BTreeMap<Bytes, Vec<usize>>,
    /// For revision r, the smallest running number at which r or a later revision had been seen.
    first_seen: BTreeMap<i64, u64>,
    /// The highest revision answered before each operation was invoked, and by whom.
    pub floors: Vec<Option<Seen>>,
    /// What answers show of revisions without acknowledged writer: it must be explained.
    pub evidence: BTreeMap<i64, Evidence>,
    /// What watches show of them: it is only a hint, as the watches are on trial too.
    pub hints: BTreeMap<i64, Evidence>,
    /// Lives of keys that answers show.
    pub lives: Lives<'a>,
    /// Those that watches show.
    pub hinted_lives: Lives<'a>,
}

/// True for reads that may show an old state: serializable ranges, and transactions of nothing else
/// (compares alone included: etcd answers them from local state).
pub fn is_serializable(request: &Request) -> bool {
    match request {
        Request::Range(r) => r.serializable,
        Request::Txn(r) => r.success.iter().chain(&r.failure).all(|op| match &op.request {
            Some(Op::RequestRange(r)) => r.serializable,
            _ => false,
        }),
        _ => false,
    }
}

fn wrote(txn: &pb::TxnResponse) -> bool {
    txn.responses.iter().any(|op| match &op.response {
        Some(Re::ResponsePut(_)) => true,
        Some(Re::ResponseDeleteRange(r)) => r.deleted > 0,
        Some(Re::ResponseTxn(r)) => wrote(r),
        Some(Re::ResponseRange(_)) | None => false,
    })
}

pub(super) fn place(operation: &Operation) -> Place {
    let Outcome::Ok(answer) = &operation.outcome else {
        return Place::Nowhere;
    };
    let revision = answer.revision();
    let writes = match answer {
        Answer::Range(_) => false,
        Answer::Put(_) => true,
        Answer::Delete(a) => a.deleted > 0,
        Answer::Txn(a) => wrote(a),
        _ => return Place::After(revision),
    };
    if writes {
        Place::Write(revision)
    } else {
        Place::Read(revision)
    }
}

/// The revision that an operation made, as its answer tells.
pub fn made_revision(operation: &Operation) -> Option<i64> {
    match place(operation) {
        Place::Write(revision) => Some(revision),
        _ => None,
    }
}

fn txn_may_write(r: &pb::TxnRequest) -> bool {
    let writes = |op: &pb::RequestOp| match &op.request {
        Some(Op::RequestPut(_) | Op::RequestDeleteRange(_)) => true,
        Some(Op::RequestTxn(r)) => txn_may_write(r),
        Some(Op::RequestRange(_)) | None => false,
    };
    r.success.iter().chain(&r.failure).any(writes)
}

/// The values that a request may put.
pub(super) fn values(request: &Request) -> Vec<Bytes> {
    fn of_txn(r: &pb::TxnRequest, values: &mut Vec<Bytes>) {
        for op in r.success.iter().chain(&r.failure) {
            match &op.request {
                Some(Op::RequestPut(r)) => values.push(r.value.clone()),
                Some(Op::RequestTxn(r)) => of_txn(r, values),
                _ => {}
            }
        }
    }
    let mut values = Vec::new();
    match request {
        Request::Put(r) => values.push(r.value.clone()),
        Request::Txn(r) => of_txn(r, &mut values),
        _ => {}
    }
    values
}

/// The key ranges that a request reads, compares or writes.
pub fn footprint(request: &Request) -> Vec<KeyRange> {
    fn of_txn(r: &pb::TxnRequest, ranges: &mut Vec<KeyRange>) {
        for compare in &r.compare {
            ranges.push((compare.key.clone(), compare.range_end.clone()));
        }
        for op in r.success.iter().chain(&r.failure) {
            match &op.request {
                Some(Op::RequestRange(r)) => ranges.push((r.key.clone(), r.range_end.clone())),
                Some(Op::RequestPut(r)) => ranges.push((r.key.clone(), Bytes::new())),
                Some(Op::RequestDeleteRange(r)) => ranges.push((r.key.clone(), r.range_end.clone())),
                Some(Op::RequestTxn(r)) => of_txn(r, ranges),
                None => {}
            }
        }
    }
    let mut ranges = Vec::new();
    match request {
        Request::Range(r) => ranges.push((r.key.clone(), r.range_end.clone())),
        Request::Put(r) => ranges.push((r.key.clone(), Bytes::new())),
        Request::Delete(r) => ranges.push((r.key.clone(), r.range_end.clone())),
        Request::Txn(r) => of_txn(r, &mut ranges),
        _ => {}
    }
    ranges
}

/// The pairs that an answer shows in full.
pub fn shown_pairs<'a>(request: &'a Request, answer: &'a Answer) -> Vec<&'a KeyValue> {
    fn of_range<'a>(r: &pb::RangeRequest, a: &'a pb::RangeResponse, pairs: &mut Vec<&'a KeyValue>) {
        if !r.keys_only {
            pairs.extend(&a.kvs);
        }
    }
    fn of_txn<'a>(r: &'a pb::TxnRequest, a: &'a pb::TxnResponse, pairs: &mut Vec<&'a KeyValue>) {
        let branch = if a.succeeded { &r.success } else { &r.failure };
        for (op, response) in branch.iter().zip(&a.responses) {
            match (&op.request, &response.response) {
                (Some(Op::RequestRange(r)), Some(Re::ResponseRange(a))) => of_range(r, a, pairs),
                (_, Some(Re::ResponsePut(a))) => pairs.extend(&a.prev_kv),
                (_, Some(Re::ResponseDeleteRange(a))) => pairs.extend(&a.prev_kvs),
                (Some(Op::RequestTxn(r)), Some(Re::ResponseTxn(a))) => of_txn(r, a, pairs),
                _ => {}
            }
        }
    }
    let mut pairs = Vec::new();
    match (request, answer) {
        (Request::Range(r), Answer::Range(a)) => of_range(r, a, &mut pairs),
        (_, Answer::Put(a)) => pairs.extend(&a.prev_kv),
        (_, Answer::Delete(a)) => pairs.extend(&a.prev_kvs),
        (Request::Txn(r), Answer::Txn(a)) => of_txn(r, a, &mut pairs),
        _ => {}
    }
    pairs
}

impl<'a> Index<'a> {
    pub fn new(history: &'a History) -> Self {
        let places: Vec<Place> = history.operations.iter().map(place).collect();
        let mut index = Index {
            places,
            last: 1,
            writers: BTreeMap::new(),
            reads: BTreeMap::new(),
            candidates: Vec::new(),
            by_value: BTreeMap::new(),
            first_seen: BTreeMap::new(),
            floors: floors(history),
            evidence: BTreeMap::new(),
            hints: BTreeMap::new(),
            lives: Lives::default(),
            hinted_lives: Lives::default(),
        };
        for (id, place) in index.places.iter().enumerate() {
            let revision = match place {
                Place::Write(revision) => {
                    let known = index.writers.entry(*revision);
                    known
                        .and_modify(|(_, second)| *second = second.or(Some(id)))
                        .or_insert((id, None));
                    *revision
                }
                Place::Read(revision) => {
                    index.reads.entry(*revision).or_default().push(id);
                    *revision
                }
                Place::After(revision) => *revision,
                Place::Nowhere => 0,
            };
            index.last = index.last.max(revision);
        }
        index.collect_evidence(history);
        index.collect_first_seen(history);
        index.collect_candidates(history);
        index
    }

    /// The writer of a revision: the first one, if several claim it.
    pub fn writer(&self, revision: i64) -> Option<OpId> {
        Some(self.writers.get(&revision)?.0)
    }

    /// The smallest running number at which `revision` had been made for certain.
    pub fn made_before(&self, revision: i64) -> u64 {
        self.first_seen
            .range(revision..)
            .next()
            .map_or(u64::MAX, |(_, order)| *order)
    }

    /// Revisions that two acknowledged writes claim.
    pub fn clashes(&self, history: &History) -> Vec<Violation> {
        let clash = |(revision, (first, second)): (&i64, &(OpId, Option<OpId>))| {
            let (first, second) = (&history.operations[*first], &history.operations[(*second)?]);
            let message = format!("two acknowledged writes have revision {revision}:\n  {first}\n  {second}");
            let operations = [first.id, second.id];
            let violation = Violation::of_operations(Property::ExactlyOnce, operations, message);
            Some(violation.at_revision(*revision))
        };
        self.writers.iter().filter_map(clash).collect()
    }

    fn collect_evidence(&mut self, history: &'a History) {
        for operation in &history.operations {
            let Some(answer) = operation.outcome.answer() else {
                continue;
            };
            for kv in shown_pairs(&operation.request, answer) {
                self.last = self.last.max(kv.mod_revision);
                self.lives.note(kv);
                if !self.writers.contains_key(&kv.mod_revision) {
                    let evidence = self.evidence.entry(kv.mod_revision).or_default();
                    evidence.puts.entry(kv.key.clone()).or_insert_with(|| kv.clone());
                }
            }
        }
        for watch in &history.watches {
            self.collect_hints(watch);
        }
    }

    fn collect_hints(&mut self, watch: &'a WatchRecord) {
        let request = &watch.request;
        let everything = request.key.as_ref() <= b"\0".as_slice() && request.range_end.as_ref() == [0];
        let complete = everything && request.filters.is_empty() && !request.fragment;
        for entry in &watch.entries {
            let WatchEvent::Received(response) = &entry.event else {
                continue;
            };
            for event in &response.events {
                let is_put = event.r#type == EventType::Put as i32;
                let shown = event.kv.as_ref().filter(|_| is_put);
                let pairs = shown.into_iter().chain(&event.prev_kv);
                pairs.for_each(|kv| self.hinted_lives.note(kv));
                if let (Some(before), Some(now)) = (&event.prev_kv, &event.kv) {
                    let unchanged = &mut self.hinted_lives.unchanged;
                    unchanged.note(&now.key, before.mod_revision, now.mod_revision);
                }
                // Whatever came before this event: perhaps nobody saw it happen.
                if let Some(kv) = &event.prev_kv
                    && !self.writers.contains_key(&kv.mod_revision)
                {
                    let hints = self.hints.entry(kv.mod_revision).or_default();
                    hints.puts.entry(kv.key.clone()).or_insert_with(|| kv.clone());
                }
                let Some(kv) = &event.kv else { continue };
                if self.writers.contains_key(&kv.mod_revision) {
                    continue;
                }
                let hints = self.hints.entry(kv.mod_revision).or_default();
                hints.complete |= complete;
                if event.r#type == EventType::Delete as i32 {
                    if !hints.deletes.contains(&kv.key) {
                        hints.deletes.push(kv.key.clone());
                    }
                } else {
                    hints.puts.entry(kv.key.clone()).or_insert_with(|| kv.clone());
                }
            }
        }
    }

    fn collect_first_seen(&mut self, history: &History) {
        let mut see = |revision: i64, order: u64| {
            let first = self.first_seen.entry(revision).or_insert(order);
            *first = (*first).min(order);
        };
        for operation in &history.operations {
            if let (Some(revision), Some(returned)) = (operation.revision(), operation.returned) {
                see(revision, returned.order);
            }
        }
        for entry in history.watches.iter().flat_map(|watch| &watch.entries) {
            if let WatchEvent::Received(response) = &entry.event {
                for kv in response.events.iter().filter_map(|event| event.kv.as_ref()) {
                    see(kv.mod_revision, entry.at.order);
                }
            }
        }
        // A later revision implies all earlier ones: make it a running minimum from the end.
        let mut earliest = u64::MAX;
        for order in self.first_seen.values_mut().rev() {
            earliest = earliest.min(*order);
            *order = earliest;
        }
    }

    fn collect_candidates(&mut self, history: &History) {
        let due = due(history);
        for operation in &history.operations {
            let id = operation.id;
            if let Some((author, request, ceiling)) = candidate(operation) {
                self.candidates.push(Candidate {
                    author,
                    footprint: footprint(&request),
                    request,
                    invoked: operation.invoked.order,
                    floor: self.floors[id].map_or(1, |seen| seen.revision),
                    ceiling,
                    due: match author {
                        Author::Expiry { lease, .. } => due.get(&lease).copied().unwrap_or(0),
                        Author::Operation(_) => 0,
                    },
                });
            }
        }
        self.candidates.sort_by_key(|candidate| candidate.invoked);
        for (number, candidate) in self.candidates.iter().enumerate() {
            for value in values(&candidate.request) {
                self.by_value.entry(value).or_default().push(number);
            }
        }
    }
}

/// What an operation may have done without telling: its own write, or, for a granted lease, the
/// lease's end.
fn candidate(operation: &Operation) -> Option<(Author, Request, i64)> {
    let own = Author::Operation(operation.id);
    let ceiling = operation.revision().unwrap_or(i64::MAX);
    match (&operation.request, &operation.outcome) {
        (_, Outcome::Denied { .. }) => None,
        (Request::Put(_) | Request::Delete(_), Outcome::Unknown { .. }) => {
            Some((own, operation.request.clone(), ceiling))
        }
        (Request::Txn(r), Outcome::Unknown { .. }) if txn_may_write(r) => {
            Some((own, operation.request.clone(), ceiling))
        }
        (Request::LeaseRevoke(_), _) => Some((own, operation.request.clone(), ceiling)),
        (Request::LeaseGrant(r), outcome) => {
            let id = match outcome {
                Outcome::Ok(Answer::LeaseGrant(answer)) => answer.id,
                _ => r.id,
            };
            let grant = operation.id;
            let end = Request::LeaseRevoke(pb::LeaseRevokeRequest { id });
            (id != 0).then_some((Author::Expiry { lease: id, grant }, end, i64::MAX))
        }
        _ => None,
    }
}

/// Until when each lease was granted or renewed, as far as its clients were told.
fn due(history: &History) -> BTreeMap<i64, Nanos> {
    let mut due: BTreeMap<i64, Nanos> = BTreeMap::new();
    for operation in &history.operations {
        let (id, ttl) = match operation.outcome.answer() {
            Some(Answer::LeaseGrant(answer)) => (answer.id, answer.ttl),
            Some(Answer::LeaseKeepAlive(answer)) => (answer.id, answer.ttl),
            _ => continue,
        };
        let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or(0));
        let end = operation.invoked.nanos + ttl.as_nanos() as Nanos;
        let latest = due.entry(id).or_default();
        *latest = end.max(*latest);
    }
    due
}

/// For each operation the highest revision answered before its invocation.
fn floors(history: &History) -> Vec<Option<Seen>> {
    let mut moments: Vec<(u64, bool, OpId)> = Vec::with_capacity(2 * history.operations.len());
    for operation in &history.operations {
        moments.push((operation.invoked.order, false, operation.id));
        if let Some(returned) = operation.returned {
            moments.push((returned.order, true, operation.id));
        }
    }
    moments.sort_unstable();
    let mut floors = vec![None; history.operations.len()];
    let mut highest: Option<Seen> = None;
    for (_, is_return, id) in moments {
        if !is_return {
            floors[id] = highest;
        } else if let Some(revision) = history.operations[id].revision()
            && highest.is_none_or(|seen| seen.revision < revision)
        {
            highest = Some(Seen { revision, by: id });
        }
    }
    floors
}
