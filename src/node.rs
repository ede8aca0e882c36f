//! The composition root: [`Node::start`] builds a member from an [`Env`] and a [`Config`].
//!
//! The production binary and the simulator both call it; there is no second way to build a server.

mod bootstrap;
mod discovery;
mod error;
mod inspect;
mod restore;
mod srv;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::base::{Broken, Level, MemberId, Revision, limits};
use crate::config::{Config, Listen, TlsOptions};
use crate::consensus::{self, Consensus, PeerListener};
use crate::proto::command::command::Request;
use crate::proto::membershippb;
use crate::runtime::admission::clients_max;
use crate::runtime::buggify::{self, Site, pause};
use crate::runtime::tls::{Security, Tls};
use crate::runtime::{Disk, Env, Listener, Task};
use crate::server::{Jwt, Port, Role, Server, WatchHub, check_initially, check_own_version};
use crate::state::State;
use crate::storage::Store;
use crate::storage::wal::{Recovered, Wal, WalOptions, Witness};
use crate::transport::{DialOptions, Identity};
use bootstrap::Bootstrap;
pub use error::{Mismatch, NodeError};
pub use inspect::{Inspected, inspect, inspect_file};
pub use restore::{Origin, has_member, restore};

/// How long a stopping leader waits for its successor: etcd's own tests ask for 1.5 s.
const HAND_OVER_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Pause before a member tries again to publish itself.
const PUBLISH_RETRY: Duration = Duration::from_millis(100);
/// The longest pause at a start, in a simulation.
const START_PAUSE: Duration = Duration::from_secs(5);

/// A running member.
pub struct Node {
    consensus: Consensus,
    server: Server,
    publish: Task<()>,
    /// Held as long as the data directory is in use.
    _lock: Box<dyn Send + Sync>,
}

/// What the simulator's properties look at, taken at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    pub member: MemberId,
    pub status: consensus::Status,
    pub revision: Revision,
    /// Up to this index the engine is durable.
    pub synced: u64,
    /// The index that `digest` belongs to.
    pub digest_index: u64,
    pub digest: u64,
    /// Commands that came to be applied a second time.
    pub duplicates: u64,
    /// The cluster's, as far as the member has applied.
    pub level: Level,
}

impl Node {
    /// Opens the data directory, recovers, joins its cluster and serves. Returns when every listener is
    /// bound and recovery is done; clients are served once the member has published itself through raft.
    pub async fn start(env: Env, config: Config) -> Result<Node, NodeError> {
        let env = env.counting_anew();
        let clients_max = clients_max(env.descriptors()).map_err(NodeError::Config)?;
        let jwt = config
            .auth_jwt
            .as_ref()
            .map(Jwt::new)
            .transpose()
            .map_err(NodeError::Config)?;
        let tls = |options: &Option<TlsOptions>| {
            let tls = options.clone().map(|options| Tls::new(env.clone(), options));
            tls.transpose().map_err(NodeError::Config)
        };
        let (client_tls, peer_tls) = (tls(&config.client_tls)?, tls(&config.peer_tls)?);
        let peers = bind(&env, "peer", &config.listen_peer, &peer_tls).await?;
        let mut ports = Vec::new();
        let client_role = match config.listen_client_http.is_empty() {
            true => Role::Clients,
            false => Role::GrpcOnly,
        };
        for (what, listen, role) in [
            ("client", &config.listen_client, client_role),
            ("client http", &config.listen_client_http, Role::HttpOnly),
            ("metrics", &config.listen_metrics, Role::MetricsOnly),
        ] {
            let bound = bind(&env, what, listen, &client_tls).await?;
            ports.extend(bound.into_iter().map(|(listener, security)| Port {
                listener,
                security,
                role,
            }));
        }
        let (lock, dirs) = lock(&env, &config).await?;
        refuse_lost_log(&*env.disk(), &dirs.member, &dirs.wal).await?;
        let stored = stored_identity(&env, &dirs).await?;
        let config = bootstrap::discover(&env, config, stored.is_some()).await?;
        let dial = DialOptions {
            tls: peer_tls,
            from: config.peer_local_address,
        };
        let bootstrap = Bootstrap::find(&env, &config, stored, &dial).await?;
        let identity = bootstrap.identity;
        let peer_listener = PeerListener::open(&env, identity, bootstrap.has_data, peers);
        bootstrap.check_not_wiped(&env, &config, &dial).await?;
        pause(&env, Site::StartSlow, START_PAUSE).await;
        let (log, store) = open(&env, &config, &dirs, identity).await?;
        pause(&env, Site::StartSlow, START_PAUSE).await;
        tracing::info!(
            member = format!("{:x}", identity.member),
            cluster = format!("{:x}", identity.cluster),
            "recovered the data directory"
        );
        let (hub, begin_hub) = WatchHub::new(env.metrics().clone());
        let options = consensus::Options {
            quota: crate::server::quota_bound(config.quota_bytes),
            identity,
            initial_members: bootstrap.initial_members,
            known_peers: bootstrap.known_peers,
            server_version: crate::server::VERSION.into(),
            level: config.level,
            heartbeat_interval: config.heartbeat_interval,
            election_timeout: config.election_timeout,
            request_timeout: config.request_timeout(),
            pre_vote: config.pre_vote,
            snapshot_count: config.snapshot_count,
            snapshot_catchup_entries: config.snapshot_catchup_entries,
            token_ttl: config.auth_token_ttl,
            lease_checkpoints: config.lease_checkpoints,
            slow_apply: config.slow.apply,
            force_new_cluster: config
                .force_new_cluster
                .then(|| config.advertise_peer_urls.clone()),
            probe_interval: config.probe_interval,
        };
        let consensus =
            Consensus::start(env.clone(), options, log, store, peer_listener, dial, begin_hub).await?;
        if let Some(owner) = foreign_owner(&config, &consensus).await {
            consensus.stop().await;
            let data_dir = config.data_dir;
            return Err(NodeError::ForeignData { data_dir, owner });
        }
        let mut fit = check_own_version(&consensus).await;
        if fit.is_ok() && config.corruption.initial {
            fit = check_initially(&consensus).await;
        }
        if let Err(reason) = fit {
            consensus.stop().await;
            return Err(NodeError::Unfit(reason));
        }
        let publish = env.spawn(publish(env.clone(), consensus.clone(), config.clone()));
        let server = Server::start(env, &config, consensus.clone(), hub, jwt, ports, clients_max).await;
        Ok(Node {
            consensus,
            server,
            publish,
            _lock: lock,
        })
    }

