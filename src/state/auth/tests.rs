//! Users and roles as scripts: who may what, at each step, and the refusals in between.

use super::super::tests::{Machine, delete, put};
use super::*;
use crate::proto::authpb::UserAddOptions;
use crate::proto::command::Header;
use crate::state::Outcome;

fn user_add(name: &str) -> Request {
    Request::AuthUserAdd(pb::AuthUserAddRequest {
        name: name.into(),
        hashed_password: STANDARD.encode("hash"),
        ..Default::default()
    })
}

fn role_add(name: &str) -> Request {
    Request::AuthRoleAdd(pb::AuthRoleAddRequest { name: name.into() })
}

fn grant_role(user: &str, role: &str) -> Request {
    Request::AuthUserGrantRole(pb::AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    })
}

fn revoke_role(name: &str, role: &str) -> Request {
    Request::AuthUserRevokeRole(pb::AuthUserRevokeRoleRequest {
        name: name.into(),
        role: role.into(),
    })
}

fn grant(name: &str, kind: permission::Type, key: &str, end: &str) -> Request {
    Request::AuthRoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
        name: name.into(),
        perm: Some(Permission {
            perm_type: kind.into(),
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
        }),
    })
}

fn revoke(role: &str, key: &str, end: &str) -> Request {
    Request::AuthRoleRevokePermission(pb::AuthRoleRevokePermissionRequest {
        role: role.into(),
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
    })
}

fn enable() -> Request {
    Request::AuthEnable(pb::AuthEnableRequest {})
}

fn disable() -> Request {
    Request::AuthDisable(pb::AuthDisableRequest {})
}

fn user_delete(name: &str) -> Request {
    Request::AuthUserDelete(pb::AuthUserDeleteRequest { name: name.into() })
}

fn role_delete(name: &str) -> Request {
    Request::AuthRoleDelete(pb::AuthRoleDeleteRequest { role: name.into() })
}

fn range(key: &str, end: &str) -> Request {
    Request::Range(pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    })
}

/// Root, and alice, who reads `a` to `m` and writes `c` to `f`; authentication is on.
fn guarded() -> Machine {
    let mut machine = Machine::new();
    for request in [
        user_add("root"),
        grant_role("root", "root"),
        user_add("alice"),
        role_add("clerk"),
        grant("clerk", permission::Type::Read, "a", "m"),
        grant("clerk", permission::Type::Write, "c", "f"),
        grant_role("alice", "clerk"),
        enable(),
    ] {
        machine.ok(request);
    }
    machine
}

/// As a client whose token was checked just now.
fn ask(machine: &mut Machine, user: &str, request: Request) -> Outcome {
    let auth_revision = match user {
        "" => 0,
        _ => machine.state.auth().revision(),
    };
    let header = Header {
        user: user.to_owned(),
        auth_revision,
    };
    machine.apply_for(&header, request)
}

fn refusal(machine: &mut Machine, user: &str, request: Request) -> Option<Denied> {
    ask(machine, user, request).answer.err()
}

#[test]
fn management_is_refused_in_the_words_of_etcd() {
    let mut machine = Machine::new();
    let mut check = |request: Request, expected: Option<Denied>| {
        let revision = machine.state.auth().revision();
        let outcome = machine.apply(request.clone());
        assert_eq!(outcome.answer.err(), expected, "{request:?}");
        let changed = machine.state.auth().revision() - revision;
        assert!(expected.is_none() || changed == 0, "{request:?}");
    };
    check(enable(), Some(Denied::RootUserNotExist));
    check(user_add(""), Some(Denied::UserEmpty));
    check(user_add("root"), None);
    check(user_add("root"), Some(Denied::UserAlreadyExists));
    check(enable(), Some(Denied::RootRoleNotExist));
    check(grant_role("nobody", "root"), Some(Denied::UserNotFound));
    check(grant_role("root", "none"), Some(Denied::RoleNotFound));
    check(grant_role("root", "root"), None);
    check(grant_role("root", "root"), None);
    check(role_add(""), Some(Denied::RoleEmpty));
    check(role_add("r"), None);
    check(role_add("r"), Some(Denied::RoleAlreadyExists));
    check(
        grant("r", permission::Type::Read, "", ""),
        Some(Denied::InvalidAuthManagement),
    );
    check(
        grant("r", permission::Type::Read, "b", "a"),
        Some(Denied::InvalidAuthManagement),
    );
    check(
        grant("none", permission::Type::Read, "a", ""),
        Some(Denied::RoleNotFound),
    );
    let nothing = Request::AuthRoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
        name: "r".into(),
        perm: None,
    });
    check(nothing, Some(Denied::PermissionNotGiven));
    check(grant("r", permission::Type::Read, "a", "b"), None);
    check(revoke("r", "a", "c"), Some(Denied::PermissionNotGranted));
    check(revoke("none", "a", "c"), Some(Denied::RoleNotFound));
    check(revoke("r", "a", "b"), None);
    check(revoke_role("root", "r"), Some(Denied::RoleNotGranted));
    check(enable(), None);
    check(enable(), None);
    for protected in [
        user_delete("root"),
        role_delete("root"),
        revoke_role("root", "root"),
    ] {
        check(protected, Some(Denied::InvalidAuthManagement));
    }
    check(user_delete("nobody"), Some(Denied::UserNotFound));
    check(role_delete("none"), Some(Denied::RoleNotFound));
    check(disable(), None);
    check(revoke_role("root", "root"), None);
    check(user_delete("root"), None);
}

