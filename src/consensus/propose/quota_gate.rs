//! The quota where all writes meet: the leader appends a batch only if it fits beside what is under way.
//!
//! A member's front knows the size of what was applied, and nothing of what the other members have under way; so several members
//! together would go beyond the quota by all of that. The leader knows. It refuses a batch that does not fit, by its own quota;
//! the batch is surely not appended, so who proposed it hears that there is no space. The alarm is the leader's: it is its
//! quota that is used up.
//!
//! Far from the quota nothing is added up. A new leader does not know what earlier ones had under way: a few batches at most.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::command;
use crate::base::limits;
use crate::consensus::raft::format::entry::{Batch, BatchName};
use crate::runtime::signal;
use crate::state::space::cost;

/// See the module.
pub struct QuotaGate {
    /// `None`: no bound.
    quota: Option<u64>,
    /// Bytes of what was applied.
    used: Cell<u64>,
    /// Appended by this member and not applied yet: the term, and what they add.
    under_way: RefCell<BTreeMap<BatchName, (u64, u64)>>,
    /// How many batches did not fit.
    pub refusals: signal::Sender<u64>,
}

impl QuotaGate {
    pub fn new(quota: Option<u64>, used: u64) -> QuotaGate {
        QuotaGate {
            quota,
            used: Cell::new(used),
            under_way: RefCell::default(),
            refusals: signal::channel(0).0,
        }
    }

    /// Whether a batch fits, which is about to be appended in `term` and counts as under way from now on.
    pub fn admit(&self, batch: &Batch, term: u64) -> bool {
        let Some(quota) = self.quota else { return true };
        let used = self.used.get();
        if used + limits::QUOTA_NEAR_BYTES < quota {
            return true;
        }
        let costs = batch.commands().map(|(_, encoded)| {
            // What cannot be decoded is refused elsewhere.
            command::decode(&encoded).map_or(0, |(_, request)| cost(&request))
        });
        let added: u64 = costs.sum();
        if added == 0 {
            return true;
        }
        let mut under_way = self.under_way.borrow_mut();
        let waiting: u64 = under_way.values().map(|(_, added)| added).sum();
        let fits = used + waiting + added < quota;
        if fits {
            under_way.insert(batch.name(), (term, added));
        }
        drop(under_way);
        if !fits {
            self.refusals.send_if_modified(|count| {
                *count += 1;
                true
            });
        }
        fits
    }

    /// A batch was not appended after all, or is applied.
    pub fn settled(&self, batch: BatchName) {
        self.under_way.borrow_mut().remove(&batch);
    }

    /// What was applied takes so many bytes.
    pub fn resized(&self, used: u64) {
        self.used.set(used);
    }

    /// Entries of `term` are applied, up to a size of `used` bytes: what was under way in earlier terms is not any more.
    pub fn applied(&self, term: u64, used: u64, batches: impl Iterator<Item = BatchName>) {
        self.resized(used);
        let mut under_way = self.under_way.borrow_mut();
        for batch in batches {
            under_way.remove(&batch);
        }
        if under_way.first_key_value().is_some() {
            under_way.retain(|_, (appended, _)| *appended >= term);
        }
    }
}

#[cfg(test)]
mod tests;
