//! What openraft is given to work with: its types and runtime, the log, the network, and what of it is written down.

pub mod cause;
pub mod format;
pub mod log;
pub mod machine;
pub mod network;
pub mod runtime;
pub mod types;
