//! What the server refuses: too large, too late, too full, unknown.

use std::time::Duration;

use http::{HeaderValue, Request};
use http_body_util::BodyExt;
use quorate::proto::authpb::UserAddOptions;
use quorate::proto::etcdserverpb::{
    self as pb, auth_client::AuthClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient,
};
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tower_service::Service;

use crate::{Member, put, range, refusal, with_adjusted, with_member};

const MIB: usize = 1 << 20;

#[test]
fn a_request_may_be_large_but_not_too_large() {
    with_member(|member| async move {
        let mut kv = member.kv().await;
        kv.put(put("a", vec![0; 3 * MIB / 2 - 100])).await.unwrap();
        let refused = refusal(kv.put(put("a", vec![0; 3 * MIB / 2])).await);
        assert_eq!(
            refused,
            (Code::InvalidArgument, "etcdserver: request is too large".into())
        );
        let (code, text) = refusal(kv.put(put("a", vec![0; 2 * MIB])).await);
        assert_eq!(code, Code::ResourceExhausted);
        // Tag and length of each field come on top of the value.
        assert_eq!(
            text,
            format!(
                "grpc: received message larger than max ({} vs. 2097152)",
                2 * MIB + 3 + 5
            )
        );
        let mut kv = KvClient::new(member.channel().await).max_decoding_message_size(usize::MAX);
        let answer = kv.range(range("a", "")).await.unwrap().into_inner();
        assert_eq!(answer.kvs[0].value.len(), 3 * MIB / 2 - 100);
    });
}

