//! KV, and the unary calls of the other services: answers, headers, refusals.

use bytes::Bytes;
use quorate::proto::etcdserverpb::{
    self as pb, auth_client::AuthClient, cluster_client::ClusterClient, kv_client::KvClient,
    lease_client::LeaseClient, maintenance_client::MaintenanceClient,
};
use quorate::proto::health::{HealthCheckRequest, health_client::HealthClient};
use tonic::Code;

use crate::{Member, put, range, refusal, with_member};

#[test]
fn answers_carry_whole_headers() {
    with_member(|member| async move {
        let mut kv = member.kv().await;
        let answer = kv.put(put("a", "1")).await.unwrap().into_inner();
        let header = answer.header.unwrap();
        assert_ne!((header.cluster_id, header.member_id, header.raft_term), (0, 0, 0));
        assert_eq!(header.revision, 2);
        kv.put(put("b", "1")).await.unwrap();
        let at_first = pb::RangeRequest {
            revision: 2,
            ..range("a", "")
        };
        let answer = kv.range(at_first).await.unwrap().into_inner();
        assert_eq!(
            answer.header,
            Some(pb::ResponseHeader {
                revision: 3,
                ..header
            }),
            "the current revision"
        );
        let answer = kv.delete_range(pb::DeleteRangeRequest {
            key: "x".into(),
            ..Default::default()
        });
        assert_eq!(answer.await.unwrap().into_inner().header.unwrap().revision, 3);
        let answer = kv.txn(pb::TxnRequest::default()).await.unwrap().into_inner();
        assert_eq!(
            answer.header,
            Some(pb::ResponseHeader {
                revision: 3,
                ..header
            })
        );
        let answer = kv.compact(pb::CompactionRequest {
            revision: 2,
            physical: true,
        });
        assert_eq!(
            answer.await.unwrap().into_inner().header,
            Some(pb::ResponseHeader {
                revision: 3,
                ..header
            })
        );
        let mut cluster = ClusterClient::new(member.channel().await);
        let list = cluster
            .member_list(pb::MemberListRequest { linearizable: true })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            list.header,
            Some(pb::ResponseHeader {
                revision: 0,
                ..header
            })
        );
        let [found] = &*list.members else {
            panic!("one member: {list:?}")
        };
        assert_eq!(
            (&*found.name, found.id, found.is_learner),
            ("solo", header.member_id, false)
        );
        assert_eq!(found.client_ur_ls, ["http://solo.example:2379"]);
    });
}

#[test]
fn refusals_are_those_of_etcd() {
    with_member(|member| async move {
        let mut kv = member.kv().await;
        let expect = |code, text: &str| (code, text.to_owned());
        assert_eq!(
            refusal(kv.put(put("", "1")).await),
            expect(Code::InvalidArgument, "etcdserver: key is not provided")
        );
        assert_eq!(
            refusal(
                kv.range(pb::RangeRequest {
                    sort_order: 9,
                    ..range("a", "")
                })
                .await
            ),
            expect(Code::InvalidArgument, "etcdserver: invalid sort option")
        );
        assert_eq!(
            refusal(
                kv.range(pb::RangeRequest {
                    revision: 9,
                    ..range("a", "")
                })
                .await
            ),
            expect(
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision"
            )
        );
        assert_eq!(
            refusal(
                kv.put(pb::PutRequest {
                    lease: 77,
                    ..put("a", "")
                })
                .await
            ),
            expect(Code::NotFound, "etcdserver: requested lease not found")
        );
        let op = pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put("a", ""))),
        };
        let twice = pb::TxnRequest {
            success: vec![op.clone(), op],
            ..Default::default()
        };
        assert_eq!(
            refusal(kv.txn(twice).await),
            expect(
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request"
            )
        );
        let mut auth = AuthClient::new(member.channel().await);
        let status = auth
            .auth_status(pb::AuthStatusRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!((status.enabled, status.auth_revision), (false, 1));
        assert_eq!(
            refusal(auth.authenticate(pb::AuthenticateRequest::default()).await),
            expect(
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled"
            )
        );
    });
}

