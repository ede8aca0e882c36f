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

use crate::base::{Denied, limits};
use crate::proto::command::{Command, Header, command::Request};
use crate::proto::nesting;

/// A command that [`decode`] has decoded.
#[derive(Clone, Debug)]
pub struct EncodedCommand {
    bytes: Bytes,
    operations: usize,
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
            return Err(Denied::REQUEST_TOO_LARGE);
        }
        match decode(&encoded) {
            Ok((_, request)) => Ok(EncodedCommand {
                bytes: encoded,
                operations: match &request {
                    Request::Txn(request) => request.operations().max(1),
                    _ => 1,
                },
            }),
            Err(unreadable) => {
                tracing::error!(%unreadable, "a request that cannot be applied is not proposed");
                Err(Denied::UNREADABLE_COMMAND)
            }
        }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
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
}

/// Who asks, and for what.
pub fn decode(encoded: &Bytes) -> Result<(Option<Header>, Request), Unreadable> {
    if !nesting::command_fits(encoded) {
        return Err(Unreadable::TooDeep);
    }
    // A clone shares the bytes, and keys and values stay slices of them.
    let command =
        Command::decode(encoded.clone()).map_err(|error| Unreadable::Malformed(error.to_string()))?;
    let request = command.request.ok_or(Unreadable::Unknown)?;
    Ok((command.header, request))
}

/// The first of these commands that cannot be applied, and why.
pub fn first_unreadable(commands: &[Bytes]) -> Option<(usize, Unreadable)> {
    let unreadable = |(place, command)| Some((place, decode(command).err()?));
    commands.iter().enumerate().find_map(unreadable)
}

#[cfg(test)]
mod tests;
