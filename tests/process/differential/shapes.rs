//! Requests of every shape, the wrong ones included, as proptest draws them.

use proptest::collection::vec;
use proptest::prelude::*;
use quorate::proto::authpb;
use quorate::proto::etcdserverpb::{self as pb, compare, request_op::Request as Op};

/// Who asks: nobody, or a user of [`USERS`] if he has a token.
pub type As = Option<usize>;

pub const USERS: &[&str] = &["root", "alice", "bob"];
pub const ROLES: &[&str] = &["root", "reader", "writer"];

/// A request; revisions in it may still be relative: see [`Shape::settle`].
#[derive(Clone, Debug)]
pub enum Shape {
    Range(pb::RangeRequest),
    RangeStream(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Watch(pb::WatchCreateRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    KeepAlive(pb::LeaseKeepAliveRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases,
    AuthStatus,
    AuthEnable,
    AuthDisable,
    Authenticate(pb::AuthenticateRequest),
    UserAdd(pb::AuthUserAddRequest),
    UserDelete(pb::AuthUserDeleteRequest),
    UserGet(pb::AuthUserGetRequest),
    UserList,
    UserPassword(pb::AuthUserChangePasswordRequest),
    UserGrant(pb::AuthUserGrantRoleRequest),
    UserRevoke(pb::AuthUserRevokeRoleRequest),
    RoleAdd(pb::AuthRoleAddRequest),
    RoleDelete(pb::AuthRoleDeleteRequest),
    RoleGet(pb::AuthRoleGetRequest),
    RoleList,
    RoleGrant(pb::AuthRoleGrantPermissionRequest),
    RoleRevoke(pb::AuthRoleRevokePermissionRequest),
    MemberList(pb::MemberListRequest),
    MemberAdd(pb::MemberAddRequest),
    MemberRemove(pb::MemberRemoveRequest),
    MemberUpdate(pb::MemberUpdateRequest),
    MemberPromote(pb::MemberPromoteRequest),
    Alarm(pb::AlarmRequest),
    Status,
    HashKv(pb::HashKvRequest),
    MoveLeader(pb::MoveLeaderRequest),
    Defragment,
    Downgrade(pb::DowngradeRequest),
}

/// Revisions from here on are counted from the current one.
const RELATIVE: i64 = 1 << 40;

fn settle(revision: &mut i64, current: i64) {
    if (RELATIVE - 100..RELATIVE + 100).contains(revision) {
        *revision = current + (*revision - RELATIVE);
    }
}

fn settle_ops(ops: &mut [pb::RequestOp], current: i64) {
    for op in ops {
        match &mut op.request {
            Some(Op::RequestRange(range)) => settle(&mut range.revision, current),
            Some(Op::RequestTxn(txn)) => settle_txn(txn, current),
            _ => {}
        }
    }
}

fn settle_txn(txn: &mut pb::TxnRequest, current: i64) {
    for compare in &mut txn.compare {
        use compare::TargetUnion::{CreateRevision, ModRevision};
        if let Some(ModRevision(revision) | CreateRevision(revision)) = &mut compare.target_union {
            settle(revision, current);
        }
    }
    settle_ops(&mut txn.success, current);
    settle_ops(&mut txn.failure, current);
}

impl Shape {
    /// Makes relative revisions absolute.
    pub fn settle(&mut self, current: i64) {
        match self {
            Shape::Range(range) | Shape::RangeStream(range) => {
                for revision in [
                    &mut range.revision,
                    &mut range.min_mod_revision,
                    &mut range.max_mod_revision,
                    &mut range.min_create_revision,
                    &mut range.max_create_revision,
                ] {
                    settle(revision, current);
                }
            }
            Shape::Txn(txn) => settle_txn(txn, current),
            Shape::Compact(compaction) => settle(&mut compaction.revision, current),
            Shape::Watch(watch) => settle(&mut watch.start_revision, current),
            Shape::HashKv(hash) => settle(&mut hash.revision, current),
            _ => {}
        }
    }
}

fn key() -> impl Strategy<Value = bytes::Bytes> {
    let keys: [&[u8]; 9] = [b"a", b"b", b"c", b"ab", b"a\0", b"b/1", b"b/2", b"\0", b""];
    let weights = [12, 12, 12, 6, 4, 6, 6, 2, 1];
    let weighted = weights.into_iter().zip(keys);
    proptest::strategy::Union::new_weighted(
        weighted
            .map(|(weight, key)| (weight, Just(bytes::Bytes::from_static(key)).boxed()))
            .collect(),
    )
}

fn end() -> impl Strategy<Value = bytes::Bytes> {
    let ends: [&[u8]; 7] = [b"", b"\0", b"b", b"c", b"b0", b"d", b"a"];
    let weights = [8, 3, 2, 2, 2, 2, 1];
    let weighted = weights.into_iter().zip(ends);
    proptest::strategy::Union::new_weighted(
        weighted
            .map(|(weight, end)| (weight, Just(bytes::Bytes::from_static(end)).boxed()))
            .collect(),
    )
}

fn value() -> impl Strategy<Value = bytes::Bytes> {
    prop::sample::select(vec!["", "1", "2", "3", "long value"]).prop_map(bytes::Bytes::from)
}

fn revision() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => Just(0),
        6 => (-8_i64..2).prop_map(|offset| RELATIVE + offset),
        1 => prop::sample::select(vec![-1, 1, 2, i64::MAX, i64::MIN]),
    ]
}

/// A bound that is mostly not set.
fn bound() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => Just(0),
        2 => (-8_i64..2).prop_map(|offset| RELATIVE + offset),
        1 => Just(-1),
    ]
}

