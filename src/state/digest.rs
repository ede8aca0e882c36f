//! A running digest over everything that is applied: members at the same index must have the same.
//!
//! Not a cryptographic hash: it tells accidents, not attacks. It folds eight bytes at a time with a 64 by
//! 64 bit multiplication (as wyhash does), so that it costs nothing beside the rest of an apply.

/// See the module. Persisted with the state.
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

    /// Takes in a change: what kind, and its bytes.
    pub fn add(&mut self, kind: u8, bytes: &[u8]) {
        let mut hash = self.0 ^ (u64::from(kind) << 56 | bytes.len() as u64).wrapping_mul(SEED);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.get_mut(..chunk.len())
                .expect("chunks are at most a word")
                .copy_from_slice(chunk);
            hash = fold(hash ^ u64::from_le_bytes(word) ^ SEED, FACTOR).rotate_left(23);
        }
        // Folding can lose a bit of state when a factor is 0; adding keeps every step one to one enough.
        self.0 = fold(hash ^ FACTOR, SEED | 1).wrapping_add(self.0.rotate_left(31));
    }
}
