//! A data directory out of etcd's file: of a snapshot, for a new cluster; or of a member that etcd itself, or etcdutl,
//! has left behind.

use super::bootstrap::listed;
use super::{Config, Dirs, NodeError, lock, open, stored_identity};
use crate::base::{ClusterId, MemberId};
use crate::bbolt::{File, ReadAt};
use crate::consensus;
use crate::runtime::Env;
use crate::state::Position;
use crate::state::etcd_snapshot::{Import, Imported};
use crate::transport::Identity;

/// What is made of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A member of a new cluster, whose members the configuration lists; with the revision raised by so much.
    Snapshot { bump_revision: i64 },
    /// The member that the file belongs to.
    Member { cluster: ClusterId, member: MemberId },
}

/// Whether the configuration's directory holds a member already.
pub async fn has_member(env: &Env, config: &Config) -> Result<bool, NodeError> {
    Ok(stored_identity(env, &Dirs::of(config)).await?.is_some())
}

/// Fills the configuration's data directory. An attempt that is cut off leaves no member behind; it can be repeated.
///
/// # Errors
/// The directory holds a member, the file is damaged, or the disk fails.
pub async fn restore<F: ReadAt>(
    env: &Env,
    config: &Config,
    file: &File<F>,
    origin: Origin,
    progress: &mut (dyn FnMut() + Send),
) -> Result<Imported, NodeError> {
    let (_lock, dirs) = lock(env, config).await?;
    if stored_identity(env, &dirs).await?.is_some() {
        return Err(NodeError::MemberExists(config.data_dir.clone()));
    }
    let (identity, import) = match origin {
        Origin::Snapshot { bump_revision } => {
            let (identity, members) = listed(config)?;
            let members = members.into_iter().map(|(id, peer)| (id, peer.peer_urls));
            let import = Import {
                position: Some(Position { term: 1, index: 1 }),
                members: Some(members.collect()),
                bump_revision,
            };
            (identity, import)
        }
        Origin::Member { cluster, member } => {
            let import = Import {
                position: None,
                members: None,
                bump_revision: 0,
            };
            (Identity { cluster, member }, import)
        }
    };
    let store = crate::storage::Store::open(env, &dirs.member, config.engine).await?;
    let imported = consensus::fill(&store, file, &import, progress).await?;
    if !imported.members.contains(&identity.member) {
        return Err(NodeError::Import(format!(
            "member {:x} is not one of the cluster in the file",
            identity.member
        )));
    }
    drop(store);
    let (log, _store) = open(env, config, &dirs, identity).await?;
    consensus::begin_log(env, log, identity.member, imported.position).await?;
    Ok(imported)
}
