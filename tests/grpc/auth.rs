//! Authentication end to end: the checklist of security.md, A1 to A13, through the wire.

use quorate::client::Channel;
use quorate::config::JwtOptions;
use quorate::proto::authpb::{Permission, UserAddOptions, permission::Type};
use quorate::proto::etcdserverpb::{
    self as pb, WatchCreateRequest, auth_client::AuthClient, cluster_client::ClusterClient,
    kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient, watch_request::RequestUnion,
};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::{Member, PATIENCE, put, range, refusal, with_adjusted};

/// bcrypt at its cheapest: the cost is a number, not a behaviour.
const COST: u32 = 4;

fn with_auth<F: Future>(body: impl FnOnce(Member) -> F) -> F::Output {
    with_adjusted(|config| config.bcrypt_cost = COST, body)
}

/// A request that carries a token under a name of metadata.
fn with_token<T>(message: T, name: &'static str, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<_> = token.parse().unwrap();
    request.metadata_mut().insert(name, value);
    request
}

fn as_user<T>(message: T, token: &str) -> Request<T> {
    with_token(message, "token", token)
}

struct Accounts {
    auth: AuthClient<Channel>,
    root: String,
    alice: String,
}

async fn login(auth: &mut AuthClient<Channel>, name: &str, password: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest {
        name: name.into(),
        password: password.into(),
    };
    Ok(auth.authenticate(request).await?.into_inner().token)
}

async fn add_user(auth: &mut AuthClient<Channel>, name: &str, password: &str) {
    let request = pb::AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    };
    auth.user_add(request).await.unwrap();
}

fn grant(role: &str, kind: Type, key: &str, end: &str) -> pb::AuthRoleGrantPermissionRequest {
    pb::AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(Permission {
            perm_type: kind.into(),
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
        }),
    }
}

/// Root, and alice, who reads and writes `a` to `m`; authentication is on.
async fn accounts(member: &Member) -> Accounts {
    let mut auth = AuthClient::new(member.channel().await);
    add_user(&mut auth, "root", "root's").await;
    add_user(&mut auth, "alice", "alice's").await;
    let role = |user: &str, role: &str| pb::AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    };
    auth.user_grant_role(role("root", "root")).await.unwrap();
    auth.role_add(pb::AuthRoleAddRequest { name: "clerk".into() })
        .await
        .unwrap();
    auth.role_grant_permission(grant("clerk", Type::Readwrite, "a", "m"))
        .await
        .unwrap();
    auth.user_grant_role(role("alice", "clerk")).await.unwrap();
    auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
    Accounts {
        root: login(&mut auth, "root", "root's").await.unwrap(),
        alice: login(&mut auth, "alice", "alice's").await.unwrap(),
        auth,
    }
}

const USER_EMPTY: (Code, &str) = (Code::InvalidArgument, "etcdserver: user name is empty");
const DENIED: (Code, &str) = (Code::PermissionDenied, "etcdserver: permission denied");
const INVALID_TOKEN: (Code, &str) = (Code::Unauthenticated, "etcdserver: invalid auth token");

fn same<T: std::fmt::Debug>(result: Result<T, Status>, expected: (Code, &str), what: &str) {
    let (code, text) = refusal(result);
    assert_eq!((code, text.as_str()), expected, "{what}");
}

/// Calls every method that needs somebody, once per set of credentials, and compares the refusals.
macro_rules! each_method {
    ($channel:expr, $token:expr, $expected:expr, $($client:ident . $method:ident ( $request:expr ) ;)*) => {$(
        let mut client = $client::new($channel.clone());
        let mut request = Request::new($request);
        if let Some(token) = $token {
            request.metadata_mut().insert("token", str::parse(token).unwrap());
        }
        same(client.$method(request).await.map(|_| ()), $expected, stringify!($method));
    )*};
}

