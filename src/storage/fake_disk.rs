//! A disk and an environment for tests: what was not synced may be lost, in part or torn, at a crash.
//!
//! Each file has a page cache apart from its platter; names have a journal that is durable after
//! `sync_dir`. A crash comes at a chosen point (`fuel` counts the steps that change something: after the
//! last one every operation hangs, as in a process that is gone) and decides by a seed what of the
//! unsynced reached the platter, sector by sector.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::Notify;

/// What each sync that follows a write claims to have taken.
pub const SYNC_TIME: Duration = Duration::from_millis(3);

use crate::runtime::{Abort, Begin, Disk, Env, File, Instant, Listener, LocalBoxFuture, Runtime, Stream};

const SECTOR: usize = 512;

/// The environment of one life of a test's node: its tasks end with the tokio runtime it was made in.
pub fn env(disk: &FakeDisk) -> Env {
    Env::new(TestRuntime {
        disk: Arc::new(disk.clone()),
        handle: tokio::runtime::Handle::current(),
        random: disk.random.clone(),
    })
}

/// The file system of the operating system.
pub fn real_env() -> Env {
    let outside = crate::runtime::tokio::env();
    Env::new(TestRuntime {
        disk: outside.disk(),
        handle: tokio::runtime::Handle::current(),
        random: Arc::new(AtomicU64::new(outside.random_u64())),
    })
}

struct TestRuntime {
    disk: Arc<dyn Disk>,
    handle: tokio::runtime::Handle,
    random: Arc<AtomicU64>,
}

struct Handle(tokio::task::AbortHandle);

impl Abort for Handle {
    fn abort(&self) {
        self.0.abort();
    }
}

impl Runtime for TestRuntime {
    fn now(&self) -> Instant {
        Instant::default()
    }

    fn wall_clock(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep_until(&self, _deadline: Instant) -> BoxFuture<'static, ()> {
        Box::pin(tokio::task::yield_now())
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(Handle(self.handle.spawn(task).abort_handle()))
    }

