//! Streams between members: framing, the handshake, request and response.
//!
//! ```text
//!   consensus::network ── Dialer ──►  Hello ► HelloReply, then frames ◄──►  accept ──► PeerHandler
//! ```
//!
//! A connection has one [`Purpose`] from its first byte, so that votes and heartbeats never wait behind
//! a batch of entries, and neither waits behind a snapshot. What the frames mean is consensus's matter:
//! here they are bytes with a length and a checksum.

mod frame;
mod handshake;
mod link;
mod reverse;
mod rpc;
mod serve;

pub use frame::{FrameReader, FrameWriter};
pub use handshake::{Address, AddressBook, DialOptions, Dialer, Identity, Purpose};
pub use reverse::{InboundConnections, ReverseConnections};
pub use rpc::RpcClient;
pub use serve::{PeerHandler, accept};

use std::io;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::base::limits;

/// The version of what [`encode`] writes: its first byte.
const MESSAGE_VERSION: u8 = 1;

/// How messages become bytes: bincode, with a limit on what a forged length may allocate.
fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<{ limits::PEER_FRAME_BYTES_MAX }>()
}

/// Encodes a message between members, or a small record: a version, then bincode.
pub fn encode<T: Serialize>(message: &T) -> Bytes {
    let mut encoded = vec![MESSAGE_VERSION];
    encode_into(message, &mut encoded);
    encoded.into()
}

/// Decodes a message; trailing bytes are an error, as a malformed message is.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bytes.split_first() {
        Some((&MESSAGE_VERSION, body)) => decode_body(body),
        Some((version, _)) => Err(malformed(format!(
            "version {version}, where this release knows {MESSAGE_VERSION}"
        ))),
        None => Err(malformed("nothing")),
    }
}

/// Encodes a part of something that has a version already.
pub fn encode_body<T: Serialize>(body: &T) -> Vec<u8> {
    let mut encoded = Vec::new();
    encode_into(body, &mut encoded);
    encoded
}

fn encode_into<T: Serialize>(message: &T, encoded: &mut Vec<u8>) {
    let written = bincode::serde::encode_into_std_write(message, encoded, bincode::config::standard());
    written.expect("messages between members hold nothing that bincode cannot encode");
}

/// Decodes what [`encode_body`] wrote.
pub fn decode_body<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    match bincode::serde::decode_from_slice(bytes, config()) {
        Ok((message, used)) if used == bytes.len() => Ok(message),
        Ok((_, used)) => Err(malformed(format!(
            "{} bytes behind a message",
            bytes.len() - used
        ))),
        Err(error) => Err(malformed(error)),
    }
}

fn malformed(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed peer message: {error}"),
    )
}
