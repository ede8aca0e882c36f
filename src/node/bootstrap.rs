//! Who a member is when it starts: from its data, from `--initial-cluster`, from a discovery service, or from the cluster
//! that it joins.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{join_all, select_all};

use super::{Mismatch, NodeError, discovery, srv};
use crate::base::urls::{Url, format_cluster, parse_cluster};
use crate::base::{MemberId, ids};
use crate::config::{Config, DiscoveryOptions};
use crate::consensus::{ClusterInfo, Peer, ask};
use crate::runtime::Env;
use crate::transport::{DialOptions, Identity};

/// How long the others are asked who they are.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
const ASK_PAUSE: Duration = Duration::from_millis(20);

/// The configuration with the members that discovery finds, if it is asked for. Data make it unnecessary, and any list of
/// first members.
pub async fn discover(env: &Env, mut config: Config, has_data: bool) -> Result<Config, NodeError> {
    if has_data {
        if config.discovery.is_some() {
            tracing::warn!(
                "discovery token is ignored since cluster already initialized; valid logs are found"
            );
        }
        return Ok(config);
    }
    if let Some(error) = &config.initial_cluster_error {
        return Err(NodeError::Config(error.clone()));
    }
    let found = if let Some(options) = &config.discovery {
        discover_by_token(env, &config, options).await?
    } else if let Some(options) = &config.discovery_srv {
        let found = srv::members(env, options, &config.name, &config.advertise_peer_urls).await;
        found.map_err(NodeError::Config)?
    } else {
        return Ok(config);
    };
    let shown = format_cluster(&found);
    let mut urls: Vec<&Url> = found.values().flatten().collect();
    let count = urls.len();
    urls.sort();
    urls.dedup();
    if urls.len() != count {
        return Err(NodeError::Config(format!(
            "discovery cluster {shown} has duplicate url"
        )));
    }
    let own = config.discovery.is_some().then(|| listed(&config)).transpose()?;
    let texts = |urls: Vec<Url>| urls.into_iter().map(|url| url.text).collect();
    config.initial_cluster = found
        .into_iter()
        .map(|(name, urls)| (name, texts(urls)))
        .collect();
    // Two members of one name would each take themselves for a member with the URLs of both.
    match own {
        Some((own, _)) if listed(&config)?.0.member != own.member => Err(NodeError::Config(format!(
            "discovery cluster {shown} has more than one member with the name {:?}",
            config.name
        ))),
        _ => Ok(config),
    }
}

/// Registers this member, and waits for the others.
async fn discover_by_token(
    env: &Env,
    config: &Config,
    options: &DiscoveryOptions,
) -> Result<BTreeMap<String, Vec<Url>>, NodeError> {
    if config.join {
        let text = "discovery URL should not be set when joining existing initial cluster";
        return Err(NodeError::Config(text.into()));
    }
    tracing::info!("Bootstrapping cluster using v3 discovery.");
    let own = listed(config)?.0.member;
    let pairs = config.advertise_peer_urls.iter();
    let pairs: Vec<String> = pairs.map(|url| format!("{}={url}", config.name)).collect();
    match discovery::join(env, options, own, &pairs.join(",")).await {
        Ok(found) => {
            tracing::info!(cluster = found, "discovery joined cluster successfully");
            parse_cluster(&found).map_err(NodeError::Config)
        }
        Err(error) => {
            tracing::error!(error, "discovery failed to join cluster");
            Err(NodeError::Discovery(error))
        }
    }
}

/// Who this member is, and whom it starts with.
pub struct Bootstrap {
    pub identity: Identity,
    /// The members of a new cluster; empty if it is not this member's to found.
    pub initial_members: BTreeMap<MemberId, Peer>,
    /// Members of a cluster that is joined.
    pub known_peers: Vec<(MemberId, Vec<String>)>,
    pub has_data: bool,
}

impl Bootstrap {
    pub async fn find(
        env: &Env,
        config: &Config,
        stored: Option<Identity>,
        dial: &DialOptions,
    ) -> Result<Bootstrap, NodeError> {
        match stored {
            Some(identity) => Bootstrap::recorded(config, identity),
            None if config.join => Bootstrap::joined(env, config, dial).await,
            None => {
                let (identity, mut initial_members) = listed(config)?;
                if config.discovery_srv.is_some() {
                    // Each member counts the others in its own way, and all have to begin with the same.
                    let members = initial_members.values_mut().zip(0..);
                    members.for_each(|(member, n): (_, u32)| member.name = n.to_string());
                }
                Ok(Bootstrap {
                    identity,
                    initial_members,
                    known_peers: Vec::new(),
                    has_data: false,
                })
            }
        }
    }

    /// Data decide, not flags: the members may have changed since these were written, as may the own address.
    fn recorded(config: &Config, identity: Identity) -> Result<Bootstrap, NodeError> {
        let initial_members = match listed(config) {
            Ok((listed, members)) if listed == identity => members,
            _ => BTreeMap::new(),
        };
        Ok(Bootstrap {
            identity,
            initial_members,
            known_peers: Vec::new(),
            has_data: true,
        })
    }

