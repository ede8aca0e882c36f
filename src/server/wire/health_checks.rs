//! Health: what `/health`, `/livez` and `/readyz` look at, and how they say it.
//!
//! ```text
//!   /livez   serializable_read
//!   /readyz  data_corruption, serializable_read, linearizable_read, non_learner
//!   /health  alarms, leader, linearizable read: one JSON object
//! ```
//!
//! Orchestrators restart members by these answers, so names, texts and status codes are etcd's.

use std::fmt::Write;
use std::pin::pin;

use futures_util::future::{Either, select};

use crate::base::Denied;
use crate::proto::etcdserverpb::{AlarmType, RangeRequest};
use crate::server::api::Api;
use crate::server::auth::Caller;
use crate::state::State;

/// One look at one aspect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    pub const LIVE: &[Check] = &[Check::SerializableRead];
    pub const READY: &[Check] = &[
        Check::DataCorruption,
        Check::SerializableRead,
        Check::LinearizableRead,
        Check::NonLearner,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }
}

impl Api {
    async fn check(&self, check: Check) -> Result<(), String> {
        match check {
            Check::DataCorruption => {
                let alarms = self.consensus.read(State::alarms).await;
                let corrupt = alarms.iter().any(|alarm| alarm.alarm() == AlarmType::Corrupt);
                if corrupt {
                    Err("alarm activated: CORRUPT".into())
                } else {
                    Ok(())
                }
            }
            Check::SerializableRead => self.probe(true).await.map_err(error_text),
            Check::LinearizableRead => self.probe(false).await.map_err(error_text),
            Check::NonLearner if self.consensus.is_learner() => Err("not supported for learner".into()),
            Check::NonLearner => Ok(()),
        }
    }

    /// Reads one key, as a client would.
    async fn probe(&self, serializable: bool) -> Result<(), Denied> {
        let request = RangeRequest {
            key: "a".into(),
            limit: 1,
            serializable,
            ..RangeRequest::default()
        };
        let range = self.range(request, Caller::Member);
        let probed = self.env.timeout(self.consensus.request_timeout(), range).await;
        probed.unwrap_or(Err(Denied::ContextDeadlineExceeded)).map(drop)
    }

    /// Runs `checks` without the `excluded` for "livez" or "readyz": whether all passed, and the text.
    pub async fn run_checks(
        &self,
        endpoint: &str,
        checks: &[Check],
        excluded: &[String],
        verbose: bool,
    ) -> (bool, String) {
        let (mut passed, mut text) = (true, String::new());
        for &check in checks {
            let name = check.name();
            if excluded.iter().any(|excluded| excluded == name) {
                continue;
            }
            let result = self.check(check).await;
            self.metrics.checked(endpoint, check, result.is_ok());
            // Writing to memory cannot fail.
            let _ = match result {
                Ok(()) => writeln!(text, "[+]{name} ok"),
                Err(reason) => {
                    passed = false;
                    tracing::warn!(check = name, reason, "health check failed");
                    writeln!(text, "[-]{name} failed: {reason}")
                }
            };
        }
        if passed && !verbose {
            text.clear();
        }
        if passed {
            text.push_str("ok\n");
        }
        (passed, text)
    }

    /// `/health`: the reason why not, empty if healthy.
    pub async fn health(&self, excluded_alarms: &[String], serializable: bool) -> Result<(), String> {
        let alarms = self.consensus.read(State::alarms).await;
        for alarm in alarms {
            let name = match AlarmType::try_from(alarm.alarm) {
                Ok(AlarmType::Nospace) => "NOSPACE",
                Ok(AlarmType::Corrupt) => "CORRUPT",
                _ => "UNKNOWN",
            };
            if !excluded_alarms.iter().any(|excluded| excluded == name) {
                return Err(format!("ALARM {name}"));
            }
        }
        let probe = async {
            let probed = self.probe(serializable).await;
            probed.map_err(|denied| format!("RANGE ERROR:{denied}"))
        };
        if serializable {
            return probe.await;
        }
        // Not only at the beginning: a read that waits for a leader would outlast the patience of who asks.
        let mut status = self.consensus.status_signal();
        let lost = status.wait_until(|status| status.leader.is_none());
        match select(pin!(lost), pin!(probe)).await {
            Either::Left(_) => Err("RAFT NO LEADER".into()),
            Either::Right((probed, _)) => probed,
        }
    }
}

fn error_text(denied: Denied) -> String {
    format!("range error: {denied}")
}