/// As grpc-go: an answer is compressed if its request was.
#[test]
fn compressed_requests_are_understood_and_bounded() {
    with_member(|member| async move {
        let gzip = CompressionEncoding::Gzip;
        let plain = KvClient::new(member.channel().await).accept_compressed(gzip);
        let mut compressing = plain.clone().send_compressed(gzip);
        let value = vec![b'x'; 100_000];
        compressing.put(put("a", value.clone())).await.unwrap();
        for (mut kv, encoding) in [(plain.clone(), None), (compressing.clone(), Some("gzip"))] {
            let answer = kv.range(range("a", "")).await.unwrap();
            let found = answer
                .metadata()
                .get("grpc-encoding")
                .map(|found| found.to_str().unwrap());
            assert_eq!(found, encoding);
            assert_eq!(answer.into_inner().kvs[0].value, value);
        }
        // A few KiB on the wire.
        let (code, text) = refusal(compressing.put(put("a", vec![0; 3 * MIB])).await);
        assert_eq!(code, Code::ResourceExhausted);
        assert_eq!(
            text,
            "grpc: received message after decompression larger than max 2097152"
        );

        let mut watch = WatchClient::new(member.channel().await)
            .send_compressed(gzip)
            .accept_compressed(gzip);
        let create = pb::WatchCreateRequest {
            key: "a".into(),
            start_revision: 1,
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let request = pb::WatchRequest {
            request_union: Some(union),
        };
        let requests = futures_util::StreamExt::chain(tokio_stream::iter([request]), tokio_stream::pending());
        let answers = watch.watch(requests).await.unwrap();
        assert_eq!(answers.metadata().get("grpc-encoding").unwrap(), "gzip");
        let mut answers = answers.into_inner();
        assert!(answers.message().await.unwrap().unwrap().created);
        assert_eq!(answers.message().await.unwrap().unwrap().events.len(), 1);
    });
}

#[test]
fn a_large_message_ends_a_stream_in_the_same_words() {
    with_member(|member| async move {
        let mut lease = WatchClient::new(member.channel().await);
        let create = pb::WatchCreateRequest {
            key: vec![0; 3 * MIB].into(),
            ..Default::default()
        };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        let request = pb::WatchRequest {
            request_union: Some(union),
        };
        let mut answers = lease
            .watch(tokio_stream::iter([request]))
            .await
            .unwrap()
            .into_inner();
        let (code, text) = refusal(answers.message().await);
        assert_eq!(code, Code::ResourceExhausted);
        assert!(
            text.starts_with("grpc: received message larger than max ("),
            "{text}"
        );
    });
}

#[test]
fn a_deadline_of_the_client_ends_its_stream() {
    with_member(|member| async move {
        let mut lease = LeaseClient::new(member.channel().await);
        let mut request = tonic::Request::new(tokio_stream::pending());
        request.set_timeout(Duration::from_millis(50));
        let mut answers = lease.lease_keep_alive(request).await.unwrap().into_inner();
        let late = refusal(answers.message().await);
        assert_eq!(late, (Code::DeadlineExceeded, "context deadline exceeded".into()));
    });
}

#[test]
fn a_deadline_that_is_over_ends_a_call() {
    with_member(|member| async move {
        for timeout in ["0n", "1n"] {
            let mut request = tonic::Request::new(put("a", "1"));
            request
                .metadata_mut()
                .insert("grpc-timeout", timeout.parse().unwrap());
            let late = refusal(member.kv().await.put(request).await);
            assert_eq!(late, (Code::DeadlineExceeded, "context deadline exceeded".into()));
        }
    });
}

#[test]
fn a_full_store_raises_an_alarm_that_has_to_be_disarmed() {
    with_adjusted(
        |config| config.quota_bytes = 53_248,
        |member| async move {
            let mut kv = member.kv().await;
            kv.put(put("small", "1")).await.unwrap();
            let mut refused = None;
            for number in 0..20 {
                if let Err(status) = kv.put(put(&format!("k{number}"), vec![0; 4096])).await {
                    refused = Some((status.code(), status.message().to_owned()));
                    break;
                }
            }
            let no_space = (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded".to_owned(),
            );
            assert_eq!(refused, Some(no_space.clone()));
            assert_eq!(
                refusal(kv.put(put("tiny", "1")).await),
                no_space,
                "the alarm holds for every put"
            );
            let delete = pb::DeleteRangeRequest {
                key: "k".into(),
                range_end: "l".into(),
                ..Default::default()
            };
            let deleted = kv.delete_range(delete).await.unwrap().into_inner();
            assert!(deleted.deleted > 0, "deletes go on");
            let revision = deleted.header.unwrap().revision;
            kv.compact(pb::CompactionRequest {
                revision,
                physical: true,
            })
            .await
            .unwrap();
            let mut maintenance = MaintenanceClient::new(member.channel().await);
            let status = maintenance
                .status(pb::StatusRequest {})
                .await
                .unwrap()
                .into_inner();
            let id = status.leader;
            assert_eq!(status.errors, [format!("memberID:{id} alarm:NOSPACE")]);
            let ask = |action: pb::alarm_request::AlarmAction| pb::AlarmRequest {
                action: action.into(),
                member_id: id,
                alarm: pb::AlarmType::Nospace.into(),
            };
            use pb::alarm_request::AlarmAction::{Deactivate, Get};
            let raised = maintenance.alarm(ask(Get)).await.unwrap().into_inner().alarms;
            assert_eq!(
                raised,
                [pb::AlarmMember {
                    member_id: id,
                    alarm: pb::AlarmType::Nospace.into()
                }]
            );
            maintenance.alarm(ask(Deactivate)).await.unwrap();
            kv.put(put("tiny", "1")).await.unwrap();
        },
    );
}

/// A gRPC call as raw HTTP/2: status code and message from the headers.
async fn raw(member: &Member, path: &str, header: Option<(&'static str, HeaderValue)>) -> (String, String) {
    let mut request = Request::post(path).header("content-type", "application/grpc");
    if let Some((name, value)) = header {
        request = request.header(name, value);
    }
    let empty_message = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
    let request = request.body(tonic::body::Body::new(empty_message)).unwrap();
    let response = member.channel().await.call(request).await.unwrap();
    let headers = response.headers().clone();
    let trailers = response
        .into_body()
        .collect()
        .await
        .unwrap()
        .trailers()
        .cloned()
        .unwrap_or_default();
    let find = |name| {
        headers
            .get(name)
            .or(trailers.get(name))
            .map_or("", |value| value.to_str().unwrap())
            .to_owned()
    };
    (find("grpc-status"), find("grpc-message").replace("%20", " "))
}

#[test]
fn what_does_not_exist_is_unimplemented() {
    with_member(|member| async move {
        let refused = raw(&member, "/v9.Nothing/Do", None).await;
        assert_eq!(refused, ("12".into(), "unknown service v9.Nothing".into()));
        let (code, _) = raw(&member, "/etcdserverpb.KV/Nothing", None).await;
        assert_eq!(code, "12");
    });
}

#[test]
fn the_version_of_the_client_has_to_be_text() {
    with_member(|member| async move {
        let path = "/etcdserverpb.Maintenance/Status";
        let broken = HeaderValue::from_bytes(&[0xff, 0xfe]).unwrap();
        let refused = raw(&member, path, Some(("client-api-version", broken))).await;
        assert_eq!(
            refused,
            ("3".into(), "etcdserver: invalid client api version".into())
        );
        let (code, _) = raw(
            &member,
            path,
            Some(("client-api-version", HeaderValue::from_static("3.7"))),
        )
        .await;
        assert_eq!(code, "0");
    });
}

/// Users and roles are kept by their names, and keys of the engine are bounded.
#[test]
fn a_name_that_no_store_could_keep_is_refused() {
    with_member(|member| async move {
        let mut auth = AuthClient::new(member.channel().await);
        let expected = (Code::InvalidArgument, "etcdserver: name is too long".to_owned());
        for length in [32_769, 65_536, 100_000, 1_000_000] {
            let name = "n".repeat(length);
            let user = pb::AuthUserAddRequest {
                name: name.clone(),
                options: Some(UserAddOptions { no_password: true }),
                ..Default::default()
            };
            assert_eq!(refusal(auth.user_add(user).await), expected, "{length}");
            let role = pb::AuthRoleAddRequest { name };
            assert_eq!(refusal(auth.role_add(role).await), expected, "{length}");
        }
        let role = pb::AuthRoleAddRequest {
            name: "n".repeat(32_768),
        };
        auth.role_add(role).await.unwrap();
    });
}
