//! The replicated state machine: `apply(position, command) -> outcome`.
//!
//! Pure, synchronous, deterministic: no clock, no I/O of its own, no async, no randomness, no lock.

use crate::base::{Denied, Revision};
use crate::proto::{etcdserverpb as pb, mvccpb};

/// Where a command stands in the raft log.
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
}

/// The answers of commands. Headers carry only the revision; the server adds the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(pb::RangeResponse),
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compaction,
    LeaseGrant { id: i64, ttl: i64 },
    LeaseRevoke,
    Alarm(Vec<pb::AlarmMember>),
    Empty,
}

/// The state machine.
pub struct State {}
use crate::base::kv::*; use crate::base::*; use crate::proto::{command::command::Request, membershippb};
pub struct Pending<'a>(&'a dyn Read);
impl<'a> Pending<'a>{ pub fn new(e:&'a dyn Read)->Self{Pending(e)} pub fn into_batch(self)->Batch{todo!()} }
pub struct Lease{pub ttl:i64,pub keys:std::collections::BTreeSet<bytes::Bytes>}
impl State { pub fn open(_s:&dyn Read)->Result<State,Broken>{todo!()} pub fn advance(&mut self,_p:Position,_s:&mut Pending<'_>){} pub fn apply(&mut self,_p:Position,_r:&Request,_s:&mut Pending<'_>)->Result<Outcome,Broken>{todo!()} pub fn seal(&mut self,_s:&mut Pending<'_>){} pub fn dead_records(&mut self)->Vec<RevisionAt>{todo!()} pub fn compact_revision(&self)->i64{0} pub fn revision(&self)->i64{0} pub fn digest(&self)->u64{0} pub fn position(&self)->Position{todo!()} pub fn leases(&self)->std::iter::Empty<(i64,&Lease)>{todo!()} pub fn lease(&self,_i:i64)->Option<&Lease>{None} pub fn attributes(&self,_m:u64)->Option<&membershippb::Attributes>{None} pub fn cluster_version(&self)->Option<&str>{None} }
