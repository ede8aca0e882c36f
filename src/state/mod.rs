//! The replicated state machine: `apply(position, request) -> outcome`.
//!
//! ```text
//!   request ─► check on the state ─► changes ─► index (memory) + records (Pending) + digest ─► outcome, events
//! ```
//!
//! Pure, synchronous, deterministic: no clock, no I/O of its own, no async, no randomness, no lock. Outcome, events,
//! digest depend on the sequence of requests alone, and so does what can be read of what is stored. How far a member has
//! swept what compactions left dead is its own affair. A refused request changes nothing.
//!
//! Revisions as etcd's: an empty store has revision 1; a request that changes something makes the next one, and
//! its changes get sub 0, 1, 2 … in operation order.

mod alarm;
mod auth;
mod compact;
mod digest;
pub mod etcd_snapshot;
mod hash;
mod history;
mod index;
mod lease;
mod member;
mod meta;
pub mod once;
mod op_counts;
mod open;
mod pending;
mod range;
mod record;
mod retained_revisions;
pub mod space;
mod sweep;
mod txn;
mod unread;
pub mod validate;
mod write;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use auth::{Auth, Login};
pub use hash::{HashPlan, HashPlanner, KvHash};
pub use history::history;
pub use lease::Lease;
pub use op_counts::{OpCounts, kind};
pub use pending::Pending;
pub use range::{Bounds, Overtaken, Picked, RangeCursor};
pub use sweep::{Replaced, Sweep, Swept};
pub use txn::{CompareCursor, answer_ranges, taken_ranges};
pub use unread::{Filled, Part, SharedStore, Unread};

use crate::base::{Broken, Denied, LeaseId, Level, MemberId, Revision, RevisionAt};
use crate::proto::command::{Header, command::Request};
use crate::proto::{authpb, etcdserverpb as pb, membershippb, mvccpb};
use digest::Digest;
use index::Index;
use unread::Asked;

/// Where a command stands in the raft log. Commands of one entry share a position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

/// What applying one command did.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The answer for the client, or etcd's refusal. A refused command changed nothing.
    pub answer: Result<Answer, Denied>,
    /// The store's revision afterwards.
    pub revision: Revision,
    /// The changes of this command in order, as watchers see them (without `prev_kv`).
    pub events: Vec<mvccpb::Event>,
    /// Pairs that the answer still lacks.
    pub unread: Unread,
}

impl Outcome {
    /// Of a command that was left out: whether it was applied before, and how it ended, is not known any more.
    pub fn unknown(revision: Revision) -> Outcome {
        Outcome {
            answer: Err(Denied::TimeoutLeaderFailure),
            revision,
            events: Vec::new(),
            unread: Unread::default(),
        }
    }
}

/// The answers of commands. Headers carry only the revision; the server adds the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compaction,
    LeaseGrant {
        id: i64,
        ttl: i64,
    },
    LeaseRevoke,
    Alarm(Vec<pb::AlarmMember>),
    AuthStatus {
        enabled: bool,
        auth_revision: u64,
    },
    /// The login stands at this index of the log and this auth revision.
    Authenticate {
        index: u64,
        auth_revision: u64,
    },
    /// Users, roles, or the roles of a user, in order.
    Names(Vec<String>),
    Permissions(Vec<authpb::Permission>),
    /// All members, by id.
    Members(Vec<pb::Member>),
    Empty,
}

/// What one command has changed so far.
struct Changes {
    /// The revision before the command.
    begin: Revision,
    events: Vec<mvccpb::Event>,
}

impl Changes {
    /// The revision that the command's own reads see.
    fn now(&self) -> Revision {
        self.begin + i64::from(!self.events.is_empty())
    }

    /// Where the next change goes.
    fn next(&self) -> RevisionAt {
        RevisionAt::new(self.begin + 1, self.events.len() as i64)
    }
}

/// The state machine. See the module.
pub struct State {
    position: Position,
    revision: Revision,
    /// -1 before the first compaction.
    compact_revision: Revision,
    /// Up to here what is dead is given up; -1 before the first sweep.
    swept_revision: Revision,
    /// What is being swept up to.
    sweeping: Option<Revision>,
    digest: Digest,
    index: Index,
    leases: BTreeMap<LeaseId, Lease>,
    alarms: BTreeSet<(i32, MemberId)>,
    auth: Auth,
    members: BTreeMap<MemberId, membershippb::Member>,
    /// Ids that never come back.
    removed_members: BTreeSet<MemberId>,
    downgrade_target: Option<String>,
    cluster_version: Option<String>,
    level: Level,
    /// What was applied of each member's incarnations.
    sessions: BTreeMap<once::Proposer, once::Session>,
    /// Dead records that were found when the store was opened.
    dead: Vec<RevisionAt>,
    /// Bytes of the records that are in the index: all but those that sweeps have given up.
    record_bytes: u64,
}

impl State {
    /// The state of an empty store.
    fn empty(cache_bytes_max: usize) -> State {
        State {
            position: Position::default(),
            revision: 1,
            compact_revision: -1,
            swept_revision: -1,
            sweeping: None,
            digest: Digest::EMPTY,
            index: Index::new(cache_bytes_max),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            auth: Auth::new(),
            members: BTreeMap::new(),
            removed_members: BTreeSet::new(),
            downgrade_target: None,
            cluster_version: None,
            level: Level::FIRST,
            sessions: BTreeMap::new(),
            dead: Vec::new(),
            record_bytes: 0,
        }
    }

