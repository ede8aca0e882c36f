//! Ranges: which keys, at which position of history, filtered, sorted and cut as etcd does it.
//!
//! ```text
//!   open_range ─► read_on ─► read_on ─► … ─► close ─► take ─► take ─► answer
//!   (state)       (state, each bounded)      (what was picked; records from the cache, else from a store or a view)
//! ```
//!
//! A range is read by a [`RangeCursor`] that stands at one position: what is written after it does not show. Only
//! [`open_range`](State::open_range) and [`read_on`](State::read_on) look at the state, and no look is longer than its
//! bounds, however many keys there are: so a member serves others in between. The state picks from its index alone and never
//! reads the store. Of a range that is sorted or filtered, and limited, no more is kept than the limit asks for.
//!
//! A compaction can pass the position between two looks. Then the cursor is [`Overtaken`].

use std::cmp::Ordering;
use std::collections::VecDeque;

use bytes::Bytes;

use super::State;
use super::index::{Entry, KeyVersion, behind};
use super::record::Record;
use super::validate::{RangeEnd, has_revision_filter};
use crate::base::broken::BadRecord;
use crate::base::kv::{Read, Space};
use crate::base::{Broken, Denied, Revision, RevisionAt, effort, limits};
use crate::proto::etcdserverpb::{
    RangeRequest, RangeResponse, ResponseHeader, range_request::SortOrder, range_request::SortTarget,
};
use crate::proto::mvccpb::KeyValue;

/// Pairs beyond twice the limit that are kept before they are sorted and cut.
const KEPT_SLACK: usize = 1_000;

/// A header that carries only a revision; the server adds the rest.
pub(super) fn header(revision: Revision) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

/// How much one look may take in.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Entries of the index that are looked at.
    pub entries: usize,
    /// Pairs that are picked.
    pub pairs: usize,
    /// Bytes of their records; one may be larger.
    pub bytes: usize,
}

impl Bounds {
    pub const NONE: Bounds = Bounds {
        entries: usize::MAX,
        pairs: usize::MAX,
        bytes: usize::MAX,
    };
}

/// A compaction has passed the position of a cursor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Overtaken;

/// A pair that was picked, and as much of it as was in memory.
#[derive(Clone, Debug)]
pub struct Picked {
    past: KeyVersion,
    found: Found,
}

#[derive(Clone, Debug)]
enum Found {
    Pair(KeyValue),
    Encoded(Bytes),
    /// It has to be read. The lease is known of a key's newest change.
    Stored {
        lease: Option<i64>,
    },
}

impl Picked {
    pub(super) fn new(entry: &Entry, past: KeyVersion) -> Picked {
        let is_newest = past == entry.newest;
        let found = match &entry.cached {
            Some(cached) if is_newest => Found::Encoded(cached.clone()),
            _ => Found::Stored {
                lease: is_newest.then_some(entry.lease),
            },
        };
        Picked { past, found }
    }

    /// The pair, decoded, and read if need be.
    fn pair(&mut self, store: Option<&dyn Read>) -> Result<&KeyValue, Broken> {
        let at = self.past.at();
        let encoded = match &self.found {
            Found::Pair(_) => None,
            Found::Encoded(encoded) => Some(encoded.clone()),
            Found::Stored { .. } => Some(read_record(at, store)?),
        };
        if let Some(encoded) = encoded {
            self.found = Found::Pair(Record::decode(at, encoded)?.kv);
        }
        match &self.found {
            Found::Pair(pair) => Ok(pair),
            Found::Encoded(_) | Found::Stored { .. } => unreachable!("it was decoded just now"),
        }
    }

    pub fn into_pair(mut self, store: Option<&dyn Read>) -> Result<KeyValue, Broken> {
        self.pair(store)?;
        match self.found {
            Found::Pair(pair) => Ok(pair),
            Found::Encoded(_) | Found::Stored { .. } => unreachable!("it was decoded just now"),
        }
    }

