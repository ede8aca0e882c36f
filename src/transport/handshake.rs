//! The first frame in each direction: who speaks, to whom, in which cluster, for what.
//!
//! A stranger is refused with a text that says why: another protocol version, another cluster (the
//! classic mistake of two clusters that share an address), an address that belongs to another member, or a
//! member that was removed for good. Only who wants to know the cluster may come without its name.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::{self, FrameReader, FrameWriter};
use super::{decode, decode_body, encode, encode_body, malformed};
use crate::base::metrics::PeerMetrics;
use crate::base::{ClusterId, MemberId};
use crate::runtime::buggify::{Site, pause};
use crate::runtime::tls::{Tls, described};
use crate::runtime::{Env, Instant, Stream};

const MAGIC: &[u8; 4] = b"QRM\x01";
/// Of all that members say to each other. Comes right behind the magic number, so that both sides of a connection
/// can name it, whatever else has changed.
const PROTOCOL_VERSION: u16 = 3;

/// What a connection carries, from its first frame to its last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Purpose {
    /// Votes and heartbeats: small, urgent.
    Control,
    /// Forwarded proposals, read indexes, leases.
    Request,
    /// One leader's entries to one follower, answered in order.
    Append,
    /// One snapshot.
    Snapshot,
    /// Which cluster is this? One answer, for a member that is about to join.
    Discover,
}

/// Who this member is; nobody yet, if both are 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub cluster: ClusterId,
    pub member: MemberId,
}

/// What follows the magic number and the version.
#[derive(Serialize, Deserialize)]
struct Hello {
    cluster: ClusterId,
    from: MemberId,
    to: MemberId,
    purpose: Purpose,
}

#[derive(Serialize, Deserialize)]
enum HelloReply {
    Welcome,
    Refused(String),
    /// The caller was removed from the cluster for good.
    Removed,
}

/// Where a peer listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// "host:port", or "unix:" and a path.
    pub address: String,
    /// TLS.
    pub secure: bool,
}

