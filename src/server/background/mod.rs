//! What a member does on its own, on one [`Api`](super::api::Api): compacting, comparing hashes, settling versions, watching the quota.

pub mod compactor;
pub mod corruption;
pub mod quota;
pub mod raft_status_cache;
pub mod versions;