    pub fn is_stored(&self) -> bool {
        matches!(self.found, Found::Stored { .. })
    }

    /// The lease of the pair, which is read only if the index does not know it.
    pub(super) fn lease(self, store: Option<&dyn Read>) -> Result<i64, Broken> {
        match self.found {
            Found::Stored { lease: Some(lease) } => Ok(lease),
            _ => Ok(self.into_pair(store)?.lease),
        }
    }

    /// The value of what was decoded before.
    fn value(&self) -> &Bytes {
        match &self.found {
            Found::Pair(pair) => &pair.value,
            Found::Encoded(_) | Found::Stored { .. } => {
                unreachable!("values that are compared were decoded before")
            }
        }
    }

    pub(super) fn past(&self) -> KeyVersion {
        self.past
    }

    fn bytes(&self) -> usize {
        match &self.found {
            Found::Pair(pair) => pair.key.len() + pair.value.len(),
            Found::Encoded(_) | Found::Stored { .. } => self.past.bytes as usize,
        }
    }
}

fn read_record(at: RevisionAt, store: Option<&dyn Read>) -> Result<Bytes, Broken> {
    effort::spend(1);
    let found = store.map_or(Ok(None), |store| store.get(Space::Records, &at.to_bytes()))?;
    found.ok_or_else(|| Broken::record(at, BadRecord::Missing))
}

/// A range that is being read. See the module. The default is one that is read to its end.
#[derive(Clone, Default, Debug)]
pub struct RangeCursor {
    request: RangeRequest,
    /// Every change before this one shows, and no other.
    before: RevisionAt,
    /// What the answer's header says.
    now: Revision,
    /// Where the next look begins; `None`: all is read.
    next: Option<Bytes>,
    /// Pairs of the range that are picked at most, as etcd's limit cuts.
    picks_left: usize,
    /// Keys of the range so far, whatever the filters say.
    count: usize,
    /// Those that the filters let pass.
    matched: usize,
    picked: VecDeque<Picked>,
    /// Pairs that were taken out.
    taken: usize,
    /// Of what is kept, what the last [`digest`](Self::digest) left.
    digested: usize,
}

impl RangeCursor {
    /// The revision that counted as the current one when it was opened.
    pub fn now(&self) -> Revision {
        self.now
    }

    /// Whether the whole range has been looked at.
    pub fn is_read(&self) -> bool {
        self.next.is_none()
    }

    /// Whether a client's range at an explicit revision is read, which may be refused as compacted at any moment.
    pub fn is_of_the_past(&self) -> bool {
        self.request.revision > 0
    }

    /// Whether something that was picked is to be read from a store.
    pub fn needs_store(&self) -> bool {
        self.picked.iter().any(Picked::is_stored)
    }

    /// Whether pairs can be given out before all is read: what comes later comes behind them.
    pub fn is_in_key_order(&self) -> bool {
        effective_order(&self.request) == SortOrder::None
    }

    /// Pairs that may still be taken out.
    pub fn limit_left(&self) -> usize {
        self.limit().saturating_sub(self.taken)
    }

    /// What was picked and is not taken yet.
    pub fn kept(&self) -> usize {
        self.picked.len()
    }

    /// Bytes of what was picked and is not taken yet.
    pub fn kept_bytes(&self) -> usize {
        self.picked.iter().map(Picked::bytes).sum()
    }

    fn limit(&self) -> usize {
        let limit = usize::try_from(self.request.limit)
            .ok()
            .filter(|&limit| limit > 0);
        limit.unwrap_or(usize::MAX)
    }

