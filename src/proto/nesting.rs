//! How deep transactions are nested, seen from their bytes, before anything is decoded.
//!
//! Whatever works on a transaction (decoding, checks, permissions, applying, encoding, dropping) calls itself for
//! the transactions in it, and so does every answer. A thread's stack bounds that, so the depth is looked at
//! first, here, with a list instead of a stack: [`limits::TXN_LEVELS_MAX`].

use prost::encoding::{WireType, decode_key, decode_varint};

use crate::base::limits;

/// A message in which transactions can be, by the numbers of the fields that lead to them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Command,
    Txn,
    Op,
}

impl Kind {
    /// What a field holds, if transactions can be in it.
    fn field(self, tag: u32) -> Option<Kind> {
        match (self, tag) {
            (Kind::Command, 6) | (Kind::Op, 4) => Some(Kind::Txn),
            (Kind::Txn, 2 | 3) => Some(Kind::Op),
            _ => None,
        }
    }
}

/// Whether an encoded `TxnRequest` can be worked on.
pub fn txn_fits(encoded: &[u8]) -> bool {
    fits(Kind::Txn, encoded, limits::TXN_LEVELS_MAX)
}

/// Whether an encoded `Command` can be worked on.
pub fn command_fits(encoded: &[u8]) -> bool {
    fits(Kind::Command, encoded, limits::TXN_LEVELS_MAX)
}

/// Whether at most `levels_max` transactions are in each other, the outermost included. Where the bytes turn out to be
/// malformed the decoder ends, too, having gone no deeper.
fn fits(kind: Kind, encoded: &[u8], levels_max: usize) -> bool {
    let mut rest = encoded;
    // Messages that are begun, and how many bytes are left behind the end of each.
    let mut open = vec![(kind, 0)];
    let mut levels = usize::from(kind == Kind::Txn);
    while let Some(&(kind, behind)) = open.last() {
        if levels > levels_max {
            return false;
        }
        if rest.len() <= behind {
            levels -= usize::from(kind == Kind::Txn);
            open.pop();
            continue;
        }
        let Some((tag, length)) = next_field(&mut rest) else {
            return true;
        };
        match (kind.field(tag), length) {
            // As prost, which compares a length with what is left in all, not with what is left of the message around.
            (_, Some(length)) if length > rest.len() => return true,
            (Some(inner), Some(length)) => {
                open.push((inner, rest.len() - length));
                levels += usize::from(inner == Kind::Txn);
            }
            (None, Some(length)) => rest = &rest[length..],
            (_, None) => {}
        }
    }
    true
}

/// The next field's number, and its length if it has one: then its bytes follow, else they are skipped.
fn next_field(rest: &mut &[u8]) -> Option<(u32, Option<usize>)> {
    let (tag, wire_type) = decode_key(rest).ok()?;
    if wire_type == WireType::LengthDelimited {
        let length = decode_varint(rest).ok()?;
        return Some((tag, Some(usize::try_from(length).ok()?)));
    }
    skip(wire_type, rest)?;
    Some((tag, None))
}

/// Skips a field, and all that is in it if it is a group.
fn skip(wire_type: WireType, rest: &mut &[u8]) -> Option<()> {
    let mut wire_type = wire_type;
    let mut groups = 0_usize;
    loop {
        let length = match wire_type {
            WireType::Varint => decode_varint(rest).map(|_| 0).ok()?,
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => usize::try_from(decode_varint(rest).ok()?).ok()?,
            WireType::StartGroup => {
                groups += 1;
                0
            }
            WireType::EndGroup => {
                groups = groups.checked_sub(1)?;
                0
            }
        };
        *rest = rest.get(length..)?;
        if groups == 0 {
            return Some(());
        }
        wire_type = decode_key(rest).ok()?.1;
    }
}

#[cfg(test)]
mod tests;