#[test]
fn the_auth_revision_counts_changes_and_the_stores_does_not() {
    let mut machine = Machine::new();
    assert_eq!(machine.state.auth().revision(), 1);
    let mut expected = 1;
    for (request, counts) in [
        (user_add("root"), 1),
        (grant_role("root", "root"), 1),
        (grant_role("root", "root"), 0),
        (enable(), 0),
        (disable(), 1),
        (disable(), 0),
        (role_add("r"), 1),
        (grant("r", permission::Type::Read, "a", ""), 1),
        (role_delete("r"), 1),
    ] {
        machine.ok(request.clone());
        expected += counts;
        assert_eq!(machine.state.auth().revision(), expected, "{request:?}");
    }
    assert_eq!(machine.state.revision(), 1);
}

#[test]
fn a_user_reaches_what_its_roles_reach_together() {
    let mut machine = guarded();
    let denied = Some(Denied::PermissionDenied);
    for (request, expected) in [
        (range("a", "m"), None),
        (range("l", ""), None),
        (range("m", ""), denied),
        (range("a", "\0"), denied),
        (put("c", "1"), None),
        (put("ezz", "1"), None),
        (put("f", "1"), denied),
        (put("a", "1"), denied),
        (delete("c", "f"), None),
        (delete("b", "d"), denied),
    ] {
        assert_eq!(
            refusal(&mut machine, "alice", request.clone()),
            expected,
            "{request:?}"
        );
        assert_eq!(
            refusal(&mut machine, "root", request.clone()),
            None,
            "{request:?}"
        );
        assert_eq!(
            refusal(&mut machine, "", request.clone()),
            Some(Denied::UserEmpty),
            "{request:?}"
        );
        assert_eq!(
            refusal(&mut machine, "mallory", request.clone()),
            denied,
            "{request:?}"
        );
    }
    assert_eq!(machine.apply(put("z", "1")).answer.err(), None, "a member itself");
}

#[test]
fn seeing_the_old_value_needs_the_right_to_read() {
    let mut machine = guarded();
    machine.ok(grant("clerk", permission::Type::Write, "x", "z"));
    let put = |prev_kv| {
        Request::Put(pb::PutRequest {
            key: "x".into(),
            prev_kv,
            ..Default::default()
        })
    };
    let delete = |prev_kv| {
        Request::DeleteRange(pb::DeleteRangeRequest {
            key: "x".into(),
            range_end: "y".into(),
            prev_kv,
        })
    };
    let denied = Some(Denied::PermissionDenied);
    assert_eq!(refusal(&mut machine, "alice", put(false)), None);
    assert_eq!(refusal(&mut machine, "alice", put(true)), denied);
    assert_eq!(refusal(&mut machine, "alice", delete(false)), None);
    assert_eq!(refusal(&mut machine, "alice", delete(true)), denied);
}

