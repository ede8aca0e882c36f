//! What is counted of commands that were applied.

use std::time::Duration;

use crate::base::Denied;
use crate::base::metrics::MemberMetrics;
use crate::consensus::lease::lessor::Lessor;
use crate::consensus::raft::format::entry::BatchName;
use crate::proto::command::command::Request;
use crate::runtime::{Env, Instant};
use crate::state::once::Turn;
use crate::state::{OpCounts, Outcome, kind};

/// Takes the time of each command of a batch: one look at the clock for each.
pub struct Stopwatch<'a> {
    env: &'a Env,
    last: Instant,
}

impl<'a> Stopwatch<'a> {
    pub fn start(env: &'a Env) -> Self {
        Stopwatch { env, last: env.now() }
    }

    /// Since the start or the last lap.
    pub fn lap(&mut self) -> Duration {
        let now = self.env.now();
        now - std::mem::replace(&mut self.last, now)
    }
}

/// A command took so long.
pub fn applied(metrics: &MemberMetrics, request: &Request, outcome: &Outcome, took: Duration) {
    if let Some(kind) = kind(request) {
        // For etcd it is no failure to be behind a compaction.
        let success = outcome
            .answer
            .as_ref()
            .err()
            .is_none_or(|reason| *reason == Denied::Compacted);
        metrics.requests.apply.observe(kind, success, took);
    }
    OpCounts::of_command(request, outcome).count(&metrics.store);
}

/// A command was left out, since it had its turn before. Nobody waits for it here or anywhere.
pub fn left_out(metrics: &MemberMetrics, turn: Turn, batch: BatchName, number: u64) {
    let origin = format!("{:x}", batch.origin);
    if turn == Turn::Again {
        metrics.agreement.duplicates.inc();
        tracing::error!(
            origin,
            number,
            "a command that was applied before is not applied again"
        );
    } else {
        tracing::warn!(
            origin,
            number,
            "a command that its member has given up is not applied"
        );
    }
}

/// What a compaction left was swept: so many records died of it.
pub fn swept(env: &Env, took: Duration, died: usize) {
    let metrics = &env.metrics().store;
    metrics.compaction.observe(took);
    metrics.compacted_records.add(died as u64);
    let now = env.wall_clock().as_secs();
    metrics
        .last_compaction
        .set(i64::try_from(now).unwrap_or(i64::MAX));
}

/// A learner was to be promoted: the leader counts that.
pub fn promoted(metrics: &MemberMetrics, lessor: &Lessor, outcome: &Outcome) {
    // The lessor knows whether this member leads.
    if !lessor.leads() {
        return;
    }
    match &outcome.answer {
        Ok(_) => metrics.agreement.promotions.inc(),
        Err(reason) => refused(metrics, *reason),
    }
}

/// A promotion was refused. The reasons are etcd's inner words, which are not always those that clients hear.
pub fn refused(metrics: &MemberMetrics, reason: Denied) {
    let reason = match reason {
        Denied::MemberNotFound => "membership: ID not found",
        Denied::MemberNotLearner => "membership: can only promote a learner member",
        other => other.text(),
    };
    metrics.agreement.refused_promotions.count(reason);
}