/// A1 (CVE-2026-33413): no method is forgotten.
#[test]
fn every_method_wants_to_know_who_calls() {
    with_auth(|member| async move {
        let _accounts = accounts(&member).await;
        let channel = member.channel().await;
        for (token, expected) in [(None, USER_EMPTY), (Some("abcdefghijklmnop.1"), INVALID_TOKEN)] {
            each_method! { channel, token, expected,
                KvClient.range(range("a", ""));
                KvClient.put(put("a", "1"));
                KvClient.delete_range(pb::DeleteRangeRequest { key: "a".into(), ..Default::default() });
                KvClient.txn(pb::TxnRequest { compare: vec![pb::Compare { key: "a".into(), ..Default::default() }], ..Default::default() });
                KvClient.compact(pb::CompactionRequest::default());
                LeaseClient.lease_grant(pb::LeaseGrantRequest { ttl: 10, id: 0 });
                LeaseClient.lease_revoke(pb::LeaseRevokeRequest { id: 1 });
                LeaseClient.lease_time_to_live(pb::LeaseTimeToLiveRequest { id: 1, keys: false });
                LeaseClient.lease_leases(pb::LeaseLeasesRequest {});
                ClusterClient.member_add(pb::MemberAddRequest::default());
                ClusterClient.member_remove(pb::MemberRemoveRequest::default());
                ClusterClient.member_update(pb::MemberUpdateRequest::default());
                ClusterClient.member_list(pb::MemberListRequest::default());
                ClusterClient.member_promote(pb::MemberPromoteRequest::default());
                MaintenanceClient.alarm(pb::AlarmRequest::default());
                MaintenanceClient.status(pb::StatusRequest {});
                MaintenanceClient.defragment(pb::DefragmentRequest {});
                MaintenanceClient.hash(pb::HashRequest {});
                MaintenanceClient.hash_kv(pb::HashKvRequest::default());
                MaintenanceClient.snapshot(pb::SnapshotRequest {});
                MaintenanceClient.move_leader(pb::MoveLeaderRequest::default());
                MaintenanceClient.downgrade(pb::DowngradeRequest::default());
                AuthClient.auth_enable(pb::AuthEnableRequest {});
                AuthClient.auth_disable(pb::AuthDisableRequest {});
                AuthClient.user_add(pb::AuthUserAddRequest { name: "x".into(), password: "x".into(), ..Default::default() });
                AuthClient.user_get(pb::AuthUserGetRequest { name: "root".into() });
                AuthClient.user_list(pb::AuthUserListRequest {});
                AuthClient.user_delete(pb::AuthUserDeleteRequest { name: "root".into() });
                AuthClient.user_change_password(pb::AuthUserChangePasswordRequest { name: "root".into(), password: "x".into(), ..Default::default() });
                AuthClient.user_grant_role(pb::AuthUserGrantRoleRequest { user: "alice".into(), role: "root".into() });
                AuthClient.user_revoke_role(pb::AuthUserRevokeRoleRequest { name: "root".into(), role: "root".into() });
                AuthClient.role_add(pb::AuthRoleAddRequest { name: "x".into() });
                AuthClient.role_get(pb::AuthRoleGetRequest { role: "root".into() });
                AuthClient.role_list(pb::AuthRoleListRequest {});
                AuthClient.role_delete(pb::AuthRoleDeleteRequest { role: "clerk".into() });
                AuthClient.role_grant_permission(grant("clerk", Type::Read, "a", ""));
                AuthClient.role_revoke_permission(pb::AuthRoleRevokePermissionRequest { role: "clerk".into(), key: "a".into(), range_end: "m".into() });
            }
        }
    });
}