async fn fill(member: &Member, count: usize) {
    let mut kv = member.kv().await;
    for chunk in (0..count).collect::<Vec<_>>().chunks(100) {
        let op = |number: &usize| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(
                &format!("k{number:05}"),
                vec![7; 100],
            ))),
        };
        let txn = pb::TxnRequest {
            success: chunk.iter().map(op).collect(),
            ..Default::default()
        };
        kv.txn(txn).await.unwrap();
    }
}

fn keys(kvs: &[quorate::proto::mvccpb::KeyValue]) -> Vec<Bytes> {
    kvs.iter().map(|kv| kv.key.clone()).collect()
}

fn expected_keys(numbers: std::ops::Range<usize>) -> Vec<Bytes> {
    numbers.map(|number| format!("k{number:05}").into()).collect()
}

/// Ranges that are read in pieces are one answer all the same.
#[test]
fn a_large_range_is_whole() {
    with_member(|member| async move {
        fill(&member, 2500).await;
        let mut kv = member.kv().await;
        let cases = [
            // limit, revision: keys, more
            (0, 0, 2500, false),
            (0, 11, 1000, false),
            (2500, 0, 2500, false),
            (2499, 0, 2499, true),
            (64, 0, 64, true),
            (65, 0, 65, true),
            (5, 11, 5, true),
        ];
        for (limit, revision, returned, more) in cases {
            let request = pb::RangeRequest {
                limit,
                revision,
                ..range("k", "l")
            };
            let answer = kv.range(request).await.unwrap().into_inner();
            let count = if revision == 0 { 2500 } else { 1000 };
            assert_eq!(
                (answer.count, answer.more),
                (count, more),
                "limit {limit} at {revision}"
            );
            assert_eq!(
                keys(&answer.kvs),
                expected_keys(0..returned),
                "limit {limit} at {revision}"
            );
            assert_eq!(answer.header.unwrap().revision, 26);
        }
        let names = pb::RangeRequest {
            keys_only: true,
            ..range("k", "\0")
        };
        let answer = kv.range(names).await.unwrap().into_inner();
        assert_eq!(keys(&answer.kvs), expected_keys(0..2500));
        assert!(answer.kvs.iter().all(|kv| kv.value.is_empty()));
    });
}

#[test]
fn a_range_stream_is_the_range_in_growing_chunks() {
    with_member(|member| async move {
        fill(&member, 1500).await;
        let mut kv = KvClient::new(member.channel().await).max_decoding_message_size(usize::MAX);
        for (limit, returned, more) in [(0, 1500, false), (1000, 1000, true), (10, 10, true)] {
            let request = pb::RangeRequest {
                limit,
                ..range("k", "l")
            };
            let mut stream = kv.range_stream(request).await.unwrap().into_inner();
            let mut chunks = Vec::new();
            while let Some(chunk) = stream.message().await.unwrap() {
                chunks.push(chunk.range_response.expect("each message holds a part"));
            }
            let (last, others) = chunks.split_last().expect("at least one chunk");
            assert!(
                others
                    .iter()
                    .all(|chunk| chunk.header.is_none() && chunk.count == 0 && !chunk.more)
            );
            assert_eq!(
                (last.header.unwrap().revision, last.count, last.more),
                (16, 1500, more)
            );
            assert_eq!(chunks[0].kvs.len(), 10);
            assert!(chunks.len() == 1 || chunks[1].kvs.len() == 20);
            let all: Vec<_> = chunks.iter().flat_map(|chunk| keys(&chunk.kvs)).collect();
            assert_eq!(all, expected_keys(0..returned));
        }
        let sorted = pb::RangeRequest {
            sort_order: 2,
            ..range("k", "l")
        };
        let (code, text) = refusal(kv.range_stream(sorted).await);
        assert_eq!(
            (code, &*text),
            (
                Code::Unimplemented,
                "RangeStream does not support custom sort orders"
            )
        );
        // Which etcd sorts, although no order is asked for.
        let by_value = pb::RangeRequest {
            sort_target: pb::range_request::SortTarget::Value.into(),
            ..range("k", "l")
        };
        let expected = kv.range(by_value.clone()).await.unwrap().into_inner();
        let mut stream = kv.range_stream(by_value).await.unwrap().into_inner();
        let only = stream
            .message()
            .await
            .unwrap()
            .and_then(|chunk| chunk.range_response);
        assert_eq!(only, Some(expected));
        assert!(stream.message().await.unwrap().is_none());
        let count = pb::RangeRequest {
            count_only: true,
            ..range("k", "l")
        };
        let mut stream = kv.range_stream(count).await.unwrap().into_inner();
        let only = stream
            .message()
            .await
            .unwrap()
            .and_then(|chunk| chunk.range_response)
            .unwrap();
        assert_eq!((only.count, only.kvs.len()), (1500, 0));
        assert!(stream.message().await.unwrap().is_none());
    });
}

