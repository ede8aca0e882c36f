//! Every method of every service: names for counters, its kind, and whether a learner serves it.
//!
//! The numbers of [`Rpc`] are places in the tables of counters, so that a request finds its counters
//! without looking up a label.

/// How many messages travel each way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Unary,
    ServerStream,
    BidiStream,
}

impl Kind {
    /// The label `grpc_type` of the counters.
    pub fn label(self) -> &'static str {
        match self {
            Kind::Unary => "unary",
            Kind::ServerStream => "server_stream",
            Kind::BidiStream => "bidi_stream",
        }
    }

    /// The label `type` of `etcd_server_client_requests_total`.
    pub fn is_stream(self) -> bool {
        self != Kind::Unary
    }
}

macro_rules! rpcs {
    ($($name:ident = $service:literal $method:literal $kind:ident;)*) => {
        /// A method that is served or refused by name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rpc { $($name,)* }

        impl Rpc {
            pub const ALL: &[Rpc] = &[$(Rpc::$name,)*];

            /// Service, method and kind.
            pub fn describe(self) -> (&'static str, &'static str, Kind) {
                match self { $(Rpc::$name => ($service, $method, Kind::$kind),)* }
            }
        }
    };
}

rpcs! {
    Range = "etcdserverpb.KV" "Range" Unary;
    RangeStream = "etcdserverpb.KV" "RangeStream" ServerStream;
    Put = "etcdserverpb.KV" "Put" Unary;
    DeleteRange = "etcdserverpb.KV" "DeleteRange" Unary;
    Txn = "etcdserverpb.KV" "Txn" Unary;
    Compact = "etcdserverpb.KV" "Compact" Unary;
    Watch = "etcdserverpb.Watch" "Watch" BidiStream;
    LeaseGrant = "etcdserverpb.Lease" "LeaseGrant" Unary;
    LeaseRevoke = "etcdserverpb.Lease" "LeaseRevoke" Unary;
    LeaseKeepAlive = "etcdserverpb.Lease" "LeaseKeepAlive" BidiStream;
    LeaseTimeToLive = "etcdserverpb.Lease" "LeaseTimeToLive" Unary;
    LeaseLeases = "etcdserverpb.Lease" "LeaseLeases" Unary;
    MemberAdd = "etcdserverpb.Cluster" "MemberAdd" Unary;
    MemberRemove = "etcdserverpb.Cluster" "MemberRemove" Unary;
    MemberUpdate = "etcdserverpb.Cluster" "MemberUpdate" Unary;
    MemberList = "etcdserverpb.Cluster" "MemberList" Unary;
    MemberPromote = "etcdserverpb.Cluster" "MemberPromote" Unary;
    Alarm = "etcdserverpb.Maintenance" "Alarm" Unary;
    Status = "etcdserverpb.Maintenance" "Status" Unary;
    Defragment = "etcdserverpb.Maintenance" "Defragment" Unary;
    Hash = "etcdserverpb.Maintenance" "Hash" Unary;
    HashKv = "etcdserverpb.Maintenance" "HashKV" Unary;
    Snapshot = "etcdserverpb.Maintenance" "Snapshot" ServerStream;
    MoveLeader = "etcdserverpb.Maintenance" "MoveLeader" Unary;
    Downgrade = "etcdserverpb.Maintenance" "Downgrade" Unary;
    AuthEnable = "etcdserverpb.Auth" "AuthEnable" Unary;
    AuthDisable = "etcdserverpb.Auth" "AuthDisable" Unary;
    AuthStatus = "etcdserverpb.Auth" "AuthStatus" Unary;
    Authenticate = "etcdserverpb.Auth" "Authenticate" Unary;
    UserAdd = "etcdserverpb.Auth" "UserAdd" Unary;
    UserGet = "etcdserverpb.Auth" "UserGet" Unary;
    UserList = "etcdserverpb.Auth" "UserList" Unary;
    UserDelete = "etcdserverpb.Auth" "UserDelete" Unary;
    UserChangePassword = "etcdserverpb.Auth" "UserChangePassword" Unary;
    UserGrantRole = "etcdserverpb.Auth" "UserGrantRole" Unary;
    UserRevokeRole = "etcdserverpb.Auth" "UserRevokeRole" Unary;
    RoleAdd = "etcdserverpb.Auth" "RoleAdd" Unary;
    RoleGet = "etcdserverpb.Auth" "RoleGet" Unary;
    RoleList = "etcdserverpb.Auth" "RoleList" Unary;
    RoleDelete = "etcdserverpb.Auth" "RoleDelete" Unary;
    RoleGrantPermission = "etcdserverpb.Auth" "RoleGrantPermission" Unary;
    RoleRevokePermission = "etcdserverpb.Auth" "RoleRevokePermission" Unary;
    HealthCheck = "grpc.health.v1.Health" "Check" Unary;
    HealthWatch = "grpc.health.v1.Health" "Watch" ServerStream;
}

/// Codes by number, in the spelling of grpc-go's labels.
pub const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
