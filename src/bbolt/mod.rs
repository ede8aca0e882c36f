//! The file format of bbolt, etcd's database: written and read whole, for snapshots that go out and come in. Never the
//! live format of this server.
//!
//! ```text
//! page:     id u64 │ flags u16 │ count u16 │ overflow u32 │ elements … │ keys and values …      4096 bytes, or more
//! file:     meta 0 │ meta 1 │ free list (empty) │ leaves and branches of each bucket │ leaf of buckets
//! meta:     page head │ magic, version, page size, flags: u32 │ root: pgid, sequence │ freelist │ high water │ txid
//!           │ FNV-1a of these 56 bytes: u64
//! leaf:     flags u32 (1: a bucket) │ pos u32 │ key size u32 │ value size u32        pos counts from the element
//! branch:   pos u32 │ key size u32 │ pgid u64
//! bucket:   root pgid u64 │ sequence u64; root 0: its only page follows inline
//! ```
//!
//! All numbers are little-endian. `overflow` pages follow a page whose elements need more than one. Source:
//! go.etcd.io/bbolt 1.5, `internal/common`.

mod reader;
mod writer;

#[cfg(test)]
mod tests;

pub use reader::{File, ReadAt, Visitor};
pub use writer::{Encoder, Rows};

const PAGE_BYTES: usize = 4096;
const PAGE_HEAD: usize = 16;
const ELEMENT: usize = 16;
const BUCKET_HEAD: usize = 16;
const META_BYTES: usize = 64;
const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
/// A leaf element that is a bucket.
const IS_BUCKET: u32 = 1;

/// FNV-1a, 64 bits.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
