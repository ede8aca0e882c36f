//! Quorate: a deterministic-simulation-tested consensus store, a drop-in for etcd v3.7.1.
//!
//! Start with `src/ARCHITECTURE.md`. The layers below point only downward; `tests/tidy.rs` fails on
//! an arrow that points up.

pub mod base;
pub mod bbolt;
pub mod cli;
pub mod client;
pub mod config;
pub mod consensus;
pub mod node;
pub mod proto;
pub mod runtime;
pub mod server;
pub mod state;
pub mod storage;
pub mod transport;