    /// To be called after each look, without the state: cuts what is kept, if it is more than the limit asks for. Reads the
    /// values that the order goes by from `store`, which has to be there if [`needs_store`](Self::needs_store).
    pub fn digest(&mut self, store: Option<&dyn Read>) -> Result<(), Broken> {
        if self.is_by_value() {
            for picked in self.picked.iter_mut().skip(self.digested) {
                picked.pair(store)?;
            }
        }
        let kept_max = self.limit().saturating_mul(2).saturating_add(KEPT_SLACK);
        if !self.is_in_key_order() && self.picked.len() > kept_max {
            self.order();
        }
        self.digested = self.picked.len();
        if !self.is_read() {
            // Or the next look would have to, and with very many pairs for long.
            self.picked.reserve(limits::RANGE_PIECE_KEYS);
        }
        Ok(())
    }

    fn is_by_value(&self) -> bool {
        !self.is_in_key_order() && self.request.sort_target() == SortTarget::Value
    }

    /// Sorts what is kept and cuts it to the limit. Ties are in key order: what was kept from earlier looks stands first,
    /// and sorting is stable.
    pub fn order(&mut self) {
        let limit = self.limit();
        let order = effective_order(&self.request);
        match (order, self.request.sort_target()) {
            (SortOrder::None, _) => {
                self.picked.truncate(self.limit_left());
                return;
            }
            // Picked in key order: the last are the first. They are turned round at the end.
            (_, SortTarget::Key) => {
                let excess = self.picked.len().saturating_sub(limit);
                self.picked.drain(..excess);
                return;
            }
            (_, target) => self.picked.make_contiguous().sort_by(|a, b| {
                let ordering = match target {
                    SortTarget::Version => a.past.version.cmp(&b.past.version),
                    SortTarget::Create => a.past.create.cmp(&b.past.create),
                    SortTarget::Mod => a.past.main().cmp(&b.past.main()),
                    SortTarget::Value => a.value().cmp(b.value()),
                    SortTarget::Key => unreachable!("its own case"),
                };
                directed(order, ordering)
            }),
        }
        self.picked.truncate(limit);
    }

    /// All is read and ordered: turns round what is sorted by key, from the last to the first.
    pub fn close(&mut self) {
        self.order();
        if self.request.sort_target() == SortTarget::Key && !self.is_in_key_order() {
            self.picked.make_contiguous().reverse();
        }
    }

    /// Takes out up to `pairs` pairs, or `bytes` bytes: of a range in key order at any time, of others after
    /// [`close`](Self::close).
    pub fn take(
        &mut self,
        pairs: usize,
        bytes: usize,
        store: Option<&dyn Read>,
    ) -> Result<Vec<KeyValue>, Broken> {
        // Of the last pair that etcd's limit reads only its being there is wanted.
        let pairs = pairs.min(self.limit_left()).min(self.picked.len());
        let mut size = 0;
        let within = self.picked.iter().take(pairs).take_while(|picked| {
            let fits = size < bytes;
            size += picked.bytes();
            fits
        });
        let pairs = within.count();
        self.taken += pairs;
        let pair = |picked: Picked| {
            let mut kv = picked.into_pair(store)?;
            if self.request.keys_only {
                kv.value = Bytes::new();
            }
            Ok(kv)
        };
        self.picked.drain(..pairs).map(pair).collect()
    }

    /// The answer around `kvs`, which were taken out.
    pub fn answer(&self, kvs: Vec<KeyValue>) -> RangeResponse {
        RangeResponse {
            header: header(self.now),
            kvs,
            more: !self.request.count_only && self.matched > self.limit(),
            count: self.count as i64,
        }
    }

    /// Takes out what was picked as it was picked: for compares, which want no answer.
    pub fn take_picked(&mut self) -> VecDeque<Picked> {
        std::mem::take(&mut self.picked)
    }
}

impl State {
    /// A read of the local state, in one look. `Err(Broken)` if a record that must exist is missing or damaged.
    pub fn range(
        &self,
        request: &RangeRequest,
        store: &dyn Read,
    ) -> Result<Result<RangeResponse, Denied>, Broken> {
        match self.open_range(request) {
            Ok(cursor) => self.read_to_end(cursor, store).map(Ok),
            Err(denied) => Ok(Err(denied)),
        }
    }

