//! A running digest over everything that is applied: members at the same position must have the same.
//!
//! It takes in the position of every entry and, of every change, where it went and its bytes. It is stored with the
//! state, so it goes on after a restart and on a member that began with a snapshot.
//!
//! Not a cryptographic hash: it tells accidents, not attacks. It folds eight bytes at a time with a 64 by
//! 64 bit multiplication (as wyhash does), so that it costs nothing beside the rest of an apply.

use crate::base::RevisionAt;

use super::Position;

/// What tells the digest one kind of change from another.
#[derive(Clone, Copy)]
pub enum Kind {
    Entry = 0,
    Put = 1,
    Delete = 2,
    Lease = 3,
    Revoke = 4,
    Compact = 5,
    Alarm = 6,
    Member = 7,
    Version = 8,
    Auth = 9,
    Import = 10,
    Turn = 11,
}

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest(pub u64);

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}

impl Digest {
    pub const EMPTY: Digest = Digest(SEED);

    /// An entry of the log, or one of its commands, was applied.
    pub fn step(&mut self, at: Position) {
        self.mix(Kind::Entry, at.term, at.index, &[]);
    }

    /// A record was written.
    pub fn record(&mut self, kind: Kind, at: RevisionAt, bytes: &[u8]) {
        self.mix(kind, at.main as u64, at.sub as u64, bytes);
    }

    /// Anything else was changed.
    pub fn add(&mut self, kind: Kind, bytes: &[u8]) {
        self.mix(kind, 0, 0, bytes);
    }

    fn mix(&mut self, kind: Kind, a: u64, b: u64, bytes: &[u8]) {
        let head = ((kind as u64) << 56) | bytes.len() as u64;
        let mut hash = self.0 ^ head.wrapping_mul(SEED);
        let mut take = |word: u64| hash = fold(hash ^ word ^ SEED, FACTOR).rotate_left(23);
        take(a);
        take(b);
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| take(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            // The length is in the head, so padding is not mistaken for content.
            take(
                rest.iter()
                    .rev()
                    .fold(0, |word, &byte| word << 8 | u64::from(byte)),
            );
        }
        // Folding can lose a bit of state when a factor is 0; adding keeps every step one to one enough.
        self.0 = fold(hash ^ FACTOR, SEED | 1).wrapping_add(self.0.rotate_left(31));
    }
}
