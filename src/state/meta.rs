//! What the state keeps besides records and leases: position, revisions, digest, alarms, members' attributes,
//! the cluster's version. One small message, written with every batch.

use bytes::Bytes;
use prost::Message;

use super::digest::Digest;
use super::record::Record;
use super::write::kind;
use super::{Answer, Pending, Position, State};
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, Denied, MemberId, RevisionAt};
use crate::proto::command::StateMeta;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmType, RequestOp, TxnRequest, alarm_request::AlarmAction, request_op,
};
use crate::proto::membershippb::{Attributes, ClusterMemberAttrSetRequest, Member};

const KEY: &[u8] = b"state";

impl State {
    /// Rebuilds the state from a store: after a start, or from a received snapshot.
    pub fn open(store: &dyn Read) -> Result<State, Broken> {
        let mut state = State::empty();
        let Some(bytes) = store.get(Space::Meta, KEY)? else {
            return Ok(state);
        };
        let meta = StateMeta::decode(bytes).map_err(|error| Broken::new(format!("stored state: {error}")))?;
        state.load_records(meta.revision, store)?;
        state.position = Position {
            term: meta.term,
            index: meta.index,
        };
        state.revision = meta.revision;
        state.compact_revision = meta.compact_revision;
        state.digest = Digest(meta.digest);
        state.alarms = meta
            .alarms
            .iter()
            .map(|alarm| (alarm.alarm, alarm.member_id))
            .collect();
        state.cluster_version = Some(meta.cluster_version).filter(|version| !version.is_empty());
        let attributes = |member: Member| (member.id, member.member_attributes.unwrap_or_default());
        state.attributes = meta.members.into_iter().map(attributes).collect();
        state.load_leases(store)?;
        state.bury(meta.compact_revision);
        Ok(state)
    }

    fn load_records(&mut self, revision: i64, store: &dyn Read) -> Result<(), Broken> {
        let mut damaged = None;
        store.scan(Space::Records, &[], None, &mut |key, value| {
            let length = value.len();
            let loaded = RevisionAt::from_bytes(key)
                .ok_or_else(|| Broken::new(format!("stored revision {key:?} is malformed")))
                .and_then(|at| Ok((at, Record::decode(at, value)?)));
            match loaded {
                Ok((at, _)) if at.main > revision => {
                    let (main, sub) = (at.main, at.sub);
                    damaged = Some(Broken::new(format!(
                        "record {main}_{sub} lies beyond revision {revision}"
                    )));
                }
                Ok((at, record)) => self.index_record(at, &record, length),
                Err(broken) => damaged = Some(broken),
            }
            if damaged.is_some() {
                Visit::Stop
            } else {
                Visit::Continue
            }
        })?;
        damaged.map_or(Ok(()), Err)
    }

    /// Adds to a batch what brings the store to this state. Call it once, after the last command of the batch.
    pub fn seal(&self, store: &mut Pending<'_>) {
        let member = |(&id, attributes): (&MemberId, &Attributes)| Member {
            id,
            raft_attributes: None,
            member_attributes: Some(attributes.clone()),
        };
        let meta = StateMeta {
            term: self.position.term,
            index: self.position.index,
            revision: self.revision,
            compact_revision: self.compact_revision,
            digest: self.digest.0,
            alarms: self.alarms(),
            cluster_version: self.cluster_version.clone().unwrap_or_default(),
            members: self.attributes.iter().map(member).collect(),
        };
        store.put(Space::Meta, Bytes::from_static(KEY), meta.encode_to_vec());
    }

    pub fn alarms(&self) -> Vec<AlarmMember> {
        self.alarms
            .iter()
            .map(|&(alarm, member_id)| AlarmMember { member_id, alarm })
            .collect()
    }

    /// What a member has published about itself.
    pub fn attributes(&self, member: MemberId) -> Option<&Attributes> {
        self.attributes.get(&member)
    }

    /// The version all members agree on; `None` until the first is set.
    pub fn cluster_version(&self) -> Option<&str> {
        self.cluster_version.as_deref()
    }

    pub(super) fn set_cluster_version(&mut self, version: &str) -> Answer {
        self.digest.add(kind::VERSION, version.as_bytes());
        self.cluster_version = Some(version.to_owned());
        Answer::Empty
    }

    pub(super) fn set_attributes(&mut self, request: &ClusterMemberAttrSetRequest) -> Answer {
        self.digest.add(kind::MEMBER, &request.encode_to_vec());
        let attributes = request.member_attributes.clone().unwrap_or_default();
        self.attributes.insert(request.member_id, attributes);
        Answer::Empty
    }

    /// GET lists, ACTIVATE raises, DEACTIVATE disarms; 0 and NONE stand for all.
    pub(super) fn alarm(&mut self, request: &AlarmRequest) -> Answer {
        let wanted = |&(alarm, member): &(i32, MemberId)| {
            (request.member_id == 0 || member == request.member_id)
                && (request.alarm() == AlarmType::None || alarm == request.alarm)
        };
        let matching: Vec<(i32, MemberId)> = self.alarms.iter().copied().filter(wanted).collect();
        let changed = match request.action() {
            AlarmAction::Get => matching,
            AlarmAction::Activate if request.alarm() == AlarmType::None => Vec::new(),
            AlarmAction::Activate => {
                self.alarms.insert((request.alarm, request.member_id));
                vec![(request.alarm, request.member_id)]
            }
            AlarmAction::Deactivate => {
                self.alarms.retain(|alarm| !wanted(alarm));
                matching
            }
        };
        if request.action() != AlarmAction::Get {
            self.digest.add(kind::ALARMS, &request.encode_to_vec());
        }
        let member = |(alarm, member_id)| AlarmMember { member_id, alarm };
        Answer::Alarm(changed.into_iter().map(member).collect())
    }

    /// NOSPACE stops what adds, CORRUPT stops every write, on the whole cluster.
    pub(super) fn refused_by_alarm(&self, request: &Request) -> Option<Denied> {
        let active = |alarm: AlarmType| self.alarms.iter().any(|&(active, _)| active == i32::from(alarm));
        let writes = !matches!(
            request,
            Request::Alarm(_)
                | Request::LeaseCheckpoint(_)
                | Request::ClusterVersionSet(_)
                | Request::ClusterMemberAttrSet(_)
        );
        if self.alarms.is_empty() {
            None
        } else if writes && active(AlarmType::Corrupt) {
            Some(Denied::CORRUPT)
        } else if active(AlarmType::Nospace) && adds(request) {
            Some(Denied::NO_SPACE)
        } else {
            None
        }
    }
}

/// Whether a request makes the store larger.
fn adds(request: &Request) -> bool {
    match request {
        Request::Put(_) | Request::LeaseGrant(_) => true,
        Request::Txn(txn) => txn_adds(txn),
        _ => false,
    }
}

fn txn_adds(txn: &TxnRequest) -> bool {
    let op_adds = |op: &RequestOp| match &op.request {
        Some(request_op::Request::RequestPut(_)) => true,
        Some(request_op::Request::RequestTxn(nested)) => txn_adds(nested),
        _ => false,
    };
    txn.success.iter().chain(&txn.failure).any(op_adds)
}
