//! Maintenance calls beyond status: hashes of compactions, downgrades.

use quorate::proto::etcdserverpb::{
    self as pb, downgrade_request::DowngradeAction, maintenance_client::MaintenanceClient,
};
use tonic::Code;

use crate::{Member, PATIENCE, put, refusal, with_member};

impl Member {
    async fn compact(&self, revision: i64) {
        let request = pb::CompactionRequest {
            revision,
            physical: true,
        };
        self.kv().await.compact(request).await.unwrap();
    }

    async fn delete(&self, key: &str) {
        let request = pb::DeleteRangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        };
        self.kv().await.delete_range(request).await.unwrap();
    }

    /// Waits until a compaction has been hashed in the background: its hash knows the compaction before.
    async fn check_hash(&self, revision: i64, hash: u32, compact_revision: i64) {
        let mut client = MaintenanceClient::new(self.channel().await);
        let hashed = async {
            loop {
                let answer = client.hash_kv(pb::HashKvRequest { revision }).await;
                let answer = answer.unwrap().into_inner();
                if (answer.hash, answer.compact_revision) == (hash, compact_revision) {
                    return;
                }
                self.env.sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let waited = self.env.timeout(PATIENCE, hashed).await;
        waited.unwrap_or_else(|_| panic!("no hash {hash} at {revision}"));
    }
}

/// The hashes that etcd 3.7.1 gave for this session.
#[test]
fn what_compactions_hashed_is_answered_when_it_cannot_be_read_any_more() {
    with_member(|member| async move {
        let mut kv = member.kv().await;
        for value in ["1", "2", "3"] {
            kv.put(put("a", value)).await.unwrap();
            kv.put(put("b", value)).await.unwrap();
        }
        member.compact(4).await;
        member.check_hash(4, 3_086_679_940, -1).await;
        member.check_hash(0, 2_780_288_131, 4).await;
        member.delete("a").await;
        kv.put(put("c", "x")).await.unwrap();
        member.compact(8).await;
        member.check_hash(8, 2_042_271_364, 4).await;
        member.check_hash(4, 3_086_679_940, -1).await;
        member.delete("b").await;
        member.delete("c").await;
        // Nothing lives on.
        member.compact(11).await;
        member.check_hash(11, 3_890_720_787, 8).await;
        member.check_hash(0, 1_084_519_789, 11).await;
    });
}

#[test]
fn a_downgrade_leads_one_minor_version_down_until_it_is_cancelled() {
    with_member(|member| async move {
        let mut client = MaintenanceClient::new(member.channel().await);
        let asked = client.clone();
        let ask = |action: DowngradeAction, version: &str| {
            let request = pb::DowngradeRequest {
                action: action.into(),
                version: version.into(),
            };
            let mut client = asked.clone();
            async move { client.downgrade(request).await }
        };
        for (version, code, text) in [
            (
                "3.5",
                Code::InvalidArgument,
                "etcdserver: invalid downgrade target version",
            ),
            (
                "3.7.0",
                Code::InvalidArgument,
                "etcdserver: invalid downgrade target version",
            ),
            (
                "new",
                Code::InvalidArgument,
                "etcdserver: wrong downgrade target version format",
            ),
        ] {
            let refused = refusal(ask(DowngradeAction::Enable, version).await);
            assert_eq!(refused, (code, text.into()), "{version}");
        }
        let valid = ask(DowngradeAction::Validate, "3.6").await.unwrap().into_inner();
        assert_eq!(valid.version, "3.7");
        ask(DowngradeAction::Enable, "3.6").await.unwrap();
        let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
        let expected = pb::DowngradeInfo {
            enabled: true,
            target_version: "3.6.0".into(),
        };
        assert_eq!(status.downgrade_info, Some(expected));
        let again = refusal(ask(DowngradeAction::Validate, "3.6").await);
        let text = "etcdserver: cluster has a downgrade job in progress";
        assert_eq!(again, (Code::FailedPrecondition, text.into()));
        ask(DowngradeAction::Cancel, "").await.unwrap();
        // As etcd, which only logs that there is none.
        ask(DowngradeAction::Cancel, "").await.unwrap();
        let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.downgrade_info, Some(pb::DowngradeInfo::default()));
    });
}
