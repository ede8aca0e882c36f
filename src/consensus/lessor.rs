//! Lease deadlines: the leader's clock, never the state's.
//!
//! The state knows which leases exist; when one ends is decided by the leader of the term alone, and becomes
//! true on all members when its revoke is applied. A new leader gives every lease its full TTL again, and an
//! election time-out more, since a client may have had its renewal confirmed by the old one just before. With
//! checkpoints the leader writes down, now and then, what is left of long leases, and a new one goes on from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::base::LeaseId;
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::{Env, Instant};

/// Expired leases that one scan hands out.
pub const EXPIRED_PER_SCAN_MAX: usize = 500;
/// When an expired lease is handed out again, if its revoke did not go through.
const RETRY: Duration = Duration::from_secs(3);
/// What is left of a lease is written down so often; etcd's intervals and batches.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
const CHECKPOINTS_PER_SCAN_MAX: usize = 1000;

#[derive(Default)]
struct Inner {
    /// Every lease that exists.
    terms: BTreeMap<LeaseId, Term>,
    /// Set while this member leads.
    deadlines: Option<BTreeMap<LeaseId, Deadline>>,
    /// When to look at each lease: at its deadline, and then whenever its revoke should be through.
    by_time: BTreeSet<(Instant, LeaseId)>,
    /// When to write down what is left of a lease; empty without checkpoints.
    checkpoints: BTreeSet<(Instant, LeaseId)>,
    /// Leases for which this leader has proposed a checkpoint: it may be applied at any time.
    proposed: BTreeSet<LeaseId>,
}

/// How long a lease is, in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Term {
    pub granted: i64,
    /// As of the last checkpoint; 0: none since it was renewed.
    pub remaining: i64,
}

impl Term {
    /// What a new leader gives.
    fn to_give(self) -> i64 {
        match self.remaining {
            0 => self.granted,
            remaining => remaining,
        }
    }
}

#[derive(Clone, Copy)]
struct Deadline {
    over: Instant,
    look: Instant,
    /// Its place in `checkpoints`.
    checkpoint: Option<Instant>,
}

/// See the module. Clones share the leases.
#[derive(Clone)]
pub struct Lessor {
    env: Env,
    takes_checkpoints: bool,
    inner: Arc<Mutex<Inner>>,
}

