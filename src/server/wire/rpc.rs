//! Every method of every service: names for counters, its kind, and who may call it.
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

/// Who may call a method while authentication is on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// It depends on the request: checked by the handler, or where the command is applied.
    Checked,
    /// Any user.
    User,
    /// Who holds the role root.
    Root,
}

macro_rules! rpcs {
    ($($name:ident = $service:literal $method:literal $kind:ident $rights:ident;)*) => {
        /// A method that is served or refused by name.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Rpc { $($name,)* }

        impl Rpc {
            pub const ALL: &[Rpc] = &[$(Rpc::$name,)*];

            /// Service, method and kind.
            pub fn describe(self) -> (&'static str, &'static str, Kind) {
                match self { $(Rpc::$name => ($service, $method, Kind::$kind),)* }
            }

            pub fn rights(self) -> Rights {
                match self { $(Rpc::$name => Rights::$rights,)* }
            }
        }
    };
}

impl Rpc {
    /// Whether a second call changes nothing that the first has not. A method that is not listed writes: clients
    /// that take its end for the end of their own deadline would write twice.
    pub fn is_repeatable(self) -> bool {
        let (service, ..) = self.describe();
        // What these write is named after the caller's lease.
        let names_its_caller = matches!(service, "v3lockpb.Lock" | "v3electionpb.Election");
        names_its_caller
            || matches!(
                self,
                Rpc::Range
                    | Rpc::LeaseTimeToLive
                    | Rpc::LeaseLeases
                    | Rpc::MemberList
                    | Rpc::Status
                    | Rpc::Defragment
                    | Rpc::Hash
                    | Rpc::HashKv
                    | Rpc::AuthStatus
                    | Rpc::Authenticate
                    | Rpc::AuthUserGet
                    | Rpc::AuthUserList
                    | Rpc::AuthRoleGet
                    | Rpc::AuthRoleList
                    | Rpc::HealthCheck
            )
    }
}

rpcs! {
    Range = "etcdserverpb.KV" "Range" Unary Checked;
    RangeStream = "etcdserverpb.KV" "RangeStream" ServerStream Checked;
    Put = "etcdserverpb.KV" "Put" Unary Checked;
    DeleteRange = "etcdserverpb.KV" "DeleteRange" Unary Checked;
    Txn = "etcdserverpb.KV" "Txn" Unary Checked;
    Compact = "etcdserverpb.KV" "Compact" Unary Root;
    Watch = "etcdserverpb.Watch" "Watch" BidiStream Checked;
    LeaseGrant = "etcdserverpb.Lease" "LeaseGrant" Unary User;
    LeaseRevoke = "etcdserverpb.Lease" "LeaseRevoke" Unary User;
    LeaseKeepAlive = "etcdserverpb.Lease" "LeaseKeepAlive" BidiStream Checked;
    LeaseTimeToLive = "etcdserverpb.Lease" "LeaseTimeToLive" Unary User;
    LeaseLeases = "etcdserverpb.Lease" "LeaseLeases" Unary Checked;
    MemberAdd = "etcdserverpb.Cluster" "MemberAdd" Unary Root;
    MemberRemove = "etcdserverpb.Cluster" "MemberRemove" Unary Root;
    MemberUpdate = "etcdserverpb.Cluster" "MemberUpdate" Unary Root;
    MemberList = "etcdserverpb.Cluster" "MemberList" Unary User;
    MemberPromote = "etcdserverpb.Cluster" "MemberPromote" Unary Root;
    Alarm = "etcdserverpb.Maintenance" "Alarm" Unary Checked;
    Status = "etcdserverpb.Maintenance" "Status" Unary User;
    Defragment = "etcdserverpb.Maintenance" "Defragment" Unary Root;
    Hash = "etcdserverpb.Maintenance" "Hash" Unary Root;
    HashKv = "etcdserverpb.Maintenance" "HashKV" Unary Root;
    Snapshot = "etcdserverpb.Maintenance" "Snapshot" ServerStream Root;
    MoveLeader = "etcdserverpb.Maintenance" "MoveLeader" Unary Root;
    Downgrade = "etcdserverpb.Maintenance" "Downgrade" Unary Root;
    AuthEnable = "etcdserverpb.Auth" "AuthEnable" Unary Checked;
    AuthDisable = "etcdserverpb.Auth" "AuthDisable" Unary Checked;
    AuthStatus = "etcdserverpb.Auth" "AuthStatus" Unary Checked;
    Authenticate = "etcdserverpb.Auth" "Authenticate" Unary Checked;
    AuthUserAdd = "etcdserverpb.Auth" "UserAdd" Unary Checked;
    AuthUserGet = "etcdserverpb.Auth" "UserGet" Unary Checked;
    AuthUserList = "etcdserverpb.Auth" "UserList" Unary Checked;
    AuthUserDelete = "etcdserverpb.Auth" "UserDelete" Unary Checked;
    AuthUserChangePassword = "etcdserverpb.Auth" "UserChangePassword" Unary Checked;
    AuthUserGrantRole = "etcdserverpb.Auth" "UserGrantRole" Unary Checked;
    AuthUserRevokeRole = "etcdserverpb.Auth" "UserRevokeRole" Unary Checked;
    AuthRoleAdd = "etcdserverpb.Auth" "RoleAdd" Unary Checked;
    AuthRoleGet = "etcdserverpb.Auth" "RoleGet" Unary Checked;
    AuthRoleList = "etcdserverpb.Auth" "RoleList" Unary Checked;
    AuthRoleDelete = "etcdserverpb.Auth" "RoleDelete" Unary Checked;
    AuthRoleGrantPermission = "etcdserverpb.Auth" "RoleGrantPermission" Unary Checked;
    AuthRoleRevokePermission = "etcdserverpb.Auth" "RoleRevokePermission" Unary Checked;
    Lock = "v3lockpb.Lock" "Lock" Unary Checked;
    Unlock = "v3lockpb.Lock" "Unlock" Unary Checked;
    Campaign = "v3electionpb.Election" "Campaign" Unary Checked;
    Proclaim = "v3electionpb.Election" "Proclaim" Unary Checked;
    Leader = "v3electionpb.Election" "Leader" Unary Checked;
    Observe = "v3electionpb.Election" "Observe" ServerStream Checked;
    Resign = "v3electionpb.Election" "Resign" Unary Checked;
    HealthCheck = "grpc.health.v1.Health" "Check" Unary Checked;
    HealthWatch = "grpc.health.v1.Health" "Watch" ServerStream Checked;
}

impl Rpc {
    /// The method that a path names.
    pub fn of_path(path: &str) -> Option<Rpc> {
        let (service, method) = path.strip_prefix('/')?.split_once('/')?;
        let mut all = Rpc::ALL.iter().copied();
        all.find(|rpc| rpc.describe().0 == service && rpc.describe().1 == method)
    }
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

#[cfg(test)]
mod tests;