impl Address {
    /// The host, which a certificate has to be valid for.
    fn host(&self) -> &str {
        let address = self.address.strip_prefix("unix:").unwrap_or(&self.address);
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Where every peer listens, as of now. Clones share it.
#[derive(Clone, Default)]
pub struct AddressBook(Arc<RwLock<BTreeMap<MemberId, Vec<Address>>>>);

impl AddressBook {
    /// A member that has left stays in it: it may have to be told so.
    pub fn set(&self, peer: MemberId, addresses: Vec<Address>) {
        let mut book = self.0.write().unwrap_or_else(PoisonError::into_inner);
        book.insert(peer, addresses);
    }

    fn get(&self, peer: MemberId) -> Vec<Address> {
        let book = self.0.read().unwrap_or_else(PoisonError::into_inner);
        book.get(&peer).cloned().unwrap_or_default()
    }
}

/// How peers are dialled.
#[derive(Clone, Default)]
pub struct DialOptions {
    /// For addresses that are secure.
    pub tls: Option<Tls>,
    /// The address of this machine from which peers are called, where it matters to them.
    pub from: Option<IpAddr>,
}

/// Opens connections to one peer.
#[derive(Clone)]
pub struct Dialer {
    pub env: Env,
    pub identity: Identity,
    pub peer: MemberId,
    pub dial: DialOptions,
    /// A peer's addresses are tried in turn.
    pub book: AddressBook,
    pub timeout: Duration,
    /// Set when a peer says that this member was removed.
    pub removed: Arc<AtomicBool>,
    pub trouble: Arc<Trouble>,
}

/// Why a peer cannot be reached, told when it is another reason than before, and then now and then.
#[derive(Default)]
pub struct Trouble(Mutex<Option<(Instant, String)>>);

/// As often as etcd's prober tells it.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(30);

impl Trouble {
    fn tell(&self, dialer: &Dialer, error: &io::Error) {
        let (now, error) = (dialer.env.now(), described(error));
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = told
            .as_ref()
            .is_some_and(|(at, text)| *text == error && now - *at < TROUBLE_INTERVAL);
        if !known {
            tracing::warn!(
                "remote-peer-id" = format!("{:x}", dialer.peer),
                error,
                "a peer cannot be reached"
            );
            *told = Some((now, error));
        }
    }
}

impl Dialer {
    /// A connection with the handshake done, within the dialer's time-out.
    pub async fn dial(&self, purpose: Purpose) -> io::Result<(FrameReader, FrameWriter)> {
        pause(&self.env, Site::PeerDialedLate, self.timeout / 2).await;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no peer address");
        for address in self.book.get(self.peer) {
            match self
                .env
                .timeout(self.timeout, self.dial_address(&address, purpose))
                .await
            {
                Ok(Ok(connection)) => return Ok(self.counted(connection)),
                Ok(Err(error)) => last = error,
                Err(elapsed) => last = elapsed.into(),
            }
        }
        self.trouble.tell(self, &last);
        if let Some(metrics) = self.metrics() {
            metrics.lost();
        }
        Err(last)
    }

    /// What is counted of the peer; nothing of one that has no name yet.
    pub(super) fn metrics(&self) -> Option<Arc<PeerMetrics>> {
        (self.peer != 0).then(|| self.env.metrics().peers.of(self.peer))
    }

    fn counted(&self, (mut reader, mut writer): (FrameReader, FrameWriter)) -> (FrameReader, FrameWriter) {
        if let Some(metrics) = self.metrics() {
            metrics.reached();
            reader.count(metrics.clone());
            writer.count(metrics);
        }
        (reader, writer)
    }

    async fn connect(&self, address: &Address) -> io::Result<Stream> {
        let stream = self.env.connect_from(self.dial.from, &address.address).await?;
        match &self.dial.tls {
            Some(tls) if address.secure => tls.connect(stream, address.host()).await,
            None if address.secure => Err(io::Error::other(format!(
                "no certificate for a TLS connection to {}",
                address.address
            ))),
            _ => Ok(stream),
        }
    }

    async fn dial_address(
        &self,
        address: &Address,
        purpose: Purpose,
    ) -> io::Result<(FrameReader, FrameWriter)> {
        let mut stream = self.connect(address).await?;
        let Identity { cluster, member } = self.identity;
        let hello = Hello {
            cluster,
            from: member,
            to: self.peer,
            purpose,
        };
        let hello = [&MAGIC[..], &PROTOCOL_VERSION.to_le_bytes(), &encode_body(&hello)].concat();
        frame::write_first(&mut stream, &hello).await?;
        let reply = frame::read_first(&mut stream).await?;
        match decode(&reply)? {
            HelloReply::Welcome => Ok(frame::split(stream)),
            HelloReply::Refused(reason) => {
                tracing::warn!(address = address.address, peer = format!("{:x}", self.peer), %reason, "peer refused the connection");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
            HelloReply::Removed => {
                self.removed.store(true, Ordering::SeqCst);
                let reason = "this member was removed from the cluster";
                Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
            }
        }
    }
}

/// The accepting side's half: who calls, and for what.
pub(super) async fn welcome(
    identity: Identity,
    is_removed: impl FnOnce(MemberId) -> bool,
    mut stream: Stream,
) -> io::Result<(MemberId, Purpose, FrameReader, FrameWriter)> {
    let first = frame::read_first(&mut stream).await?;
    let behind_magic = first.strip_prefix(MAGIC).and_then(<[u8]>::split_first_chunk);
    let (version, body) = behind_magic.ok_or_else(|| malformed("not a member's handshake"))?;
    let hello = match u16::from_le_bytes(*version) {
        PROTOCOL_VERSION => decode_body::<Hello>(body)?,
        other => {
            let reason = format!("peer protocol version {other} is not {PROTOCOL_VERSION}");
            return Err(refuse(&mut stream, reason).await?);
        }
    };
    if let Some(reason) = refusal(identity, &hello) {
        return Err(refuse(&mut stream, reason).await?);
    }
    if is_removed(hello.from) {
        frame::write_first(&mut stream, &encode(&HelloReply::Removed)).await?;
        let reason = format!("member {:x} was removed from the cluster", hello.from);
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    frame::write_first(&mut stream, &encode(&HelloReply::Welcome)).await?;
    let (reader, writer) = frame::split(stream);
    Ok((hello.from, hello.purpose, reader, writer))
}

/// Tells a caller why; the error is for this side.
async fn refuse(stream: &mut Stream, reason: String) -> io::Result<io::Error> {
    frame::write_first(stream, &encode(&HelloReply::Refused(reason.clone()))).await?;
    Ok(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

fn refusal(identity: Identity, hello: &Hello) -> Option<String> {
    if hello.purpose == Purpose::Discover {
        return None;
    }
    if hello.cluster != identity.cluster {
        return Some(format!(
            "cluster ID mismatch: {:x} is not {:x}",
            hello.cluster, identity.cluster
        ));
    }
    if hello.to != identity.member {
        return Some(format!(
            "this is member {:x}, not {:x}",
            identity.member, hello.to
        ));
    }
    None
}
