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

/// One table of every refusal, so that each text exists once. `maybe`: a write that ends so may have been applied.
macro_rules! denials {
    ($($name:ident = $code:ident $($maybe:ident)? $text:literal;)*) => {
        /// A refusal that reaches the client: etcd's code and, byte for byte, etcd's text.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
        #[error("{}", self.text())]
        pub enum Denied {
            $($name,)*
            /// What locks and elections pass on comes through etcd's own client, which keeps the text alone.
            ThroughClient(&'static Denied),
        }

        impl Denied {
            /// Every refusal there is.
            pub const ALL: &'static [Denied] = &[$(Denied::$name),*];

            pub const fn code(self) -> Code {
                match self {
                    $(Denied::$name => Code::$code,)*
                    Denied::ThroughClient(_) => Code::Unknown,
                }
            }

            pub const fn text(self) -> &'static str {
                match self {
                    $(Denied::$name => $text,)*
                    Denied::ThroughClient(denied) => denied.text(),
                }
            }

            /// Whether a write that ends so may have been carried out, or may be later: the client then does not know.
            /// If not, it never is. docs/write-errors.md says what clients make of each.
            pub const fn may_have_happened(self) -> bool {
                match self {
                    $(Denied::$name => denials!(@ $($maybe)?),)*
                    Denied::ThroughClient(denied) => denied.may_have_happened(),
                }
            }
        }
    };
    (@) => { false };
    (@ maybe) => { true };
}

impl Denied {
    /// As it arrives through etcd's own client.
    pub fn through_client(self) -> Denied {
        let is_known = |denied: &&Denied| **denied == self;
        match (self.code(), Denied::ALL.iter().find(is_known)) {
            (Code::Canceled | Code::DeadlineExceeded, _) | (_, None) => self,
            (_, Some(denied)) => Denied::ThroughClient(denied),
        }
    }
}