    fn start_core(&self, _begin: Begin, _ended: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn spawn_local(&self, task: LocalBoxFuture<'static, ()>) -> Box<dyn Abort> {
        Box::new(Handle(tokio::task::spawn_local(task).abort_handle()))
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn random_u64(&self) -> u64 {
        mix(self.random.fetch_add(1, Ordering::Relaxed))
    }

    fn listen<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn connect<'a>(&'a self, _address: &'a str) -> BoxFuture<'a, io::Result<Stream>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    fn disk(&self) -> Arc<dyn Disk> {
        self.disk.clone()
    }
}

/// splitmix64.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[derive(Default)]
struct Content {
    cache: Vec<u8>,
    platter: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl Content {
    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.cache.len() < end {
            self.cache.resize(end, 0);
        }
        self.cache[offset..end].copy_from_slice(data);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    fn sync(&mut self) {
        self.platter.clone_from(&self.cache);
        self.dirty.clear();
    }

    /// What of the unsynced reached the platter before the power went.
    fn crash(&mut self, random: &mut impl FnMut() -> u64) {
        let same_length = self.platter.len() == self.cache.len();
        if !same_length && random().is_multiple_of(2) {
            self.platter.resize(self.cache.len(), 0);
        }
        for sector in std::mem::take(&mut self.dirty) {
            let start = sector * SECTOR;
            let end = (start + SECTOR).min(self.cache.len()).min(self.platter.len());
            if start >= end {
                continue;
            }
            let reached = match random() % 3 {
                0 => start,
                1 => end,
                _ => start + (random() as usize) % (end - start),
            };
            self.platter[start..reached].copy_from_slice(&self.cache[start..reached]);
        }
        self.cache.clone_from(&self.platter);
    }
}

/// A change of a directory: all of it reaches the platter, or nothing.
#[derive(Clone)]
enum NameChange {
    Create(PathBuf, u64),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn path(&self) -> &Path {
        match self {
            NameChange::Create(path, _) | NameChange::Rename(_, path) | NameChange::Remove(path) => path,
        }
    }

    fn apply(self, names: &mut BTreeMap<PathBuf, u64>) {
        match self {
            NameChange::Create(path, inode) => {
                names.insert(path, inode);
            }
            NameChange::Rename(from, to) => {
                let inode = names.remove(&from).unwrap();
                names.insert(to, inode);
            }
            NameChange::Remove(path) => {
                names.remove(&path);
            }
        }
    }
}

#[derive(Default)]
struct State {
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    pending_names: Vec<NameChange>,
    directories: BTreeSet<PathBuf>,
    files: BTreeMap<u64, Content>,
    next_inode: u64,
    /// Steps left before the crash.
    fuel: Option<u64>,
    /// Syncs left before they fail.
    syncs: Option<u64>,
    /// Bytes that all files together may have.
    capacity: Option<usize>,
}

impl State {
    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn inode(&self, path: &Path) -> io::Result<u64> {
        self.names
            .get(path)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn check_room(&self, inode: u64, length: usize) -> io::Result<()> {
        let others: usize = self
            .files
            .iter()
            .filter(|(other, _)| **other != inode)
            .map(|(_, file)| file.cache.len())
            .sum();
        match self.capacity {
            Some(capacity) if others + length > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

/// The disk: cheap to clone, as it outlives the node.
#[derive(Clone, Default)]
pub struct FakeDisk {
    state: Arc<Mutex<State>>,
    crashed: Arc<Notify>,
    /// Randomness of the nodes that use this disk: it never repeats in a later life.
    random: Arc<AtomicU64>,
}

impl FakeDisk {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The crash comes after this many more steps; [`crashed`](Self::crashed) tells when.
    pub fn crash_after(&self, steps: u64) {
        self.lock().fuel = Some(steps);
    }

    pub async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// The power goes: unsynced data is kept, lost or torn as `seed` says. The disk works again.
    pub fn power_fail(&self, seed: u64) {
        let mut counter = seed.wrapping_mul(31);
        let mut random = || {
            counter = counter.wrapping_add(1);
            mix(counter)
        };
        let state = &mut *self.lock();
        let pending = std::mem::take(&mut state.pending_names);
        let kept = (random() as usize) % (pending.len() + 1);
        for change in pending.into_iter().take(kept) {
            change.apply(&mut state.durable_names);
        }
        state.names.clone_from(&state.durable_names);
        // A file that is there again brings its directory along.
        let parents = state.names.keys().flat_map(|name| name.ancestors().skip(1));
        state.directories.extend(parents.map(Path::to_owned));
        for file in state.files.values_mut() {
            file.crash(&mut random);
        }
        (state.fuel, state.syncs, state.capacity) = (None, None, None);
    }

    /// The process was gone, the power was not: everything is as it was left.
    pub fn restart(&self) {
        self.lock().fuel = None;
    }

    /// Every sync after this many more fails, and what was dirty is dropped.
    pub fn fail_syncs_after(&self, syncs: u64) {
        self.lock().syncs = Some(syncs);
    }

    pub fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity = bytes;
    }

    /// Bytes of all files that have a name.
    pub fn used(&self) -> usize {
        let state = self.lock();
        state
            .names
            .values()
            .map(|inode| state.files[inode].cache.len())
            .sum()
    }

    /// The paths of all files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.lock().names.keys().cloned().collect()
    }

    /// Changes a file behind the node's back.
    pub fn damage(&self, path: &Path, how: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let inode = state.inode(path).unwrap();
        let file = state.files.get_mut(&inode).unwrap();
        how(&mut file.cache);
        file.sync();
    }

    /// Removes a file behind the node's back.
    pub fn lose(&self, path: &Path) {
        let mut state = self.lock();
        state.names.remove(path).unwrap();
        state.durable_names.remove(path);
    }

    /// A step that changes something; hangs once the crash has come.
    async fn step<T>(&self, work: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        tokio::task::yield_now().await;
        let gone = match &mut self.lock().fuel {
            Some(0) => true,
            Some(fuel) => {
                *fuel -= 1;
                false
            }
            None => false,
        };
        if gone {
            self.crashed.notify_one();
            return pending().await;
        }
        work(&mut self.lock())
    }

    fn file(&self, inode: u64) -> Arc<dyn File> {
        Arc::new(FakeFile {
            disk: self.clone(),
            inode,
        })
    }
}

impl Disk for FakeDisk {
    fn create_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.step(|state| {
            state.directories.extend(path.ancestors().map(Path::to_owned));
            Ok(())
        }))
    }

    fn read_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Vec<String>>> {
        Box::pin(async move {
            let state = self.lock();
            if !state.directories.contains(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let all = state.names.keys().chain(&state.directories);
            let inside = all.filter(|child| child.parent() == Some(path));
            let names: BTreeSet<_> = inside.filter_map(|child| child.file_name()?.to_str()).collect();
            Ok(names.into_iter().map(str::to_owned).collect())
        })
    }

    fn open<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        Box::pin(async move {
            let inode = self.lock().inode(path)?;
            Ok(self.file(inode))
        })
    }

    fn create<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<Arc<dyn File>>> {
        Box::pin(async move {
            let inode = self.step(|state| {
                if !path
                    .parent()
                    .is_some_and(|parent| state.directories.contains(parent))
                {
                    return Err(io::ErrorKind::NotFound.into());
                }
                if let Some(inode) = state.names.get(path).copied() {
                    state.files.entry(inode).or_default().cache.clear();
                    return Ok(inode);
                }
                let inode = state.next_inode;
                state.next_inode += 1;
                state.files.insert(inode, Content::default());
                state.change(NameChange::Create(path.to_owned(), inode));
                Ok(inode)
            });
            Ok(self.file(inode.await?))
        })
    }

    fn rename<'a>(&'a self, from: &'a Path, to: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.step(|state| {
            state.inode(from)?;
            state.change(NameChange::Rename(from.to_owned(), to.to_owned()));
            Ok(())
        }))
    }

    fn remove_file<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.step(|state| {
            state.inode(path)?;
            state.change(NameChange::Remove(path.to_owned()));
            Ok(())
        }))
    }

    fn remove_dir_all<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.step(move |state| {
            if !state.directories.contains(path) {
                return Err(io::ErrorKind::NotFound.into());
            }
            let inside: Vec<_> = state
                .names
                .keys()
                .filter(|name| name.starts_with(path))
                .cloned()
                .collect();
            for name in inside {
                state.change(NameChange::Remove(name));
            }
            state.directories.retain(|directory| !directory.starts_with(path));
            Ok(())
        }))
    }

    fn sync_dir<'a>(&'a self, path: &'a Path) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(self.step(|state| {
            let pending = std::mem::take(&mut state.pending_names);
            for change in pending {
                if change.path().parent() == Some(path) {
                    change.apply(&mut state.durable_names);
                } else {
                    state.pending_names.push(change);
                }
            }
            Ok(())
        }))
    }

    fn lock<'a>(&'a self, _path: &'a Path) -> BoxFuture<'a, io::Result<Box<dyn Send + Sync>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct FakeFile {
    disk: FakeDisk,
    inode: u64,
}

