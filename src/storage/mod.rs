//! What is durable, and the contract of each verb.

/// Which engine holds the state machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineKind {
    /// fjall, a log-structured merge tree on the file system: production.
    Fjall,
    /// An ordered map over a journal on the environment's `Disk`: the simulator.
    Journal,
}
