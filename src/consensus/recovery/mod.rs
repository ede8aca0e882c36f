//! A member's data made of something else than its own history: a snapshot file, or what is left of a cluster.

pub mod force_new_cluster;
pub mod restore;