denials! {
    EmptyKey = InvalidArgument "etcdserver: key is not provided";
    KeyNotFound = InvalidArgument "etcdserver: key not found";
    ValueProvided = InvalidArgument "etcdserver: value is provided";
    LeaseProvided = InvalidArgument "etcdserver: lease is provided";
    // No member could apply it. etcd would panic.
    UnreadableCommand = Internal "etcdserver: request cannot be applied";
    NameTooLong = InvalidArgument "etcdserver: name is too long";
    TooManyOps = InvalidArgument "etcdserver: too many operations in txn request";
    DuplicateKey = InvalidArgument "etcdserver: duplicate key given in txn request";
    InvalidClientApiVersion = InvalidArgument "etcdserver: invalid client api version";
    InvalidSortOption = InvalidArgument "etcdserver: invalid sort option";
    Compacted = OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FutureRevision = OutOfRange "etcdserver: mvcc: required revision is a future revision";
    NoSpace = ResourceExhausted "etcdserver: mvcc: database space exceeded";
    LeaseNotFound = NotFound "etcdserver: requested lease not found";
    LeaseExists = FailedPrecondition "etcdserver: lease already exists";
    LeaseTtlTooLarge = OutOfRange "etcdserver: too large lease TTL";
    RequestTooLarge = InvalidArgument "etcdserver: request is too large";
    TooManyRequests = Unknown "etcdserver: too many requests";
    MemberNotFound = NotFound "etcdserver: member not found";
    MemberExists = FailedPrecondition "etcdserver: member ID already exist";
    PeerUrlExists = FailedPrecondition "etcdserver: Peer URLs already exists";
    // etcd means FailedPrecondition, and sends this.
    NotEnoughStarted = Unknown "etcdserver: re-configuration failed due to not enough started members";
    MemberBadUrls = InvalidArgument "etcdserver: given member URLs are invalid";
    MemberNotLearner = FailedPrecondition "etcdserver: can only promote a learner member";
    LearnerNotReady = FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    TooManyLearners = FailedPrecondition "etcdserver: too many learner members in cluster";
    Unhealthy = Unavailable "etcdserver: unhealthy cluster";
    WrongDowngradeVersionFormat = InvalidArgument "etcdserver: wrong downgrade target version format";
    InvalidDowngradeTarget = InvalidArgument "etcdserver: invalid downgrade target version";
    ClusterVersionUnavailable = FailedPrecondition "etcdserver: cluster version not found during downgrade";
    DowngradeInProcess = FailedPrecondition "etcdserver: cluster has a downgrade job in progress";
    NoInflightDowngrade = FailedPrecondition "etcdserver: no inflight downgrade job";
    UnknownMethod = Unknown "etcdserver: unknown method";
    NoLeader = Unavailable "etcdserver: no leader";
    NotLeader = FailedPrecondition "etcdserver: not leader";
    LeaderChanged = Unavailable maybe "etcdserver: leader changed";
    NotSupportedForLearner = FailedPrecondition "etcdserver: rpc not supported for learner";
    RootUserNotExist = FailedPrecondition "etcdserver: root user does not exist";
    RootRoleNotExist = FailedPrecondition "etcdserver: root user does not have root role";
    UserAlreadyExists = FailedPrecondition "etcdserver: user name already exists";
    UserEmpty = InvalidArgument "etcdserver: user name is empty";
    UserNotFound = FailedPrecondition "etcdserver: user name not found";
    RoleAlreadyExists = FailedPrecondition "etcdserver: role name already exists";
    RoleNotFound = FailedPrecondition "etcdserver: role name not found";
    RoleEmpty = InvalidArgument "etcdserver: role name is empty";
    AuthFailed = InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    NoPasswordUser = Unknown "auth: authentication failed, password was given for no password user";
    PasswordTooLong = Unknown "bcrypt: password length exceeds 72 bytes";
    TokenVerifyOnly = Unknown "auth: token signing attempted with verify-only key";
    PermissionNotGiven = InvalidArgument "etcdserver: permission not given";
    PermissionDenied = PermissionDenied "etcdserver: permission denied";
    RoleNotGranted = FailedPrecondition "etcdserver: role is not granted to the user";
    PermissionNotGranted = FailedPrecondition "etcdserver: permission is not granted to the role";
    InvalidAuthToken = Unauthenticated "etcdserver: invalid auth token";
    InvalidAuthManagement = InvalidArgument "etcdserver: invalid auth management";
    AuthOldRevision = InvalidArgument "etcdserver: revision of auth store is old";
    AuthNotEnabled = FailedPrecondition "etcdserver: authentication is not enabled";
    // Not etcd's, which serves what these do not. The latter two are in no client's list of what may be sent again.
    AnswerTooLarge = ResourceExhausted "etcdserver: the transaction would read more than an answer may hold";
    AnswerCut = Unknown maybe "the transaction was applied, but its answer is too large to be sent";
    AnswerLost = Unknown maybe "the transaction was applied, but what it read was compacted meanwhile";
    Corrupt = DataLoss "etcdserver: corrupt cluster";
    BadLeaderTransferee = FailedPrecondition "etcdserver: bad leader transferee";
    TransferTimeout = Unknown "etcdserver: request timed out, leader transfer took too long";
    Stopped = Unavailable maybe "etcdserver: server stopped";
    Timeout = Unavailable maybe "etcdserver: request timed out";
    TimeoutLeaderFailure = Unavailable maybe "etcdserver: request timed out, possibly due to previous leader failure";
    TimeoutConnectionLost = Unavailable maybe "etcdserver: request timed out, possibly due to connection lost";
    TimeoutWaitApplied = Unavailable maybe "etcdserver: request timed out, waiting for the applied index took too long";
    WatchCanceled = Canceled maybe "etcdserver: watch canceled";
    LostWatcher = Unknown maybe "lost watcher waiting for delete";
    MutexSessionExpired = Unknown maybe "mutex: session is expired";
    ElectionNoLeader = Unknown "election: no leader";
    ElectionNotLeader = Unknown "election: not leader";
    LeaderFieldMissing = Unknown "\"leader\" field must be provided";
    ContextDeadlineExceeded = DeadlineExceeded "context deadline exceeded";
    ContextCanceled = Canceled maybe "context canceled";
    UnknownService = NotFound "unknown service";
    RangeStreamSort = Unimplemented "RangeStream does not support custom sort orders";
    RangeStreamFilter = Unimplemented "RangeStream does not support revision filters";
}

#[cfg(test)]
mod tests;
