//! Commands on their way into the log.
//!
//! ```text
//!   request ─► EncodedCommand::new ─► queue ─► batch ─► log ─► decode ─► State::apply
//!                    └──── decode ────┘        (a forwarded one: decode_all, by the leader)
//! ```
//!
//! A committed entry is applied by every member, now and after each restart; one that cannot be decoded ends all of
//! them for good. So nothing is proposed that [`decode`], the very function that apply uses, has not decoded before.

use bytes::Bytes;
use prost::Message;

use crate::base::{Denied, Level, limits};
use crate::consensus::raft::format::entry::Batch;
use crate::proto::command::{Command, Header, command::Request};
use crate::proto::nesting;

/// Who asks, and for what.
pub type Decoded = (Option<Header>, Request);

/// A command that [`decode`] has decoded.
#[derive(Clone, Debug)]
pub struct EncodedCommand {
    bytes: Bytes,
    /// What was decoded of it, unless it is a transaction: whoever applies it here need not decode it again.
    decoded: Option<Decoded>,
    operations: usize,
    level: Level,
}

impl EncodedCommand {
    /// # Errors
    /// It is too large for a batch, or cannot be decoded again: it must not be proposed.
    pub fn new(header: Option<Header>, request: Request) -> Result<EncodedCommand, Denied> {
        let command = Command {
            header,
            request: Some(request),
        };
        let encoded = Bytes::from(command.encode_to_vec());
        if encoded.len() > limits::COMMAND_BYTES_MAX {
            return Err(Denied::RequestTooLarge);
        }
        match decode(&encoded) {
            Ok((header, request)) => {
                let (operations, kept) = match &request {
                    // Its structure would take much more memory than the bytes that are counted.
                    Request::Txn(request) => (request.operations().max(1), false),
                    _ => (1, true),
                };
                Ok(EncodedCommand {
                    bytes: encoded,
                    operations,
                    level: level(&request),
                    decoded: kept.then_some((header, request)),
                })
            }
            Err(unreadable) => {
                tracing::error!(%unreadable, "a request that cannot be applied is not proposed");
                Err(Denied::UnreadableCommand)
            }
        }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// What it says, to be applied.
    pub fn take_decoded(&mut self) -> Option<Decoded> {
        self.decoded.take()
    }

    /// The lowest level that can apply it.
    pub fn level(&self) -> Level {
        self.level
    }

    /// As if it were of another level.
    #[cfg(test)]
    pub fn at_level(self, level: Level) -> EncodedCommand {
        EncodedCommand { level, ..self }
    }

    /// What applying it costs, roughly.
    pub fn operations(&self) -> usize {
        self.operations
    }
}

/// Why a command cannot be applied: it was written by a newer version, or is damage that every checksum missed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("an unreadable command: {0}")]
    Malformed(String),
    #[error("a command this version does not know")]
    Unknown,
    #[error("transactions in each other more than {} deep", limits::TXN_LEVELS_MAX)]
    TooDeep,
    #[error("a command of level {0}, which this release does not know")]
    Level(Level),
}

/// What a command says.
pub fn decode(encoded: &Bytes) -> Result<Decoded, Unreadable> {
    if !nesting::command_fits(encoded) {
        return Err(Unreadable::TooDeep);
    }
    // A clone shares the bytes, and keys and values stay slices of them.
    let command =
        Command::decode(encoded.clone()).map_err(|error| Unreadable::Malformed(error.to_string()))?;
    let request = command.request.ok_or(Unreadable::Unknown)?;
    Ok((command.header, request))
}

/// The lowest level that applies a request in full. Whoever adds a request, or a field that changes what one does, gives
/// it the next level here: a member below would apply it in part, or not at all.
fn level(_request: &Request) -> Level {
    Level::FIRST
}

/// The first command of a batch that a member of `known` cannot apply, and why.
pub fn first_unreadable(batch: &Batch, known: Level) -> Option<(usize, Unreadable)> {
    if batch.level() > known {
        return Some((0, Unreadable::Level(batch.level())));
    }
    let readable = |command: &Bytes| {
        let (_, request) = decode(command)?;
        match level(&request) {
            needed if needed > known => Err(Unreadable::Level(needed)),
            _ => Ok(()),
        }
    };
    let unreadable = |(place, (_, command))| Some((place, readable(&command).err()?));
    batch.commands().enumerate().find_map(unreadable)
}

#[cfg(test)]
mod tests;
