//! stub
use crate::base::*; use crate::base::kv::*; use crate::runtime::*; use std::sync::Arc; use std::path::Path;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind { Fjall, Journal }
mod engine; mod fjall; mod journal; pub mod snapshot; mod store;
pub use engine::{Engine, View}; pub use store::{Install, Store};
pub mod wal { use super::*; use bytes::Bytes;
#[derive(Clone)] pub struct Wal; pub struct WalOptions{pub segment_bytes:u64,pub cache_bytes:usize,pub sync:bool,pub cluster:[u8;16]}
#[derive(Clone,Copy)] pub struct LogId{pub term:u64,pub index:u64} pub struct LogRecord{pub term:u64,pub index:u64,pub payload:Bytes}
pub struct WalState{pub vote:Option<Bytes>,pub committed:Option<LogId>,pub purged:Option<LogId>,pub last:Option<LogId>}
impl Wal{ pub async fn open(_e:&Env,_d:&Path,_o:WalOptions)->Result<Wal,Broken>{todo!()} pub fn state(&self)->WalState{todo!()} pub fn append(&self,_r:Vec<LogRecord>)->BoxFuture<'static,Result<(),Broken>>{todo!()} pub async fn save_vote(&self,_b:Bytes)->Result<(),Broken>{todo!()} pub fn save_committed(&self,_l:LogId){} pub async fn truncate_after(&self,_l:Option<LogId>)->Result<(),Broken>{todo!()} pub async fn purge(&self,_l:LogId)->Result<(),Broken>{todo!()} pub async fn read(&self,_f:u64,_t:u64,_m:Option<usize>)->Result<Vec<LogRecord>,Broken>{todo!()} pub async fn close(&self){} } }