    /// Resolves when the member can serve clients, or has stopped by itself before, with the reason.
    pub async fn ready(&self) -> Result<(), NodeError> {
        match select(pin!(self.server.ready()), pin!(self.failed())).await {
            Either::Left((Ok(()), _)) => Ok(()),
            // Who serves may notice first that the member is at its end; why it is, the consensus says.
            Either::Left((Err(_), failed)) => Err(failed.await),
            Either::Right((reason, _)) => Err(reason),
        }
    }

    /// Resolves when the member has stopped by itself, with the reason.
    pub async fn failed(&self) -> NodeError {
        let mut status = self.consensus.status_signal();
        // The signal cannot close before the consensus it belongs to.
        let _ = status.wait_until(|status| status.fatal.is_some()).await;
        let fatal = self.consensus.status().fatal;
        fatal.map_or(Broken::Stopped("stopped").into(), NodeError::from)
    }

    /// Where clients are served, and then where metrics are: "host:port", with the ports that were picked.
    pub fn client_addresses(&self) -> &[String] {
        self.server.addresses()
    }

    pub fn probe(&self) -> Probe {
        let reached = self.consensus.reached();
        Probe {
            member: self.consensus.member_id(),
            status: self.consensus.status(),
            revision: reached.revision,
            synced: self.consensus.synced(),
            digest_index: reached.index,
            digest: reached.digest,
            duplicates: self.consensus.duplicates(),
            level: reached.level,
        }
    }

    /// Whether this member knows that the one of this name has started: each announces that to the cluster, and a
    /// member that comes without data is refused by it.
    pub async fn has_seen_start(&self, name: &str) -> bool {
        let members = self.consensus.members().await;
        members.iter().any(|member| member.name == name)
    }

    /// Sees what the log holds, and what of it is durable.
    pub async fn log_witness(&self) -> Witness {
        self.consensus.log_witness().await
    }

    /// Graceful stop: hands leadership over, drains, closes.
    pub async fn stop(self) {
        self.publish.abort();
        self.consensus.hand_over(HAND_OVER_TIMEOUT).await;
        self.server.stop().await;
        self.consensus.stop().await;
    }
}

/// A bound port, and how its connections begin.
type Bound = (Box<dyn Listener>, Security);

async fn bind(
    env: &Env,
    what: &'static str,
    ports: &[Listen],
    tls: &Option<Tls>,
) -> Result<Vec<Bound>, NodeError> {
    let mut bound = Vec::new();
    for Listen {
        address,
        plain,
        tls: secure,
    } in ports
    {
        if *secure && tls.is_none() {
            return Err(NodeError::Config(match what {
                "metrics" => {
                    "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
                        .into()
                }
                _ => format!("cannot listen on TLS for {address}: KeyFile and CertFile are not presented"),
            }));
        }
        let listener = match what {
            "peer" => env.listen_to_peers(address).await,
            _ => env.listen(address).await,
        };
        let listener = listener.map_err(|error| NodeError::Listen {
            what,
            address: address.clone(),
            kind: error.kind(),
            error: error.to_string(),
        })?;
        let security = Security {
            tls: tls.clone().filter(|_| *secure),
            plain: *plain,
        };
        bound.push((listener, security));
    }
    Ok(bound)
}

/// Creates a directory whose name, and those of the directories above it, survive a loss of power: a log
/// that is synced in a directory that is gone is gone.
async fn create_dir(disk: &dyn Disk, path: &Path) -> std::io::Result<()> {
    disk.create_dir_all(path).await?;
    for above in path.ancestors().skip(1) {
        let above = if above.as_os_str().is_empty() {
            Path::new(".")
        } else {
            above
        };
        match disk.sync_dir(above).await {
            // What may not be read was not made here.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return Ok(()),
            synced => synced?,
        }
    }
    Ok(())
}

