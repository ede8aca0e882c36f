//! Users and roles: who exists, and what changes them.
//!
//! ```text
//!   command + header (user, auth revision) ─► permit: may this user do that now? ─► the command itself
//!                                                     ▲
//!                    users ─► roles ─► permissions ───┘  (merged per user whenever one of them changes)
//! ```
//!
//! Every member applies the same checks at the same place in the log, so that a permission that was taken away
//! between a request's arrival and its place in the log is gone (the header's auth revision is compared). The
//! auth revision is independent of the store's; it starts at 1 and moves with every change but enabling.
//!
//! Passwords arrive here hashed; checking them costs a client's time elsewhere. Tokens live outside: a member
//! forgets them when it stops.

mod permit;
mod ranges;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;

use super::digest::Kind;
use super::{Answer, Pending, Position, State};
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Denied, limits};
use crate::proto::authpb::{Permission, Role, User, permission};
use crate::proto::command::{AuthMeta, AuthenticateCommand, command::Request};
use crate::proto::etcdserverpb as pb;
use permit::Allowed;

/// The user that must exist, and the role that may do everything.
pub const ROOT: &str = "root";
/// The auth revision of a store that never had a user.
const FIRST_REVISION: u64 = 1;

/// Where users, roles and the rest are stored, in [`Space::Meta`].
pub(super) const META_KEY: &[u8] = b"auth";
pub(super) const USER_PREFIX: &[u8] = b"auth/user/";
pub(super) const ROLE_PREFIX: &[u8] = b"auth/role/";

/// See the module.
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, User>,
    roles: BTreeMap<String, Role>,
    /// What each user may read and write, merged from the permissions of all roles.
    allowed: BTreeMap<String, Allowed>,
}

/// What a login needs to know of a user.
pub struct Login {
    /// bcrypt's text.
    pub password_hash: Bytes,
    /// The user logs in by certificate only.
    pub no_password: bool,
}

fn is_root(user: &User) -> bool {
    user.roles.iter().any(|role| role == ROOT)
}

fn has_no_password(user: &User) -> bool {
    user.options.is_some_and(|options| options.no_password)
}

fn user_key(name: &str) -> Bytes {
    [USER_PREFIX, name.as_bytes()].concat().into()
}

fn role_key(name: &str) -> Bytes {
    [ROLE_PREFIX, name.as_bytes()].concat().into()
}

/// The hash as the front sends it. What cannot be decoded is refused in etcd's words, odd as they are here.
fn password_hash(encoded: &str) -> Result<Bytes, Denied> {
    let decoded = STANDARD.decode(encoded);
    decoded.map(Bytes::from).map_err(|_| Denied::NoPasswordUser)
}

impl Auth {
    pub(super) fn new() -> Auth {
        Auth {
            enabled: false,
            revision: FIRST_REVISION,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            allowed: BTreeMap::new(),
        }
    }

    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Users by name.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// Roles by name.
    pub fn roles(&self) -> impl Iterator<Item = &Role> {
        self.roles.values()
    }

    pub fn login(&self, name: &str) -> Option<Login> {
        self.users.get(name).map(|user| Login {
            password_hash: user.password.clone(),
            no_password: has_no_password(user),
        })
    }

    fn user_mut(&mut self, name: &str) -> Result<&mut User, Denied> {
        self.users.get_mut(name).ok_or(Denied::UserNotFound)
    }

    fn role_mut(&mut self, name: &str) -> Result<&mut Role, Denied> {
        self.roles.get_mut(name).ok_or(Denied::RoleNotFound)
    }