    /// Applies one command. `who`: the client that asks; `None`: a member itself, which may do everything. `asked`: somebody waits
    /// here for the answer; without, it lacks its pairs, and everything else is the same.
    ///
    /// # Errors
    /// The store contradicts the index; the member must stop.
    pub fn apply(
        &mut self,
        at: Position,
        caller: Option<&Header>,
        request: &Request,
        store: &mut Pending<'_>,
        asked: bool,
    ) -> Result<Outcome, Broken> {
        self.step(at);
        let mut asked = asked.then(Asked::new);
        let mut changes = Changes {
            begin: self.revision,
            events: Vec::new(),
        };
        let permitted = || caller.map_or(Ok(()), |caller| self.permit(caller, request));
        let refused = self.refused_by_alarm(request).map_or_else(permitted, Err);
        let answer = match refused {
            Err(denied) => Err(denied),
            Ok(()) => self.dispatch(at, request, &mut changes, store, asked.as_mut())?,
        };
        assert!(
            answer.is_ok() || changes.events.is_empty(),
            "a refused command changes nothing"
        );
        self.revision = changes.now();
        Ok(Outcome {
            answer,
            revision: self.revision,
            events: changes.events,
            unread: asked.map(Asked::into_unread).unwrap_or_default(),
        })
    }

    fn dispatch(
        &mut self,
        at: Position,
        request: &Request,
        changes: &mut Changes,
        store: &mut Pending<'_>,
        asked: Option<&mut Asked>,
    ) -> Result<Result<Answer, Denied>, Broken> {
        Ok(match request {
            Request::Range(request) => self.range(request, store)?.map(Answer::Range),
            Request::Put(request) => match self.check_put(request) {
                Err(denied) => Err(denied),
                Ok(()) => Ok(Answer::Put(self.put(request, changes, store, asked.is_some())?)),
            },
            Request::DeleteRange(request) => Ok(Answer::DeleteRange(
                self.delete_range(request, changes, store, asked)?,
            )),
            Request::Txn(request) => self.apply_txn(request, changes, store, asked)?.map(Answer::Txn),
            Request::Compaction(request) => self.compact(request.revision).map(|()| Answer::Compaction),
            Request::LeaseGrant(request) => self.grant(request, store),
            Request::LeaseRevoke(request) => self.revoke(request.id, changes, store)?,
            Request::LeaseCheckpoint(request) => Ok(self.checkpoint(request, store)),
            Request::Alarm(request) => Ok(self.alarm(request)),
            Request::ClusterVersionSet(request) => Ok(self.set_cluster_version(&request.ver)),
            Request::ClusterMemberAttrSet(request) => self.set_attributes(request),
            Request::DowngradeInfoSet(request) => Ok(self.set_downgrade(request)),
            Request::LevelRaise(request) => Ok(self.raise_level(request.level)),
            Request::MemberAdd(request) => self.add_member(request),
            Request::MemberRemove(request) => self.remove_member(request.id),
            Request::MemberPromote(request) => self.promote_member(request.id),
            Request::MemberUpdate(request) => self.update_member(request),
            _ => self.apply_auth(at, request, store),
        })
    }

    /// An entry without a command was applied.
    pub fn advance(&mut self, at: Position, _store: &mut Pending<'_>) {
        self.step(at);
    }

    fn step(&mut self, at: Position) {
        assert!(
            at >= self.position,
            "committed entries are applied in order: {at:?} after {:?}",
            self.position
        );
        self.position = at;
        self.digest.step(at);
    }

    /// The last entry that was applied.
    pub fn position(&self) -> Position {
        self.position
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Keys that live now. Counted by the index, without a look at any.
    pub fn count_keys(&self) -> usize {
        self.index.count(&[], None, self.revision)
    }

    /// Reads and watches below this revision are refused; -1 before the first compaction.
    pub fn compact_revision(&self) -> Revision {
        self.compact_revision
    }

    /// Up to this revision what is dead is given up by this member; -1 before the first sweep.
    pub fn swept_revision(&self) -> Revision {
        self.swept_revision
    }

    /// Equal on all members at the same position.
    pub fn digest(&self) -> u64 {
        self.digest.0
    }

    /// Logical bytes of the store: all, and in use. Nothing has to be defragmented here, so the two are the same. What is dead
    /// counts until it is swept, so members may differ for a while: nothing that is applied depends on it, only what a member
    /// lets in, raises an alarm for, or shows.
    pub fn logical_bytes(&self) -> (u64, u64) {
        let bytes = self.record_bytes + EMPTY_STORE_BYTES;
        (bytes, bytes)
    }

    /// Records that a sweep has given up, and that were still stored at [`open`](Self::open): to be discarded again. Once.
    pub fn dead_records(&mut self) -> Vec<RevisionAt> {
        std::mem::take(&mut self.dead)
    }

    pub fn lease(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    /// Leases by id.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(&id, lease)| (id, lease))
    }
}

/// What etcd's file holds before the first key: quotas are compared with sizes that begin here.
const EMPTY_STORE_BYTES: u64 = 20_480;
