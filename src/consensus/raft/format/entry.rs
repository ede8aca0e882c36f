//! Entries of the log: the same bytes from whoever proposes them to log, followers and apply.
//!
//! ```text
//! payload of an entry                     every number is little-endian
//!  0  1 version: 1
//!  1  1 kind: 0 blank, 1 batch, 2 membership
//!  2  2 level: the lowest that can apply it
//!
//! batch                                   membership
//!  4  4 number of commands                 4    bincode of voters and nodes
//!  8  8 origin
//! 16  8 incarnation
//! 24  8 sequence
//! 32  8 floor
//! 40    commands, back to back:
//!       number - floor (4), length (4), command.proto
//! ```
//!
//! A member numbers the commands of an incarnation, and a command keeps its number when it is offered again. Below the
//! floor its member waits for none any more. With the two, apply knows a command that was applied before.
//!
//! A change of the format takes the next version, and a new meaning of what has its format already the next [`Level`]. The
//! log's own record around a payload (`storage::format`) holds its log id, and the frame to a follower ([`super::append`]) many of them.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;

use super::record::MembershipRecord;
use super::{u32_at, u64_at};
use crate::base::broken::Unknown;
use crate::base::{Broken, Level, MemberId};
use crate::consensus::raft::types::Peer;
use crate::transport::{decode_body, encode_body};

const VERSION: u8 = 1;
const BLANK: u8 = 0;
const BATCH: u8 = 1;
const MEMBERSHIP: u8 = 2;
/// Bytes before what depends on the kind.
const HEAD_BYTES: usize = 4;
/// Bytes before the first command of a batch.
const BATCH_HEAD_BYTES: usize = 40;
/// What a command takes beside its own bytes.
const COMMAND_HEAD_BYTES: usize = 8;

/// What an entry holds.
pub type Payload = EntryPayload<Batch, MemberId, Peer>;

/// Why a payload is not read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadEntry {
    #[error("version {0} of the entry's format, which this release does not know: start a newer release")]
    Newer(u8),
    #[error("it is not an entry")]
    Malformed,
}

impl BadEntry {
    /// It was met in this entry of the log.
    pub fn in_log(self, index: u64) -> Broken {
        let what = format!("entry {index} of the log");
        match self {
            BadEntry::Newer(version) => Broken::OtherRelease {
                what,
                found: Unknown::Entry(version),
            },
            BadEntry::Malformed => Broken::unreadable(what, self),
        }
    }
}

/// Whose batch it is: each batch of a member's incarnation has a sequence number of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BatchName {
    /// The member that proposed it; only it answers whoever waits.
    pub origin: MemberId,
    /// A member that was restarted has forgotten who waited.
    pub incarnation: u64,
    pub sequence: u64,
}

/// Commands that share one entry, encoded. Clones share the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Batch(Bytes);

impl Batch {
    /// Joins encoded [`Command`](crate::proto::command::Command)s, each with its number, the highest of whose levels is
    /// `level`.
    pub fn new(name: BatchName, level: Level, floor: u64, commands: &[(u64, Bytes)]) -> Batch {
        let bytes: usize = commands
            .iter()
            .map(|(_, command)| COMMAND_HEAD_BYTES + command.len())
            .sum();
        let mut encoded = BytesMut::with_capacity(BATCH_HEAD_BYTES + bytes);
        put_head(&mut encoded, BATCH, level);
        encoded.put_u32_le(u32::try_from(commands.len()).expect("batches are bounded"));
        encoded.put_u64_le(name.origin);
        encoded.put_u64_le(name.incarnation);
        encoded.put_u64_le(name.sequence);
        encoded.put_u64_le(floor);
        for (number, command) in commands {
            let above = number
                .checked_sub(floor)
                .and_then(|above| u32::try_from(above).ok());
            encoded.put_u32_le(above.expect("what waits lies above the floor, and not far"));
            encoded.put_u32_le(u32::try_from(command.len()).expect("commands are bounded"));
            encoded.put_slice(command);
        }
        Batch(encoded.freeze())
    }

    /// A batch out of the bytes that it was sent or logged as.
    pub fn from_bytes(encoded: Bytes) -> Result<Batch, BadEntry> {
        match decode_payload(encoded)? {
            EntryPayload::Normal(batch) => Ok(batch),
            _ => Err(BadEntry::Malformed),
        }
    }

