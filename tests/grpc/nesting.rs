//! Transactions in each other, as deep as they are served and deeper. The runtime of these tests gives its threads half the
//! stack that production gives them, and a debug build needs more of it than a release: what holds here, holds
//! there with a margin of more than two.

use quorate::base::limits::TXN_LEVELS_MAX;
use quorate::proto::etcdserverpb::request_op::Request as Op;
use quorate::proto::etcdserverpb::response_op::Response as Re;
use quorate::proto::etcdserverpb::{self as pb, auth_client::AuthClient};
use serde_json::json;
use tonic::Code;

use super::gateway::{post, send};
use crate::{Member, RUNTIME, put, range, refusal, with_member};

const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";

/// So many transactions in each other, in both branches of each; the innermost writes.
fn nested(levels: usize, key: &str) -> pb::TxnRequest {
    let op = |request| pb::RequestOp {
        request: Some(request),
    };
    let mut txn = pb::TxnRequest {
        success: vec![op(Op::RequestPut(put(key, "value")))],
        ..Default::default()
    };
    for level in 1..levels {
        let inner = vec![op(Op::RequestTxn(txn))];
        // Compares without one hold; a key that exists for a compare that does not.
        let compare = match level % 3 {
            0 => vec![pb::Compare {
                key: "absent".into(),
                target_union: Some(pb::compare::TargetUnion::Version(1)),
                ..Default::default()
            }],
            _ => Vec::new(),
        };
        txn = match compare.is_empty() {
            true => pb::TxnRequest {
                success: inner,
                ..Default::default()
            },
            false => pb::TxnRequest {
                compare,
                failure: inner,
                ..Default::default()
            },
        };
    }
    txn
}

/// Transactions in each other that were answered, and whether the innermost wrote.
fn answered(mut answer: pb::TxnResponse) -> (usize, bool) {
    let mut levels = 1;
    loop {
        match answer.responses.pop().and_then(|op| op.response) {
            Some(Re::ResponseTxn(inner)) => answer = inner,
            Some(Re::ResponsePut(_)) => return (levels, true),
            _ => return (levels, false),
        }
        levels += 1;
    }
}

/// Transactions are made, sent and dropped by threads of the runtime, as the server's are.
fn in_runtime(body: impl Future<Output = ()> + Send + 'static) {
    RUNTIME.block_on(async { RUNTIME.spawn(body).await.unwrap() });
}

async fn start(max_txn_ops: usize) -> Member {
    let env = quorate::runtime::tokio::env();
    Member::start(&env, |config| config.max_txn_ops = max_txn_ops).await
}

/// As in etcd the number of operations on the way down is the bound: one for each level but the last.
#[test]
fn nesting_is_served_as_deep_as_operations_are_counted() {
    in_runtime(async {
        let member = start(128).await;
        let mut kv = member.kv().await;
        for levels in [1, 2, 49, 50, 51, 99, 128] {
            let key = format!("k{levels}");
            let answer = kv.txn(nested(levels, &key)).await.unwrap().into_inner();
            assert_eq!(answered(answer), (levels, true));
            let found = kv.range(range(&key, "")).await.unwrap().into_inner();
            assert_eq!(found.count, 1);
        }
        // The innermost of 129 may not have an operation, and there can be no 130th.
        let mut hollow = nested(128, "hollow");
        let innermost = innermost(&mut hollow);
        innermost.success[0].request = Some(Op::RequestTxn(pb::TxnRequest::default()));
        let answer = kv.txn(hollow).await.unwrap().into_inner();
        assert_eq!(answered(answer), (129, false));
        for levels in [129, 130, TXN_LEVELS_MAX, TXN_LEVELS_MAX + 1, 2 * TXN_LEVELS_MAX] {
            let refused = refusal(kv.txn(nested(levels, "deep")).await);
            assert_eq!(refused, (Code::InvalidArgument, TOO_MANY_OPS.into()), "{levels}");
        }
        member.node.stop().await;
    });
}

fn innermost(txn: &mut pb::TxnRequest) -> &mut pb::TxnRequest {
    let ops = match txn.success.is_empty() {
        true => &txn.failure,
        false => &txn.success,
    };
    if !matches!(ops[0].request, Some(Op::RequestTxn(_))) {
        return txn;
    }
    let ops = match txn.success.is_empty() {
        true => &mut txn.failure,
        false => &mut txn.success,
    };
    match &mut ops[0].request {
        Some(Op::RequestTxn(inner)) => innermost(inner),
        _ => unreachable!("looked at above"),
    }
}

