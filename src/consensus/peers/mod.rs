//! Who the others are, and the connections to them, for every thread.

pub mod appends;
pub mod listener;
pub mod message;
pub mod probe;

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::MemberId;
use crate::runtime::panics::poisoned;
use crate::runtime::{Env, Instant};
use crate::transport::{
    Address, AddressBook, DialOptions, Dialer, Identity, Purpose, ReverseConnections, RpcClient, decode,
    encode,
};
use message::{PeerRequest, PeerResponse};

/// How this member reaches the others; clones share the connections, on every thread.
#[derive(Clone)]
pub struct Peers {
    env: Env,
    identity: Identity,
    dial: DialOptions,
    /// With TLS alone: see its module.
    back: Option<ReverseConnections>,
    /// How long a connection attempt, and a silence while an answer is due, may take.
    timeout: Duration,
    book: AddressBook,
    /// A peer has said that this member was removed.
    removed: Arc<AtomicBool>,
    /// Connections for requests, which outlive the question for which they were opened.
    clients: Arc<Mutex<BTreeMap<(MemberId, Purpose), RpcClient>>>,
}

impl Peers {
    pub fn new(
        env: Env,
        identity: Identity,
        dial: DialOptions,
        back: ReverseConnections,
        book: AddressBook,
        timeout: Duration,
    ) -> Self {
        Peers {
            env,
            identity,
            back: dial.tls.is_some().then_some(back),
            dial,
            timeout,
            book,
            removed: Arc::default(),
            clients: Arc::default(),
        }
    }

    /// Where members are.
    pub fn book(&self) -> &AddressBook {
        &self.book
    }

    /// The client of a peer for one purpose.
    pub fn client(&self, peer: MemberId, purpose: Purpose) -> RpcClient {
        let mut clients = self.clients.lock().unwrap_or_else(poisoned);
        let client = clients.entry((peer, purpose));
        client
            .or_insert_with(|| RpcClient::new(self.dialer(peer), purpose, self.reverse_for(purpose)))
            .clone()
    }

    /// Asks another member.
    pub async fn ask(
        &self,
        peer: MemberId,
        request: PeerRequest,
        timeout: Duration,
    ) -> io::Result<PeerResponse> {
        let client = self.client(peer, Purpose::Request);
        let response = client.call(encode(&request), timeout).await?;
        decode(&response)
    }

    /// Since when a peer is connected without a gap; `None`: it is not.
    pub fn connected_since(&self, peer: MemberId) -> Option<Instant> {
        // Whoever is not a member is not dialled for it.
        let clients = self.clients.lock();
        let clients = clients.unwrap_or_else(poisoned);
        clients.get(&(peer, Purpose::Control))?.connected_since()
    }

    /// Whether a peer has said that this member was removed for good.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Hangs up.
    pub fn close(&self) {
        self.clients.lock().unwrap_or_else(poisoned).clear();
    }

    /// Votes and heartbeats are for those who reach everybody: a leader has to.
    fn reverse_for(&self, purpose: Purpose) -> Option<ReverseConnections> {
        self.back.clone().filter(|_| purpose == Purpose::Request)
    }

    pub fn dialer(&self, peer: MemberId) -> Dialer {
        Dialer {
            env: self.env.clone(),
            identity: self.identity,
            dial: self.dial.clone(),
            peer,
            book: self.book.clone(),
            timeout: self.timeout,
            removed: self.removed.clone(),
            trouble: Arc::default(),
        }
    }
}

/// Where a peer URL leads.
pub fn url_address(url: &str) -> Option<Address> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let address = rest.trim_end_matches('/');
    let (prefix, secure) = match scheme {
        "http" => ("", false),
        "https" => ("", true),
        "unix" => ("unix:", false),
        "unixs" => ("unix:", true),
        _ => return None,
    };
    address.contains(':').then(|| Address {
        address: format!("{prefix}{address}"),
        secure,
    })
}

pub fn addresses(urls: &[String]) -> Vec<Address> {
    urls.iter().filter_map(|url| url_address(url)).collect()
}
