//! Watches that are behind: history in bounded rounds, shared by the watches of a stream, fair among them.
//!
//! In each round the watch whose turn it is leads: history is read from where it stands, and every other watch
//! that stands within what is read takes its part of it. So watches that catch up over the same revisions
//! read them once, and none waits for more than the turns of the others (etcd starved slow
//! watches in issue 17529).

use std::sync::Arc;

use tonic::Status;

use super::feed::{Watcher, event_bytes};
use super::session::Session;
use crate::base::{Denied, Revision, limits};
use crate::proto::mvccpb::Event;
use crate::runtime::buggify::{self, Site};
use crate::server::status::status;

/// What one look at history gave.
struct Round {
    /// The first revision that was looked at, and the first that was not.
    from: Revision,
    to: Revision,
    /// The state's revision, and the compact revision, at that moment.
    current: Revision,
    compacted: Revision,
    revisions: Vec<(Revision, Vec<Event>)>,
}

impl<R> Session<R> {
    /// Reads history once, for up to [`limits::WATCH_CATCH_UP_WATCHES_MAX`] watches.
    pub(super) fn catch_up(&mut self) -> Result<(), Status> {
        let watches_max = buggify::limit(Site::WatchOneCatchesUp, limits::WATCH_CATCH_UP_WATCHES_MAX, 1);
        let count = self.behind.len().min(watches_max);
        let watchers: Vec<Arc<Watcher>> = self.behind.drain(..count).collect();
        let round = self.read_history(&watchers).map_err(status)?;
        let mut batches = Vec::new();
        let mut still_behind = Vec::new();
        for watcher in watchers {
            let next = watcher.next();
            if next < round.compacted {
                self.compacted(&watcher, round.compacted);
                continue;
            }
            if (round.from..=round.to).contains(&next) {
                let events = round.events_for(&watcher);
                if !events.is_empty() {
                    batches.push((watcher.clone(), round.current, events));
                }
                watcher.set_next(round.to);
            }
            still_behind.push(watcher);
        }
        self.send(batches);
        for watcher in still_behind {
            if watcher.next() <= round.current || !self.setup.hub.try_sync(&watcher) {
                self.behind.push_back(watcher);
            }
        }
        Ok(())
    }

    /// Looks at history from where the first watch stands that is not compacted.
    fn read_history(&self, watchers: &[Arc<Watcher>]) -> Result<Round, Denied> {
        let mut found = None;
        self.setup.source.look(&mut |state, store| {
            let (current, compacted) = (state.revision(), state.compact_revision());
            let alive = watchers
                .iter()
                .map(|watcher| watcher.next())
                .find(|&next| next >= compacted);
            let from = alive.unwrap_or(current + 1);
            let mut round = Round {
                from,
                to: from,
                current,
                compacted,
                revisions: Vec::new(),
            };
            if from <= current {
                let mut bytes = 0;
                let bytes_max =
                    buggify::limit(Site::WatchShortHistory, limits::WATCH_CATCH_UP_BYTES_MAX, 500);
                let read = state.history(
                    from,
                    limits::WATCH_CATCH_UP_REVISIONS_MAX,
                    store,
                    &mut |revision, events| {
                        bytes += events.iter().map(event_bytes).sum::<usize>();
                        round.revisions.push((revision, events));
                        bytes < bytes_max
                    },
                );
                match read? {
                    Ok(to) => round.to = to,
                    Err(denied) => {
                        unreachable!("{from} is not below {compacted}, yet history says {denied}")
                    }
                }
            }
            found = Some(round);
            Ok(())
        })?;
        Ok(found.expect("a source looks once"))
    }
}

impl Round {
    /// The events that a watch has not seen and wants.
    fn events_for(&self, watcher: &Watcher) -> Vec<Event> {
        let unseen = self
            .revisions
            .iter()
            .filter(|(revision, _)| *revision >= watcher.next());
        unseen
            .flat_map(|(_, events)| events)
            .filter(|event| watcher.wants(event))
            .cloned()
            .collect()
    }
}
