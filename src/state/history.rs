//! The past, as watches need it: events from a revision on, and the pair that an event replaced.

use super::State;
use super::record::Record;
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Denied, Revision, RevisionAt};
use crate::proto::mvccpb::{Event, KeyValue};

impl State {
    /// Visits the revisions from `from` on (up to the current one) in order, each with all its events. Stops after
    /// `revisions_max` revisions, or when `visit` says so (`false`). Returns the revision to go on with.
    ///
    /// A compacted `from` is refused; the compact revision itself is still allowed.
    pub fn history(
        &self,
        from: Revision,
        revisions_max: i64,
        store: &dyn Read,
        visit: &mut dyn FnMut(Revision, Vec<Event>) -> bool,
    ) -> Result<Result<Revision, Denied>, Broken> {
        if from < self.compact_revision {
            return Ok(Err(Denied::COMPACTED));
        }
        let end = self
            .revision
            .min(from.saturating_add(revisions_max).saturating_sub(1));
        let mut current: Vec<Event> = Vec::new();
        let mut main = 0;
        let mut stopped_before = None;
        let mut damaged = None;
        let (first, last) = (
            RevisionAt::new(from, 0).to_bytes(),
            RevisionAt::new(end.saturating_add(1), 0).to_bytes(),
        );
        store.scan(Space::Records, &first, Some(&last), &mut |key, value| {
            let decoded = RevisionAt::from_bytes(key)
                .ok_or_else(|| Broken::new(format!("stored revision {key:?} is malformed")))
                .and_then(|at| Ok((at, Record::decode(at, value)?)));
            let (at, record) = match decoded {
                Ok(found) => found,
                Err(broken) => {
                    damaged = Some(broken);
                    return Visit::Stop;
                }
            };
            if at.main != main && !current.is_empty() && !visit(main, std::mem::take(&mut current)) {
                stopped_before = Some(at.main);
                return Visit::Stop;
            }
            main = at.main;
            current.push(record.into_event(at));
            Visit::Continue
        })?;
        if let Some(broken) = damaged {
            return Err(broken);
        }
        if let Some(next) = stopped_before {
            return Ok(Ok(next));
        }
        if !current.is_empty() {
            visit(main, current);
        }
        Ok(Ok(end.max(from - 1) + 1))
    }

    /// The pair of `key` just before `revision`; `None` if there was none, or if it is compacted.
    pub fn prev_kv(
        &self,
        key: &[u8],
        revision: Revision,
        store: &dyn Read,
    ) -> Result<Option<KeyValue>, Broken> {
        let before = revision - 1;
        if before < self.compact_revision {
            return Ok(None);
        }
        let Some(entry) = self.index.get(key) else {
            return Ok(None);
        };
        entry
            .living_at(before)
            .map(|past| self.key_value(entry, past, store))
            .transpose()
    }
}
