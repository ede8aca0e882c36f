//! Calls as etcd's Go client makes them: it sends some again by itself, and its user sees one call.
//!
//! ```text
//!   one operation: attempt at a member ─► DEADLINE_EXCEEDED, and there is time left ─► the next member
//!                                     ─► UNAVAILABLE, and the method is repeatable  ─► the next member
//!                                     ─► anything else: that is how the operation ended
//! ```
//!
//! The rule is clientv3's (3.7: `retry_interceptor.go`, `retry.go`, `options.go`), by which kube-apiserver works, too. It takes
//! `DEADLINE_EXCEEDED` for the end of a deadline of its own: a member may say it only of what it never handed to raft.

use std::error::Error;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::call::{attempt, unanswered};
use super::{ClientOptions, Connection, Desk};
use crate::history::{OpId, Outcome, Request};

/// Which client sends a call again, and when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// However it ends, it has ended: jetcd with its defaults, etcd-client.
    #[default]
    Never,
    Clientv3,
}

/// `defaultUnaryMaxRetries`.
const ATTEMPTS_MAX: usize = 100;
/// `defaultBackoffWaitBetween`, without its jitter: the pause when a quorum of members was tried.
const BACKOFF: Duration = Duration::from_millis(25);
/// All that is sent again of what may write more than once: there was no connection to send it over.
const NOTHING_SENT: [&str; 2] = [
    "there is no address available",
    "there is no connection available",
];
const LEARNER: &str = "etcdserver: rpc not supported for learner";

/// Whether clientv3 sends a call again that ended so, while its user still waits. `members`: of how many it knows.
pub fn clientv3_sends_again(request: &Request, status: &Status, members: usize) -> bool {
    if matches!(request, Request::LeaseKeepAlive(_)) {
        // A stream: what is lost of it is renewed by the next one.
        return false;
    }
    match code(status) {
        Code::DeadlineExceeded | Code::Cancelled => true,
        _ if status.message() == LEARNER => members > 1,
        Code::Unavailable => is_repeatable(request) || NOTHING_SENT.contains(&status.message()),
        _ => false,
    }
}

/// The methods that clientv3 calls `withRepeatablePolicy`: reads, and two that write.
fn is_repeatable(request: &Request) -> bool {
    matches!(
        request,
        Request::Range(_) | Request::LeaseGrant(_) | Request::LeaseRevoke(_) | Request::LeaseTimeToLive(_)
    )
}

/// grpc-go's code: what the library here makes up itself, because a connection broke, is `Unavailable` there.
fn code(status: &Status) -> Code {
    match status.source() {
        Some(_) => Code::Unavailable,
        None => status.code(),
    }
}

/// One operation, as many attempts as clientv3 makes, each at another member.
pub(super) async fn call_as_clientv3(
    desk: &Desk,
    options: &ClientOptions,
    (first, mut member): (&Connection, usize),
    id: OpId,
    request: &Request,
) -> Outcome {
    let (env, members) = (&desk.env, options.addresses.len());
    let deadline = env.now() + options.call_timeout;
    let mut connection = first.clone();
    // Of an attempt that may have had an effect: what is said of a later one then says little of the call.
    let mut open = None;
    for tried in 1..=ATTEMPTS_MAX {
        let left = deadline.saturating_since(env.now());
        let status = match attempt(env, &connection, request, left).await {
            None => break,
            Some(Ok(answer)) => return Outcome::Ok(answer),
            Some(Err(status)) => status,
        };
        let outcome = Outcome::from(status.clone());
        if tried == ATTEMPTS_MAX || !clientv3_sends_again(request, &status, members) {
            return open.unwrap_or(outcome);
        }
        if outcome.is_unknown() {
            open.get_or_insert(outcome);
        }
        if tried % (members / 2 + 1) == 0 {
            env.sleep(BACKOFF).await;
        }
        loop {
            member = (member + 1) % members;
            let (address, timeout) = (&options.addresses[member], options.connect_timeout);
            if let Some(next) = Connection::open_with(env, address, timeout, first.token()).await {
                connection = next;
                break;
            }
            if env.now() >= deadline {
                return unanswered(options.call_timeout);
            }
            env.sleep(BACKOFF).await;
        }
        desk.recorder.again(id, code(&status), member as u32);
    }
    unanswered(options.call_timeout)
}

#[cfg(test)]
mod tests {
    use quorate::proto::etcdserverpb as pb;

    use super::*;

    #[test]
    fn the_rule_is_clientv3s() {
        let put = Request::Put(pb::PutRequest::default());
        let range = Request::Range(pb::RangeRequest::default());
        let grant = Request::LeaseGrant(pb::LeaseGrantRequest::default());
        let late = Status::deadline_exceeded("context deadline exceeded");
        let timed_out = Status::unavailable("etcdserver: request timed out");
        let no_address = Status::unavailable("there is no address available");
        let learner = Status::failed_precondition(LEARNER);
        let compacted = Status::out_of_range("etcdserver: mvcc: required revision has been compacted");
        let broken = Status::from_error(std::io::Error::other("connection reset").into());
        for (request, status, again) in [
            (&put, &late, true),
            (&range, &late, true),
            (&put, &timed_out, false),
            (&range, &timed_out, true),
            (&grant, &timed_out, true),
            (&put, &no_address, true),
            (&put, &learner, true),
            (&range, &compacted, false),
            (&put, &broken, false),
            (&range, &broken, true),
        ] {
            assert_eq!(
                clientv3_sends_again(request, status, 3),
                again,
                "{request} {status}"
            );
        }
        assert!(!clientv3_sends_again(&put, &learner, 1));
    }
}
