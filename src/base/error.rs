//! Three kinds of error, because a caller can do three things.
//!
//! * [`Denied`]: the request is at fault or cannot be served; etcd's text and code go to the client.
//! * *unavailable*: try again; it says whether the write may have happened. Part of [`Denied`], since
//!   it travels to the client in the same way (gRPC `Unavailable` and `DeadlineExceeded`).
//! * [`Broken`](super::Broken): durability or an invariant is lost. The process stops with this context; it never
//!   serves on. See [`broken`](super::broken).

/// gRPC status codes that etcd sends. The numbers are the wire's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub enum Code {
    Canceled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

/// A refusal that reaches the client: etcd's code and, byte for byte, etcd's text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Denied {
    pub code: Code,
    pub text: &'static str,
}

impl Denied {
    /// Whether a write that ends so may have been carried out, or may be later: the client then does not know. If not,
    /// it never is. docs/write-errors.md says what clients make of each.
    pub fn may_have_happened(&self) -> bool {
        // What locks and elections pass on has etcd's code for that, `Unknown`: the text tells what it was.
        let same_text = |denied: &&Denied| denied.text == self.text;
        let denied = Denied::ALL.iter().find(same_text).unwrap_or(self);
        match denied.code {
            // Refused before anything is proposed.
            Code::Unavailable => ![Denied::NO_LEADER, Denied::UNHEALTHY].contains(denied),
            // Never handed to raft: what may have been ends with `TIMEOUT…`.
            Code::DeadlineExceeded => false,
            Code::Canceled => true,
            Code::Internal => *denied != Denied::UNREADABLE_COMMAND,
            // A lock's key was written before the wait for its turn; a transaction was applied before its answer was made.
            _ => [
                Denied::LOST_WATCHER,
                Denied::MUTEX_SESSION_EXPIRED,
                Denied::ANSWER_CUT,
                Denied::ANSWER_LOST,
            ]
            .contains(denied),
        }
    }
}

/// One table of every refusal, so that each text exists once.
macro_rules! denials {
    ($($name:ident = $code:ident $text:literal;)*) => {
        impl Denied {
            $(pub const $name: Denied = Denied { code: Code::$code, text: $text };)*

            /// Every refusal there is.
            pub const ALL: &'static [Denied] = &[$(Denied::$name),*];
        }
    };
}