    /// As it is logged and sent.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    pub fn name(&self) -> BatchName {
        BatchName {
            origin: u64_at(&self.0, 8),
            incarnation: u64_at(&self.0, 16),
            sequence: u64_at(&self.0, 24),
        }
    }

    /// What a release must know to apply all of it.
    pub fn level(&self) -> Level {
        level_of(&self.0)
    }

    /// Its member waits for no command with a lower number.
    pub fn floor(&self) -> u64 {
        u64_at(&self.0, 32)
    }

    /// How many commands.
    pub fn len(&self) -> usize {
        u32_at(&self.0, HEAD_BYTES) as usize
    }

    /// The commands in order with their numbers, as slices of the batch: whoever keeps one keeps all of it in memory.
    pub fn commands(&self) -> impl Iterator<Item = (u64, Bytes)> + '_ {
        self.places().map(|(number, place)| (number, self.0.slice(place)))
    }

    /// The numbers of the commands, in order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.places().map(|(number, _)| number)
    }

    /// The number of each command, and where it lies.
    fn places(&self) -> impl Iterator<Item = (u64, Range<usize>)> + '_ {
        let mut at = BATCH_HEAD_BYTES;
        std::iter::from_fn(move || {
            if at == self.0.len() {
                return None;
            }
            let number = self.floor().saturating_add(u32_at(&self.0, at).into());
            let begin = at + COMMAND_HEAD_BYTES;
            at = begin + u32_at(&self.0, at + 4) as usize;
            Some((number, begin..at))
        })
    }

    fn is_whole(&self) -> bool {
        let Some(mut rest) = self.0.get(BATCH_HEAD_BYTES..) else {
            return false;
        };
        for _ in 0..self.len() {
            let behind = rest
                .split_first_chunk::<COMMAND_HEAD_BYTES>()
                .and_then(|(head, rest)| rest.get(u32_at(head, 4) as usize..));
            let Some(behind) = behind else { return false };
            rest = behind;
        }
        rest.is_empty()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BatchName { origin, sequence, .. } = self.name();
        write!(f, "batch {origin:x}/{sequence}: {} commands", self.len())
    }
}

/// The bytes of a payload. Those of a batch are there already.
pub fn encode_payload(payload: &Payload) -> Bytes {
    let mut encoded = BytesMut::new();
    match payload {
        EntryPayload::Normal(batch) => return batch.0.clone(),
        EntryPayload::Blank => put_head(&mut encoded, BLANK, Level::FIRST),
        EntryPayload::Membership(membership) => {
            put_head(&mut encoded, MEMBERSHIP, Level::FIRST);
            encoded.put_slice(&encode_body(&MembershipRecord::from(membership)));
        }
    }
    encoded.freeze()
}

/// The payload that these bytes are; a batch keeps them.
pub fn decode_payload(encoded: Bytes) -> Result<Payload, BadEntry> {
    let &[version, kind, ..] = encoded.get(..HEAD_BYTES).ok_or(BadEntry::Malformed)? else {
        return Err(BadEntry::Malformed);
    };
    if version != VERSION {
        return Err(BadEntry::Newer(version));
    }
    if kind != BATCH && level_of(&encoded) > Level::FIRST {
        // A member that knew it would not take it for one of the first level.
        return Err(BadEntry::Newer(version));
    }
    match kind {
        BLANK if encoded.len() == HEAD_BYTES => Ok(EntryPayload::Blank),
        BATCH => {
            let batch = Batch(encoded);
            batch
                .is_whole()
                .then_some(EntryPayload::Normal(batch))
                .ok_or(BadEntry::Malformed)
        }
        MEMBERSHIP => decode_body::<MembershipRecord>(&encoded[HEAD_BYTES..])
            .map_err(|_| BadEntry::Malformed)?
            .try_into()
            .map(EntryPayload::Membership)
            .map_err(|_| BadEntry::Malformed),
        _ => Err(BadEntry::Malformed),
    }
}

/// Whose votes count from an entry on, if it changes that: a quorum is a majority of each of the sets.
pub fn voters_in(payload: &[u8]) -> Option<Vec<BTreeSet<MemberId>>> {
    let body = payload.strip_prefix(&[VERSION, MEMBERSHIP])?.get(2..)?;
    let membership: MembershipRecord = decode_body(body).ok()?;
    Some(membership.voters)
}

fn put_head(encoded: &mut BytesMut, kind: u8, level: Level) {
    encoded.put_u8(VERSION);
    encoded.put_u8(kind);
    encoded.put_u16_le(level.0);
}

fn level_of(encoded: &[u8]) -> Level {
    Level(u16::from_le_bytes([encoded[2], encoded[3]]))
}

#[cfg(test)]
mod tests;
