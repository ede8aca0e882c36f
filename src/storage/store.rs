//! Generations of the engine: a snapshot is received into a fresh one, which then replaces the old at once.
//!
//! ```text
//!   dir/engine-<n>/     the engine's files
//!   dir/current         "<n> <crc32c of n, hex>\n", replaced by rename
//! ```
//!
//! A crash leaves either generation whole: `current` changes only when the new one is synced. What `current`
//! does not name is removed at the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::EngineKind;
use super::engine::Engine;
use super::fjall::FjallEngine;
use super::journal::JournalEngine;
use crate::base::Broken;
use crate::base::kv::Batch;
use crate::runtime::Env;

/// How often a replaced generation is looked at, until nobody uses it.
const UNUSED_CHECK: Duration = Duration::from_secs(1);

/// The engines of one member, of which one is current.
pub struct Store {
    env: Env,
    dir: PathBuf,
    kind: EngineKind,
    generation: u64,
    newest: u64,
    engine: Arc<dyn Engine>,
}

/// A fresh generation that is being filled.
pub struct Install {
    generation: u64,
    engine: Arc<dyn Engine>,
}

fn context(path: &Path) -> impl Fn(std::io::Error) -> Broken + '_ {
    move |error| Broken::new(format!("{}: {error}", path.display()))
}

fn pointer(generation: u64) -> Bytes {
    format!("{generation} {:08x}\n", crc32c::crc32c(&generation.to_le_bytes())).into()
}

fn generation_of(name: &str) -> Option<u64> {
    name.strip_prefix("engine-")?.parse().ok()
}

async fn open_engine(
    env: &Env,
    dir: &Path,
    kind: EngineKind,
    generation: u64,
) -> Result<Arc<dyn Engine>, Broken> {
    let path = dir.join(format!("engine-{generation}"));
    Ok(match kind {
        EngineKind::Fjall => Arc::new(FjallEngine::open(env, &path).await?),
        EngineKind::Journal => Arc::new(JournalEngine::open(env, &path).await?),
    })
}

impl Store {
    /// Opens the current generation, or the first.
    pub async fn open(env: &Env, dir: &Path, kind: EngineKind) -> Result<Store, Broken> {
        let disk = env.disk();
        disk.create_dir_all(dir).await.map_err(context(dir))?;
        let names = disk.read_dir(dir).await.map_err(context(dir))?;
        // The pointer is the last thing a first start writes: what is there without it is half made.
        let generation = read_pointer(env, dir).await?.unwrap_or(1);
        let is_new = !names.iter().any(|name| name == "current");
        for stale in names
            .iter()
            .filter_map(|name| generation_of(name))
            .filter(|&n| is_new || n != generation)
        {
            let path = dir.join(format!("engine-{stale}"));
            disk.remove_dir_all(&path).await.map_err(context(&path))?;
        }
        let engine = open_engine(env, dir, kind, generation).await?;
        let store = Store {
            env: env.clone(),
            dir: dir.to_owned(),
            kind,
            generation,
            newest: generation,
            engine,
        };
        if is_new {
            store.engine.sync().await?;
            store.point_to(generation).await?;
        }
        Ok(store)
    }

    /// The current engine.
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.engine.clone()
    }

    /// Starts a fresh, empty generation. One that is not committed is removed at the next start.
    pub async fn begin_install(&mut self) -> Result<Install, Broken> {
        self.newest += 1;
        let generation = self.newest;
        let engine = open_engine(&self.env, &self.dir, self.kind, generation).await?;
        Ok(Install { generation, engine })
    }

    /// Makes a filled generation the current one.
    pub async fn commit(&mut self, install: Install) -> Result<Arc<dyn Engine>, Broken> {
        install.engine.sync().await?;
        self.env
            .disk()
            .sync_dir(&self.dir)
            .await
            .map_err(context(&self.dir))?;
        self.point_to(install.generation).await?;
        let old = std::mem::replace(&mut self.engine, install.engine);
        let path = self.dir.join(format!(
            "engine-{}",
            std::mem::replace(&mut self.generation, install.generation)
        ));
        self.env.spawn(remove_unused(self.env.clone(), old, path));
        Ok(self.engine.clone())
    }

    async fn point_to(&self, generation: u64) -> Result<(), Broken> {
        let disk = self.env.disk();
        let (path, fresh) = (self.dir.join("current"), self.dir.join("current.new"));
        let file = disk.create(&fresh).await.map_err(context(&fresh))?;
        file.write_and_sync(0, pointer(generation))
            .await
            .map_err(context(&fresh))?;
        disk.rename(&fresh, &path).await.map_err(context(&path))?;
        disk.sync_dir(&self.dir).await.map_err(context(&self.dir))
    }
}

/// Removes a generation's files when its last reader is gone.
async fn remove_unused(env: Env, engine: Arc<dyn Engine>, path: PathBuf) {
    while Arc::strong_count(&engine) > 1 {
        env.sleep(UNUSED_CHECK).await;
    }
    drop(engine);
    if let Err(error) = env.disk().remove_dir_all(&path).await {
        // The next start tries again.
        tracing::warn!(path = %path.display(), %error, "cannot remove an old generation of the engine");
    }
}

impl Install {
    pub fn write(&mut self, batch: Batch) -> Result<(), Broken> {
        self.engine.write(batch)
    }
}

/// The generation that `current` names; `None` on a first start.
async fn read_pointer(env: &Env, dir: &Path) -> Result<Option<u64>, Broken> {
    let path = dir.join("current");
    let file = match env.disk().open(&path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(context(&path)(error)),
    };
    let bytes = file.read_at(0, 64).await.map_err(context(&path))?;
    let text = String::from_utf8_lossy(&bytes);
    let generation = text.split(' ').next().and_then(|number| number.parse().ok());
    match generation {
        Some(generation) if bytes == pointer(generation) => Ok(Some(generation)),
        _ => Err(Broken::new(format!("{}: damaged: {text:?}", path.display()))),
    }
}
