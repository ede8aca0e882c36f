//! The Maintenance service: status, alarms, hashes, snapshots, leadership, downgrades.

use tonic::{Request, Response, Status, async_trait};

use super::kv::Answers;
use super::snapshot;
use crate::base::Denied;
use crate::proto::command::command::Request as Command;
use crate::proto::etcdserverpb::{self as pb, alarm_request::AlarmAction, maintenance_server::Maintenance};
use crate::runtime::Aside;
use crate::server::VERSION;
use crate::server::api::{Api, mismatch};
use crate::server::background::quota;
use crate::server::wire::rpc::{Rights, Rpc};
use crate::server::wire::streams::Guarded;
use crate::state::{Answer, State};

#[async_trait]
impl Maintenance for Api {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.unary(Rpc::Alarm, false, request, |request, caller| async move {
            // Who may list them need not be able to change them.
            let rights = match request.action() {
                AlarmAction::Get => Rights::User,
                _ => Rights::Root,
            };
            self.admit_rights(rights, &caller).await?;
            match self.propose(&caller, Command::Alarm(request)).await? {
                (Answer::Alarm(alarms), revision) => Ok(pb::AlarmResponse {
                    header: Some(self.header(revision)),
                    alarms,
                }),
                (other, _) => mismatch(&other),
            }
        })
        .await
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        self.unary(Rpc::Status, true, request, |_, _| async {
            Ok(self.member_status().await)
        })
        .await
    }

    /// The store needs none: it compacts itself, and sizes are logical. But who asks wants the space that a compaction has
    /// freed, so it is answered when that is given up. etcd's answer has no header.
    async fn defragment(
        &self,
        request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.unary(Rpc::Defragment, false, request, |_, _| async {
            let (_active, begun) = (self.metrics.defragmenting.hold(), self.env.now());
            self.consensus.all_swept().await?;
            self.metrics.defragmentation.observe(self.env.now() - begun);
            Ok(pb::DefragmentResponse::default())
        })
        .await
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        self.unary(Rpc::Hash, false, request, |_, _| self.hash_all())
            .await
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        self.unary(Rpc::HashKv, false, request, |request, _| {
            self.hash_kv(request.revision)
        })
        .await
    }

    type SnapshotStream = Guarded<Answers<pb::SnapshotResponse>>;

    async fn snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.stream(Rpc::Snapshot, true, request, |_, _| {
            self.metrics.rpc(Rpc::Snapshot).msg_received.inc();
            Ok(Box::pin(snapshot::stream(self.shared())) as Answers<_>)
        })
        .await
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        self.unary(Rpc::MoveLeader, false, request, |request, _| async move {
            self.consensus.move_leader(request.target_id).await?;
            Ok(pb::MoveLeaderResponse::default())
        })
        .await
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.unary(Rpc::Downgrade, false, request, |request, caller| async move {
            self.downgrade(request, &caller).await
        })
        .await
    }
}

impl Api {
    async fn member_status(&self) -> pb::StatusResponse {
        let status = self.consensus.status();
        let look = |state: &State| {
            (
                state.alarms(),
                state.logical_bytes(),
                state.cluster_version().map(str::to_owned),
                state.downgrade_target().map(str::to_owned),
            )
        };
        let (alarms, (all, in_use), storage, downgrade) = self.consensus.read(look).await;
        let mut errors = Vec::new();
        if status.leader.is_none() {
            errors.push(Denied::NoLeader.text().to_owned());
        }
        let alarm = |alarm: pb::AlarmMember| {
            format!(
                "memberID:{} alarm:{}",
                alarm.member_id,
                alarm.alarm().as_str_name()
            )
        };
        errors.extend(alarms.into_iter().map(alarm));
        pb::StatusResponse {
            header: Some(self.header_now()),
            version: VERSION.into(),
            db_size: i64::try_from(all).unwrap_or(i64::MAX),
            db_size_in_use: i64::try_from(in_use).unwrap_or(i64::MAX),
            leader: status.leader.unwrap_or(0),
            // Raft tells of itself a moment after it applies: what is applied is committed.
            raft_index: status.committed.max(status.applied),
            raft_applied_index: status.applied,
            raft_term: status.term,
            errors,
            is_learner: status.is_learner,
            storage_version: storage.unwrap_or_default(),
            db_size_quota: quota::effective(self.options.quota_bytes),
            downgrade_info: Some(pb::DowngradeInfo {
                enabled: downgrade.is_some(),
                target_version: downgrade.unwrap_or_default(),
            }),
        }
    }

    /// The same on members at the same index, whatever lies where in their files, unless one is being compacted. All of it is read from a view, off the tasks
    /// that serve others: nobody waits.
    async fn hash_all(&self) -> Result<pb::HashResponse, Denied> {
        let begun = self.env.now();
        // What a compaction left dead is in the file until it is swept, here and there at different times.
        self.consensus.all_swept().await?;
        let export = self.consensus.export().await;
        let hash = self
            .env
            .run_aside(Aside::Background, move || export?.hash(true))
            .await;
        self.member_metrics().store.hash.observe(self.env.now() - begun);
        Ok(pb::HashResponse {
            hash: self.consensus.checked(hash)?,
            header: Some(self.header_now()),
        })
    }

    async fn hash_kv(&self, revision: i64) -> Result<pb::HashKvResponse, Denied> {
        let found = self.consensus.hash_kv(revision).await?;
        Ok(pb::HashKvResponse {
            header: Some(self.header_now()),
            hash: found.hash,
            compact_revision: found.compact_revision,
            hash_revision: found.hash_revision,
        })
    }
}
