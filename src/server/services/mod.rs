//! etcd's services, a file for each, on one [`Api`](super::api::Api).

pub mod cluster;
pub mod election;
pub mod health;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod lock_queue;
pub mod maintenance;
pub mod range;
pub mod snapshot;
