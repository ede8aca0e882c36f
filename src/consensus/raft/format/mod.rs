//! What consensus writes to disk and sends to other members, in structures of its own: none of openraft's types is part
//! of a format, so a new version of it changes none.
//!
//! | what | where | form |
//! |---|---|---|
//! | [`entry`] | log, frames of entries | bytes, shared from proposal to apply |
//! | [`append`] | stream of entries to a follower | bytes around those of the entries |
//! | [`record`] | vote in the log, position in the engine, head of a snapshot | version, then bincode |
//! | [`crate::consensus::peers::message`] | questions and answers of peers | version, then bincode |
//!
//! Each begins with a byte that is its version. How a format is changed: see [`crate::storage::format`].

pub mod append;
pub mod entry;
pub mod record;

/// The number at a place that is known to be there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
