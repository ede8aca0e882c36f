//! Reads that never hold the state for long: at one position, a look at a time.
//!
//! ```text
//!   look ─► look ─► look        the state, locked: picks pairs from the index, within bounds
//!     └► read ─► read ─► …      what is not in memory, from the store as it was at the first look
//!                     └► sort   off the tasks that serve others, if it is much
//! ```
//!
//! Ranges, transactions of ranges, and what the answers to writes lack are all read so: writes go on in between, and what they
//! change does not show. A compaction that passes the position in the middle cannot hurt a client that asked for "now": the
//! read starts again and, if that happens too often, is made on a copy of the state, of which there is one at a time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use prost::Message;
use tonic::Status;

use super::kv::Shared;
use crate::base::kv::Read;
use crate::base::{Broken, Denied, Revision, limits};
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::proto::etcdserverpb::{
    Compare, RangeRequest, RangeResponse, RangeStreamResponse, TxnRequest, TxnResponse, request_op::Request,
};
use crate::proto::mvccpb::KeyValue;
use crate::runtime::buggify::{self, Site, pause};
use crate::runtime::{Aside, Instant};
use crate::server::api::Api;
use crate::server::auth::Caller;
use crate::server::auth::access::Permit;
use crate::server::wire::status::status;
use crate::server::wire::unread::Answer;
use crate::state::{
    Bounds, CompareCursor, Filled, Outcome, Overtaken, Part, RangeCursor, SharedStore, State, answer_ranges,
    taken_ranges,
};

/// How often a read starts again behind a compaction before it is made on a copy of the state.
const RESTARTS_MAX: usize = 3;
/// Keys in the first message of a range stream, as etcd.
const STREAM_KEYS_FIRST: usize = 10;
/// The longest pause between two looks, in a simulation.
const PIECE_PAUSE: Duration = Duration::from_millis(500);

/// The local state's answer. The header carries only the revision.
pub async fn local(api: &Api, request: RangeRequest, caller: &Caller) -> Result<RangeResponse, Denied> {
    for _ in 0..restarts_max() {
        match Reading::new(api, caller).range(&request).await {
            Err(Failed::Overtaken) => {}
            Err(Failed::Denied(denied)) => return Err(denied),
            Ok(answer) => return Ok(answer),
        }
    }
    let answer = from_copy(api, None, move |state, store| state.range(&request, store)).await??;
    caller.answer().add(answer.encoded_len());
    Ok(answer)
}

/// The answer to a linearizable range in as few steps as can be, where nobody's rights have to be looked at; `None`: they have,
/// or a compaction has passed it.
pub async fn at_once(
    api: &Api,
    request: &RangeRequest,
    caller: &Caller,
) -> Result<Option<RangeResponse>, Denied> {
    match Reading::new(api, caller).range_at_once(request.clone()).await {
        Ok(answer) => Ok(answer),
        Err(Failed::Overtaken) => Ok(None),
        Err(Failed::Denied(denied)) => Err(denied),
    }
}

/// The local state's answer to a transaction of ranges alone.
pub async fn local_txn(api: &Api, request: &Arc<TxnRequest>, caller: &Caller) -> Result<TxnResponse, Denied> {
    for _ in 0..restarts_max() {
        match Reading::new(api, caller).txn(request).await {
            Err(Failed::Overtaken) => {}
            Err(Failed::Denied(denied)) => return Err(denied),
            Ok(answer) => return Ok(answer),
        }
    }
    let request = request.clone();
    let answer = from_copy(api, None, move |state, store| state.read_txn(&request, store)).await??;
    caller.answer().add(answer.encoded_len());
    Ok(answer)
}

/// Reads what the answer to a write still lacks.
pub async fn complete(api: &Api, outcome: &mut Outcome, caller: &Caller) -> Result<(), Denied> {
    let unread = std::mem::take(&mut outcome.unread);
    let Ok(answer) = &mut outcome.answer else {
        return Ok(());
    };
    let mut reading = Reading {
        view: unread.store,
        bytes_left: limits::TXN_ANSWER_BYTES_MAX,
        too_large: Denied::AnswerCut,
        ..Reading::new(api, caller)
    };
    let mut filled = Vec::new();
    for part in unread.parts {
        filled.push(match part {
            Part::Range(cursor) => Filled::Range(reading.rest(*cursor).await?),
            Part::Pairs(pairs) => Filled::Pairs(reading.pairs(pairs).await?),
        });
    }
    answer.fill(filled);
    Ok(())
}

