//! What a member has to know before it takes part: which cluster this is, and who it is in it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::{ClusterId, MemberId};
use crate::consensus::Consensus;
use crate::consensus::peers::addresses;
use crate::consensus::peers::message::Description;
use crate::runtime::Env;
use crate::transport::{AddressBook, DialOptions, Dialer, Identity, Purpose, decode};

/// A cluster, as one of its members sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterInfo {
    pub cluster: ClusterId,
    /// Empty if whoever answers has just started, too.
    pub members: Vec<MemberInfo>,
    /// Whoever answers has taken part before, and has not read yet what it knows.
    pub is_recovering: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberInfo {
    pub id: MemberId,
    pub name: String,
    pub peer_urls: Vec<String>,
    /// It has taken part before.
    pub has_started: bool,
}

impl ClusterInfo {
    /// What a member says that does not take part yet.
    pub fn nothing(identity: Identity, is_recovering: bool) -> ClusterInfo {
        ClusterInfo {
            cluster: identity.cluster,
            members: Vec::new(),
            is_recovering,
        }
    }
}

/// Asks whoever listens at these peer URLs.
pub async fn ask(
    env: &Env,
    dial: DialOptions,
    urls: &[String],
    timeout: Duration,
) -> io::Result<ClusterInfo> {
    let book = AddressBook::default();
    let nobody = Identity::default();
    book.set(nobody.member, addresses(urls));
    let dialer = Dialer {
        env: env.clone(),
        identity: nobody,
        peer: nobody.member,
        dial,
        book,
        timeout,
        removed: Arc::default(),
        trouble: Arc::default(),
    };
    let answer = async {
        let (mut reader, _writer) = dialer.dial(Purpose::Discover).await?;
        let answer = reader.next().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        decode(&answer)
    };
    env.timeout(timeout, answer).await?
}

impl Consensus {
    /// The cluster as of now if a leader can be asked, else as this member knows it.
    pub(in crate::consensus) async fn describe_cluster(&self) -> ClusterInfo {
        let patience = self.election_timeout() / 2;
        let _ = self.env().timeout(patience, self.read_barrier()).await;
        let members = self.members().await.into_iter().map(|member| MemberInfo {
            id: member.id,
            has_started: !member.name.is_empty() || !member.client_ur_ls.is_empty(),
            name: member.name,
            peer_urls: member.peer_ur_ls,
        });
        ClusterInfo {
            cluster: self.cluster_id(),
            members: members.collect(),
            is_recovering: false,
        }
    }

    /// What this member says of itself.
    pub fn describe(&self) -> Description {
        Description {
            server_version: self.options().server_version.clone(),
            level: self.options().level,
        }
    }
}
