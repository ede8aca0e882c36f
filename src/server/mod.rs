//! stub
use crate::consensus::*;
use crate::node::*;
use crate::runtime::*;
use std::sync::Arc;
pub struct Server;
pub struct WatchHub;
impl WatchHub {
    pub fn new() -> Arc<Self> {
        todo!()
    }
}
impl Observer for WatchHub {
    fn applied(&self, _: i64, _: &[crate::proto::mvccpb::Event]) {}
    fn installed(&self, _: i64) {}
    fn compacted(&self, _: i64) {}
}
impl Server {
    pub fn start(
        _e: Env,
        _c: &Config,
        _k: Consensus,
        _h: Arc<WatchHub>,
        _l: Vec<Box<dyn Listener>>,
        _m: Vec<Box<dyn Listener>>,
    ) -> Server {
        todo!()
    }
    pub async fn ready(&self) -> Result<(), ()> {
        Ok(())
    }
    pub async fn stop(&self) {}
}