    /// Changes what is in memory; the names of the users and roles that have to be stored again.
    fn change(&mut self, request: &Request) -> Result<Touched, Denied> {
        match request {
            Request::AuthUserAdd(request) => self.add_user(request),
            Request::AuthUserDelete(request) => self.delete_user(&request.name),
            Request::AuthUserChangePassword(request) => self.change_password(request),
            Request::AuthUserGrantRole(request) => self.grant_role(&request.user, &request.role),
            Request::AuthUserRevokeRole(request) => self.revoke_role(&request.name, &request.role),
            Request::AuthRoleAdd(request) => self.add_role(&request.name),
            Request::AuthRoleDelete(request) => self.delete_role(&request.role),
            Request::AuthRoleGrantPermission(request) => self.grant_permission(request),
            Request::AuthRoleRevokePermission(request) => self.revoke_permission(request),
            _ => unreachable!("only changes of users and roles come here"),
        }
    }

    fn add_user(&mut self, request: &pb::AuthUserAddRequest) -> Result<Touched, Denied> {
        if request.name.is_empty() {
            return Err(Denied::UserEmpty);
        }
        check_stored_as(&user_key(&request.name))?;
        if self.users.contains_key(&request.name) {
            return Err(Denied::UserAlreadyExists);
        }
        let options = request.options.unwrap_or_default();
        let password = if options.no_password {
            Bytes::new()
        } else {
            password_hash(&request.hashed_password)?
        };
        let user = User {
            name: request.name.clone().into(),
            password,
            roles: Vec::new(),
            options: Some(options),
        };
        self.users.insert(request.name.clone(), user);
        Ok(Touched::user(&request.name))
    }

    fn delete_user(&mut self, name: &str) -> Result<Touched, Denied> {
        if self.enabled && name == ROOT {
            return Err(Denied::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(Denied::UserNotFound)?;
        Ok(Touched::user(name))
    }

    fn change_password(&mut self, request: &pb::AuthUserChangePasswordRequest) -> Result<Touched, Denied> {
        let user = self.user_mut(&request.name)?;
        user.password = if has_no_password(user) {
            Bytes::new()
        } else {
            password_hash(&request.hashed_password)?
        };
        Ok(Touched::user(&request.name))
    }

    /// The role root can be granted without having been added. Granting again changes nothing.
    fn grant_role(&mut self, name: &str, role: &str) -> Result<Touched, Denied> {
        let known = role == ROOT || self.roles.contains_key(role);
        let user = self.user_mut(name)?;
        if !known {
            return Err(Denied::RoleNotFound);
        }
        match user.roles.binary_search_by(|held| held.as_str().cmp(role)) {
            Ok(_) => Ok(Touched::default()),
            Err(place) => {
                user.roles.insert(place, role.to_owned());
                Ok(Touched::user(name))
            }
        }
    }

    fn revoke_role(&mut self, name: &str, role: &str) -> Result<Touched, Denied> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(Denied::InvalidAuthManagement);
        }
        let user = self.user_mut(name)?;
        let place = user.roles.iter().position(|held| held == role);
        user.roles.remove(place.ok_or(Denied::RoleNotGranted)?);
        Ok(Touched::user(name))
    }

    fn add_role(&mut self, name: &str) -> Result<Touched, Denied> {
        if name.is_empty() {
            return Err(Denied::RoleEmpty);
        }
        check_stored_as(&role_key(name))?;
        if self.roles.contains_key(name) {
            return Err(Denied::RoleAlreadyExists);
        }
        let role = Role {
            name: name.to_owned().into(),
            key_permission: Vec::new(),
        };
        self.roles.insert(name.to_owned(), role);
        Ok(Touched::role(name))
    }

