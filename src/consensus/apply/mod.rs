//! From committed entries to the state, and what follows from it: the engine's batches, watches, answers, sweeps, hashes.

pub mod applied_state;
pub mod batch;
pub mod hash;
pub mod machine;
pub mod metrics;
pub mod state_cell;
pub mod sweep;