#[test]
fn leases_are_granted_kept_alive_and_revoked() {
    with_member(|member| async move {
        let mut lease = LeaseClient::new(member.channel().await);
        let granted = lease
            .lease_grant(pb::LeaseGrantRequest { ttl: 1, id: 0 })
            .await
            .unwrap()
            .into_inner();
        assert!(granted.id > 0);
        assert_eq!(granted.ttl, 2, "raised to the minimum");
        let id = 4711;
        lease
            .lease_grant(pb::LeaseGrantRequest { ttl: 600, id })
            .await
            .unwrap();
        let again = refusal(lease.lease_grant(pb::LeaseGrantRequest { ttl: 600, id }).await);
        assert_eq!(
            again,
            (
                Code::FailedPrecondition,
                "etcdserver: lease already exists".into()
            )
        );
        let long = refusal(
            lease
                .lease_grant(pb::LeaseGrantRequest {
                    ttl: 9_000_000_001,
                    id: 1,
                })
                .await,
        );
        assert_eq!(long, (Code::OutOfRange, "etcdserver: too large lease TTL".into()));
        member
            .kv()
            .await
            .put(pb::PutRequest {
                lease: id,
                ..put("a", "1")
            })
            .await
            .unwrap();

        let asked = [id, 99, id].map(|id| pb::LeaseKeepAliveRequest { id });
        let mut answers = lease
            .lease_keep_alive(tokio_stream::iter(asked))
            .await
            .unwrap()
            .into_inner();
        for (id, ttl) in [(id, 600), (99, 0), (id, 600)] {
            let answer = answers.message().await.unwrap().expect("one answer per request");
            assert_eq!(
                (answer.id, answer.ttl, answer.header.unwrap().revision),
                (id, ttl, 2)
            );
        }
        assert!(
            answers.message().await.unwrap().is_none(),
            "the client has closed its side"
        );

        let ask = |id, keys| pb::LeaseTimeToLiveRequest { id, keys };
        let left = lease
            .lease_time_to_live(ask(id, true))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((left.granted_ttl, left.keys), (600, vec![Bytes::from("a")]));
        assert!((590..=600).contains(&left.ttl), "{} s left", left.ttl);
        let unknown = lease
            .lease_time_to_live(ask(99, false))
            .await
            .unwrap()
            .into_inner();
        assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (99, -1, 0));
        let revoked = lease
            .lease_revoke(pb::LeaseRevokeRequest { id })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(revoked.header.unwrap().revision, 3);
        let unknown = refusal(lease.lease_revoke(pb::LeaseRevokeRequest { id }).await);
        assert_eq!(
            unknown,
            (Code::NotFound, "etcdserver: requested lease not found".into())
        );
    });
}