/// CVE-2026-33343: what is nested was not looked at.
#[test]
fn a_transaction_needs_the_rights_of_both_branches_at_every_depth() {
    let mut machine = guarded();
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    let put_op = |key: &str| {
        op(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.to_owned().into(),
            ..Default::default()
        }))
    };
    let txn = |success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>, compared: &str| pb::TxnRequest {
        compare: vec![pb::Compare {
            key: compared.to_owned().into(),
            ..Default::default()
        }],
        success,
        failure,
    };
    let nested = |inner| vec![op(pb::request_op::Request::RequestTxn(inner))];
    let denied = Some(Denied::PermissionDenied);
    for (request, expected) in [
        (txn(vec![put_op("c")], vec![], "a"), None),
        (txn(vec![put_op("c")], vec![], "z"), denied),
        (txn(vec![put_op("z")], vec![], "a"), denied),
        (txn(vec![], vec![put_op("z")], "a"), denied),
        (
            txn(nested(txn(vec![], vec![put_op("z")], "a")), vec![], "a"),
            denied,
        ),
        (
            txn(
                vec![],
                nested(txn(nested(txn(vec![], vec![], "z")), vec![], "a")),
                "a",
            ),
            denied,
        ),
        (
            txn(
                vec![],
                nested(txn(nested(txn(vec![put_op("d")], vec![], "b")), vec![], "a")),
                "a",
            ),
            None,
        ),
    ] {
        let request = Request::Txn(request);
        assert_eq!(
            refusal(&mut machine, "alice", request.clone()),
            expected,
            "{request:?}"
        );
    }
}

#[test]
fn a_lease_belongs_to_who_may_write_all_its_keys() {
    let mut machine = guarded();
    let grant_lease = |id| Request::LeaseGrant(pb::LeaseGrantRequest { id, ttl: 60 });
    let attach = |key: &str, lease| {
        Request::Put(pb::PutRequest {
            key: key.to_owned().into(),
            lease,
            ..Default::default()
        })
    };
    let end = |id| Request::LeaseRevoke(pb::LeaseRevokeRequest { id });
    machine.ok(grant_lease(1));
    machine.ok(grant_lease(2));
    machine.ok(attach("z", 1));
    machine.ok(attach("c", 2));
    let denied = Some(Denied::PermissionDenied);
    assert_eq!(refusal(&mut machine, "alice", attach("d", 1)), denied);
    assert_eq!(refusal(&mut machine, "alice", end(1)), denied);
    let alice = Header {
        user: "alice".into(),
        auth_revision: machine.state.auth().revision(),
    };
    assert_eq!(machine.state.permit_lease_reads(&alice, 1).err(), denied);
    assert_eq!(machine.state.permit_lease_reads(&alice, 2).err(), None);
    assert_eq!(machine.state.permit_leases(&alice).err(), denied);
    assert_eq!(machine.state.permit_lease_renewal(&alice, 1).err(), denied);
    assert_eq!(machine.state.permit_lease_renewal(&alice, 2).err(), None);
    assert_eq!(
        machine.state.permit_lease_renewal(&Header::default(), 9).err(),
        Some(Denied::UserEmpty)
    );
    assert_eq!(refusal(&mut machine, "alice", attach("d", 2)), None);
    assert_eq!(refusal(&mut machine, "alice", end(2)), None);
}

#[test]
fn what_was_permitted_at_an_earlier_auth_revision_is_not_believed() {
    let mut machine = guarded();
    let header = Header {
        user: "alice".into(),
        auth_revision: machine.state.auth().revision(),
    };
    machine.ok(user_add("bob"));
    let late = machine.apply_for(&header, put("c", "1"));
    assert_eq!(late.answer, Err(Denied::AuthOldRevision));
}

