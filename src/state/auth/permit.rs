//! May this user do that? Asked when a command is applied, and by the server for what it reads locally.

use std::collections::BTreeMap;

use super::ranges::Ranges;
use super::{Auth, is_root};
use crate::base::{Denied, LeaseId};
use crate::proto::authpb::{Permission, permission::Type};
use crate::proto::command::{Header, command::Request};
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RequestOp, TxnRequest, request_op};
use crate::state::State;

/// What a user may read and write, over all roles.
#[derive(Default)]
pub struct Allowed {
    read: Ranges,
    write: Ranges,
}

impl Allowed {
    fn merge<'a>(permissions: impl Iterator<Item = &'a Permission> + Clone) -> Allowed {
        let of = |wanted: Type| {
            let matching = permissions.clone().filter(move |held| {
                let held = held.perm_type;
                held == i32::from(wanted) || held == i32::from(Type::Readwrite)
            });
            Ranges::union(matching.map(|held| (held.key.as_ref(), held.range_end.as_ref())))
        };
        Allowed {
            read: of(Type::Read),
            write: of(Type::Write),
        }
    }
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

impl Auth {
    /// Brings the merged permissions up to date.
    pub(super) fn merge(&mut self) {
        let roles = &self.roles;
        let merged = self.users.iter().map(|(name, user)| {
            let held = user.roles.iter().filter_map(|role| roles.get(role));
            let permissions = held.flat_map(|role| &role.key_permission);
            (name.clone(), Allowed::merge(permissions))
        });
        self.allowed = merged.collect::<BTreeMap<_, _>>();
    }

    /// Management and maintenance are for who holds the role root.
    pub fn require_root(&self, caller: &Header) -> Result<(), Denied> {
        if !self.enabled {
            return Ok(());
        }
        if caller.user.is_empty() {
            return Err(Denied::UserEmpty);
        }
        match self.users.get(&caller.user) {
            None => Err(Denied::UserNotFound),
            Some(user) if is_root(user) => Ok(()),
            Some(_) => Err(Denied::PermissionDenied),
        }
    }

    /// Somebody, whatever he may do.
    pub fn require_user(&self, caller: &Header) -> Result<(), Denied> {
        if self.enabled && caller.user.is_empty() {
            Err(Denied::UserEmpty)
        } else {
            Ok(())
        }
    }

    /// Reading a range of keys.
    pub fn permit_read(&self, caller: &Header, key: &[u8], range_end: &[u8]) -> Result<(), Denied> {
        self.permit(caller, Access::Read, key, range_end)
    }

    fn permit_write(&self, caller: &Header, key: &[u8], range_end: &[u8]) -> Result<(), Denied> {
        self.permit(caller, Access::Write, key, range_end)
    }

    fn permit(&self, caller: &Header, access: Access, key: &[u8], range_end: &[u8]) -> Result<(), Denied> {
        if !self.enabled {
            return Ok(());
        }
        if caller.auth_revision == 0 {
            return Err(Denied::UserEmpty);
        }
        if caller.auth_revision < self.revision {
            return Err(Denied::AuthOldRevision);
        }
        let user = self.users.get(&caller.user).ok_or(Denied::PermissionDenied)?;
        let allowed = is_root(user)
            || self
                .allowed
                .get(&caller.user)
                .is_some_and(|allowed| match access {
                    Access::Read => allowed.read.contain(key, range_end),
                    Access::Write => allowed.write.contain(key, range_end),
                });
        if allowed {
            Ok(())
        } else {
            Err(Denied::PermissionDenied)
        }
    }

    fn holds(&self, user: &str, role: &str) -> bool {
        self.users
            .get(user)
            .is_some_and(|user| user.roles.iter().any(|held| held == role))
    }
}