denials! {
    EMPTY_KEY = InvalidArgument "etcdserver: key is not provided";
    KEY_NOT_FOUND = InvalidArgument "etcdserver: key not found";
    VALUE_PROVIDED = InvalidArgument "etcdserver: value is provided";
    LEASE_PROVIDED = InvalidArgument "etcdserver: lease is provided";
    // No member could apply it. etcd would panic.
    UNREADABLE_COMMAND = Internal "etcdserver: request cannot be applied";
    NAME_TOO_LONG = InvalidArgument "etcdserver: name is too long";
    TOO_MANY_OPS = InvalidArgument "etcdserver: too many operations in txn request";
    DUPLICATE_KEY = InvalidArgument "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION = InvalidArgument "etcdserver: invalid client api version";
    INVALID_SORT_OPTION = InvalidArgument "etcdserver: invalid sort option";
    COMPACTED = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE = ResourceExhausted "etcdserver: mvcc: database space exceeded";
    LEASE_NOT_FOUND = NotFound "etcdserver: requested lease not found";
    LEASE_EXISTS = FailedPrecondition "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE = OutOfRange "etcdserver: too large lease TTL";
    REQUEST_TOO_LARGE = InvalidArgument "etcdserver: request is too large";
    TOO_MANY_REQUESTS = Unknown "etcdserver: too many requests";
    MEMBER_NOT_FOUND = NotFound "etcdserver: member not found";
    MEMBER_EXISTS = FailedPrecondition "etcdserver: member ID already exist";
    PEER_URL_EXISTS = FailedPrecondition "etcdserver: Peer URLs already exists";
    // etcd means FailedPrecondition, and sends this.
    NOT_ENOUGH_STARTED = Unknown "etcdserver: re-configuration failed due to not enough started members";
    MEMBER_BAD_URLS = InvalidArgument "etcdserver: given member URLs are invalid";
    MEMBER_NOT_LEARNER = FailedPrecondition "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY = FailedPrecondition
        "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS = FailedPrecondition "etcdserver: too many learner members in cluster";
    UNHEALTHY = Unavailable "etcdserver: unhealthy cluster";
    WRONG_DOWNGRADE_VERSION_FORMAT = InvalidArgument "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET = InvalidArgument "etcdserver: invalid downgrade target version";
    CLUSTER_VERSION_UNAVAILABLE = FailedPrecondition
        "etcdserver: cluster version not found during downgrade";
    DOWNGRADE_IN_PROCESS = FailedPrecondition "etcdserver: cluster has a downgrade job in progress";
    NO_INFLIGHT_DOWNGRADE = FailedPrecondition "etcdserver: no inflight downgrade job";
    UNKNOWN_METHOD = Unknown "etcdserver: unknown method";
    NO_LEADER = Unavailable "etcdserver: no leader";
    NOT_LEADER = FailedPrecondition "etcdserver: not leader";
    LEADER_CHANGED = Unavailable "etcdserver: leader changed";
    NOT_SUPPORTED_FOR_LEARNER = FailedPrecondition "etcdserver: rpc not supported for learner";
    ROOT_USER_NOT_EXIST = FailedPrecondition "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST = FailedPrecondition "etcdserver: root user does not have root role";
    USER_ALREADY_EXISTS = FailedPrecondition "etcdserver: user name already exists";
    USER_EMPTY = InvalidArgument "etcdserver: user name is empty";
    USER_NOT_FOUND = FailedPrecondition "etcdserver: user name not found";
    ROLE_ALREADY_EXISTS = FailedPrecondition "etcdserver: role name already exists";
    ROLE_NOT_FOUND = FailedPrecondition "etcdserver: role name not found";
    ROLE_EMPTY = InvalidArgument "etcdserver: role name is empty";
    AUTH_FAILED = InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    NO_PASSWORD_USER = Unknown "auth: authentication failed, password was given for no password user";
    PASSWORD_TOO_LONG = Unknown "bcrypt: password length exceeds 72 bytes";
    TOKEN_VERIFY_ONLY = Unknown "auth: token signing attempted with verify-only key";
    PERMISSION_NOT_GIVEN = InvalidArgument "etcdserver: permission not given";
    PERMISSION_DENIED = PermissionDenied "etcdserver: permission denied";
    ROLE_NOT_GRANTED = FailedPrecondition "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED = FailedPrecondition "etcdserver: permission is not granted to the role";
    INVALID_AUTH_TOKEN = Unauthenticated "etcdserver: invalid auth token";
    INVALID_AUTH_MANAGEMENT = InvalidArgument "etcdserver: invalid auth management";
    AUTH_OLD_REVISION = InvalidArgument "etcdserver: revision of auth store is old";
    AUTH_NOT_ENABLED = FailedPrecondition "etcdserver: authentication is not enabled";
    // Not etcd's, which serves what these do not. The latter two are in no client's list of what may be sent again.
    ANSWER_TOO_LARGE = ResourceExhausted
        "etcdserver: the transaction would read more than an answer may hold";
    ANSWER_CUT = Unknown "the transaction was applied, but its answer is too large to be sent";
    ANSWER_LOST = Unknown "the transaction was applied, but what it read was compacted meanwhile";
    CORRUPT = DataLoss "etcdserver: corrupt cluster";
    BAD_LEADER_TRANSFEREE = FailedPrecondition "etcdserver: bad leader transferee";
    TRANSFER_TIMEOUT = Unknown "etcdserver: request timed out, leader transfer took too long";
    STOPPED = Unavailable "etcdserver: server stopped";
    TIMEOUT = Unavailable "etcdserver: request timed out";
    TIMEOUT_LEADER_FAILURE = Unavailable
        "etcdserver: request timed out, possibly due to previous leader failure";
    TIMEOUT_CONNECTION_LOST = Unavailable
        "etcdserver: request timed out, possibly due to connection lost";
    TIMEOUT_WAIT_APPLIED = Unavailable
        "etcdserver: request timed out, waiting for the applied index took too long";
    WATCH_CANCELED = Canceled "etcdserver: watch canceled";
    LOST_WATCHER = Unknown "lost watcher waiting for delete";
    MUTEX_SESSION_EXPIRED = Unknown "mutex: session is expired";
    ELECTION_NO_LEADER = Unknown "election: no leader";
    ELECTION_NOT_LEADER = Unknown "election: not leader";
    LEADER_FIELD_MISSING = Unknown "\"leader\" field must be provided";
    CONTEXT_DEADLINE_EXCEEDED = DeadlineExceeded "context deadline exceeded";
    CONTEXT_CANCELED = Canceled "context canceled";
    UNKNOWN_SERVICE = NotFound "unknown service";
    RANGE_STREAM_SORT = Unimplemented "RangeStream does not support custom sort orders";
    RANGE_STREAM_FILTER = Unimplemented "RangeStream does not support revision filters";
}

#[cfg(test)]
mod tests;