/// A user without the role root: what takes it, and what any user may do.
#[test]
fn maintenance_and_membership_are_for_root() {
    with_auth(|member| async move {
        let accounts = accounts(&member).await;
        let channel = member.channel().await;
        each_method! { channel, Some(accounts.alice.as_str()), DENIED,
            KvClient.compact(pb::CompactionRequest::default());
            ClusterClient.member_add(pb::MemberAddRequest::default());
            ClusterClient.member_remove(pb::MemberRemoveRequest::default());
            ClusterClient.member_update(pb::MemberUpdateRequest::default());
            ClusterClient.member_promote(pb::MemberPromoteRequest::default());
            MaintenanceClient.alarm(pb::AlarmRequest { action: 2, alarm: 1, member_id: 1 });
            MaintenanceClient.defragment(pb::DefragmentRequest {});
            MaintenanceClient.hash(pb::HashRequest {});
            MaintenanceClient.hash_kv(pb::HashKvRequest::default());
            MaintenanceClient.snapshot(pb::SnapshotRequest {});
            MaintenanceClient.move_leader(pb::MoveLeaderRequest::default());
            MaintenanceClient.downgrade(pb::DowngradeRequest::default());
            AuthClient.user_list(pb::AuthUserListRequest {});
            AuthClient.auth_disable(pb::AuthDisableRequest {});
        }
        let token = accounts.alice.as_str();
        let mut maintenance = MaintenanceClient::new(channel.clone());
        maintenance
            .status(as_user(pb::StatusRequest {}, token))
            .await
            .unwrap();
        maintenance
            .alarm(as_user(pb::AlarmRequest::default(), token))
            .await
            .unwrap();
        let mut cluster = ClusterClient::new(channel.clone());
        cluster
            .member_list(as_user(pb::MemberListRequest::default(), token))
            .await
            .unwrap();
        let mut lease = LeaseClient::new(channel);
        lease
            .lease_grant(as_user(pb::LeaseGrantRequest { ttl: 10, id: 0 }, token))
            .await
            .unwrap();
    });
}

#[test]
fn a_token_is_taken_from_either_header_and_from_a_bearer() {
    with_auth(|member| async move {
        let accounts = accounts(&member).await;
        let mut kv = member.kv().await;
        for (name, value) in [
            ("token", accounts.alice.clone()),
            ("authorization", accounts.alice.clone()),
            ("authorization", format!("Bearer {}", accounts.alice)),
        ] {
            kv.put(with_token(put("b", "1"), name, &value)).await.unwrap();
        }
        same(
            kv.put(as_user(put("z", "1"), &accounts.alice)).await,
            DENIED,
            "outside",
        );
        kv.put(as_user(put("z", "1"), &accounts.root)).await.unwrap();
    });
}

/// A8: a token dies with its user's password, its user, and authentication itself.
#[test]
fn tokens_die_with_what_they_stand_for() {
    with_auth(|member| async move {
        let mut accounts = accounts(&member).await;
        let mut kv = member.kv().await;
        let change = pb::AuthUserChangePasswordRequest {
            name: "alice".into(),
            password: "another".into(),
            ..Default::default()
        };
        accounts
            .auth
            .user_change_password(as_user(change, &accounts.root))
            .await
            .unwrap();
        same(
            kv.put(as_user(put("b", "1"), &accounts.alice)).await,
            INVALID_TOKEN,
            "old password",
        );
        let alice = login(&mut accounts.auth, "alice", "another").await.unwrap();
        kv.put(as_user(put("b", "1"), &alice)).await.unwrap();
        let delete = pb::AuthUserDeleteRequest { name: "alice".into() };
        accounts
            .auth
            .user_delete(as_user(delete, &accounts.root))
            .await
            .unwrap();
        same(
            kv.put(as_user(put("b", "1"), &alice)).await,
            INVALID_TOKEN,
            "deleted",
        );
        let disable = as_user(pb::AuthDisableRequest {}, &accounts.root);
        accounts.auth.auth_disable(disable).await.unwrap();
        kv.put(put("b", "1")).await.unwrap();
        accounts.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        same(
            kv.put(as_user(put("b", "1"), &accounts.root)).await,
            INVALID_TOKEN,
            "disabled once",
        );
    });
}

