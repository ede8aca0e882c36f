//! What every layer may know: identifiers, revisions, limits, the three kinds of error, and what is counted.

pub mod broken;
pub mod effort;
pub mod error;
pub mod ids;
pub mod kv;
pub mod level;
pub mod limits;
pub mod metrics;
pub mod overlay;
pub mod urls;

pub use broken::Broken;
pub use error::Denied;
pub use level::Level;
pub use metrics::MemberMetrics;

/// A switch between ways of doing something, of which members are told by their metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FeatureGate {
    pub name: &'static str,
    /// How mature it is: "ALPHA", "BETA".
    pub stage: &'static str,
    pub on: bool,
}

/// The identity of a member: the first 8 bytes of a SHA-1, as etcd computes it. Never 0.
pub type MemberId = u64;
/// The identity of a cluster: a hash over its initial members.
pub type ClusterId = u64;
/// A main revision: 1 in an empty store, +1 for each transaction that changes something.
pub type Revision = i64;
/// A lease id: a positive number chosen by the client or the server.
pub type LeaseId = i64;

/// Where a change sits in history: the transaction's revision and the change's place within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct RevisionAt {
    pub main: Revision,
    pub sub: i64,
}

impl RevisionAt {
    /// Length of the encoded form.
    pub const LEN: usize = 16;

    pub fn new(main: Revision, sub: i64) -> Self {
        RevisionAt { main, sub }
    }

    /// Big-endian (main, sub): byte order is history's order.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.main.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    /// The inverse of [`to_bytes`](Self::to_bytes); `None` unless exactly 16 bytes are given.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (main, sub) = bytes.split_first_chunk::<8>()?;
        Some(RevisionAt {
            main: i64::from_be_bytes(*main),
            sub: i64::from_be_bytes(sub.try_into().ok()?),
        })
    }
}