/// Refuses a transaction that writes if what one of its ranges reads now would be too much for its answer.
pub async fn check_answer(api: &Api, request: &TxnRequest, caller: &Caller) -> Result<(), Denied> {
    let mut branches = vec![&request.success, &request.failure];
    while let Some(ops) = branches.pop() {
        for op in ops {
            match &op.request {
                Some(Request::RequestTxn(nested)) => branches.extend([&nested.success, &nested.failure]),
                Some(Request::RequestRange(range)) if may_be_large(range) => {
                    let mut reading = Reading::new(api, caller);
                    // Whatever else is wrong, or changes meanwhile, is found when the transaction is applied.
                    if let Err(Failed::Denied(Denied::AnswerTooLarge)) = reading.weigh(range).await {
                        return Err(Denied::AnswerTooLarge);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether a range can have any number of values.
fn may_be_large(range: &RangeRequest) -> bool {
    !range.range_end.is_empty() && !range.count_only && !range.keys_only && range.limit <= 0
}

/// On a copy of the state, made from a view. Expensive, so there is one at a time.
async fn from_copy<T: Send + 'static>(
    api: &Api,
    view: Option<SharedStore>,
    read: impl FnOnce(&State, &dyn Read) -> Result<T, Broken> + Send + 'static,
) -> Result<T, Denied> {
    let turn = api.copying.acquire().await;
    let _turn = turn.expect("nobody closes it");
    let view = match view {
        Some(view) => view,
        None => api.consensus.look(|_, view| view()).await,
    };
    let copied = api.env.run_aside(Aside::Background, move || {
        let state = State::open_with_cache(&*view, 0)?;
        read(&state, &*view)
    });
    api.consensus.checked(copied.await)
}

fn restarts_max() -> usize {
    // 0: at once on a copy.
    buggify::limit(Site::RangeFromCopy, RESTARTS_MAX + 1, 1) - 1
}

/// Why a read ended early.
enum Failed {
    Denied(Denied),
    /// A compaction has passed it; it may start again.
    Overtaken,
}

impl From<Denied> for Failed {
    fn from(denied: Denied) -> Self {
        Failed::Denied(denied)
    }
}

/// What one request reads.
struct Reading<'a> {
    api: &'a Api,
    /// The store at the first look after which there was something to read from it.
    view: Option<SharedStore>,
    /// Bytes of pairs that the answer may still take.
    bytes_left: usize,
    too_large: Denied,
    /// Where these bytes are counted.
    answer: Answer,
    /// Since when it has not paused.
    since: Instant,
}

impl<'a> Reading<'a> {
    fn new(api: &'a Api, caller: &Caller) -> Self {
        let answer = caller.answer();
        // What an earlier attempt has read is gone.
        answer.release();
        Reading {
            api,
            view: None,
            bytes_left: usize::MAX,
            too_large: Denied::AnswerTooLarge,
            answer,
            since: api.env.now(),
        }
    }

    fn bounds(&self) -> Bounds {
        let usual = Bounds {
            entries: limits::LOOK_ENTRIES_MAX,
            pairs: limits::RANGE_PIECE_KEYS,
            bytes: limits::RANGE_PIECE_BYTES,
        };
        Bounds {
            entries: buggify::limit(Site::RangeTinyPieces, usual.entries, 3),
            pairs: buggify::limit(Site::RangeTinyPieces, usual.pairs, 3),
            ..usual
        }
    }

    /// Lets others run between two looks, and the client read what it has asked for before.
    async fn pause(&mut self) {
        self.api.env.give_way(self.since).await;
        self.answer.room().await;
        pause(&self.api.env, Site::RangePieceLate, PIECE_PAUSE).await;
        self.since = self.api.env.now();
    }

    /// The first look.
    async fn open(
        &mut self,
        open: impl FnOnce(&State) -> Result<RangeCursor, Denied> + Send + 'static,
    ) -> Result<RangeCursor, Failed> {
        self.open_within(self.bounds(), open).await
    }

    async fn open_within(
        &mut self,
        bounds: Bounds,
        open: impl FnOnce(&State) -> Result<RangeCursor, Denied> + Send + 'static,
    ) -> Result<RangeCursor, Failed> {
        let wants_view = self.view.is_none();
        let looked = self.api.consensus.look(move |state, store| {
            let mut cursor = open(state)?;
            let view = look(state, &mut cursor, bounds, wants_view.then_some(store))?;
            Ok::<_, Failed>((cursor, view))
        });
        let (cursor, view) = looked.await?;
        self.view = self.view.take().or(view);
        Ok(cursor)
    }

    async fn look(&mut self, cursor: &mut RangeCursor, bounds: Bounds) -> Result<(), Failed> {
        let wants_view = self.view.is_none();
        let mut moved = std::mem::take(cursor);
        let looked = self.api.consensus.look(move |state, store| {
            let looked = look(state, &mut moved, bounds, wants_view.then_some(store));
            (moved, looked)
        });
        let (moved, looked) = looked.await;
        *cursor = moved;
        self.view = self.view.take().or(looked?);
        Ok(())
    }

    fn store(&self) -> Option<&dyn Read> {
        self.view.as_deref().map(|view| view as &dyn Read)
    }

    async fn range(&mut self, request: &RangeRequest) -> Result<RangeResponse, Failed> {
        self.answer.room().await;
        let request = request.clone();
        let mut cursor = self.open(move |state| state.open_range(&request)).await?;
        let kvs = self.read(&mut cursor).await?;
        Ok(cursor.answer(kvs))
    }

    async fn range_at_once(&mut self, request: RangeRequest) -> Result<Option<RangeResponse>, Failed> {
        self.answer.room().await;
        let bounds = self.bounds();
        let bytes = request.key.len() + request.range_end.len();
        let looked = self.api.consensus.look_linearizable(bytes, move |state, store| {
            if state.auth().is_enabled() {
                return Ok(None);
            }
            let mut cursor = state.open_range(&request)?;
            let view = look(state, &mut cursor, bounds, Some(store))?;
            Ok::<_, Failed>(Some((cursor, view)))
        });
        let Some((mut cursor, view)) = looked.await?? else {
            return Ok(None);
        };
        self.view = view;
        let kvs = self.read(&mut cursor).await?;
        Ok(Some(cursor.answer(kvs)))
    }

    /// Reads a range to its end.
    async fn read(&mut self, cursor: &mut RangeCursor) -> Result<Vec<KeyValue>, Failed> {
        let mut kvs = Vec::new();
        self.read_into(cursor, &mut kvs).await?;
        Ok(kvs)
    }

    async fn read_into(&mut self, cursor: &mut RangeCursor, kvs: &mut Vec<KeyValue>) -> Result<(), Failed> {
        loop {
            let digested = cursor.digest(self.store());
            self.api.consensus.checked(digested)?;
            if cursor.is_in_key_order() {
                self.take_all(cursor, kvs).await?;
            }
            if cursor.is_read() {
                break;
            }
            self.pause().await;
            self.look(cursor, self.bounds()).await?;
        }
        if cursor.is_in_key_order() {
            return Ok(());
        }
        if cursor.kept() > limits::RANGE_SORTED_AT_ONCE_MAX {
            let mut sorting = std::mem::take(cursor);
            *cursor = self
                .api
                .env
                .run_aside(Aside::Background, move || {
                    sorting.close();
                    sorting
                })
                .await;
        } else {
            cursor.close();
        }
        self.take_all(cursor, kvs).await
    }

    async fn take_all(&mut self, cursor: &mut RangeCursor, kvs: &mut Vec<KeyValue>) -> Result<(), Failed> {
        loop {
            self.take(cursor, kvs)?;
            if cursor.kept() == 0 || cursor.limit_left() == 0 {
                return Ok(());
            }
            self.pause().await;
        }
    }

    /// Takes the next pairs of the answer.
    fn take(&mut self, cursor: &mut RangeCursor, kvs: &mut Vec<KeyValue>) -> Result<(), Failed> {
        let taken = cursor.take(limits::RANGE_PIECE_KEYS, limits::RANGE_PIECE_BYTES, self.store());
        let taken = self.api.consensus.checked(taken)?;
        self.spend(&taken)?;
        kvs.extend(taken);
        Ok(())
    }

    fn spend(&mut self, kvs: &[KeyValue]) -> Result<(), Failed> {
        let bytes: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.ok_or(Failed::Denied(self.too_large))?;
        self.answer.add(bytes);
        Ok(())
    }

    /// A range that was begun when its transaction was applied.
    async fn rest(&mut self, mut cursor: RangeCursor) -> Result<RangeResponse, Denied> {
        let mut kvs = Vec::new();
        match self.read_into(&mut cursor, &mut kvs).await {
            Ok(()) => Ok(cursor.answer(kvs)),
            Err(Failed::Denied(Denied::Compacted) | Failed::Overtaken) => {
                let view = self.view.clone();
                let read = from_copy(self.api, view, move |state, store| state.read_rest(cursor, store));
                let (cursor, rest) = read.await?.ok_or(Denied::AnswerLost)?;
                kvs.extend(rest);
                Ok(cursor.answer(kvs))
            }
            Err(Failed::Denied(denied)) => Err(denied),
        }
    }

    /// Pairs that were picked when their command was applied.
    async fn pairs(&mut self, picked: Vec<crate::state::Picked>) -> Result<Vec<KeyValue>, Denied> {
        let mut kvs = Vec::with_capacity(picked.len());
        for pair in picked {
            let kv = self.api.consensus.checked(pair.into_pair(self.store()))?;
            if self.spend(std::slice::from_ref(&kv)).is_err() {
                return Err(self.too_large);
            }
            kvs.push(kv);
            if kvs.len() % limits::RANGE_PIECE_KEYS == 0 {
                self.pause().await;
            }
        }
        Ok(kvs)
    }

    /// Adds up what a range would read.
    async fn weigh(&mut self, request: &RangeRequest) -> Result<(), Failed> {
        let unsorted = RangeRequest {
            sort_order: 0,
            sort_target: 0,
            ..request.clone()
        };
        let mut left = limits::TXN_ANSWER_BYTES_MAX;
        let mut cursor = self.open(move |state| state.open_range(&unsorted)).await?;
        loop {
            left = left.checked_sub(cursor.kept_bytes()).ok_or(self.too_large)?;
            cursor.take_picked();
            if cursor.is_read() {
                return Ok(());
            }
            self.pause().await;
            self.look(&mut cursor, self.bounds()).await?;
        }
    }

    /// A transaction of ranges alone. It stands where the first look finds the state.
    async fn txn(&mut self, request: &Arc<TxnRequest>) -> Result<TxnResponse, Failed> {
        let mut now = None;
        let mut succeeded = true;
        for compare in &request.compare {
            succeeded = succeeded && self.compare(compare, &mut now).await?;
        }
        let mut ranges = Vec::new();
        for range in taken_ranges(request, succeeded) {
            self.answer.room().await;
            let (at, range) = (now, range.clone());
            // All of them are judged before the first is read.
            let judged = ranges.is_empty().then(|| request.clone());
            let open = move |state: &State| {
                judged.map_or(Ok(()), |request| state.check_ranges(&request, succeeded))?;
                state.open_range_as_of(&range, at.unwrap_or(state.revision()))
            };
            let mut cursor = self.open(open).await?;
            now = Some(cursor.now());
            let kvs = self.read(&mut cursor).await?;
            ranges.push(cursor.answer(kvs));
        }
        let now = match now {
            Some(now) => now,
            None => self.api.consensus.read(State::revision).await,
        };
        Ok(answer_ranges(now, succeeded, ranges))
    }

    /// Whether a compare holds at a revision, or else at the current one, which it finds.
    async fn compare(&mut self, compare: &Compare, now: &mut Option<Revision>) -> Result<bool, Failed> {
        let (at, asked) = (*now, compare.clone());
        let open = move |state: &State| Ok(state.open_compare(&asked, at.unwrap_or(state.revision())));
        let mut reader = CompareCursor::new(compare, self.open(open).await?);
        *now = Some(reader.cursor.now());
        loop {
            let judged = reader.judge(self.store());
            if let Some(holds) = self.api.consensus.checked(judged)? {
                return Ok(holds);
            }
            self.pause().await;
            self.look(&mut reader.cursor, self.bounds()).await?;
        }
    }
}

/// One look: reads on, and keeps the store, if it is offered and there is more to read, from the index or from itself.
fn look(
    state: &State,
    cursor: &mut RangeCursor,
    bounds: Bounds,
    store: Option<&dyn Fn() -> SharedStore>,
) -> Result<Option<SharedStore>, Failed> {
    state.read_on(cursor, bounds).map_err(|Overtaken| {
        // A client's own revision may be compacted at any moment, and it is told so.
        match cursor.is_of_the_past() {
            true => Failed::Denied(Denied::Compacted),
            false => Failed::Overtaken,
        }
    })?;
    let store = store.filter(|_| !cursor.is_read() || cursor.needs_store());
    Ok(store.map(|store| store()))
}

/// The messages of a range stream.
pub struct Chunks {
    api: Shared,
    request: RangeRequest,
    caller: Caller,
    permit: Option<Permit>,
    open: Option<(RangeCursor, Option<SharedStore>)>,
    keys: usize,
    done: bool,
}

impl Chunks {
    pub fn new(api: Shared, request: RangeRequest, caller: Caller) -> Self {
        Chunks {
            api,
            request,
            caller,
            permit: None,
            open: None,
            keys: STREAM_KEYS_FIRST,
            done: false,
        }
    }

    pub fn into_stream(self) -> impl Stream<Item = Result<RangeStreamResponse, Status>> + Send {
        stream::unfold(self, |mut chunks| async move {
            if chunks.done {
                return None;
            }
            let chunk = chunks.next().await;
            chunks.done |= chunk.is_err();
            let answer = |response| RangeStreamResponse {
                range_response: Some(response),
            };
            Some((chunk.map(answer).map_err(status), chunks))
        })
    }

    async fn next(&mut self) -> Result<RangeResponse, Denied> {
        let api = self.api.clone();
        let bytes_max = api.options.max_request_bytes;
        if self.open.is_none() {
            if !self.request.serializable {
                api.consensus.read_barrier().await?;
            }
            self.permit = Some(api.permit_range(&self.request, &self.caller).await?);
            // Without an order, but by something else than the key, etcd sorts each message for itself. What has to be sorted is one
            // message here.
            let is_sorted = self.request.sort_target() != SortTarget::Key;
            if self.request.range_end.is_empty() || self.request.count_only || is_sorted {
                self.done = true;
                let mut response = local(&api, self.request.clone(), &self.caller).await?;
                if let Some(permit) = &self.permit {
                    api.confirm(permit).await?;
                }
                api.complete(&mut response.header);
                return Ok(response);
            }
        }
        let mut response = self.chunk(&api, bytes_max).await.map_err(|failed| match failed {
            Failed::Denied(denied) => denied,
            Failed::Overtaken => Denied::Compacted,
        })?;
        if let Some(permit) = &self.permit {
            api.confirm(permit).await?;
        }
        let bytes = response.encoded_len();
        if bytes < bytes_max / 2 {
            self.keys = (self.keys * 2).min(limits::RANGE_PIECE_KEYS);
        } else if bytes > bytes_max {
            self.keys = (self.keys / 2).max(1);
        }
        if self.done {
            api.complete(&mut response.header);
        }
        Ok(response)
    }

    /// The next pairs; in the last chunk also what belongs to the range as a whole.
    async fn chunk(&mut self, api: &Api, bytes: usize) -> Result<RangeResponse, Failed> {
        let mut reading = Reading::new(api, &self.caller);
        let within = |left: usize| Bounds {
            entries: limits::LOOK_ENTRIES_MAX,
            // Of the last pair that etcd's limit reads only its being there is wanted.
            pairs: if left <= self.keys { left + 1 } else { self.keys },
            bytes,
        };
        let mut cursor = match self.open.take() {
            Some((mut cursor, view)) => {
                reading.view = view;
                let bounds = within(cursor.limit_left());
                reading.look(&mut cursor, bounds).await?;
                cursor
            }
            None => {
                let left = usize::try_from(self.request.limit)
                    .ok()
                    .filter(|&limit| limit > 0);
                let bounds = within(left.unwrap_or(usize::MAX - 1));
                let request = self.request.clone();
                let open = move |state: &State| state.open_range(&request);
                reading.open_within(bounds, open).await?
            }
        };
        let mut kvs = Vec::new();
        loop {
            reading.take(&mut cursor, &mut kvs)?;
            if cursor.is_read() || (!kvs.is_empty() && cursor.limit_left() > 0) {
                break;
            }
            // Dead keys, or keys beyond the limit that are counted.
            reading.pause().await;
            let bounds = within(cursor.limit_left());
            reading.look(&mut cursor, bounds).await?;
        }
        if cursor.is_read() {
            self.done = true;
            return Ok(cursor.answer(kvs));
        }
        self.open = Some((cursor, reading.view));
        Ok(RangeResponse {
            kvs,
            ..Default::default()
        })
    }
}