#[test]
fn management_needs_root_except_for_looking_at_oneself() {
    let mut machine = guarded();
    let user_get = |name: &str| Request::AuthUserGet(pb::AuthUserGetRequest { name: name.into() });
    let role_get = |role: &str| Request::AuthRoleGet(pb::AuthRoleGetRequest { role: role.into() });
    let denied = Some(Denied::PermissionDenied);
    for (request, expected) in [
        (user_get("alice"), None),
        (user_get("root"), denied),
        (role_get("clerk"), None),
        (role_get("root"), denied),
        (Request::AuthUserList(pb::AuthUserListRequest {}), denied),
        (Request::AuthRoleList(pb::AuthRoleListRequest {}), denied),
        (user_add("eve"), denied),
        (grant_role("alice", "root"), denied),
        (disable(), denied),
        (
            Request::Compaction(pb::CompactionRequest {
                revision: 1,
                physical: false,
            }),
            denied,
        ),
        (Request::AuthStatus(pb::AuthStatusRequest {}), None),
    ] {
        assert_eq!(
            refusal(&mut machine, "alice", request.clone()),
            expected,
            "{request:?}"
        );
        let anonymous = match request {
            Request::AuthStatus(_) => None,
            _ => Some(Denied::UserEmpty),
        };
        assert_eq!(
            refusal(&mut machine, "", request.clone()),
            anonymous,
            "{request:?}"
        );
    }
    let gone = refusal(&mut machine, "mallory", user_add("eve"));
    assert_eq!(gone, Some(Denied::UserNotFound));
}

#[test]
fn answers_are_sorted_and_root_is_synthetic() {
    let mut machine = guarded();
    machine.ok(role_add("root"));
    machine.ok(role_add("b"));
    machine.ok(grant_role("alice", "b"));
    let names = |names: &[&str]| Answer::Names(names.iter().map(|&name| name.to_owned()).collect());
    assert_eq!(
        machine.ok(Request::AuthRoleList(pb::AuthRoleListRequest {})),
        names(&["b", "clerk", "root"])
    );
    assert_eq!(
        machine.ok(Request::AuthUserList(pb::AuthUserListRequest {})),
        names(&["alice", "root"])
    );
    let alice = Request::AuthUserGet(pb::AuthUserGetRequest { name: "alice".into() });
    assert_eq!(machine.ok(alice.clone()), names(&["b", "clerk"]));
    let Answer::Permissions(root) = machine.ok(Request::AuthRoleGet(pb::AuthRoleGetRequest {
        role: "root".into(),
    })) else {
        panic!("permissions");
    };
    assert_eq!(root.len(), 1);
    assert_eq!(
        (root[0].key.as_ref(), root[0].range_end.as_ref()),
        (&b""[..], &b"\0"[..])
    );
    machine.ok(role_delete("b"));
    assert_eq!(machine.ok(alice), names(&["clerk"]));
}

#[test]
fn logins_are_for_users_with_a_password() {
    let mut machine = guarded();
    machine.ok(Request::AuthUserAdd(pb::AuthUserAddRequest {
        name: "cert".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    }));
    let login = |name: &str| {
        Request::Authenticate(AuthenticateCommand {
            name: name.into(),
            token_prefix: "x".into(),
        })
    };
    assert!(matches!(machine.ok(login("alice")), Answer::Authenticate { .. }));
    for name in ["cert", "nobody"] {
        assert_eq!(
            machine.apply(login(name)).answer,
            Err(Denied::AuthFailed),
            "{name}"
        );
    }
    machine.ok(disable());
    assert_eq!(machine.apply(login("alice")).answer, Err(Denied::AuthNotEnabled));
}

#[test]
fn users_and_roles_survive_a_restart() {
    let machine = guarded();
    let mut again = machine.reopened();
    assert_eq!(again.state.auth().revision(), machine.state.auth().revision());
    assert!(again.state.auth().is_enabled());
    assert!(again.state.auth().users().eq(machine.state.auth().users()));
    assert!(again.state.auth().roles().eq(machine.state.auth().roles()));
    assert_eq!(refusal(&mut again, "alice", put("c", "1")), None);
    assert_eq!(
        refusal(&mut again, "alice", put("z", "1")),
        Some(Denied::PermissionDenied)
    );
}

/// A log of an older version may hold such a command; the front refuses even shorter names.
#[test]
fn a_name_that_no_engine_keeps_is_refused_when_it_is_applied() {
    let mut machine = Machine::new();
    let longest = limits::ENGINE_KEY_BYTES_MAX - user_key("").len().max(role_key("").len());
    for add in [user_add, role_add] {
        machine.ok(add(&"n".repeat(longest)));
        let refused = machine.apply(add(&"n".repeat(limits::ENGINE_KEY_BYTES_MAX)));
        assert_eq!(refused.answer, Err(Denied::NameTooLong));
    }
    assert!(
        machine
            .reopened()
            .state
            .auth()
            .users()
            .eq(machine.state.auth().users())
    );
}