fn rarely() -> impl Strategy<Value = bool> {
    prop::bool::weighted(0.08)
}

/// A number of an enumeration, or rarely one that it does not have.
fn mostly(valid: std::ops::Range<i32>) -> impl Strategy<Value = i32> {
    let beyond = valid.end;
    prop_oneof![30 => valid, 1 => prop::sample::select(vec![-1, beyond])]
}

fn lease() -> impl Strategy<Value = i64> {
    prop_oneof![24 => Just(0), 8 => 1_i64..5, 1 => Just(-1)]
}

fn range() -> impl Strategy<Value = pb::RangeRequest> {
    let bounds = (bound(), bound(), bound(), bound());
    let flags = (rarely(), rarely(), any::<bool>());
    let (order, target) = (mostly(0..3), mostly(0..5));
    (key(), end(), -1_i64..5, revision(), order, target, flags, bounds).prop_map(
        |(key, range_end, limit, revision, order, target, (keys_only, count_only, serializable), bounds)| {
            pb::RangeRequest {
                key,
                range_end,
                limit,
                revision,
                sort_order: order,
                sort_target: target,
                serializable,
                keys_only,
                count_only,
                min_mod_revision: bounds.0,
                max_mod_revision: bounds.1,
                min_create_revision: bounds.2,
                max_create_revision: bounds.3,
            }
        },
    )
}

fn put() -> impl Strategy<Value = pb::PutRequest> {
    (key(), value(), lease(), rarely(), rarely(), rarely()).prop_map(
        |(key, value, lease, prev_kv, ignore_value, ignore_lease)| pb::PutRequest {
            key,
            value,
            lease,
            prev_kv,
            ignore_value,
            ignore_lease,
        },
    )
}

fn delete() -> impl Strategy<Value = pb::DeleteRangeRequest> {
    (key(), end(), any::<bool>()).prop_map(|(key, range_end, prev_kv)| pb::DeleteRangeRequest {
        key,
        range_end,
        prev_kv,
    })
}

