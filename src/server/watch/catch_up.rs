//! Unsynced watches: history in bounded rounds, shared by the watches of a stream, fair among them.
//!
//! In each round the watch whose turn it is leads: history is read from where it stands, and every other watch
//! that stands within what is read takes its part of it. So watches that catch up over the same revisions
//! read them once, and none waits for more than the turns of the others (etcd starved slow
//! watches in issue 17529).
//!
//! A round is one response for each watch, of as many revisions as etcd's, so it can be large. It is read piece by piece, others
//! are served in between, and the state is not looked at but at its beginning: what follows comes from the store as it was then.
//! All rounds of a member share a budget of memory; while it is used up, rounds are as small as a piece.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use tonic::Status;

use super::Source;
use super::feed::{Command, Filter, event_bytes};
use super::session::Session;
use crate::base::{Broken, Revision, limits};
use crate::proto::mvccpb::Event;
use crate::runtime::BoxFuture;
use crate::runtime::buggify::{self, Site};
use crate::server::wire::status::status;
use crate::state::{SharedStore, State, history};

/// Bytes that rounds hold, of all streams.
#[derive(Default)]
pub(super) struct Budget(AtomicUsize);

/// What one round holds of the budget.
pub(super) struct Reserved {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub fn reserve(budget: &Arc<Budget>) -> Reserved {
        let budget = budget.clone();
        Reserved { budget, bytes: 0 }
    }
}

impl Reserved {
    /// Takes what was read, which is there already; whether there is room for more.
    fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.budget.0.fetch_add(bytes, Relaxed) + bytes < limits::WATCH_CATCH_UP_TOTAL_BYTES_MAX
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.0.fetch_sub(self.bytes, Relaxed);
    }
}

/// What is done for the watches whose turn it is.
pub(super) enum Catching {
    /// The state is asked where it stands.
    Begins(BoxFuture<'static, Round>),
    Reads(Round),
}

/// A part of history that is being read.
pub(super) struct Round {
    /// The first revision that is looked at, and the first that was not.
    from: Revision,
    to: Revision,
    /// The last that is read in this round.
    end: Revision,
    bytes_left: usize,
    /// The state's revision, its compact revision, and its store at the beginning.
    current: Revision,
    compacted: Revision,
    store: SharedStore,
    /// By their numbers.
    watches: Vec<u64>,
    revisions: Vec<(Revision, Vec<Event>)>,
    reserved: Reserved,
}

impl<R, S: Source> Session<R, S> {
    /// Whether a watch reads history.
    pub(super) fn has_unsynced(&self) -> bool {
        self.catching.is_some() || !self.unsynced.is_empty()
    }

    /// Reads a piece of history, for up to [`limits::WATCH_CATCH_UP_WATCHES_MAX`] watches. Pending if nothing is to be read, or
    /// not yet.
    pub(super) fn catch_up(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        if !self.has_unsynced() {
            return Poll::Pending;
        }
        let mut round = match self.catching.take() {
            Some(Catching::Reads(round)) => round,
            Some(Catching::Begins(begins)) => ready!(self.begin(begins, cx)),
            None => {
                let watches_max =
                    buggify::limit(Site::WatchOneCatchesUp, limits::WATCH_CATCH_UP_WATCHES_MAX, 1);
                let count = self.unsynced.len().min(watches_max);
                let watches: Vec<u64> = self.unsynced.drain(..count).collect();
                let next = |number: &u64| Some((*number, self.watch(*number)?.next));
                let watches = watches.iter().filter_map(next).collect();
                let reserved = Budget::reserve(&self.setup.hub.catching_up);
                let begins = Round::begin(self.setup.source.clone(), watches, reserved);
                ready!(self.begin(Box::pin(begins), cx))
            }
        };
        let more = round.read_piece();
        if more.map_err(|broken| status(self.setup.source.damaged(broken)))? {
            self.catching = Some(Catching::Reads(round));
        } else {
            self.end_round(round);
        }
        Poll::Ready(Ok(()))
    }

    fn begin(&mut self, mut begins: BoxFuture<'static, Round>, cx: &mut Context<'_>) -> Poll<Round> {
        let begun = begins.as_mut().poll(cx);
        if begun.is_pending() {
            self.catching = Some(Catching::Begins(begins));
        }
        begun
    }

    /// Makes the responses of a round.
    fn end_round(&mut self, mut round: Round) {
        let mut batches = Vec::new();
        for number in std::mem::take(&mut round.watches) {
            // It may have been canceled while history was read.
            let Some(watch) = self.watch(number) else { continue };
            if watch.next < round.compacted {
                self.compacted(number, round.compacted);
                continue;
            }
            if (round.from..=round.to).contains(&watch.next) {
                let events = round.events_for(&watch.filter, watch.next);
                if !events.is_empty() {
                    batches.push((watch.target, round.current, events));
                }
                watch.next = round.to;
            }
            let next = watch.next;
            match next <= round.current {
                true => self.unsynced.push_back(number),
                false => self.commands.push_back(Command::Sync { number, next }),
            }
        }
        self.send(batches);
        self.reserved = Some(round.reserved);
    }
}

impl Round {
    /// Looks where the first watch stands that is not compacted.
    async fn begin<S: Source>(source: S, watches: Vec<(u64, Revision)>, reserved: Reserved) -> Round {
        let look = |state: &State, store: &dyn Fn() -> SharedStore| {
            (state.revision(), state.compact_revision(), store())
        };
        let (current, compacted, store) = source.look(look).await;
        let mut wanted = watches.iter().map(|(_, next)| *next);
        let alive = wanted.find(|&next| next >= compacted);
        let from = alive.unwrap_or(current + 1);
        Round {
            from,
            to: from,
            end: current.min(from.saturating_add(limits::WATCH_CATCH_UP_REVISIONS_MAX - 1)),
            bytes_left: buggify::limit(Site::WatchShortHistory, limits::WATCH_CATCH_UP_BYTES_MAX, 500),
            current,
            compacted,
            store,
            watches: watches.into_iter().map(|(number, _)| number).collect(),
            revisions: Vec::new(),
            reserved,
        }
    }

    /// Reads on; whether there is more to read in this round.
    fn read_piece(&mut self) -> Result<bool, Broken> {
        if self.to > self.end {
            return Ok(false);
        }
        let (mut bytes, bytes_max) = (0, self.bytes_left.min(limits::WATCH_CATCH_UP_PIECE_BYTES));
        let revisions = &mut self.revisions;
        self.to = history(&*self.store, self.to, self.end, &mut |revision, events| {
            bytes += events.iter().map(event_bytes).sum::<usize>();
            revisions.push((revision, events));
            bytes < bytes_max
        })?;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        let room = self.reserved.take(bytes);
        Ok(room && self.bytes_left > 0 && self.to <= self.end)
    }

    /// The events that a watch has not seen and wants.
    fn events_for(&self, filter: &Filter, next: Revision) -> Vec<Event> {
        let unseen = self.revisions.iter().filter(|(revision, _)| *revision >= next);
        unseen
            .flat_map(|(_, events)| events)
            .filter(|event| filter.wants(event))
            .cloned()
            .collect()
    }
}
