//! Lease deadlines: the leader's clock, never the state's.
//!
//! The state knows which leases exist; when one ends is decided by the leader of the term alone, and becomes
//! true on all members when its revoke is applied. A new leader gives every lease its full TTL again, and an
//! election time-out more, since a client may have had its renewal confirmed by the old one just before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::base::LeaseId;
use crate::runtime::{Env, Instant};

/// Expired leases that one scan hands out.
pub const EXPIRED_PER_SCAN_MAX: usize = 500;
/// When an expired lease is handed out again, if its revoke did not go through.
const RETRY: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Inner {
    /// Seconds granted, for every lease that exists.
    ttls: BTreeMap<LeaseId, i64>,
    /// Set while this member leads.
    deadlines: Option<BTreeMap<LeaseId, Deadline>>,
    /// When to look at each lease: at its deadline, and then whenever its revoke should be through.
    by_time: BTreeSet<(Instant, LeaseId)>,
}

#[derive(Clone, Copy)]
struct Deadline {
    over: Instant,
    look: Instant,
}

/// See the module. Clones share the leases.
#[derive(Clone)]
pub struct Lessor {
    env: Env,
    inner: Arc<Mutex<Inner>>,
}

fn seconds(ttl: i64) -> Duration {
    Duration::from_secs(u64::try_from(ttl).unwrap_or(0))
}

impl Inner {
    fn set(&mut self, id: LeaseId, over: Instant, look: Instant) {
        let Some(deadlines) = &mut self.deadlines else {
            return;
        };
        if let Some(old) = deadlines.insert(id, Deadline { over, look }) {
            self.by_time.remove(&(old.look, id));
        }
        self.by_time.insert((look, id));
    }

    fn start(&mut self, id: LeaseId, over: Instant) {
        self.set(id, over, over);
    }

    fn deadline(&self, id: LeaseId) -> Option<Deadline> {
        self.deadlines.as_ref()?.get(&id).copied()
    }
}

impl Lessor {
    pub fn new(env: Env) -> Self {
        Lessor {
            env,
            inner: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner
            .lock()
            .expect("no code that panics runs under this lock")
    }

    /// A grant was applied.
    pub fn granted(&self, id: LeaseId, ttl: i64) {
        let deadline = self.env.now() + seconds(ttl);
        let mut inner = self.lock();
        inner.ttls.insert(id, ttl);
        inner.start(id, deadline);
    }

    /// A revoke was applied.
    pub fn revoked(&self, id: LeaseId) {
        let mut inner = self.lock();
        inner.ttls.remove(&id);
        if let Some(deadline) = inner
            .deadlines
            .as_mut()
            .and_then(|deadlines| deadlines.remove(&id))
        {
            inner.by_time.remove(&(deadline.look, id));
        }
    }

    /// The state was replaced; these are its leases.
    pub fn replaced(&self, ttls: BTreeMap<LeaseId, i64>) {
        let leading = self.lock().deadlines.is_some();
        self.lock().ttls = ttls;
        if leading {
            self.promote(Duration::ZERO);
        }
    }

    /// This member leads from now on: every lease starts again, `extension` longer.
    pub fn promote(&self, extension: Duration) {
        let now = self.env.now();
        let mut inner = self.lock();
        inner.deadlines = Some(BTreeMap::new());
        inner.by_time.clear();
        let leases: Vec<_> = inner.ttls.iter().map(|(&id, &ttl)| (id, ttl)).collect();
        for (id, ttl) in leases {
            inner.start(id, now + extension + seconds(ttl));
        }
    }

    /// This member does not lead any more.
    pub fn demote(&self) {
        let mut inner = self.lock();
        inner.deadlines = None;
        inner.by_time.clear();
    }

    /// Starts a lease's time again. `None`: not the leader. `Some(None)`: no such lease, or it is over.
    pub fn renew(&self, id: LeaseId) -> Option<Option<i64>> {
        let now = self.env.now();
        let mut inner = self.lock();
        inner.deadlines.as_ref()?;
        let alive = inner.deadline(id).is_some_and(|deadline| deadline.over > now);
        let Some(ttl) = inner.ttls.get(&id).copied().filter(|_| alive) else {
            return Some(None);
        };
        inner.start(id, now + seconds(ttl));
        Some(Some(ttl))
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
            None => inner.ttls.keys().copied().collect(),
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
                inner.set(id, deadline.over, now + RETRY);
            }
        }
        ids
    }
}