impl State {
    /// Whether a client may have this command applied. What is not named here was checked where it came in.
    pub(in crate::state) fn permit(&self, caller: &Header, request: &Request) -> Result<(), Denied> {
        let auth = &self.auth;
        if !auth.enabled {
            return Ok(());
        }
        match request {
            Request::Range(request) => auth.permit_read(caller, &request.key, &request.range_end),
            Request::Put(request) => self.permit_put(caller, request),
            Request::DeleteRange(request) => self.permit_delete(caller, request),
            Request::Txn(request) => self.permit_txn(caller, request),
            Request::LeaseRevoke(request) => self.permit_lease_writes(caller, request.id),
            Request::Compaction(_) => auth.require_root(caller),
            Request::AuthUserGet(request) if request.name == caller.user => Ok(()),
            Request::AuthRoleGet(request) if auth.holds(&caller.user, &request.role) => Ok(()),
            Request::AuthStatus(_) | Request::Authenticate(_) => Ok(()),
            Request::AuthEnable(_)
            | Request::AuthDisable(_)
            | Request::AuthUserAdd(_)
            | Request::AuthUserDelete(_)
            | Request::AuthUserGet(_)
            | Request::AuthUserChangePassword(_)
            | Request::AuthUserGrantRole(_)
            | Request::AuthUserRevokeRole(_)
            | Request::AuthUserList(_)
            | Request::AuthRoleList(_)
            | Request::AuthRoleAdd(_)
            | Request::AuthRoleDelete(_)
            | Request::AuthRoleGet(_)
            | Request::AuthRoleGrantPermission(_)
            | Request::AuthRoleRevokePermission(_) => auth.require_root(caller),
            _ => Ok(()),
        }
    }

    /// A lease is attached only by who could revoke it, that is, delete all its keys.
    fn permit_put(&self, caller: &Header, request: &PutRequest) -> Result<(), Denied> {
        self.auth.permit_write(caller, &request.key, &[])?;
        self.permit_lease_writes(caller, request.lease)?;
        if request.prev_kv {
            self.auth.permit_read(caller, &request.key, &[])?;
        }
        Ok(())
    }

    fn permit_delete(&self, caller: &Header, request: &DeleteRangeRequest) -> Result<(), Denied> {
        self.auth.permit_write(caller, &request.key, &request.range_end)?;
        if request.prev_kv {
            self.auth.permit_read(caller, &request.key, &request.range_end)?;
        }
        Ok(())
    }

    /// Compares and both branches, at every depth (CVE-2026-33343): which branch runs tells as much as a read.
    pub fn permit_txn(&self, caller: &Header, request: &TxnRequest) -> Result<(), Denied> {
        for compare in &request.compare {
            self.auth.permit_read(caller, &compare.key, &compare.range_end)?;
        }
        let mut ops = request.success.iter().chain(&request.failure);
        ops.try_for_each(|op| self.permit_op(caller, op))
    }

    fn permit_op(&self, caller: &Header, op: &RequestOp) -> Result<(), Denied> {
        match &op.request {
            Some(request_op::Request::RequestRange(request)) => {
                self.auth.permit_read(caller, &request.key, &request.range_end)
            }
            Some(request_op::Request::RequestPut(request)) => self.permit_put(caller, request),
            Some(request_op::Request::RequestDeleteRange(request)) => self.permit_delete(caller, request),
            Some(request_op::Request::RequestTxn(request)) => self.permit_txn(caller, request),
            None => Ok(()),
        }
    }

    /// Renewing, attaching and revoking a lease need WRITE on all its keys.
    pub fn permit_lease_writes(&self, caller: &Header, id: LeaseId) -> Result<(), Denied> {
        self.permit_lease(caller, id, Access::Write)
    }

    /// Seeing the keys of a lease needs READ on all of them.
    pub fn permit_lease_reads(&self, caller: &Header, id: LeaseId) -> Result<(), Denied> {
        self.permit_lease(caller, id, Access::Read)
    }

    fn permit_lease(&self, caller: &Header, id: LeaseId, access: Access) -> Result<(), Denied> {
        let Some(lease) = self.leases.get(&id) else {
            return Ok(());
        };
        if self.auth.require_root(caller).is_ok() {
            return Ok(());
        }
        lease
            .keys
            .iter()
            .try_for_each(|key| self.auth.permit(caller, access, key, &[]))
    }

    /// Renewing needs a user, whether or not the lease has keys.
    pub fn permit_lease_renewal(&self, caller: &Header, id: LeaseId) -> Result<(), Denied> {
        self.auth.require_user(caller)?;
        self.permit_lease_writes(caller, id)
    }

    /// Listing leases needs READ on every key of every one of them.
    pub fn permit_leases(&self, caller: &Header) -> Result<(), Denied> {
        self.auth.require_user(caller)?;
        if self.auth.require_root(caller).is_ok() {
            return Ok(());
        }
        self.leases
            .keys()
            .try_for_each(|&id| self.permit_lease_reads(caller, id))
    }
}
