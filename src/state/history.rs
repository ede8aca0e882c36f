//! The past, as watches need it: events from a revision on, and the pair that an event replaced.

use super::record::Record;
use super::{Picked, State};
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Revision, RevisionAt, effort};
use crate::proto::mvccpb::Event;

/// Visits the revisions from `from` up to `end` in a store that has them, in order, each with all its events. Stops when `visit`
/// says so (`false`). Returns the revision to go on with.
pub fn history(
    store: &dyn Read,
    from: Revision,
    end: Revision,
    visit: &mut dyn FnMut(Revision, Vec<Event>) -> bool,
) -> Result<Revision, Broken> {
    let mut current: Vec<Event> = Vec::new();
    let mut main = 0;
    let mut stopped_before = None;
    let mut damaged = None;
    let (first, last) = (
        RevisionAt::new(from, 0).to_bytes(),
        RevisionAt::new(end.saturating_add(1), 0).to_bytes(),
    );
    store.scan(Space::Records, &first, Some(&last), &mut |key, value| {
        effort::spend(1);
        let decoded = RevisionAt::from_bytes(key)
            .ok_or_else(|| Broken::malformed(format!("stored revision {key:?}")))
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
        return Ok(next);
    }
    if !current.is_empty() {
        visit(main, current);
    }
    Ok(end.max(from - 1) + 1)
}

impl State {
    /// Picks the pair of `key` just before `revision`; `None` if there was none, or if it is compacted.
    pub fn pick_prev(&self, key: &[u8], revision: Revision) -> Option<Picked> {
        let before = revision - 1;
        if before < self.compact_revision {
            return None;
        }
        effort::spend(1);
        let entry = self.index.get(key)?;
        Some(Picked::new(entry, entry.living_at(before)?))
    }
}