    /// Asks the members of the cluster, which has to be the one that `--initial-cluster` lists.
    async fn joined(env: &Env, config: &Config, dial: &DialOptions) -> Result<Bootstrap, NodeError> {
        let others = others(config);
        let asked = others
            .iter()
            .map(|urls| ask(env, dial.clone(), urls, ASK_TIMEOUT));
        let answers = join_all(asked).await;
        // A member that has not heard of the newest change yet is not the one to ask.
        let mut refused = None;
        let mut joined = None;
        for found in answers
            .into_iter()
            .flatten()
            .filter(|found| !found.members.is_empty())
        {
            match own_member(config, &found) {
                Ok(member) => joined = joined.or(Some((member, found))),
                Err(reason) => {
                    let cluster = described(&found);
                    refused = refused.or(Some(NodeError::NotAsListed { cluster, reason }));
                }
            }
        }
        let Some((member, found)) = joined else {
            return Err(refused.unwrap_or(NodeError::NobodyAnswers));
        };
        Ok(Bootstrap {
            identity: Identity {
                cluster: found.cluster,
                member,
            },
            initial_members: BTreeMap::new(),
            known_peers: found
                .members
                .into_iter()
                .map(|member| (member.id, member.peer_urls))
                .collect(),
            has_data: false,
        })
    }

    /// A member whose data are gone must not take part again as if it had never voted: the others know it. They are
    /// asked for as long as it takes to hear from so many of a cluster at work that a leader could be elected, or from all, but
    /// not for ever, since the others of a new cluster may start later. Whoever has data knows, and is waited for until it
    /// has read them; who is new itself knows nothing.
    pub async fn check_not_wiped(
        &self,
        env: &Env,
        config: &Config,
        dial: &DialOptions,
    ) -> Result<(), NodeError> {
        let others = others(config);
        if self.has_data || self.initial_members.len() <= 1 {
            return Ok(());
        }
        let member = self.identity.member;
        let enough = self.initial_members.len() / 2;
        let recovering = AtomicBool::new(false);
        let mut asked: Vec<_> = others
            .iter()
            .map(|urls| Box::pin(ask_until_answered(env, dial.clone(), urls, &recovering)))
            .collect();
        let look = async {
            let mut at_work = 0;
            while at_work < enough && !asked.is_empty() {
                let (found, _, rest) = select_all(std::mem::take(&mut asked)).await;
                asked = rest;
                at_work += usize::from(found.members.iter().any(|known| known.has_started));
                let known = found.members.iter().find(|known| known.id == member);
                if known.is_some_and(|known| known.has_started) {
                    return Err(NodeError::DataGone(member));
                }
            }
            Ok(())
        };
        let mut look = pin!(look);
        loop {
            match env.timeout(ASK_TIMEOUT, look.as_mut()).await {
                Ok(result) => return result,
                Err(_) if recovering.swap(false, Ordering::Relaxed) => {}
                Err(_) => return Ok(()),
            }
        }
    }
}

/// Asks until there is an answer that tells something; sets `recovering` if there was one that will.
async fn ask_until_answered(
    env: &Env,
    dial: DialOptions,
    urls: &[String],
    recovering: &AtomicBool,
) -> ClusterInfo {
    loop {
        match ask(env, dial.clone(), urls, ASK_TIMEOUT).await {
            Ok(found) if found.is_recovering => recovering.store(true, Ordering::Relaxed),
            Ok(found) => return found,
            Err(_) => {}
        }
        env.sleep(ASK_PAUSE).await;
    }
}

/// The peer URLs of every other member that is listed.
fn others(config: &Config) -> Vec<&[String]> {
    let listed = config.initial_cluster.iter();
    let others = listed.filter(|(name, _)| *name != config.name);
    others.map(|(_, urls)| urls.as_slice()).collect()
}

/// Who this member is among those of a running cluster, whose URLs have to be those of the flags.
fn own_member(config: &Config, found: &ClusterInfo) -> Result<MemberId, Mismatch> {
    if found.members.len() != config.initial_cluster.len() {
        return Err(Mismatch::Count);
    }
    let set = |urls: &[String]| urls.iter().cloned().collect::<BTreeSet<_>>();
    let mut own = None;
    for known in &found.members {
        let mut listed = config.initial_cluster.iter();
        let Some((name, _)) = listed.find(|(_, urls)| set(urls) == set(&known.peer_urls)) else {
            return Err(Mismatch::Unlisted {
                member: known.id,
                peer_urls: known.peer_urls.clone(),
            });
        };
        if *name == config.name {
            own = Some(known);
        }
    }
    let own = own.ok_or_else(|| Mismatch::NoLocalName(config.name.clone()))?;
    if own.has_started {
        return Err(Mismatch::DataGone(own.id));
    }
    Ok(own.id)
}

fn described(found: &ClusterInfo) -> String {
    let member = |member: &crate::consensus::MemberInfo| {
        format!("{:x} {}={}", member.id, member.name, member.peer_urls.join(","))
    };
    let members: Vec<String> = found.members.iter().map(member).collect();
    format!(
        "{{ClusterID:{:x} Members:[{}]}}",
        found.cluster,
        members.join("; ")
    )
}

/// Who this member is, and who the members of a new cluster are, from `--initial-cluster`.
pub fn listed(config: &Config) -> Result<(Identity, BTreeMap<MemberId, Peer>), NodeError> {
    let mut members = BTreeMap::new();
    let mut own = None;
    for (name, urls) in &config.initial_cluster {
        let id = ids::member_id(urls, &config.initial_cluster_token, None);
        if *name == config.name {
            own = Some(id);
        }
        let peer = Peer {
            name: name.clone(),
            peer_urls: urls.clone(),
        };
        if id == 0 || members.insert(id, peer).is_some() {
            return Err(NodeError::Config(format!(
                "member {name} has the id of another member: {id:x}"
            )));
        }
    }
    let Some(member) = own else {
        let name = &config.name;
        return Err(NodeError::Config(format!(
            "couldn't find local name \"{name}\" in the initial cluster configuration"
        )));
    };
    let cluster = ids::cluster_id(members.keys().copied());
    Ok((Identity { cluster, member }, members))
}
