//! Lease deadlines: the leader's clock, never the state's.
//!
//! The state knows which leases exist; when one ends is decided by the leader of the term alone, and becomes
//! true on all members when its revoke is applied. A new leader gives every lease its full TTL again, and an
//! election time-out more, since a client may have had its renewal confirmed by the old one just before. With
//! checkpoints the leader writes down, now and then, what is left of long leases, and a new one goes on from there.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::renewals::Renewal;
use crate::base::LeaseId;
use crate::runtime::buggify::{Site, buggify};
use crate::runtime::{Env, Instant};

/// When an expired lease is handed out again, if its revoke did not go through.
const RETRY: Duration = Duration::from_secs(3);
/// What is left of a lease is written down so often; etcd's intervals and batches.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
const CHECKPOINTS_PER_SCAN_MAX: usize = 1000;

#[derive(Default)]
struct Inner {
    /// Every lease that exists.
    ttls: BTreeMap<LeaseId, Ttl>,
    /// Set while this member leads.
    deadlines: Option<BTreeMap<LeaseId, Deadline>>,
    /// The term that the deadlines are of. A member that has been deposed and elected again would else revoke by
    /// deadlines from before, when somebody else renewed leases.
    led_term: u64,
    /// When to look at each lease: at its deadline, and then whenever its revoke should be through.
    by_time: BTreeSet<(Instant, LeaseId)>,
    /// When to write down what is left of a lease; empty without checkpoints.
    checkpoints: BTreeSet<(Instant, LeaseId)>,
    /// Leases for which this leader has proposed a checkpoint: it may be applied at any time of the term.
    proposed: BTreeSet<LeaseId>,
    /// The same for revokes, of leases that are over.
    revoking: BTreeSet<LeaseId>,
}

/// How long a lease is, in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ttl {
    pub granted: i64,
    /// As of the last checkpoint; 0: none since it was renewed.
    pub remaining: i64,
}

impl Ttl {
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

/// See the module.
pub struct Lessor {
    env: Env,
    takes_checkpoints: bool,
    inner: RefCell<Inner>,
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

    fn leads_in(&self, term: u64) -> bool {
        self.deadlines.is_some() && self.led_term == term
    }

    /// Whether there is a checkpoint, or one is under way, which the next renewal has to undo.
    fn has_checkpoint(&self, id: LeaseId) -> bool {
        self.proposed.contains(&id) || self.ttls.get(&id).is_some_and(|ttl| ttl.remaining > 0)
    }

    fn is_over(&self, id: LeaseId, now: Instant) -> bool {
        self.deadline(id).is_none_or(|deadline| deadline.over <= now)
    }
}

impl Lessor {
    pub fn new(env: Env, takes_checkpoints: bool) -> Self {
        Lessor {
            env,
            takes_checkpoints,
            inner: RefCell::default(),
        }
    }

    fn inner(&self) -> RefMut<'_, Inner> {
        self.inner.borrow_mut()
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
    pub fn granted(&self, id: LeaseId, granted: i64) {
        let ttl = Ttl {
            granted,
            remaining: 0,
        };
        let metrics = &self.env.metrics().leases;
        metrics.granted.inc();
        metrics.ttl.observe_number(u64::try_from(granted).unwrap_or(0));
        let mut inner = self.inner();
        inner.ttls.insert(id, ttl);
        self.start(&mut inner, id, seconds(granted));
    }

    /// A checkpoint was applied.
    pub fn checkpointed(&self, id: LeaseId, remaining: i64) {
        let mut inner = self.inner();
        if let Some(ttl) = inner.ttls.get_mut(&id) {
            ttl.remaining = remaining;
        }
        if remaining == 0 {
            inner.proposed.remove(&id);
        }
    }

    /// What is left, in seconds, of leases whose checkpoint is due.
    pub fn due_checkpoints(&self, term: u64) -> Vec<(LeaseId, i64)> {
        let now = self.env.now();
        let mut inner = self.inner();
        if !inner.leads_in(term) {
            return Vec::new();
        }
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
        self.env.metrics().leases.revoked.inc();
        let mut inner = self.inner();
        inner.ttls.remove(&id);
        inner.proposed.remove(&id);
        inner.revoking.remove(&id);
        if let Some(deadline) = inner
            .deadlines
            .as_mut()
            .and_then(|deadlines| deadlines.remove(&id))
        {
            inner.forget(id, deadline);
        }
    }

