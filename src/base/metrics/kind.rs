//! The kinds of request that metrics are told by, under etcd's names.

macro_rules! kinds {
    ($($name:ident),* $(,)?) => {
        /// A kind of request.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum RequestKind { $($name,)* }

        impl RequestKind {
            pub const ALL: &[RequestKind] = &[$(RequestKind::$name,)*];

            pub fn name(self) -> &'static str {
                match self { $(RequestKind::$name => stringify!($name),)* }
            }
        }
    };
}

kinds! {
    Range, ReadonlyTxn, Put, DeleteRange, Txn, Compaction, LeaseGrant, LeaseRevoke, LeaseCheckpoint, Alarm,
    Authenticate, AuthEnable, AuthDisable, AuthStatus, AuthUserAdd, AuthUserDelete, AuthUserChangePassword,
    AuthUserGrantRole, AuthUserGet, AuthUserRevokeRole, AuthRoleAdd, AuthRoleGrantPermission, AuthRoleGet,
    AuthRoleRevokePermission, AuthRoleDelete, AuthUserList, AuthRoleList, ClusterVersionSet,
    ClusterMemberAttrSet, DowngradeInfoSet,
}
