//! Who the members are: ids, peer URLs, voter or learner, and what each has published about itself.
//!
//! This is the decision; raft's own membership follows it, one safe step at a time (`consensus::membership`). Rules and
//! refusals are etcd's (`ValidateConfigurationChange`); an id that was removed never comes back.

use prost::Message;

use super::digest::Kind;
use super::{Answer, State};
use crate::base::{Denied, MemberId};
use crate::proto::command::{MemberAddCommand, MemberUpdateCommand};
use crate::proto::etcdserverpb as pb;
use crate::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, Member, RaftAttributes};

impl State {
    /// The members that the cluster began with, by id and peer URLs. Nothing if there are members already.
    pub fn found(&mut self, members: impl Iterator<Item = (MemberId, Vec<String>)>) {
        if !self.members.is_empty() {
            return;
        }
        for (id, peer_urls) in members {
            self.keep(Member {
                id,
                raft_attributes: Some(RaftAttributes {
                    peer_urls,
                    is_learner: false,
                }),
                member_attributes: None,
            });
        }
    }

    fn keep(&mut self, member: Member) {
        self.digest.add(Kind::Member, &member.encode_to_vec());
        self.members.insert(member.id, member);
    }

    /// Members by id.
    pub fn members(&self) -> Vec<pb::Member> {
        self.members.values().map(described).collect()
    }

    pub fn is_member(&self, id: MemberId) -> bool {
        self.members.contains_key(&id)
    }

    /// Whether a member was removed: its id never comes back.
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed_members.contains(&id)
    }

    pub fn removed_members(&self) -> impl Iterator<Item = MemberId> {
        self.removed_members.iter().copied()
    }

    pub fn is_learner(&self, id: MemberId) -> bool {
        self.members.get(&id).is_some_and(is_learner)
    }

    /// Members that are to vote, or not to.
    pub fn member_ids(&self, learners: bool) -> impl Iterator<Item = MemberId> {
        let wanted = self
            .members
            .values()
            .filter(move |member| is_learner(member) == learners);
        wanted.map(|member| member.id)
    }

    /// Where each member listens for its peers.
    pub fn peer_urls(&self) -> impl Iterator<Item = (MemberId, &[String])> {
        self.members.values().map(|member| (member.id, peer_urls(member)))
    }

    /// What a member has published about itself.
    pub fn attributes(&self, id: MemberId) -> Option<&Attributes> {
        self.members.get(&id)?.member_attributes.as_ref()
    }

    pub(super) fn set_attributes(&mut self, request: &ClusterMemberAttrSetRequest) -> Result<Answer, Denied> {
        let member = self
            .members
            .get(&request.member_id)
            .ok_or(Denied::MemberNotFound)?;
        self.keep(Member {
            member_attributes: Some(request.member_attributes.clone().unwrap_or_default()),
            ..member.clone()
        });
        Ok(Answer::Empty)
    }

    pub(super) fn add_member(&mut self, request: &MemberAddCommand) -> Result<Answer, Denied> {
        let member = request.member.clone().unwrap_or_default();
        if self.is_removed(member.id) {
            return Err(Denied::MemberNotFound);
        }
        if self.is_member(member.id) {
            return Err(Denied::MemberExists);
        }
        self.check_urls(member.id, peer_urls(&member))?;
        let learners = self.members.values().filter(|member| is_learner(member)).count();
        if is_learner(&member) && learners >= request.max_learners as usize {
            return Err(Denied::TooManyLearners);
        }
        self.keep(member);
        Ok(Answer::Members(self.members()))
    }

    pub(super) fn remove_member(&mut self, id: MemberId) -> Result<Answer, Denied> {
        self.members.remove(&id).ok_or(Denied::MemberNotFound)?;
        self.removed_members.insert(id);
        self.digest.add(Kind::Member, &id.to_be_bytes());
        Ok(Answer::Members(self.members()))
    }

    pub(super) fn promote_member(&mut self, id: MemberId) -> Result<Answer, Denied> {
        let member = self.members.get(&id).ok_or(Denied::MemberNotFound)?;
        if !is_learner(member) {
            return Err(Denied::MemberNotLearner);
        }
        let raft_attributes = RaftAttributes {
            peer_urls: peer_urls(member).to_vec(),
            is_learner: false,
        };
        self.keep(Member {
            raft_attributes: Some(raft_attributes),
            ..member.clone()
        });
        Ok(Answer::Members(self.members()))
    }

    pub(super) fn update_member(&mut self, request: &MemberUpdateCommand) -> Result<Answer, Denied> {
        let member = self.members.get(&request.id).ok_or(Denied::MemberNotFound)?;
        self.check_urls(request.id, &request.peer_urls)?;
        let raft_attributes = RaftAttributes {
            peer_urls: request.peer_urls.clone(),
            is_learner: is_learner(member),
        };
        self.keep(Member {
            raft_attributes: Some(raft_attributes),
            ..member.clone()
        });
        Ok(Answer::Members(self.members()))
    }

    /// No two members share a URL.
    fn check_urls(&self, id: MemberId, urls: &[String]) -> Result<(), Denied> {
        let mut others = self.members.values().filter(|member| member.id != id);
        match others.any(|other| peer_urls(other).iter().any(|url| urls.contains(url))) {
            true => Err(Denied::PeerUrlExists),
            false => Ok(()),
        }
    }
}

fn peer_urls(member: &Member) -> &[String] {
    let attributes = member.raft_attributes.as_ref();
    attributes.map_or(&[], |attributes| &attributes.peer_urls)
}

fn is_learner(member: &Member) -> bool {
    member
        .raft_attributes
        .as_ref()
        .is_some_and(|attributes| attributes.is_learner)
}

fn described(member: &Member) -> pb::Member {
    let published = member.member_attributes.clone().unwrap_or_default();
    pb::Member {
        id: member.id,
        name: published.name,
        peer_ur_ls: peer_urls(member).to_vec(),
        client_ur_ls: published.client_urls,
        is_learner: is_learner(member),
    }
}