fn compare() -> impl Strategy<Value = pb::Compare> {
    use compare::TargetUnion::*;
    let union = prop_oneof![
        1 => Just(None),
        9 => (0_i64..4).prop_map(|version| Some(Version(version))),
        9 => revision().prop_map(|revision| Some(CreateRevision(revision))),
        9 => revision().prop_map(|revision| Some(ModRevision(revision))),
        9 => value().prop_map(|value| Some(Value(value))),
        6 => (0_i64..4).prop_map(|lease| Some(Lease(lease))),
    ];
    let fits = prop::bool::weighted(0.95);
    (mostly(0..4), mostly(0..5), fits, key(), end(), union).prop_map(
        |(result, target, fits, key, range_end, target_union)| {
            // Mostly the target that the union is for.
            let target = match &target_union {
                Some(Version(_)) if fits => 0,
                Some(CreateRevision(_)) if fits => 1,
                Some(ModRevision(_)) if fits => 2,
                Some(Value(_)) if fits => 3,
                Some(Lease(_)) if fits => 4,
                _ => target,
            };
            pb::Compare {
                result,
                target,
                key,
                range_end,
                target_union,
            }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => range().prop_map(Op::RequestRange),
        4 => put().prop_map(Op::RequestPut),
        2 => delete().prop_map(Op::RequestDeleteRange),
    ]
}

fn ops(op: impl Strategy<Value = Op> + 'static) -> impl Strategy<Value = Vec<pb::RequestOp>> {
    let whole = prop_oneof![30 => op.prop_map(Some).boxed(), 1 => Just(None).boxed()];
    vec(whole.prop_map(|request| pb::RequestOp { request }), 0..4)
}

fn flat_txn() -> impl Strategy<Value = pb::TxnRequest> {
    (vec(compare(), 0..3), ops(op()), ops(op())).prop_map(|(compare, success, failure)| pb::TxnRequest {
        compare,
        success,
        failure,
    })
}

fn txn() -> impl Strategy<Value = pb::TxnRequest> {
    let nested = || prop_oneof![5 => op().boxed(), 1 => flat_txn().prop_map(Op::RequestTxn).boxed()];
    (vec(compare(), 0..3), ops(nested()), ops(nested())).prop_map(|(compare, success, failure)| {
        pb::TxnRequest {
            compare,
            success,
            failure,
        }
    })
}

/// A put that keeps the value or the lease of a key which the same transaction deletes kills etcd, at every member that
/// applies it and again at every start. And if a nested transaction puts what was deleted beside it, a compaction at that
/// revision takes the put out of etcd's store while its index still names it.
fn spare_etcd(mut txn: pb::TxnRequest) -> pb::TxnRequest {
    if has_delete(&txn) {
        keep_nothing(&mut txn);
        let is_flat = |op: &pb::RequestOp| !matches!(op.request, Some(Op::RequestTxn(_)));
        txn.success.retain(is_flat);
        txn.failure.retain(is_flat);
    }
    txn
}

fn has_delete(txn: &pb::TxnRequest) -> bool {
    let mut ops = txn.success.iter().chain(&txn.failure);
    ops.any(|op| match &op.request {
        Some(Op::RequestDeleteRange(_)) => true,
        Some(Op::RequestTxn(txn)) => has_delete(txn),
        _ => false,
    })
}

fn keep_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Op::RequestPut(put)) => (put.ignore_value, put.ignore_lease) = (false, false),
            Some(Op::RequestTxn(txn)) => keep_nothing(txn),
            _ => {}
        }
    }
}

fn watch() -> impl Strategy<Value = pb::WatchCreateRequest> {
    let filters = vec(-1..3, 0..2);
    (key(), end(), revision(), any::<bool>(), filters, 0_i64..2).prop_map(
        |(key, range_end, start_revision, prev_kv, filters, watch_id)| pb::WatchCreateRequest {
            key,
            range_end,
            start_revision,
            prev_kv,
            filters,
            watch_id,
            ..Default::default()
        },
    )
}

fn name(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    let mut names = of.to_vec();
    names.push("nobody");
    names.push("");
    prop::sample::select(names).prop_map(str::to_owned)
}

/// A user's password is his name: sessions that change it do so to something that is tried as well.
fn password() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["root", "alice", "bob", ""]).prop_map(str::to_owned)
}

fn permission() -> impl Strategy<Value = Option<authpb::Permission>> {
    prop_oneof![
        1 => Just(None),
        12 => (-1..4, key(), end()).prop_map(|(perm_type, key, range_end)| {
            Some(authpb::Permission { perm_type, key, range_end })
        }),
    ]
}

fn auth() -> impl Strategy<Value = Shape> {
    let options = prop_oneof![3 => Just(None), 1 => any::<bool>().prop_map(|no_password| {
        Some(authpb::UserAddOptions { no_password })
    })];
    prop_oneof![
        1 => Just(Shape::AuthStatus),
        2 => Just(Shape::AuthEnable),
        1 => Just(Shape::AuthDisable),
        4 => (name(USERS), password()).prop_map(|(name, password)| {
            Shape::Authenticate(pb::AuthenticateRequest { name, password })
        }),
        4 => (name(USERS), options).prop_map(|(name, options)| {
            let password = if options.is_some_and(|options| options.no_password) { String::new() } else { name.clone() };
            Shape::UserAdd(pb::AuthUserAddRequest { name, password, options, hashed_password: String::new() })
        }),
        1 => name(USERS).prop_map(|name| Shape::UserDelete(pb::AuthUserDeleteRequest { name })),
        2 => name(USERS).prop_map(|name| Shape::UserGet(pb::AuthUserGetRequest { name })),
        1 => Just(Shape::UserList),
        // Root's stays what it is: it ends every session.
        1 => (name(&USERS[1..]), password()).prop_map(|(name, password)| {
            Shape::UserPassword(pb::AuthUserChangePasswordRequest {
                name,
                password,
                hashed_password: String::new(),
            })
        }),
        4 => (name(USERS), name(ROLES)).prop_map(|(user, role)| {
            Shape::UserGrant(pb::AuthUserGrantRoleRequest { user, role })
        }),
        1 => (name(USERS), name(ROLES)).prop_map(|(name, role)| {
            Shape::UserRevoke(pb::AuthUserRevokeRoleRequest { name, role })
        }),
        3 => name(ROLES).prop_map(|name| Shape::RoleAdd(pb::AuthRoleAddRequest { name })),
        1 => name(ROLES).prop_map(|role| Shape::RoleDelete(pb::AuthRoleDeleteRequest { role })),
        2 => name(ROLES).prop_map(|role| Shape::RoleGet(pb::AuthRoleGetRequest { role })),
        1 => Just(Shape::RoleList),
        4 => (name(ROLES), permission()).prop_map(|(name, perm)| {
            Shape::RoleGrant(pb::AuthRoleGrantPermissionRequest { name, perm })
        }),
        1 => (name(ROLES), key(), end()).prop_map(|(role, key, range_end)| {
            Shape::RoleRevoke(pb::AuthRoleRevokePermissionRequest { role, key, range_end })
        }),
    ]
}

