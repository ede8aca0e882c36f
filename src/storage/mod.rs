//! stub
use crate::base::*; use crate::base::kv::*; use crate::runtime::*; use std::sync::Arc; use std::path::Path;
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind { Fjall, Journal }
pub trait View: Read + Send + Sync {}
pub trait Engine: Read + Send + Sync { fn write(&self, batch: Batch) -> Result<(), Broken>; fn discard(&self, dead: Vec<RevisionAt>); fn sync(&self) -> BoxFuture<'_, Result<(), Broken>>; fn view(&self) -> Box<dyn View>; fn bytes(&self) -> (u64, u64);}
pub struct Store; pub struct Install;
impl Store { pub async fn open(_e:&Env,_d:&Path,_k:EngineKind)->Result<Store,Broken>{todo!()} pub fn engine(&self)->Arc<dyn Engine>{todo!()} pub async fn begin_install(&mut self)->Result<Install,Broken>{todo!()} pub async fn commit(&mut self,_i:Install)->Result<Arc<dyn Engine>,Broken>{todo!()} }
impl Install { pub fn write(&mut self,_b:Batch)->Result<(),Broken>{todo!()} }
pub mod snapshot { use super::*; use bytes::Bytes; pub struct Chunks; impl Chunks { pub fn new(_v:Box<dyn View>)->Self{todo!()} pub fn next(&mut self)->Result<Option<Bytes>,Broken>{todo!()} } pub struct Assembly; impl Assembly{ pub fn new()->Self{todo!()} pub fn is_complete(&self)->bool{todo!()} pub fn accept(&mut self,_c:&[u8])->Result<Batch,Broken>{todo!()} } }
pub mod wal { use super::*; use bytes::Bytes;
#[derive(Clone)] pub struct Wal; pub struct WalOptions{pub segment_bytes:u64,pub cache_bytes:usize,pub sync:bool,pub cluster:[u8;16]}
#[derive(Clone,Copy)] pub struct LogId{pub term:u64,pub index:u64} pub struct LogRecord{pub term:u64,pub index:u64,pub payload:Bytes}
pub struct WalState{pub vote:Option<Bytes>,pub committed:Option<LogId>,pub purged:Option<LogId>,pub last:Option<LogId>}
impl Wal{ pub async fn open(_e:&Env,_d:&Path,_o:WalOptions)->Result<Wal,Broken>{todo!()} pub fn state(&self)->WalState{todo!()} pub fn append(&self,_r:Vec<LogRecord>)->BoxFuture<'static,Result<(),Broken>>{todo!()} pub async fn save_vote(&self,_b:Bytes)->Result<(),Broken>{todo!()} pub fn save_committed(&self,_l:LogId){} pub async fn truncate_after(&self,_l:Option<LogId>)->Result<(),Broken>{todo!()} pub async fn purge(&self,_l:LogId)->Result<(),Broken>{todo!()} pub async fn read(&self,_f:u64,_t:u64,_m:Option<usize>)->Result<Vec<LogRecord>,Broken>{todo!()} pub async fn close(&self){} } }
