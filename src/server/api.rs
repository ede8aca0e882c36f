//! Everything that services share, and how they reach agreement.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::auth::{Caller, Jwt, Passwords};
use super::background::quota::{self, Allowance};
use super::background::raft_status_cache::RaftStatusCache;
use super::metrics::{Metrics, Sample};
use super::services::range;
use super::spans::Spans;
use super::watch::WatchHub;
use super::wire::streams::Streams;
use crate::base::metrics::{MemberMetrics, RequestKind};
use crate::base::{Denied, Revision, limits};
use crate::config::Config;
use crate::consensus::Consensus;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb as pb;
use crate::runtime::{Env, Instant};
use crate::state::{Answer, State, kind, validate};

/// Everything a request may use; one per server.
pub struct Api {
    /// Streams outlive the call that opens them, so they need a hold of their own.
    pub me: Weak<Api>,
    pub env: Env,
    pub options: Config,
    pub consensus: Consensus,
    pub hub: Arc<WatchHub>,
    pub metrics: Arc<Metrics>,
    pub standing: RaftStatusCache,
    pub streams: Arc<Streams>,
    pub allowance: Allowance,
    pub passwords: Passwords,
    /// Who reads on a copy of the state, has its only place.
    pub copying: tokio::sync::Semaphore,
    /// With `--auth-token=jwt`; else tokens are simple.
    pub jwt: Option<Jwt>,
    /// With `--enable-distributed-tracing`.
    pub spans: Option<Arc<Spans>>,
    pub stopping: AtomicBool,
}

/// A proposal, pending for as long as it lives; counted when it ends, also if its client gives up.
struct Proposal<'a> {
    api: &'a Api,
    kind: Option<RequestKind>,
    begun: Instant,
    end: End,
}

#[derive(PartialEq, Eq)]
enum End {
    /// It was applied, with whatever answer.
    Applied,
    /// There was no room for it, or no member to take it.
    NotMade,
    Failed,
}

impl<'a> Proposal<'a> {
    fn begin(api: &'a Api, request: &Request) -> Self {
        api.metrics.proposals_pending.inc();
        Proposal {
            api,
            kind: kind(request),
            begun: api.env.now(),
            end: End::Failed,
        }
    }
}

impl Drop for Proposal<'_> {
    fn drop(&mut self) {
        self.api.metrics.proposals_pending.dec();
        if self.end == End::Failed {
            self.api.metrics.proposals_failed.inc();
        }
        if let Some(kind) = self.kind.filter(|_| self.end != End::NotMade) {
            self.api.took(kind, self.begun, self.end == End::Applied);
        }
    }
}

/// An answer of the state that does not belong to its request: a defect, not the client's fault.
pub fn mismatch(answer: &Answer) -> ! {
    unreachable!("the state answers each request with its own kind, not {answer:?}")
}

impl Api {
    pub fn shared(&self) -> Arc<Api> {
        self.me.upgrade().expect("a call runs on an Api that is alive")
    }

    /// Replicates a command: its answer, and the revision after it.
    pub async fn propose(&self, caller: &Caller, request: Request) -> Result<(Answer, Revision), Denied> {
        caller.answer().room().await;
        let header = self.identify(caller).await?;
        if request.encoded_len() > self.options.max_request_bytes {
            return Err(Denied::RequestTooLarge);
        }
        validate::names(&request)?;
        let mut proposal = Proposal::begin(self, &request);
        let proposed = match header {
            Some(header) => self.consensus.propose_for(header, request).await,
            None => self.consensus.propose(request).await,
        };
        match proposed {
            Ok(mut outcome) => {
                proposal.end = End::Applied;
                range::complete(self, &mut outcome, caller).await?;
                outcome.answer.map(|answer| (answer, outcome.revision))
            }
            Err(denied) => {
                if denied == Denied::TooManyRequests || denied == Denied::Stopped {
                    proposal.end = End::NotMade;
                }
                Err(denied)
            }
        }
    }

    /// What is counted of this member below the server.
    pub fn member_metrics(&self) -> &MemberMetrics {
        self.env.metrics()
    }

    /// Counts a request that has its answer; how long that took.
    pub fn took(&self, kind: RequestKind, begun: Instant, success: bool) -> Duration {
        let took = self.env.now() - begun;
        self.member_metrics().requests.whole.observe(kind, success, took);
        took
    }

    /// A header with the revision that the caller knows to be right.
    pub fn header(&self, revision: Revision) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.consensus.cluster_id(),
            member_id: self.consensus.member_id(),
            revision,
            raft_term: self.standing.term(),
        }
    }

    /// A header with the current revision.
    pub fn header_now(&self) -> pb::ResponseHeader {
        self.header(self.hub.revision())
    }

    /// Adds to a header that carries a revision what only the server knows.
    pub fn complete(&self, header: &mut Option<pb::ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.header(if revision == 0 {
            self.hub.revision()
        } else {
            revision
        }));
    }

    /// etcd's limit on a gRPC message.
    pub fn message_bytes_max(&self) -> usize {
        self.options.max_request_bytes + limits::GRPC_OVERHEAD_BYTES
    }

    /// What `/metrics` shows of raft and the store.
    pub async fn sample(&self) -> Sample {
        let status = self.consensus.status();
        let mut sample = Sample {
            has_leader: status.leader.is_some(),
            is_leader: status.leader == Some(self.consensus.member_id()),
            is_learner: status.is_learner,
            committed: status.committed,
            applied: status.applied,
            quota_bytes: quota::effective(self.options.quota_bytes),
            member: self.consensus.member_id(),
            feature_gates: self.options.feature_gates.clone(),
            ..Sample::default()
        };
        let backlog = self.hub.backlog().await;
        (sample.slow_watchers, sample.pending_events) = (backlog.unsynced, backlog.pending);
        let look = move |state: &State| {
            sample.keys = i64::try_from(state.count_keys()).unwrap_or(i64::MAX);
            let (all, in_use) = state.logical_bytes();
            sample.db_bytes = i64::try_from(all).unwrap_or(i64::MAX);
            sample.db_bytes_in_use = i64::try_from(in_use).unwrap_or(i64::MAX);
            sample.revision = state.revision();
            sample.compact_revision = state.compact_revision();
            sample.cluster_version = state.cluster_version().map(str::to_owned);
            sample.auth_revision = state.auth().revision();
            let alarm = |alarm: &pb::AlarmMember| (alarm.member_id, alarm.alarm().as_str_name());
            sample.alarms = state.alarms().iter().map(alarm).collect();
            sample.members = state.members().iter().map(|member| member.id).collect();
            sample.removed_members = state.removed_members().collect();
            sample
        };
        self.consensus.read(look).await
    }
}
