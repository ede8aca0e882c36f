//! What raft's log may forget: all that is in a snapshot but the last entries, which slow followers still get from the log.
//!
//! ```text
//!   purged ... | catch-up entries ... snapshot | ... last
//!                    ▲ moves on with each snapshot, but not past what a follower needs that is being sent one
//! ```
//!
//! While a follower receives a snapshot the others go on. Were the log purged meanwhile as always, then on a slow link, or with a
//! large store, what comes after the snapshot would be gone when it has arrived: the follower would get one snapshot
//! after the other and never be done (etcd's fate with too few `--snapshot-catchup-entries`; here seed 1522). So the log is held
//! from a snapshot on while it is sent, and then for as long as its receiver makes progress, up to a bound.

use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;

use crate::base::{MemberId, limits};
use crate::consensus::core::Core;
use crate::runtime::Instant;
use crate::runtime::buggify::{Site, buggify, pause};

/// Time between two looks at what may be purged.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A follower that needs what comes after a snapshot.
struct Hold {
    /// It has, or is about to have, everything up to here.
    index: u64,
    /// Snapshots that are under way to it.
    sending: u32,
    /// When it made progress last, or was still being sent a snapshot.
    moved: Instant,
}

/// Who needs the log; clones share it.
#[derive(Clone, Default)]
pub struct Holds(Rc<RefCell<BTreeMap<MemberId, Hold>>>);

/// A snapshot that is under way.
pub struct Sending {
    holds: Holds,
    follower: MemberId,
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(hold) = self.holds.inner().get_mut(&self.follower) {
            hold.sending -= 1;
        }
    }
}

impl Holds {
    fn inner(&self) -> RefMut<'_, BTreeMap<MemberId, Hold>> {
        self.0.borrow_mut()
    }

    /// A snapshot up to `index` goes out.
    pub fn sending(&self, follower: MemberId, index: u64, now: Instant) -> Sending {
        let mut holds = self.inner();
        let hold = holds.entry(follower).or_insert(Hold {
            index,
            sending: 0,
            moved: now,
        });
        // An older snapshot, which still trickles in, may be followed by this one.
        hold.index = hold.index.max(index);
        hold.sending += 1;
        hold.moved = now;
        Sending {
            holds: self.clone(),
            follower,
        }
    }

    /// The last index up to which nobody needs the log. `matched`: what a follower has; followers that have stood still for
    /// `patience` need nothing any more.
    fn end(&self, now: Instant, patience: Duration, matched: impl Fn(MemberId) -> u64) -> u64 {
        let mut holds = self.inner();
        holds.retain(|follower, hold| {
            let matched = matched(*follower);
            if matched > hold.index || hold.sending > 0 {
                hold.index = hold.index.max(matched);
                hold.moved = now;
            }
            now < hold.moved + patience
        });
        holds.values().map(|hold| hold.index).min().unwrap_or(u64::MAX)
    }
}

impl Core {
    /// In a simulation, what may happen at any time.
    async fn take_odd_turns(&self) {
        if buggify(Site::SnapshotEarly) {
            // Raft has stopped, or it will.
            let _ = self.raft().trigger().snapshot().await;
        }
        if buggify(Site::EngineSynced) {
            // Whoever needs the sync next learns of the damage.
            let _ = self.machine().sync().await;
        }
    }

    /// Purges what nobody needs.
    pub async fn run_purge(self) {
        let keep = self.options().snapshot_catchup_entries;
        let patience = 10 * self.options().election_timeout;
        loop {
            self.env().sleep(LOOK_EVERY).await;
            pause(self.env(), Site::PurgeLate, patience).await;
            let keep = if buggify(Site::PurgeEarly) { 0 } else { keep };
            self.take_odd_turns().await;
            let upto = {
                let metrics = self.raft().metrics();
                let metrics = metrics.borrow_watched();
                let snapshot = metrics.snapshot.as_ref().map_or(0, |last| last.index);
                let last = metrics.last_log_index.unwrap_or(0);
                let matched = |follower| {
                    let replication = metrics.replication.as_ref();
                    let matched = replication.and_then(|all| all.get(&follower)?.as_ref());
                    matched.map_or(0, |matched| matched.index)
                };
                let held = self.network().holds().end(self.env().now(), patience, matched);
                let bounded = held.max(last.saturating_sub(limits::LOG_HELD_ENTRIES_MAX));
                let upto = snapshot.saturating_sub(keep).min(bounded);
                let purged = metrics.purged.as_ref().map_or(0, |purged| purged.index);
                (upto > purged).then_some(upto)
            };
            if let Some(upto) = upto
                && self.raft().trigger().purge_log(upto).await.is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