/// Everything that works on a transaction, at the ceiling: decoding, checks, quota, permissions, applying, counting,
/// encoding, dropping, and the gateway both ways.
#[test]
fn the_ceiling_fits_into_the_stack() {
    in_runtime(async {
        let env = quorate::runtime::tokio::env();
        let member = Member::start(&env, |config| config.max_txn_ops = usize::MAX).await;
        let mut kv = member.kv().await;
        let answer = kv.txn(nested(TXN_LEVELS_MAX, "deepest")).await.unwrap();
        assert_eq!(answered(answer.into_inner()), (TXN_LEVELS_MAX, true));
        let reads = {
            let mut txn = nested(TXN_LEVELS_MAX, "deepest");
            innermost(&mut txn).success[0].request = Some(Op::RequestRange(range("deepest", "")));
            txn
        };
        kv.txn(reads).await.unwrap();
        let refused = refusal(kv.txn(nested(TXN_LEVELS_MAX + 1, "deeper")).await);
        assert_eq!(refused, (Code::InvalidArgument, TOO_MANY_OPS.into()));

        assert_eq!(answered_json(&member, TXN_LEVELS_MAX).await, TXN_LEVELS_MAX);
        let (status, answer) = post(&member, "/v3/kv/txn", &json_of(TXN_LEVELS_MAX + 1, "deeper")).await;
        assert_eq!((status, &answer["message"]), (400, &json!(TOO_MANY_OPS)));
        let (status, answer) = post(&member, "/v3/kv/txn", &json_of(100_000, "deeper")).await;
        let expected = json!("proto: exceeded max recursion depth");
        assert_eq!((status, &answer["message"]), (400, &expected));

        // With rights to be checked at every level.
        let mut auth = AuthClient::new(member.channel().await);
        let user = pb::AuthUserAddRequest {
            name: "root".into(),
            password: "pw".into(),
            ..Default::default()
        };
        auth.user_add(user).await.unwrap();
        let role = pb::AuthUserGrantRoleRequest {
            user: "root".into(),
            role: "root".into(),
        };
        auth.user_grant_role(role).await.unwrap();
        auth.auth_enable(pb::AuthEnableRequest {}).await.unwrap();
        let login = pb::AuthenticateRequest {
            name: "root".into(),
            password: "pw".into(),
        };
        let token = auth.authenticate(login).await.unwrap().into_inner().token;
        let mut request = tonic::Request::new(nested(TXN_LEVELS_MAX, "deepest"));
        request.metadata_mut().insert("token", token.parse().unwrap());
        kv.txn(request).await.unwrap();
        let refused = refusal(kv.txn(nested(TXN_LEVELS_MAX, "deepest")).await);
        assert_eq!(
            refused,
            (Code::InvalidArgument, "etcdserver: user name is empty".into())
        );
        member.node.stop().await;
    });
}

/// The same as [`nested`], as JSON.
fn json_of(levels: usize, key: &str) -> String {
    use base64::Engine as _;
    let key = base64::engine::general_purpose::STANDARD.encode(key);
    let mut text = String::new();
    for _ in 1..levels {
        text.push_str(r#"{"success":[{"requestTxn":"#);
    }
    text.push_str(&format!(r#"{{"success":[{{"requestPut":{{"key":"{key}"}}}}]}}"#));
    for _ in 1..levels {
        text.push_str("}]}");
    }
    text
}

/// Transactions in each other that the gateway answered. Counted in the text: a parser of JSON has limits of its own.
async fn answered_json(member: &Member, levels: usize) -> usize {
    let (status, _, text) = send(member, "POST", "/v3/kv/txn", "", &json_of(levels, "k")).await;
    assert_eq!(status, 200, "{text}");
    assert_eq!(text.matches("response_put").count(), 1, "{text}");
    1 + text.matches("response_txn").count()
}

#[test]
fn the_gateway_serves_what_grpc_serves() {
    with_member(|member| async move {
        for levels in [1, 42, 43, 50, 128] {
            assert_eq!(answered_json(&member, levels).await, levels);
        }
        let (status, answer) = post(&member, "/v3/kv/txn", &json_of(129, "k")).await;
        assert_eq!((status, &answer["message"]), (400, &json!(TOO_MANY_OPS)));
    });
}