    pub(super) fn read_to_end(&self, cursor: RangeCursor, store: &dyn Read) -> Result<RangeResponse, Broken> {
        let read = self.read_rest(cursor, store)?;
        let (cursor, kvs) = read.expect("nothing is compacted within a look");
        Ok(cursor.answer(kvs))
    }

    /// Reads all that is left, in one look; `None`: it is compacted.
    pub fn read_rest(
        &self,
        mut cursor: RangeCursor,
        store: &dyn Read,
    ) -> Result<Option<(RangeCursor, Vec<KeyValue>)>, Broken> {
        while !cursor.is_read() {
            if self.read_on(&mut cursor, Bounds::NONE).is_err() {
                return Ok(None);
            }
        }
        cursor.digest(Some(store))?;
        cursor.close();
        let kvs = cursor.take(usize::MAX, usize::MAX, Some(store))?;
        Ok(Some((cursor, kvs)))
    }

    /// A cursor for a range that a client asks for now.
    pub fn open_range(&self, request: &RangeRequest) -> Result<RangeCursor, Denied> {
        self.open_range_as_of(request, self.revision)
    }

    /// [`open_range`](Self::open_range), where `now` counts as the current revision.
    pub fn open_range_as_of(&self, request: &RangeRequest, now: Revision) -> Result<RangeCursor, Denied> {
        self.open_range_at(request, now, behind(now))
    }

    /// The same within a command, where everything before `before` is done.
    pub(super) fn open_range_at(
        &self,
        request: &RangeRequest,
        now: Revision,
        before: RevisionAt,
    ) -> Result<RangeCursor, Denied> {
        self.check_revision(request.revision, now)?;
        let limit = usize::try_from(request.limit).ok().filter(|&limit| limit > 0);
        // One more than the limit, as etcd: without an order it sorts what it has read, and only then cuts.
        let picks_left = match limit {
            _ if request.count_only => 0,
            Some(limit) if is_cut_in_key_order(request) => limit.saturating_add(1),
            _ => usize::MAX,
        };
        Ok(RangeCursor {
            before: match request.revision {
                ..=0 => before,
                revision => behind(revision),
            },
            now,
            next: Some(request.key.clone()),
            picks_left,
            count: 0,
            matched: 0,
            picked: VecDeque::new(),
            taken: 0,
            digested: 0,
            request: request.clone(),
        })
    }

    /// One look: picks the next pairs, and counts on once the limit is reached.
    pub fn read_on(&self, cursor: &mut RangeCursor, bounds: Bounds) -> Result<(), Overtaken> {
        if cursor.before.main.saturating_sub(1) < self.compact_revision {
            return Err(Overtaken);
        }
        let Some(from) = cursor.next.take() else {
            return Ok(());
        };
        let (request, before) = (&cursor.request, cursor.before);
        let (mut entries, mut pairs, mut bytes) = (0, 0, 0);
        // Behind the limit a filter goes on, and of what it lets pass only the number is wanted.
        let wanted = match cursor.is_in_key_order() {
            true => cursor.limit(),
            false => usize::MAX,
        };
        let mut stopped = None;
        self.visit_range(&from, &request.range_end, |entry| {
            let mut stop = || {
                stopped = Some(Bytes::copy_from_slice(&entry.key));
                false
            };
            if entries >= bounds.entries {
                return stop();
            }
            entries += 1;
            let Some(past) = entry.living(before) else {
                return true;
            };
            if pairs >= bounds.pairs || bytes >= bounds.bytes || cursor.picks_left == 0 {
                return stop();
            }
            cursor.count += 1;
            if passes(request, &past) {
                (cursor.matched, pairs) = (cursor.matched + 1, pairs + 1);
                cursor.picks_left -= 1;
                if cursor.matched <= wanted {
                    let picked = pick(request, entry, past);
                    bytes += picked.bytes();
                    cursor.picked.push_back(picked);
                }
            }
            true
        });
        cursor.next = stopped;
        if cursor.picks_left == 0
            && let Some(from) = cursor.next.take()
        {
            let effort_max = bounds.entries.saturating_sub(entries).max(1);
            let (count, rest) = self.count_some(&from, &request.range_end, before, effort_max);
            cursor.count += count;
            cursor.next = rest.map(Bytes::copy_from_slice);
        }
        Ok(())
    }

