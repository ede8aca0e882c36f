//! No command is applied twice: which commands of each member were applied (Raft thesis, 6.3, where clients number theirs).
//!
//! A member offers a command again only if it knows that nobody has appended it (`consensus::propose::queue`). Should it ever be
//! mistaken, all members see that here, and leave the command out. From [`Level::APPLIED_ONCE`] on.
//!
//! ```text
//!   Meta "once" member (u64 BE) incarnation (u64 BE)  ─►  version: 1 | since | floor | first, last | first, last …
//!                                                         every number u64 LE
//! ```
//!
//! Below its floor a member waits for nothing, so what comes from there comes late, and whether it was applied need
//! not be remembered: it is not. Above it there are [`PROPOSALS_APART_MAX`](crate::base::limits::PROPOSALS_APART_MAX)
//! numbers at most, as a rule in one run.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::digest::Kind;
use super::{Pending, State};
use crate::base::kv::{Read, Space, Visit};
use crate::base::{Broken, MemberId};

const PREFIX: &[u8] = b"once";
const VERSION: u8 = 1;
/// Incarnations of a member that are remembered: what an earlier one had under way may reach the log behind what its
/// successor proposes, for as long as a message can be under way.
const INCARNATIONS_MAX: usize = 4;

/// One incarnation of a member.
pub type Proposer = (MemberId, u64);

/// Whether a command is to be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Turn {
    First,
    /// It was applied before.
    Again,
    /// Whoever proposed it has given it up since.
    Late,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Session {
    /// The index of its first entry.
    since: u64,
    floor: u64,
    /// Numbers that were applied, from the floor on: runs, first and last of each.
    applied: BTreeMap<u64, u64>,
}

impl Session {
    fn raise_floor(&mut self, floor: u64) {
        self.floor = self.floor.max(floor);
        while let Some(run) = self.applied.first_entry()
            && *run.key() < self.floor
        {
            let (_, last) = run.remove_entry();
            if last >= self.floor {
                self.applied.insert(self.floor, last);
            }
        }
    }

    fn take(&mut self, number: u64) -> Turn {
        if number < self.floor {
            return Turn::Late;
        }
        let before = self.applied.range_mut(..=number).next_back();
        let joined = match before {
            Some((_, last)) if *last >= number => return Turn::Again,
            Some((&first, last)) if *last + 1 == number => {
                *last = number;
                first
            }
            _ => {
                self.applied.insert(number, number);
                number
            }
        };
        if let Some(last) = number.checked_add(1).and_then(|next| self.applied.remove(&next)) {
            self.applied.insert(joined, last);
        }
        Turn::First
    }

    fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(17 + 16 * self.applied.len());
        row.put_u8(VERSION);
        row.put_u64_le(self.since);
        row.put_u64_le(self.floor);
        for (first, last) in &self.applied {
            row.put_u64_le(*first);
            row.put_u64_le(*last);
        }
        row.freeze()
    }

    fn decode(mut row: Bytes) -> Option<Session> {
        if row.try_get_u8().ok()? != VERSION {
            return None;
        }
        let (since, floor) = (row.try_get_u64_le().ok()?, row.try_get_u64_le().ok()?);
        let mut applied = BTreeMap::new();
        while row.has_remaining() {
            applied.insert(row.try_get_u64_le().ok()?, row.try_get_u64_le().ok()?);
        }
        Some(Session {
            since,
            floor,
            applied,
        })
    }
}

fn row_key((member, incarnation): Proposer) -> Bytes {
    [PREFIX, &member.to_be_bytes(), &incarnation.to_be_bytes()]
        .concat()
        .into()
}

fn proposer_of(key: &[u8]) -> Option<Proposer> {
    let (member, incarnation) = key.strip_prefix(PREFIX)?.split_first_chunk()?;
    let incarnation = incarnation.try_into().ok()?;
    Some((u64::from_be_bytes(*member), u64::from_be_bytes(incarnation)))
}

impl State {
    /// Takes the turns of a batch's commands, which stands at `index` of the log: each is to be applied at its first.
    pub fn take_turns(
        &mut self,
        index: u64,
        proposer: Proposer,
        floor: u64,
        numbers: impl Iterator<Item = u64>,
        store: &mut Pending<'_>,
    ) -> Vec<Turn> {
        let session = self.sessions.entry(proposer).or_insert_with(|| Session {
            since: index,
            ..Session::default()
        });
        session.raise_floor(floor);
        let turns = numbers.map(|number| session.take(number)).collect();
        let row = session.encode();
        self.digest.add(Kind::Turn, &row);
        store.put(Space::Meta, row_key(proposer), row);
        self.forget_incarnation(proposer.0, store);
        turns
    }

    /// Forgets the oldest incarnation of a member that has too many.
    fn forget_incarnation(&mut self, member: MemberId, store: &mut Pending<'_>) {
        let incarnations = || self.sessions.range((member, 0)..=(member, u64::MAX));
        if incarnations().count() <= INCARNATIONS_MAX {
            return;
        }
        let oldest = incarnations().min_by_key(|(_, session)| session.since);
        if let Some(&oldest) = oldest.map(|(proposer, _)| proposer) {
            self.sessions.remove(&oldest);
            store.delete(Space::Meta, row_key(oldest));
        }
    }

    pub(super) fn load_sessions(&mut self, store: &dyn Read) -> Result<(), Broken> {
        let end = [PREFIX, &[0xff; 17]].concat();
        let mut damaged = None;
        store.scan(
            Space::Meta,
            PREFIX,
            Some(&end),
            &mut |key, row| match proposer_of(key).zip(Session::decode(row)) {
                Some((proposer, session)) => {
                    self.sessions.insert(proposer, session);
                    Visit::Continue
                }
                None => {
                    damaged = Some(Broken::malformed(format!("stored row {key:?}")));
                    Visit::Stop
                }
            },
        )?;
        damaged.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