    /// Takes the role from all who hold it, too.
    fn delete_role(&mut self, name: &str) -> Result<Touched, Denied> {
        if self.enabled && name == ROOT {
            return Err(Denied::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(Denied::RoleNotFound)?;
        let mut touched = Touched::role(name);
        for (holder, user) in &mut self.users {
            let before = user.roles.len();
            user.roles.retain(|role| role != name);
            if user.roles.len() != before {
                touched.users.push(holder.clone());
            }
        }
        Ok(touched)
    }

    /// Granting the same range again replaces the type. Permissions are kept by key.
    fn grant_permission(&mut self, request: &pb::AuthRoleGrantPermissionRequest) -> Result<Touched, Denied> {
        let granted = request.perm.as_ref().ok_or(Denied::PermissionNotGiven)?;
        if !ranges::is_valid(&granted.key, &granted.range_end) {
            return Err(Denied::InvalidAuthManagement);
        }
        let permissions = &mut self.role_mut(&request.name)?.key_permission;
        let same = |held: &&mut Permission| held.key == granted.key && held.range_end == granted.range_end;
        match permissions.iter_mut().find(same) {
            Some(held) => held.perm_type = granted.perm_type,
            None => {
                let place = permissions.partition_point(|held| held.key <= granted.key);
                // Copies: slices of the request would keep its whole entry of the log in memory.
                let copy = Permission {
                    perm_type: granted.perm_type,
                    key: Bytes::copy_from_slice(&granted.key),
                    range_end: Bytes::copy_from_slice(&granted.range_end),
                };
                permissions.insert(place, copy);
            }
        }
        Ok(Touched::role(&request.name))
    }

    fn revoke_permission(
        &mut self,
        request: &pb::AuthRoleRevokePermissionRequest,
    ) -> Result<Touched, Denied> {
        let permissions = &mut self.role_mut(&request.role)?.key_permission;
        let before = permissions.len();
        permissions.retain(|held| held.key != request.key || held.range_end != request.range_end);
        if permissions.len() == before {
            return Err(Denied::PermissionNotGranted);
        }
        Ok(Touched::role(&request.role))
    }

    fn enable(&mut self) -> Result<(), Denied> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(Denied::RootUserNotExist)?;
        if !is_root(root) {
            return Err(Denied::RootRoleNotExist);
        }
        self.enabled = true;
        Ok(())
    }

    /// The password was found right before this was proposed.
    fn authenticate(&self, request: &AuthenticateCommand, at: Position) -> Result<Answer, Denied> {
        if !self.enabled {
            return Err(Denied::AuthNotEnabled);
        }
        match self.users.get(&request.name) {
            Some(user) if !has_no_password(user) => Ok(Answer::Authenticate {
                index: at.index,
                auth_revision: self.revision,
            }),
            _ => Err(Denied::AuthFailed),
        }
    }

    fn permissions_of(&self, role: &Role) -> Vec<Permission> {
        if role.name != ROOT {
            return role.key_permission.clone();
        }
        vec![Permission {
            perm_type: permission::Type::Readwrite.into(),
            key: Bytes::new(),
            range_end: Bytes::from_static(&[0]),
        }]
    }
}

/// The front refuses shorter names already; this is what an older log may hold, and what no engine takes.
fn check_stored_as(key: &[u8]) -> Result<(), Denied> {
    if key.len() > limits::ENGINE_KEY_BYTES_MAX {
        return Err(Denied::NameTooLong);
    }
    Ok(())
}

/// The users and roles that a change touched. Nothing: no change, and the auth revision stays.
#[derive(Default)]
struct Touched {
    users: Vec<String>,
    roles: Vec<String>,
}

impl Touched {
    fn user(name: &str) -> Touched {
        Touched {
            users: vec![name.to_owned()],
            roles: Vec::new(),
        }
    }

    fn role(name: &str) -> Touched {
        Touched {
            users: Vec::new(),
            roles: vec![name.to_owned()],
        }
    }