    /// Future, compacted, or fine.
    pub(super) fn check_revision(&self, revision: Revision, now: Revision) -> Result<(), Denied> {
        if revision > now {
            return Err(Denied::FutureRevision);
        }
        if revision > 0 && revision < self.compact_revision {
            return Err(Denied::Compacted);
        }
        Ok(())
    }

    pub(super) fn visit_range<'a>(
        &'a self,
        key: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&'a Entry) -> bool,
    ) {
        match RangeEnd::of(end) {
            RangeEnd::Single => {
                if let Some(entry) = self.index.get(key) {
                    visit(entry);
                }
            }
            RangeEnd::Open => self.index.visit(key, None, visit),
            RangeEnd::Before(end) if key < end => self.index.visit(key, Some(end), visit),
            RangeEnd::Before(_) => {}
        }
    }

    fn count_some(
        &self,
        key: &[u8],
        end: &[u8],
        before: RevisionAt,
        effort_max: usize,
    ) -> (usize, Option<&[u8]>) {
        match RangeEnd::of(end) {
            RangeEnd::Single => {
                let entry = self.index.get(key);
                let lives = entry.is_some_and(|entry| entry.living(before).is_some());
                (usize::from(lives), None)
            }
            RangeEnd::Open => self.index.count_some(key, None, before, effort_max),
            RangeEnd::Before(end) if key < end => self.index.count_some(key, Some(end), before, effort_max),
            RangeEnd::Before(_) => (0, None),
        }
    }

    /// The pair that a change made: from the cache, or from the store.
    pub(super) fn key_value(
        &self,
        entry: &Entry,
        past: KeyVersion,
        store: &dyn Read,
    ) -> Result<KeyValue, Broken> {
        Picked::new(entry, past).into_pair(Some(store))
    }
}

/// What a range wants of a pair.
fn pick(request: &RangeRequest, entry: &Entry, past: KeyVersion) -> Picked {
    // etcd 3.7 answers keys_only from its index alone, which knows no lease, unless it sorts by value.
    if request.keys_only && request.sort_target() != SortTarget::Value {
        let found = Found::Pair(without_value(entry, past));
        return Picked { past, found };
    }
    Picked::new(entry, past)
}

fn without_value(entry: &Entry, past: KeyVersion) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(&entry.key),
        create_revision: past.create,
        mod_revision: past.main(),
        version: past.version,
        ..KeyValue::default()
    }
}

/// Whether etcd lets the limit cut before it filters and sorts.
fn is_cut_in_key_order(request: &RangeRequest) -> bool {
    let unsorted = match request.sort_order() {
        SortOrder::None => true,
        SortOrder::Ascend => request.sort_target() == SortTarget::Key,
        SortOrder::Descend => false,
    };
    unsorted && !has_revision_filter(request)
}

/// With a target but no order etcd sorts ascending; in key order there is nothing left to do.
fn effective_order(request: &RangeRequest) -> SortOrder {
    match (request.sort_target(), request.sort_order()) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => SortOrder::None,
        (_, SortOrder::Descend) => SortOrder::Descend,
        (_, SortOrder::None | SortOrder::Ascend) => SortOrder::Ascend,
    }
}

fn passes(request: &RangeRequest, past: &KeyVersion) -> bool {
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    within(past.main(), request.min_mod_revision, request.max_mod_revision)
        && within(
            past.create,
            request.min_create_revision,
            request.max_create_revision,
        )
}

fn directed(order: SortOrder, ordering: Ordering) -> Ordering {
    match order {
        SortOrder::Descend => ordering.reverse(),
        SortOrder::None | SortOrder::Ascend => ordering,
    }
}
