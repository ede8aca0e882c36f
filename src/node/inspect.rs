//! Looks into the data of a member that does not run.

use std::path::Path;

use super::{Config, NodeError, lock, open, refuse_lost_log, stored_identity};
use crate::base::{Broken, ClusterId, Denied, MemberId};
use crate::bbolt::{File, ReadAt};
use crate::consensus;
use crate::runtime::Env;
use crate::state::etcd_snapshot::Import;
use crate::state::{KvHash, Position, State};
use crate::storage::{Engine, EngineKind, Store};

/// What was found; ids and log only of a member's data.
pub struct Inspected {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub log_last: u64,
    pub log_purged: u64,
    pub position: Position,
    pub keys: usize,
    pub digest: u64,
    pub hash: Result<KvHash, Denied>,
}

/// Reads log and store of a data directory whole, with every checksum.
pub async fn inspect(env: &Env, config: &Config, revision: i64) -> Result<Inspected, NodeError> {
    let (_lock, dirs) = lock(env, config).await?;
    refuse_lost_log(&*env.disk(), &dirs.member, &dirs.wal).await?;
    let Some(identity) = stored_identity(env, &dirs).await? else {
        return Err(NodeError::NoMember(config.data_dir.clone()));
    };
    let (log, store) = open(env, config, &dirs, identity).await?;
    let log = log.state();
    let found = look(&*store.engine(), revision)?;
    let (last, purged) = (
        log.last.map_or(0, |id| id.index),
        log.purged.map_or(0, |id| id.index),
    );
    if found.position.index > last && last > 0 {
        return Err(NodeError::Broken(Broken::contradiction(format!(
            "the store stands at entry {}, the log ends at {last}",
            found.position.index
        ))));
    }
    Ok(Inspected {
        cluster: identity.cluster,
        member: identity.member,
        log_last: last,
        log_purged: purged,
        ..found
    })
}

/// Reads a file of etcd's, by way of a store in a directory that nobody needs.
pub async fn inspect_file<F: ReadAt>(
    env: &Env,
    scratch: &Path,
    file: &File<F>,
    revision: i64,
    progress: &mut (dyn FnMut() + Send),
) -> Result<Inspected, NodeError> {
    let made = env.disk().create_dir_all(scratch).await;
    made.map_err(|error| NodeError::Path {
        path: scratch.to_owned(),
        kind: error.kind(),
        error: error.to_string(),
    })?;
    let store = Store::open(env, scratch, EngineKind::Fjall).await?;
    let import = Import {
        position: None,
        members: None,
        bump_revision: 0,
    };
    consensus::fill(&store, file, &import, progress).await?;
    Ok(look(&*store.engine(), revision)?)
}

fn look(engine: &dyn Engine, revision: i64) -> Result<Inspected, Broken> {
    let state = State::open(engine)?;
    Ok(Inspected {
        cluster: 0,
        member: 0,
        log_last: 0,
        log_purged: 0,
        position: state.position(),
        keys: state.count_keys(),
        digest: state.digest(),
        hash: state.hash_kv(revision, engine)?,
    })
}