    fn is_empty(&self) -> bool {
        self.users.is_empty() && self.roles.is_empty()
    }
}

impl State {
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Applies a command of the Auth service.
    pub(super) fn apply_auth(
        &mut self,
        at: Position,
        request: &Request,
        store: &mut Pending<'_>,
    ) -> Result<Answer, Denied> {
        match request {
            Request::AuthEnable(_) => {
                let was = self.auth.enabled;
                self.auth.enable()?;
                self.store_auth(was != self.auth.enabled, request, Touched::default(), store);
                Ok(Answer::Empty)
            }
            Request::AuthDisable(_) => {
                let was = std::mem::take(&mut self.auth.enabled);
                self.auth.revision += u64::from(was);
                self.store_auth(was, request, Touched::default(), store);
                Ok(Answer::Empty)
            }
            Request::AuthStatus(_) => Ok(Answer::AuthStatus {
                enabled: self.auth.enabled,
                auth_revision: self.auth.revision,
            }),
            Request::Authenticate(request) => self.auth.authenticate(request, at),
            Request::AuthUserGet(request) => {
                let user = self.auth.users.get(&request.name);
                let user = user.ok_or(Denied::UserNotFound)?;
                Ok(Answer::Names(user.roles.clone()))
            }
            Request::AuthUserList(_) => Ok(Answer::Names(self.auth.users.keys().cloned().collect())),
            Request::AuthRoleGet(request) => {
                let role = self.auth.roles.get(&request.role);
                let role = role.ok_or(Denied::RoleNotFound)?;
                Ok(Answer::Permissions(self.auth.permissions_of(role)))
            }
            Request::AuthRoleList(_) => Ok(Answer::Names(self.auth.roles.keys().cloned().collect())),
            _ => {
                let touched = self.auth.change(request)?;
                let changed = !touched.is_empty();
                self.auth.revision += u64::from(changed);
                self.store_auth(changed, request, touched, store);
                Ok(Answer::Empty)
            }
        }
    }

    /// Writes what was touched, and brings digest and merged permissions up to date.
    fn store_auth(&mut self, changed: bool, request: &Request, touched: Touched, store: &mut Pending<'_>) {
        if !changed {
            return;
        }
        let auth = &mut self.auth;
        auth.merge();
        for name in touched.users {
            match auth.users.get(&name) {
                Some(user) => store.put(Space::Meta, user_key(&name), user.encode_to_vec()),
                None => store.delete(Space::Meta, user_key(&name)),
            }
        }
        for name in touched.roles {
            match auth.roles.get(&name) {
                Some(role) => store.put(Space::Meta, role_key(&name), role.encode_to_vec()),
                None => store.delete(Space::Meta, role_key(&name)),
            }
        }
        let meta = AuthMeta {
            enabled: auth.enabled,
            revision: auth.revision,
        };
        store.put(Space::Meta, Bytes::from_static(META_KEY), meta.encode_to_vec());
        let mut encoded = bytes::BytesMut::new();
        request.encode(&mut encoded);
        self.digest.add(Kind::Auth, &encoded);
    }

    /// Reads back what was stored.
    pub(super) fn load_auth(&mut self, store: &dyn Read) -> Result<(), Broken> {
        if let Some(bytes) = store.get(Space::Meta, META_KEY)? {
            let meta = AuthMeta::decode(bytes).map_err(|error| Broken::unreadable("stored auth", error))?;
            (self.auth.enabled, self.auth.revision) = (meta.enabled, meta.revision);
        }
        self.auth.users = load_named(store, USER_PREFIX)?;
        self.auth.roles = load_named(store, ROLE_PREFIX)?;
        self.auth.merge();
        Ok(())
    }
}

/// Messages that are stored under a prefix and their names.
fn load_named<M: Message + Default>(store: &dyn Read, prefix: &[u8]) -> Result<BTreeMap<String, M>, Broken> {
    let mut found = BTreeMap::new();
    let mut damaged = None;
    // The prefix ends with "/", so its successor ends with "0".
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    store.scan(Space::Meta, prefix, Some(&end), &mut |key, value| {
        let name = key
            .get(prefix.len()..)
            .and_then(|name| std::str::from_utf8(name).ok());
        match (name, M::decode(value)) {
            (Some(name), Ok(message)) => {
                found.insert(name.to_owned(), message);
                Visit::Continue
            }
            _ => {
                damaged = Some(Broken::malformed(format!("stored user or role {key:?}")));
                Visit::Stop
            }
        }
    })?;
    damaged.map_or(Ok(found), Err)
}
