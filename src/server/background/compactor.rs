//! Automatic compaction, proposed by the leader: of what is older than a period, or of all but the last revisions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::base::{Denied, Revision};
use crate::config::AutoCompaction;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::runtime::Instant;
use crate::server::api::Api;
use crate::state::State;

/// A period is cut into so many samples of the revision.
const SAMPLES: u32 = 10;
/// Longest pause between two periodic compactions.
const INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// Pause between two looks in revision mode.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);

/// What to compact, from what the clock and the revision were.
enum Plan {
    Periodic(Periodic),
    Revision { retention: i64, compacted: Revision },
}

/// Revisions sampled at regular times, oldest first: the first is a period old once there are enough.
struct Periodic {
    period: Duration,
    pause: Duration,
    samples: VecDeque<Revision>,
    compacted: Revision,
    /// When the last compaction was made, or counting began.
    since: Instant,
    /// The first compaction comes after a period, the next ones more often.
    wait: Duration,
}

impl Periodic {
    fn new(period: Duration, now: Instant) -> Self {
        Periodic {
            period,
            pause: period.min(INTERVAL_MAX) / SAMPLES,
            samples: VecDeque::new(),
            compacted: 0,
            since: now,
            wait: period,
        }
    }

    fn sample(&mut self, revision: Revision) {
        self.samples.push_back(revision);
        let kept = self.period.as_nanos() / self.pause.as_nanos().max(1) + 1;
        if self.samples.len() as u128 > kept {
            self.samples.pop_front();
        }
    }

    fn due(&mut self, now: Instant) -> Option<Revision> {
        let revision = *self.samples.front()?;
        if now - self.since < self.wait || revision == self.compacted {
            return None;
        }
        self.wait = self.period.min(INTERVAL_MAX);
        Some(revision)
    }
}

impl Plan {
    fn new(mode: AutoCompaction, now: Instant) -> Self {
        match mode {
            AutoCompaction::Periodic(period) => Plan::Periodic(Periodic::new(period, now)),
            AutoCompaction::Revision(retention) => Plan::Revision {
                retention,
                compacted: 0,
            },
        }
    }

    fn pause(&self) -> Duration {
        match self {
            Plan::Periodic(periodic) => periodic.pause,
            Plan::Revision { .. } => REVISION_INTERVAL,
        }
    }

    fn sample(&mut self, revision: Revision) {
        if let Plan::Periodic(periodic) = self {
            periodic.sample(revision);
        }
    }

    fn due(&mut self, revision: Revision, now: Instant) -> Option<Revision> {
        match self {
            Plan::Periodic(periodic) => periodic.due(now),
            Plan::Revision { retention, compacted } => {
                let due = revision - *retention;
                (due > 0 && due != *compacted).then_some(due)
            }
        }
    }

    fn done(&mut self, revision: Revision, now: Instant) {
        match self {
            Plan::Periodic(periodic) => (periodic.compacted, periodic.since) = (revision, now),
            Plan::Revision { compacted, .. } => *compacted = revision,
        }
    }
}

/// Compacts for as long as the server runs; only while this member leads.
pub async fn run(api: Arc<Api>, mode: AutoCompaction) {
    let mut plan = Plan::new(mode, api.env.now());
    let revision = || api.consensus.read(State::revision);
    loop {
        plan.sample(revision().await);
        api.env.sleep(plan.pause()).await;
        if !api.leads() {
            continue;
        }
        let Some(due) = plan.due(revision().await, api.env.now()) else {
            continue;
        };
        tracing::info!(revision = due, ?mode, "starting auto compaction");
        let request = Request::Compaction(pb::CompactionRequest {
            revision: due,
            physical: false,
        });
        let outcome = api.consensus.propose(request).await;
        match outcome.and_then(|outcome| outcome.answer) {
            Ok(_) | Err(Denied::Compacted) => {
                tracing::info!(revision = due, "completed auto compaction");
                plan.done(due, api.env.now());
            }
            Err(error) => tracing::warn!(revision = due, %error, "failed auto compaction"),
        }
    }
}

#[cfg(test)]
mod tests;