/// Where the data of a member lies.
struct Dirs {
    member: PathBuf,
    wal: PathBuf,
}

impl Dirs {
    fn of(config: &Config) -> Dirs {
        let member = config.data_dir.join("member");
        let wal = config.wal_dir.clone().unwrap_or_else(|| member.join("wal"));
        Dirs { member, wal }
    }
}

/// Makes the data directory this process's own.
async fn lock(env: &Env, config: &Config) -> Result<(Box<dyn Send + Sync>, Dirs), NodeError> {
    let disk = env.disk();
    let dirs = Dirs::of(config);
    let dir = &dirs.member;
    let context = |path: &Path, error: std::io::Error| NodeError::Path {
        path: path.to_owned(),
        kind: error.kind(),
        error: error.to_string(),
    };
    create_dir(&*disk, dir)
        .await
        .map_err(|error| context(dir, error))?;
    let lock_path = dir.join("lock");
    let lock = disk.lock(&lock_path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => NodeError::InUse(config.data_dir.clone()),
        _ => context(&lock_path, error),
    })?;
    Ok((lock, dirs))
}

/// Whose log there is.
async fn stored_identity(env: &Env, dirs: &Dirs) -> Result<Option<Identity>, NodeError> {
    let owner = Wal::owner(env, &dirs.wal).await?;
    Ok(owner.map(|owner| {
        let (cluster, member) = owner.split_at(8);
        let id = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("16 bytes are two ids"));
        Identity {
            cluster: id(cluster),
            member: id(member),
        }
    }))
}

/// Recovers what is in the data directory.
async fn open(
    env: &Env,
    config: &Config,
    dirs: &Dirs,
    identity: Identity,
) -> Result<(Recovered, Store), NodeError> {
    let mut owner = [0; 16];
    owner[..8].copy_from_slice(&identity.cluster.to_be_bytes());
    owner[8..].copy_from_slice(&identity.member.to_be_bytes());
    let options = WalOptions {
        segment_bytes: config.log_segment_bytes,
        cache_bytes: buggify::limit(Site::LogTinyCache, limits::LOG_CACHE_BYTES, 1_000),
        sync: !config.unsafe_no_fsync,
        identity: owner,
    };
    let log = Wal::recover(env, &dirs.wal, options).await?;
    let store = Store::open(env, &dirs.member, config.engine).await?;
    Ok((log, store))
}

/// An engine without its log must not start: the vote was in the log, and a member that forgot it may vote
/// twice in one term. A forgotten `--wal-dir` looks the same.
async fn refuse_lost_log(disk: &dyn Disk, dir: &Path, wal_dir: &Path) -> Result<(), NodeError> {
    let has_engine = disk
        .read_dir(dir)
        .await
        .is_ok_and(|names| names.iter().any(|name| name == "current"));
    let has_log = disk.read_dir(wal_dir).await.is_ok_and(|names| !names.is_empty());
    if has_engine && !has_log {
        return Err(NodeError::LogMissing {
            wal_dir: wal_dir.to_owned(),
            member_dir: dir.to_owned(),
        });
    }
    Ok(())
}

/// Whose data these are, if they are hardly this member's: it was known by another name and other peer URLs. Either
/// alone may change between two starts, and by service records a member begins under another name.
async fn foreign_owner(config: &Config, consensus: &Consensus) -> Option<String> {
    if config.discovery_srv.is_some() {
        return None;
    }
    let own = consensus.member_id();
    let mut members = consensus.members().await.into_iter();
    let recorded = members.find(|member| member.id == own && !member.name.is_empty())?;
    let moved = !config
        .advertise_peer_urls
        .iter()
        .any(|url| recorded.peer_ur_ls.contains(url));
    (recorded.name != config.name && moved).then(|| {
        let urls = recorded.peer_ur_ls.join(",");
        format!("{} ({urls}), cluster {:x}", recorded.name, consensus.cluster_id())
    })
}

/// Tells the cluster this member's name and client URLs.
async fn publish(env: Env, consensus: Consensus, config: Config) {
    let attributes = membershippb::Attributes {
        name: config.name.clone(),
        client_urls: config.advertise_client_urls.clone(),
    };
    pause(&env, Site::PublishLate, START_PAUSE).await;
    loop {
        let member = consensus.member_id();
        let own = attributes.clone();
        let is_published = move |state: &State| state.attributes(member) == Some(&own);
        let published = consensus.read(is_published).await;
        let request = if !published {
            Request::ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest {
                member_id: member,
                member_attributes: Some(attributes.clone()),
            })
        } else {
            return;
        };
        if let Err(error) = consensus
            .propose(request)
            .await
            .and_then(|outcome| outcome.answer)
        {
            tracing::warn!(%error, "cannot publish this member yet");
            env.sleep(PUBLISH_RETRY).await;
        }
    }
}