/// When what is left of a lease is written down next.
fn checkpoint_interval() -> Duration {
    if buggify(Site::LeaseCheckpointEarly) {
        return CHECKPOINT_INTERVAL / 300;
    }
    CHECKPOINT_INTERVAL
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

impl Inner {
    fn set(&mut self, id: LeaseId, deadline: Deadline) {
        let Some(deadlines) = &mut self.deadlines else {
            return;
        };
        if let Some(old) = deadlines.insert(id, deadline) {
            self.forget(id, old);
        }
        self.by_time.insert((deadline.look, id));
        self.checkpoints.extend(deadline.checkpoint.map(|at| (at, id)));
    }

    fn forget(&mut self, id: LeaseId, deadline: Deadline) {
        self.by_time.remove(&(deadline.look, id));
        if let Some(checkpoint) = deadline.checkpoint {
            self.checkpoints.remove(&(checkpoint, id));
        }
    }

    fn deadline(&self, id: LeaseId) -> Option<Deadline> {
        self.deadlines.as_ref()?.get(&id).copied()
    }
}

impl Lessor {
    pub fn new(env: Env, takes_checkpoints: bool) -> Self {
        Lessor {
            env,
            takes_checkpoints,
            inner: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no code that panics runs under this lock")
    }

    /// Runs a lease's time from now.
    fn start(&self, inner: &mut Inner, id: LeaseId, time: Duration) {
        let now = self.env.now();
        let over = now + time;
        let interval = checkpoint_interval();
        let checkpoint = self.takes_checkpoints && time > interval;
        let deadline = Deadline {
            over,
            look: over,
            checkpoint: checkpoint.then(|| now + interval),
        };
        inner.set(id, deadline);
    }

    /// A grant was applied.
    pub fn granted(&self, id: LeaseId, ttl: i64) {
        let term = Term {
            granted: ttl,
            remaining: 0,
        };
        let figures = &self.env.figures().leases;
        figures.granted.inc();
        figures.ttl.observe_number(u64::try_from(ttl).unwrap_or(0));
        let mut inner = self.lock();
        inner.terms.insert(id, term);
        self.start(&mut inner, id, seconds(ttl));
    }

    /// A checkpoint was applied.
    pub fn checkpointed(&self, id: LeaseId, remaining: i64) {
        let mut inner = self.lock();
        if let Some(term) = inner.terms.get_mut(&id) {
            term.remaining = remaining;
        }
        if remaining == 0 {
            inner.proposed.remove(&id);
        }
    }

    /// Whether there is a checkpoint, or one is under way, which the next renewal has to undo.
    pub fn has_checkpoint(&self, id: LeaseId) -> bool {
        let inner = self.lock();
        inner.proposed.contains(&id) || inner.terms.get(&id).is_some_and(|term| term.remaining > 0)
    }

    /// What is left, in seconds, of leases whose checkpoint is due.
    pub fn due_checkpoints(&self) -> Vec<(LeaseId, i64)> {
        let now = self.env.now();
        let mut inner = self.lock();
        let due = |&&(at, _): &&(Instant, LeaseId)| at <= now;
        let ids: Vec<_> = inner
            .checkpoints
            .iter()
            .take_while(due)
            .take(CHECKPOINTS_PER_SCAN_MAX)
            .map(|&(_, id)| id)
            .collect();
        let mut found = Vec::new();
        for id in ids {
            let Some(deadline) = inner.deadline(id) else {
                continue;
            };
            let left = deadline.over - now;
            let interval = checkpoint_interval();
            let checkpoint = (left > interval).then(|| now + interval);
            inner.set(
                id,
                Deadline {
                    checkpoint,
                    ..deadline
                },
            );
            if !left.is_zero() {
                let whole = left.as_nanos().div_ceil(1_000_000_000);
                found.push((id, i64::try_from(whole).unwrap_or(i64::MAX)));
                inner.proposed.insert(id);
            }
        }
        found
    }

    /// A revoke was applied.
    pub fn revoked(&self, id: LeaseId) {
        self.env.figures().leases.revoked.inc();
        let mut inner = self.lock();
        inner.terms.remove(&id);
        inner.proposed.remove(&id);
        if let Some(deadline) = inner
            .deadlines
            .as_mut()
            .and_then(|deadlines| deadlines.remove(&id))
        {
            inner.forget(id, deadline);
        }
    }

    /// The state was replaced; these are its leases.
    pub fn replaced(&self, terms: BTreeMap<LeaseId, Term>) {
        let leading = self.lock().deadlines.is_some();
        self.lock().terms = terms;
        if leading {
            self.promote(Duration::ZERO);
        }
    }

    /// This member leads from now on: every lease starts again, `extension` longer.
    pub fn promote(&self, extension: Duration) {
        let mut inner = self.lock();
        inner.deadlines = Some(BTreeMap::new());
        inner.by_time.clear();
        inner.checkpoints.clear();
        inner.proposed.clear();
        let leases: Vec<_> = inner
            .terms
            .iter()
            .map(|(&id, term)| (id, term.to_give()))
            .collect();
        for (id, ttl) in leases {
            self.start(&mut inner, id, extension + seconds(ttl));
        }
    }

    /// Whether this member leads, as far as leases go.
    pub fn leads(&self) -> bool {
        self.lock().deadlines.is_some()
    }

    /// This member does not lead any more.
    pub fn demote(&self) {
        let mut inner = self.lock();
        inner.deadlines = None;
        inner.by_time.clear();
        inner.checkpoints.clear();
    }

    /// Starts a lease's time again. `None`: not the leader. `Some(None)`: no such lease, or it is over.
    pub fn renew(&self, id: LeaseId) -> Option<Option<i64>> {
        let now = self.env.now();
        let mut inner = self.lock();
        inner.deadlines.as_ref()?;
        let alive = inner.deadline(id).is_some_and(|deadline| deadline.over > now);
        let Some(term) = inner.terms.get(&id).copied().filter(|_| alive) else {
            return Some(None);
        };
        self.start(&mut inner, id, seconds(term.granted));
        self.env.figures().leases.renewed.inc();
        Some(Some(term.granted))
    }

    /// Whole seconds left. `None`: not the leader. `Some(None)`: no such lease.
    pub fn remaining(&self, id: LeaseId) -> Option<Option<i64>> {
        let now = self.env.now();
        let inner = self.lock();
        inner.deadlines.as_ref()?;
        let left = |deadline: Deadline| i64::try_from((deadline.over - now).as_secs()).unwrap_or(i64::MAX);
        Some(inner.deadline(id).map(left))
    }

    /// Ids by remaining time (the leader), or by id.
    pub fn ids(&self) -> Vec<LeaseId> {
        let inner = self.lock();
        match inner.deadlines {
            Some(_) => inner.by_time.iter().map(|&(_, id)| id).collect(),
            None => inner.terms.keys().copied().collect(),
        }
    }

    /// Leases whose time is over; each is handed out again only after a while.
    pub fn expired(&self) -> Vec<LeaseId> {
        let now = self.env.now();
        let mut inner = self.lock();
        let over = |&&(deadline, _): &&(Instant, LeaseId)| deadline <= now;
        let ids: Vec<_> = inner
            .by_time
            .iter()
            .take_while(over)
            .take(EXPIRED_PER_SCAN_MAX)
            .map(|&(_, id)| id)
            .collect();
        for &id in &ids {
            if let Some(deadline) = inner.deadline(id) {
                let look = now + RETRY;
                inner.set(id, Deadline { look, ..deadline });
            }
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    /// Time jumps when everybody sleeps.
    async fn pass(time: i64) {
        crate::runtime::tokio::env().sleep(seconds(time)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_leader_goes_on_from_a_checkpoint_until_the_lease_is_renewed() {
        let env = crate::runtime::tokio::env();
        let [old, new] = [(); 2].map(|()| Lessor::new(env.clone(), true));
        for lessor in [&old, &new] {
            lessor.granted(1, HOUR);
            lessor.granted(2, 200);
        }
        old.promote(Duration::ZERO);
        pass(299).await;
        assert_eq!(old.due_checkpoints(), []);
        pass(1).await;
        // The short lease is over before anybody would write down what is left of it.
        assert_eq!(old.due_checkpoints(), [(1, HOUR - 300)]);
        // It may be applied behind a renewal that does not know of it.
        assert!(old.has_checkpoint(1) && !old.has_checkpoint(2));
        assert_eq!(old.due_checkpoints(), []);
        new.checkpointed(1, HOUR - 300);
        pass(300).await;
        assert_eq!(old.due_checkpoints(), [(1, HOUR - 600)]);
        new.promote(Duration::ZERO);
        assert_eq!(new.remaining(1), Some(Some(HOUR - 300)));
        assert!(new.has_checkpoint(1) && !new.has_checkpoint(2));
        new.checkpointed(1, 0);
        assert_eq!(new.renew(1), Some(Some(HOUR)));
        assert_eq!(new.remaining(1), Some(Some(HOUR)));
        new.revoked(1);
        pass(300).await;
        assert_eq!(new.due_checkpoints(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn without_checkpoints_none_is_due() {
        let lessor = Lessor::new(crate::runtime::tokio::env(), false);
        lessor.granted(1, HOUR);
        lessor.promote(Duration::ZERO);
        pass(2 * 300).await;
        assert_eq!(lessor.due_checkpoints(), []);
    }
}
