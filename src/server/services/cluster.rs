//! The Cluster service: who the members are, and changing that. What may be changed is decided by the leader
//! (health) and by the state (ids and URLs); here requests are read and answers put together.

use tonic::{Request, Response, Status, async_trait};

use crate::base::urls::Url;
use crate::base::{Denied, ids};
use crate::consensus::Change;
use crate::proto::command::command::Request as Command;
use crate::proto::command::{
    MemberAddCommand, MemberPromoteCommand, MemberRemoveCommand, MemberUpdateCommand,
};
use crate::proto::etcdserverpb::{self as pb, cluster_server::Cluster};
use crate::proto::membershippb;
use crate::server::api::Api;
use crate::server::wire::rpc::Rpc;

#[async_trait]
impl Cluster for Api {
    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        self.unary(Rpc::MemberAdd, false, request, |request, _| async move {
            let (member, members) = self.add_member(request).await?;
            Ok(pb::MemberAddResponse {
                header: Some(self.cluster_header()),
                member: Some(member),
                members,
            })
        })
        .await
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        self.unary(Rpc::MemberRemove, false, request, |request, _| async move {
            if self.options.strict_reconfig {
                self.consensus.check_change(Change::Remove(request.id)).await?;
            }
            let command = Command::MemberRemove(MemberRemoveCommand { id: request.id });
            let members = self.consensus.change_members(command).await?;
            Ok(pb::MemberRemoveResponse {
                header: Some(self.cluster_header()),
                members,
            })
        })
        .await
    }

    /// As in etcd, these URLs are taken as they are.
    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        self.unary(Rpc::MemberUpdate, false, request, |request, _| async move {
            let command = Command::MemberUpdate(MemberUpdateCommand {
                id: request.id,
                peer_urls: request.peer_ur_ls,
            });
            let members = self.consensus.change_members(command).await?;
            Ok(pb::MemberUpdateResponse {
                header: Some(self.cluster_header()),
                members,
            })
        })
        .await
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        self.unary(Rpc::MemberList, false, request, |request, _| async move {
            if request.linearizable {
                self.consensus.read_barrier().await?;
            }
            Ok(pb::MemberListResponse {
                header: Some(self.cluster_header()),
                members: self.consensus.members().await,
            })
        })
        .await
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        self.unary(Rpc::MemberPromote, false, request, |request, _| async move {
            let change = Change::Promote {
                id: request.id,
                strict: self.options.strict_reconfig,
            };
            self.consensus.check_change(change).await?;
            let command = Command::MemberPromote(MemberPromoteCommand { id: request.id });
            let members = self.consensus.change_members(command).await?;
            Ok(pb::MemberPromoteResponse {
                header: Some(self.cluster_header()),
                members,
            })
        })
        .await
    }
}

impl Api {
    /// etcd leaves the revision out of the headers of this service.
    fn cluster_header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader {
            revision: 0,
            ..self.header_now()
        }
    }

    /// The member that was added, and all of them.
    async fn add_member(
        &self,
        request: pb::MemberAddRequest,
    ) -> Result<(pb::Member, Vec<pb::Member>), Denied> {
        let mut urls = Vec::new();
        for url in &request.peer_ur_ls {
            urls.push(Url::parse(url).map_err(|_| Denied::MemberBadUrls)?);
        }
        if urls.is_empty() {
            return Err(Denied::MemberBadUrls);
        }
        urls.sort();
        let peer_ur_ls: Vec<String> = urls.into_iter().map(|url| url.text).collect();
        if self.options.strict_reconfig {
            let change = match request.is_learner {
                true => Change::AddLearner,
                false => Change::AddVoter,
            };
            self.consensus.check_change(change).await?;
        }
        let now = i64::try_from(self.env.wall_clock().as_secs()).unwrap_or(i64::MAX);
        let member = pb::Member {
            id: ids::member_id(&peer_ur_ls, "", Some(now)),
            peer_ur_ls,
            is_learner: request.is_learner,
            ..pb::Member::default()
        };
        let command = Command::MemberAdd(MemberAddCommand {
            member: Some(membershippb::Member {
                id: member.id,
                raft_attributes: Some(membershippb::RaftAttributes {
                    peer_urls: member.peer_ur_ls.clone(),
                    is_learner: member.is_learner,
                }),
                member_attributes: None,
            }),
            max_learners: self.options.max_learners,
        });
        let members = self.consensus.change_members(command).await?;
        Ok((member, members))
    }
}