impl FakeFile {
    async fn change<T>(&self, work: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        let work = |state: &mut State| work(state.files.entry(self.inode).or_default());
        self.disk.step(work).await
    }
}

impl File for FakeFile {
    fn len(&self) -> BoxFuture<'_, io::Result<u64>> {
        Box::pin(async { Ok(self.disk.lock().files[&self.inode].cache.len() as u64) })
    }

    fn read_at(&self, offset: u64, length: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let state = self.disk.lock();
            let cache = &state.files[&self.inode].cache;
            let start = (offset as usize).min(cache.len());
            let end = (start + length).min(cache.len());
            Ok(Bytes::copy_from_slice(&cache[start..end]))
        })
    }

    fn write_at(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.disk.step(move |state| {
            let length = state.files[&self.inode].cache.len();
            state.check_room(self.inode, length.max(offset as usize + data.len()))?;
            let file = state.files.entry(self.inode).or_default();
            file.write(offset as usize, &data);
            Ok(())
        }))
    }

    fn set_len(&self, length: u64) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(self.disk.step(move |state| {
            state.check_room(self.inode, length as usize)?;
            let file = state.files.entry(self.inode).or_default();
            file.cache.resize(length as usize, 0);
            Ok(())
        }))
    }

    fn sync(&self) -> BoxFuture<'_, io::Result<()>> {
        Box::pin(async {
            let failing = match &mut self.disk.lock().syncs {
                Some(0) => true,
                Some(syncs) => {
                    *syncs -= 1;
                    false
                }
                None => false,
            };
            self.change(|file| {
                if failing {
                    // The pages are gone, and clean: the next sync would succeed (fsyncgate).
                    file.cache.clone_from(&file.platter);
                    file.dirty.clear();
                    return Err(io::Error::other("the disk could not write"));
                }
                file.sync();
                Ok(())
            })
            .await
        })
    }

    fn write_and_sync(&self, offset: u64, data: Bytes) -> BoxFuture<'_, io::Result<Duration>> {
        Box::pin(async move {
            self.write_at(offset, data).await?;
            self.sync().await?;
            Ok(SYNC_TIME)
        })
    }
}