/// A7, A12: who has no password cannot log in; a stranger and a wrong password look the same.
#[test]
fn logins_are_refused_in_the_words_of_etcd() {
    with_auth(|member| async move {
        let mut accounts = accounts(&member).await;
        let cert = pb::AuthUserAddRequest {
            name: "cert".into(),
            options: Some(UserAddOptions { no_password: true }),
            ..Default::default()
        };
        accounts
            .auth
            .user_add(as_user(cert, &accounts.root))
            .await
            .unwrap();
        let failed = (
            Code::InvalidArgument,
            "etcdserver: authentication failed, invalid user ID or password",
        );
        let no_password = (
            Code::Unknown,
            "auth: authentication failed, password was given for no password user",
        );
        for (name, password, expected) in [
            ("alice", "guess", failed),
            ("alice", "", failed),
            ("nobody", "alice's", failed),
            ("", "", failed),
            ("cert", "", no_password),
        ] {
            same(login(&mut accounts.auth, name, password).await, expected, name);
        }
        let long = pb::AuthUserAddRequest {
            name: "long".into(),
            password: "x".repeat(73),
            ..Default::default()
        };
        let refused = accounts.auth.user_add(as_user(long, &accounts.root)).await;
        same(
            refused,
            (Code::Unknown, "bcrypt: password length exceeds 72 bytes"),
            "73 bytes",
        );
    });
}

/// A3 (GHSA-xg4h-6gfc-h4m8), and the refusals of a watch, which stand in its cancel reason.
#[test]
fn a_watch_is_authorised_for_the_range_it_asked_for() {
    with_auth(|member| async move {
        let accounts = accounts(&member).await;
        let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        let empty = "rpc error: code = InvalidArgument desc = etcdserver: user name is empty";
        let invalid = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        let token = Some(accounts.alice.as_str());
        for (key, end, token, expected) in [
            ("a", "m", token, ""),
            ("b", "", token, ""),
            ("z", "", token, denied),
            ("a", "\0", token, denied),
            ("", "\0", token, denied),
            ("", "", token, denied),
            ("a", "", None, empty),
            ("a", "", Some("xxxxxxxxxxxxxxxx.1"), invalid),
        ] {
            let create = pb::WatchRequest {
                request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                    key: key.to_owned().into(),
                    range_end: end.to_owned().into(),
                    ..Default::default()
                })),
            };
            let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
            requests.send(create).unwrap();
            let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
            let mut request = Request::new(stream);
            if let Some(token) = token {
                request.metadata_mut().insert("token", token.parse().unwrap());
            }
            let mut watch = WatchClient::new(member.channel().await);
            let mut responses = watch.watch(request).await.unwrap().into_inner();
            let next = member.env.timeout(PATIENCE, responses.message()).await;
            let response = next.unwrap().unwrap().unwrap();
            assert_eq!(response.cancel_reason, expected, "{key:?} {end:?}");
            assert_eq!(response.canceled, !expected.is_empty());
            assert!(response.created);
            assert_eq!(response.watch_id, if expected.is_empty() { 0 } else { -1 });
        }
    });
}

/// A4: LeaseLeases, time-to-live and keep-alive do not tell of keys that the caller may not see.
#[test]
fn leases_are_as_secret_as_their_keys() {
    with_auth(|member| async move {
        let accounts = accounts(&member).await;
        let mut lease = LeaseClient::new(member.channel().await);
        let mut kv = member.kv().await;
        let granted = lease
            .lease_grant(as_user(pb::LeaseGrantRequest { ttl: 100, id: 7 }, &accounts.root))
            .await;
        assert_eq!(granted.unwrap().into_inner().id, 7);
        let attached = pb::PutRequest {
            lease: 7,
            ..put("z", "1")
        };
        kv.put(as_user(attached, &accounts.root)).await.unwrap();
        let alice = accounts.alice.as_str();
        let time_to_live = |keys| pb::LeaseTimeToLiveRequest { id: 7, keys };
        lease
            .lease_time_to_live(as_user(time_to_live(false), alice))
            .await
            .unwrap();
        same(
            lease.lease_time_to_live(as_user(time_to_live(true), alice)).await,
            DENIED,
            "keys",
        );
        same(
            lease
                .lease_leases(as_user(pb::LeaseLeasesRequest {}, alice))
                .await,
            DENIED,
            "leases",
        );
        same(
            lease
                .lease_revoke(as_user(pb::LeaseRevokeRequest { id: 7 }, alice))
                .await,
            DENIED,
            "revoke",
        );
        let attach = pb::PutRequest {
            lease: 7,
            ..put("b", "1")
        };
        same(kv.put(as_user(attach, alice)).await, DENIED, "attach");
        let renewals = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 7 }]);
        let mut renewed = lease
            .lease_keep_alive(as_user(renewals, alice))
            .await
            .unwrap()
            .into_inner();
        same(renewed.message().await, DENIED, "renewal");
    });
}

