//! Plain HTTP on the ports of clients and of metrics, over HTTP/1.1 and HTTP/2.

use http::Request;
use http_body_util::BodyExt;
use prost::Message;
use quorate::proto::etcdserverpb::{self as pb, maintenance_client::MaintenanceClient};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_service::Service;

use crate::{Member, PATIENCE, put, with_member};

/// One request over HTTP/1.1: status, head and body.
async fn ask(member: &Member, address: &str, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = member.env.connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    member
        .env
        .timeout(PATIENCE, read)
        .await
        .expect("an answer in time")
        .unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .expect("a status");
    (status, head.to_owned(), body.to_owned())
}

pub async fn get(member: &Member, path: &str) -> (u16, String) {
    let (status, _, body) = ask(member, member.client_address(), "GET", path).await;
    (status, body)
}

#[test]
fn probes_are_answered_as_etcd_does() {
    with_member(|member| async move {
        for (path, body) in [
            ("/health", r#"{"health":"true","reason":""}"#),
            ("/health?serializable=true", r#"{"health":"true","reason":""}"#),
            ("/livez", "ok\n"),
            ("/livez?verbose", "[+]serializable_read ok\nok\n"),
            ("/readyz", "ok\n"),
            (
                "/readyz?verbose",
                "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n",
            ),
            (
                "/readyz?verbose&exclude=linearizable_read&exclude=data_corruption&exclude=unknown",
                "[+]serializable_read ok\n[+]non_learner ok\nok\n",
            ),
            ("/readyz/linearizable_read", "ok\n"),
            (
                "/version",
                r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#,
            ),
        ] {
            // The cluster's version is settled by raft a moment after the member is ready.
            let mut answer = get(&member, path).await;
            while answer.1.contains("not_decided") {
                answer = get(&member, path).await;
            }
            assert_eq!(answer, (200, body.to_owned()), "{path}");
        }
        for path in [
            "/",
            "/v2/keys",
            "/livez/linearizable_read",
            "/readyz/",
            "/healthz",
        ] {
            assert_eq!(get(&member, path).await.0, 404, "{path}");
        }
        for path in ["/health", "/livez", "/readyz", "/version"] {
            let (status, head, _) = ask(&member, member.client_address(), "POST", path).await;
            assert_eq!(status, 405, "{path}");
            assert!(head.contains("Allow: GET"), "{head}");
        }
        let (status, head, _) = ask(&member, member.client_address(), "OPTIONS", "/health").await;
        assert_eq!(status, 200);
        assert!(head.contains("Access-Control-Allow-Origin: *"), "{head}");
    });
}

#[test]
fn alarms_show_in_health() {
    with_member(|member| async move {
        let mut maintenance = MaintenanceClient::new(member.channel().await);
        let mut raise = async |alarm: pb::AlarmType| {
            let action = pb::alarm_request::AlarmAction::Activate.into();
            let request = pb::AlarmRequest {
                action,
                member_id: 1,
                alarm: alarm.into(),
            };
            maintenance.alarm(request).await.unwrap();
        };
        raise(pb::AlarmType::Nospace).await;
        let nospace = r#"{"health":"false","reason":"ALARM NOSPACE"}"#;
        assert_eq!(get(&member, "/health").await, (503, nospace.into()));
        assert_eq!(get(&member, "/health?exclude=NOSPACE").await.0, 200);
        assert_eq!(
            get(&member, "/readyz").await.0,
            200,
            "a full member can still serve reads"
        );
        raise(pb::AlarmType::Corrupt).await;
        assert_eq!(get(&member, "/health?exclude=NOSPACE").await.0, 503);
        let (status, text) = get(&member, "/readyz").await;
        assert_eq!(status, 503);
        assert!(
            text.starts_with("[-]data_corruption failed: alarm activated: CORRUPT\n"),
            "{text}"
        );
        assert_eq!(get(&member, "/livez").await.0, 200);
    });
}

#[test]
fn http2_reaches_the_same_endpoints() {
    with_member(|member| async move {
        let request = Request::get("/health").body(tonic::body::Body::empty()).unwrap();
        let response = member.channel().await.call(request).await.unwrap();
        assert_eq!(response.status(), 200);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"health":"true","reason":""}"#);
    });
}

#[test]
fn metrics_count_what_clients_do() {
    with_member(|member| async move {
        let mut kv = member.kv().await;
        kv.put(put("a", "1")).await.unwrap();
        kv.put(put("", "1")).await.unwrap_err();
        let (status, text) = get(&member, "/metrics").await;
        assert_eq!(status, 200);
        let put = r#"grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary""#;
        for line in [
            format!("grpc_server_started_total{{{put}}} 2"),
            format!(r#"grpc_server_handled_total{{grpc_code="OK",{put}}} 1"#),
            format!(r#"grpc_server_handled_total{{grpc_code="InvalidArgument",{put}}} 1"#),
            "etcd_mvcc_put_total 1".into(),
            "etcd_debugging_mvcc_keys_total 1".into(),
            "etcd_debugging_mvcc_current_revision 2".into(),
            "etcd_server_has_leader 1".into(),
            "etcd_server_is_leader 1".into(),
            "etcd_server_proposals_pending 0".into(),
            r#"etcd_server_version{server_version="3.7.1"} 1"#.into(),
        ] {
            assert!(
                text.lines().any(|found| *found == line),
                "{line}\nis not in\n{text}"
            );
        }
    });
}

#[test]
fn the_metrics_port_serves_metrics_and_probes_alone() {
    with_member(|member| async move {
        let address = member.metrics_address().to_owned();
        for (path, expected) in [
            ("/metrics", 200),
            ("/health", 200),
            ("/livez", 200),
            ("/readyz", 200),
            ("/version", 404),
        ] {
            let (status, head, _) = ask(&member, &address, "GET", path).await;
            assert_eq!(status, expected, "{path}");
            assert!(!head.contains("Access-Control"), "{head}");
        }
        let channel = quorate::client::Channel::connect(&member.env, &address, PATIENCE)
            .await
            .unwrap();
        let mut kv = pb::kv_client::KvClient::new(channel);
        kv.put(put("a", "1")).await.expect_err("no gRPC here");
    });
}

/// What `etcdctl endpoint hashkv` of etcd 3.4 sent: hyper resets a stream whose authority is a URL.
#[test]
fn an_authority_that_is_a_url_is_no_fault() {
    let fields: [&[u8]; 5] = [
        b"\x83\x86",
        b"E\x97`\xa9$\x88-\x9d\xcbeq\xaf\xa0f\xa9%\xa8u\x10\xacc\x1a'\xcd\xc7",
        // :authority: http://127.0.0.1:23999
        b"A\x90\x9d)\xae\xe3\x0c\x04N\xae\x05\xc0\xb8n\x09\x97\xdf\x7f",
        // content-type: application/grpc
        b"_\x8b\x1du\xd0b\x0d&=LMed",
        b"z\x8b\x9a\xca\xc8\xb4\xc7`+\xb2\xca\xec\xff@\x02te\x86M\x835\x05\xb1\x1f@\x89\x9a\xca\xc8\xb2MIOj\x7f\x86i\xf7\xdep.\xdb@\x8d%\x06-IXu\x99n\xe5\xb1\x06=_\x033.4",
    ];
    let fields = fields.concat();
    let frame = |payload: &[u8], kind, flags, stream| {
        let head = [0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
        [&head, payload].concat()
    };
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(b"", 4, 0, 0),
        frame(&fields, 1, 4, 1),
        frame(&[0; 5], 0, 1, 1),
    ];
    with_member(|member| async move {
        let mut stream = member.env.connect(member.client_address()).await.unwrap();
        stream.write_all(&request.concat()).await.unwrap();
        let answer = async {
            loop {
                let mut head = [0; 9];
                stream.read_exact(&mut head).await.unwrap();
                let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
                stream.read_exact(&mut payload).await.unwrap();
                match (head[8], head[3]) {
                    (1, 0) => return payload,
                    (1, 3) => panic!("the stream was reset: {payload:?}"),
                    _ => {}
                }
            }
        };
        let answer = member
            .env
            .timeout(PATIENCE, answer)
            .await
            .expect("an answer in time");
        let answer = pb::HashKvResponse::decode(&answer[5..]).unwrap();
        assert_eq!(answer.hash_revision, 1);
    });
}