fn leases() -> impl Strategy<Value = Shape> {
    let ttl = prop::sample::select(vec![-1, 0, 1000, 2000, 9_000_000_000, 9_000_000_001]);
    prop_oneof![
        4 => (1_i64..5, ttl).prop_map(|(id, ttl)| Shape::Grant(pb::LeaseGrantRequest { ttl, id })),
        2 => lease().prop_map(|id| Shape::Revoke(pb::LeaseRevokeRequest { id })),
        2 => lease().prop_map(|id| Shape::KeepAlive(pb::LeaseKeepAliveRequest { id })),
        2 => (lease(), any::<bool>()).prop_map(|(id, keys)| {
            Shape::TimeToLive(pb::LeaseTimeToLiveRequest { id, keys })
        }),
        1 => Just(Shape::Leases),
    ]
}

/// What concerns the member; nothing that would change the cluster.
fn maintenance() -> impl Strategy<Value = Shape> {
    let urls = || {
        let url = prop::sample::select(vec![
            "http://127.0.0.1",
            "ftp://127.0.0.1:1",
            "127.0.0.1:1",
            "http://127.0.0.1:1/path",
            "",
        ]);
        vec(url.prop_map(str::to_owned), 0..3)
    };
    let version = prop::sample::select(vec!["3.5", "3.6", "3.6.0", "3.7", "4.0", "x", ""]);
    prop_oneof![
        1 => any::<bool>().prop_map(|linearizable| Shape::MemberList(pb::MemberListRequest { linearizable })),
        1 => (urls(), any::<bool>()).prop_map(|(peer_ur_ls, is_learner)| {
            Shape::MemberAdd(pb::MemberAddRequest { peer_ur_ls, is_learner })
        }),
        1 => (1_u64..3).prop_map(|id| Shape::MemberRemove(pb::MemberRemoveRequest { id })),
        1 => (1_u64..3, urls()).prop_map(|(id, peer_ur_ls)| {
            Shape::MemberUpdate(pb::MemberUpdateRequest { id, peer_ur_ls })
        }),
        1 => (1_u64..3).prop_map(|id| Shape::MemberPromote(pb::MemberPromoteRequest { id })),
        // An unknown action kills etcd.
        2 => (0..3, -1..4, 0_u64..2).prop_map(|(action, alarm, member_id)| {
            Shape::Alarm(pb::AlarmRequest { action, member_id, alarm })
        }),
        1 => Just(Shape::Status),
        2 => revision().prop_map(|revision| Shape::HashKv(pb::HashKvRequest { revision })),
        1 => (0_u64..3).prop_map(|target_id| Shape::MoveLeader(pb::MoveLeaderRequest { target_id })),
        1 => Just(Shape::Defragment),
        1 => version.prop_map(|version| {
            // Only asked whether it would do: the cluster's version would take seconds to follow.
            Shape::Downgrade(pb::DowngradeRequest { action: 0, version: version.into() })
        }),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        10 => range().prop_map(Shape::Range),
        2 => range().prop_map(Shape::RangeStream),
        12 => put().prop_map(Shape::Put),
        4 => delete().prop_map(Shape::Delete),
        10 => txn().prop_map(|txn| Shape::Txn(spare_etcd(txn))),
        2 => (revision(), any::<bool>()).prop_map(|(revision, _)| {
            Shape::Compact(pb::CompactionRequest { revision, physical: true })
        }),
        2 => watch().prop_map(Shape::Watch),
        8 => leases(),
        8 => auth(),
        3 => maintenance(),
    ]
}

/// A session: who asks, and what.
pub fn session(length: usize) -> impl Strategy<Value = Vec<(As, Shape)>> {
    let who = prop_oneof![2 => Just(None), 1 => (0..USERS.len()).prop_map(Some)];
    vec((who, shape()), length)
}