/// A9: a signed token holds until the users change, and only with the right signature.
#[test]
fn signed_tokens_hold_until_the_users_change() {
    let jwt = |secret: &str| JwtOptions {
        sign_method: "HS256".into(),
        private_key: secret.as_bytes().to_vec(),
        ttl: std::time::Duration::from_secs(300),
        ..JwtOptions::default()
    };
    let adjust = |config: &mut quorate::config::Config| {
        config.bcrypt_cost = COST;
        config.auth_jwt = Some(jwt("secret"));
    };
    with_adjusted(adjust, |member| async move {
        let mut accounts = accounts(&member).await;
        let mut kv = member.kv().await;
        kv.put(as_user(put("b", "1"), &accounts.alice)).await.unwrap();
        let forged = format!("{}x", accounts.alice);
        same(
            kv.put(as_user(put("b", "1"), &forged)).await,
            INVALID_TOKEN,
            "forged",
        );
        let role = pb::AuthRoleAddRequest {
            name: "another".into(),
        };
        accounts
            .auth
            .role_add(as_user(role, &accounts.root))
            .await
            .unwrap();
        let old = (Code::InvalidArgument, "etcdserver: revision of auth store is old");
        same(
            kv.put(as_user(put("b", "1"), &accounts.alice)).await,
            old,
            "old put",
        );
        same(
            kv.range(as_user(range("b", ""), &accounts.alice)).await,
            old,
            "old range",
        );
        let alice = login(&mut accounts.auth, "alice", "alice's").await.unwrap();
        kv.put(as_user(put("b", "1"), &alice)).await.unwrap();
    });
}

/// What a stream brought counts when it is needed: here the token of a time before authentication was switched off and on.
#[test]
fn a_stream_that_was_opened_while_authentication_was_off_keeps_its_token() {
    let adjust = |config: &mut quorate::config::Config| {
        config.bcrypt_cost = COST;
        config.auth_jwt = Some(JwtOptions {
            sign_method: "HS256".into(),
            private_key: b"secret".to_vec(),
            ttl: std::time::Duration::from_secs(300),
            ..JwtOptions::default()
        });
    };
    with_adjusted(adjust, |member| async move {
        let mut accounts = accounts(&member).await;
        let disable = as_user(pb::AuthDisableRequest {}, &accounts.root);
        accounts.auth.auth_disable(disable).await.unwrap();
        let mut lease = LeaseClient::new(member.channel().await);
        let grant = pb::LeaseGrantRequest { ttl: 100, id: 7 };
        lease.lease_grant(grant).await.unwrap();
        let attached = pb::PutRequest {
            lease: 7,
            ..put("b", "1")
        };
        member.kv().await.put(attached).await.unwrap();
        let (watches, receiver) = tokio::sync::mpsc::unbounded_channel();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let mut watch = WatchClient::new(member.channel().await);
        let watch = watch.watch(as_user(stream, &accounts.alice)).await;
        let mut responses = watch.unwrap().into_inner();
        let (renewals, receiver) = tokio::sync::mpsc::unbounded_channel();
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let renewed = lease.lease_keep_alive(as_user(stream, &accounts.alice)).await;
        let mut renewed = renewed.unwrap().into_inner();
        accounts.auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        let create = WatchCreateRequest {
            key: "b".into(),
            ..Default::default()
        };
        let create = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        watches.send(create).unwrap();
        let next = member.env.timeout(PATIENCE, responses.message()).await;
        // Not "user name is empty".
        assert_eq!(
            next.unwrap().unwrap().unwrap().cancel_reason,
            "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old"
        );
        renewals.send(pb::LeaseKeepAliveRequest { id: 7 }).unwrap();
        let old = (Code::InvalidArgument, "etcdserver: revision of auth store is old");
        same(renewed.message().await, old, "renewal");
    });
}