    /// The state was replaced; these are its leases.
    pub fn replaced(&self, ttls: BTreeMap<LeaseId, Ttl>) {
        let mut inner = self.inner();
        inner.ttls = ttls;
        let led_term = inner.deadlines.is_some().then_some(inner.led_term);
        drop(inner);
        if let Some(term) = led_term {
            self.promote(term, Duration::ZERO);
        }
    }

    /// This member leads in `term` from now on: every lease starts again, `extension` longer. If it lost its quorum for a while and
    /// no other has led, what it proposed before is on its way still, and whatever is being revoked stays over.
    pub fn promote(&self, term: u64, extension: Duration) {
        let mut inner = self.inner();
        if inner.led_term != term {
            // What an earlier leader proposed is applied before this one confirms anything.
            inner.proposed.clear();
            inner.revoking.clear();
        }
        inner.led_term = term;
        inner.deadlines = Some(BTreeMap::new());
        inner.by_time.clear();
        inner.checkpoints.clear();
        let time = |(&id, ttl): (&LeaseId, &Ttl)| match inner.revoking.contains(&id) {
            true => (id, Duration::ZERO),
            false => (id, extension + seconds(ttl.to_give())),
        };
        let leases: Vec<_> = inner.ttls.iter().map(time).collect();
        for (id, time) in leases {
            self.start(&mut inner, id, time);
        }
    }

    /// Whether this member leads, as far as leases go.
    pub fn leads(&self) -> bool {
        self.inner().deadlines.is_some()
    }

    /// This member does not lead any more.
    pub fn demote(&self) {
        let mut inner = self.inner();
        inner.deadlines = None;
        inner.by_time.clear();
        inner.checkpoints.clear();
    }

    /// Starts the time of leases again. `None`: not the leader. `Err`: these have a checkpoint, which has to be
    /// undone before; nothing is renewed.
    pub fn renew(&self, ids: &[LeaseId]) -> Option<Result<Vec<Renewal>, Vec<LeaseId>>> {
        let now = self.env.now();
        let mut inner = self.inner();
        inner.deadlines.as_ref()?;
        let is_checkpointed = |id: &&LeaseId| !inner.is_over(**id, now) && inner.has_checkpoint(**id);
        let checkpointed: Vec<LeaseId> = ids.iter().filter(is_checkpointed).copied().collect();
        if !checkpointed.is_empty() {
            return Some(Err(checkpointed));
        }
        let renew = |&id: &LeaseId| {
            let Some(ttl) = inner.ttls.get(&id).copied() else {
                return Renewal::Unknown;
            };
            if inner.is_over(id, now) {
                return Renewal::Ending;
            }
            self.start(&mut inner, id, seconds(ttl.granted));
            self.env.metrics().leases.renewed.inc();
            Renewal::Renewed(ttl.granted)
        };
        Some(Ok(ids.iter().map(renew).collect()))
    }

    /// Whole seconds left. `None`: not the leader. `Some(None)`: no such lease.
    pub fn remaining(&self, id: LeaseId) -> Option<Option<i64>> {
        let now = self.env.now();
        let inner = self.inner();
        inner.deadlines.as_ref()?;
        let left = |deadline: Deadline| i64::try_from((deadline.over - now).as_secs()).unwrap_or(i64::MAX);
        Some(inner.deadline(id).map(left))
    }

    /// Ids by remaining time (the leader), or by id.
    pub fn ids(&self) -> Vec<LeaseId> {
        let inner = self.inner();
        match inner.deadlines {
            Some(_) => inner.by_time.iter().map(|&(_, id)| id).collect(),
            None => inner.ttls.keys().copied().collect(),
        }
    }

    /// Up to `max` leases whose time is over; each is handed out again only after a while.
    pub fn expired(&self, term: u64, max: usize) -> Vec<LeaseId> {
        let now = self.env.now();
        let mut inner = self.inner();
        if !inner.leads_in(term) {
            return Vec::new();
        }
        let over = |&&(deadline, _): &&(Instant, LeaseId)| deadline <= now;
        let ids: Vec<_> = inner
            .by_time
            .iter()
            .take_while(over)
            .take(max)
            .map(|&(_, id)| id)
            .collect();
        for &id in &ids {
            if let Some(deadline) = inner.deadline(id) {
                let look = now + RETRY;
                inner.set(id, Deadline { look, ..deadline });
            }
        }
        inner.revoking.extend(&ids);
        ids
    }
}

#[cfg(test)]
mod tests;