#[test]
fn maintenance_tells_how_the_member_stands() {
    with_member(|member| async move {
        member.kv().await.put(put("a", "1")).await.unwrap();
        let mut maintenance = MaintenanceClient::new(member.channel().await);
        let status = maintenance
            .status(pb::StatusRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!((&*status.version, &*status.storage_version), ("3.7.1", "3.7.0"));
        assert_eq!(status.leader, status.header.unwrap().member_id);
        assert_eq!((status.db_size_quota, status.errors.len()), (2 << 30, 0));
        assert!(status.raft_applied_index > 0 && status.raft_index >= status.raft_applied_index);
        assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
        let hash = maintenance
            .hash_kv(pb::HashKvRequest { revision: 0 })
            .await
            .unwrap()
            .into_inner();
        assert_eq!((hash.hash_revision, hash.compact_revision), (2, -1));
        let future = refusal(maintenance.hash_kv(pb::HashKvRequest { revision: 9 }).await);
        assert_eq!(future.0, Code::OutOfRange);
        let nobody = refusal(
            maintenance
                .move_leader(pb::MoveLeaderRequest { target_id: 1 })
                .await,
        );
        assert_eq!(
            nobody,
            (
                Code::FailedPrecondition,
                "etcdserver: bad leader transferee".into()
            )
        );
        let defragmented = maintenance
            .defragment(pb::DefragmentRequest {})
            .await
            .unwrap()
            .into_inner();
        assert_eq!(defragmented.header, None);
        let mut health = HealthClient::new(member.channel().await);
        let serving = health
            .check(HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner();
        assert_eq!(serving.status, 1);
        let unknown = refusal(health.check(HealthCheckRequest { service: "kv".into() }).await);
        assert_eq!(unknown, (Code::NotFound, "unknown service".into()));
    });
}

/// Hashes that etcd 3.7.1 gave for the same session: tools compare them across a migration.
#[test]
fn hashes_are_those_of_etcd() {
    enum Step {
        Put(&'static str, &'static str),
        Delete(&'static str),
        Compact(i64),
    }
    use Step::{Compact, Delete, Put};
    let session: &[(&[Step], u32)] = &[
        (&[], 1_084_519_789),
        (&[Put("a", "1"), Delete("a")], 3_520_211_144),
        (&[Compact(3)], 1_084_519_789),
        (&[Put("b", "1")], 3_584_256_279),
        (&[Put("b", "2")], 1_805_578_852),
        (&[Delete("b")], 182_037_763),
        (&[Compact(4)], 182_037_763),
        (&[Compact(6)], 1_084_519_789),
        (&[Put("c", "1"), Put("c", "2"), Put("a", "2")], 390_053_749),
        (
            &[
                Put("d", "1"),
                Put("c", "3"),
                Delete("c"),
                Put("c", "4"),
                Put("d", "7"),
                Delete("d"),
            ],
            3_169_433_655,
        ),
        (&[Compact(9)], 2_920_645_021),
        (&[Compact(11)], 2_793_182_154),
        (&[Compact(12)], 2_078_021_132),
        (&[Compact(13)], 2_078_021_132),
        (&[Compact(15)], 1_773_749_454),
    ];
    with_member(|member| async move {
        let mut kv = member.kv().await;
        let mut maintenance = MaintenanceClient::new(member.channel().await);
        for (number, (steps, hash)) in session.iter().enumerate() {
            for step in *steps {
                match *step {
                    Put(key, value) => drop(kv.put(put(key, value)).await.unwrap()),
                    Delete(key) => {
                        let request = pb::DeleteRangeRequest {
                            key: key.into(),
                            ..Default::default()
                        };
                        kv.delete_range(request).await.unwrap();
                    }
                    Compact(revision) => {
                        kv.compact(pb::CompactionRequest {
                            revision,
                            physical: true,
                        })
                        .await
                        .unwrap();
                    }
                }
            }
            let answer = maintenance
                .hash_kv(pb::HashKvRequest { revision: 0 })
                .await
                .unwrap();
            assert_eq!(answer.into_inner().hash, *hash, "after step {number}");
        }
    });
}
