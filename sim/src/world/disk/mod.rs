//! `SimDisk`: one file system per host, the page cache apart from the platter.
//!
//! ```text
//!   product ── Disk, File ──► Drive (this folder: synchronous, no clock)      survives the process
//!                              │ tree: names, durable after sync_dir          survives the power, as far
//!                              │ files: bytes, durable after sync             as it was synced
//!   nemesis ── crash, wipe, ──►└ faults: failing sync, full, stalled
//!              faults
//! ```
//!
//! A crash keeps, loses or tears what was not synced, each change for itself. A sync that fails drops the
//! dirty pages: what the file then holds is what a crash would have left, and the error is reported once
//! (what Linux does; "fsyncgate", 2018). What was synced is damaged by [`Drive::rot`] alone.
//!
//! A process can be stopped for good at a [`Point`], exactly: whatever waits for the operation never goes on.

mod content;
mod rot;
mod trap;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::content::Content;
pub use self::content::{Damage, Tail};
use self::rot::Rot;
pub use self::rot::Target;
pub use self::trap::Point;
use self::trap::Trap;
use self::tree::{Inode, Tree};
use crate::plan::readable;
use crate::seed::Dice;

/// How directories are called that hold a store; another one is made for a snapshot that is installed.
const GENERATION: &str = "engine-";

/// What a run draws once for its disks.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    #[serde(with = "readable")]
    pub sync_latency_min: Duration,
    #[serde(with = "readable")]
    pub sync_latency_mean: Duration,
    pub capacity_bytes: u64,
    /// Of a hundred syncs so many do nothing, and say that it is done; the others write all that there is. A loss
    /// of power leaves what was there at the last of these. No product survives it: for runs that have to fail.
    #[serde(skip_serializing_if = "is_zero")]
    pub lying_syncs_percent: u32,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            sync_latency_min: Duration::from_micros(200),
            sync_latency_mean: Duration::from_micros(400),
            capacity_bytes: 4 << 30,
            lying_syncs_percent: 0,
        }
    }
}

/// Counted over the run, for the report.
#[derive(Clone, Copy, Default, Debug)]
pub struct Counters {
    pub syncs: u64,
    pub failed_syncs: u64,
    pub failed_writes: u64,
    /// Reads and writes that failed with an input/output error.
    pub io_errors: u64,
    /// Operations that waited for a stalled disk.
    pub stalled: u64,
    /// Damaged bytes that were read.
    pub rot_read: u64,
    /// Stores that were begun besides the first: a snapshot is being installed.
    pub generations: u64,
    pub crash: Damage,
    /// Of `crash`, what struck the store's journal.
    pub store_crash: Damage,
    pub names_lost: u64,
}

/// The disk of one host.
pub struct Drive {
    settings: Settings,
    dice: Dice,
    tree: Tree,
    files: BTreeMap<Inode, Content>,
    locks: BTreeMap<Inode, u64>,
    /// Which life of the host's process may use it: handles of an earlier one are dead.
    life: u64,
    fail_next_sync: bool,
    fail_next_io: bool,
    full: bool,
    stall: Option<super::Nanos>,
    /// How many times slower than usual syncs are.
    sluggish: u32,
    /// Syncs that were begun, and who waits for the next.
    begun: u64,
    sync_waiter: Option<Waker>,
    trap: Trap,
    rot: Rot,
    pub counters: Counters,
}

impl Drive {
    pub fn new(settings: Settings, dice: Dice) -> Self {
        Drive {
            settings,
            dice,
            tree: Tree::default(),
            files: BTreeMap::new(),
            locks: BTreeMap::new(),
            life: 0,
            fail_next_sync: false,
            fail_next_io: false,
            full: false,
            stall: None,
            sluggish: 1,
            begun: 0,
            sync_waiter: None,
            trap: Trap::default(),
            rot: Rot::default(),
            counters: Counters::default(),
        }
    }

    /// A new process uses the disk from now on; the handles and locks of the last one are gone.
    pub fn begin_life(&mut self) -> u64 {
        self.locks.clear();
        self.fail_next_sync = false;
        self.life += 1;
        self.life
    }

    fn check(&self, life: u64) -> io::Result<()> {
        match life == self.life {
            true => Ok(()),
            false => Err(io::Error::other("the process that opened this file is gone")),
        }
    }

    fn file(&mut self, life: u64, inode: Inode) -> io::Result<&mut Content> {
        self.check(life)?;
        // A removed file lives as long as somebody has it open.
        Ok(self.files.entry(inode).or_default())
    }

    fn check_space(&mut self, more: u64) -> io::Result<()> {
        let used: u64 = self.files.values().map(Content::allocated).sum();
        if self.full || used + more > self.settings.capacity_bytes {
            self.counters.failed_writes += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

/// The verbs of [`quorate::runtime::Disk`] and [`quorate::runtime::File`], without their waiting.
impl Drive {
    pub fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let is_generation = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(GENERATION));
        let siblings = path.parent().and_then(|parent| self.tree.list(parent).ok());
        let is_another = siblings.is_some_and(|names| names.iter().any(|name| name.starts_with(GENERATION)));
        if is_generation && is_another && self.tree.find(path).is_err() {
            self.counters.generations += 1;
            self.trap.snapshot_begins(&mut self.dice);
        }
        self.tree.create_dir_all(path)
    }

    pub fn read_dir(&self, path: &Path) -> io::Result<Vec<String>> {
        self.tree.list(path)
    }

    pub fn open(&mut self, path: &Path) -> io::Result<Inode> {
        self.tree.find_file(path)
    }

    pub fn create(&mut self, path: &Path) -> io::Result<Inode> {
        self.check_space(0)?;
        let inode = self.tree.create(path)?;
        let content = self.files.entry(inode).or_default();
        if content.length() > 0 {
            content.set_len(0);
        }
        Ok(inode)
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.tree.rename(from, to)
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.tree.remove_file(path)
    }

    pub fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.tree.remove_dir_all(path)
    }

    pub fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        self.take_sync_failure()?;
        if self.settings.lying_syncs_percent > 0 {
            return Ok(());
        }
        self.tree.sync_dir(path)
    }

    /// Takes the lock of a file; the key that releases it.
    pub fn lock(&mut self, life: u64, path: &Path) -> io::Result<Inode> {
        self.check(life)?;
        let inode = self.tree.create(path)?;
        if self.locks.contains_key(&inode) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.locks.insert(inode, life);
        Ok(inode)
    }

    pub fn unlock(&mut self, life: u64, inode: Inode) {
        if self.locks.get(&inode) == Some(&life) {
            self.locks.remove(&inode);
        }
    }

    pub fn length(&mut self, life: u64, inode: Inode) -> io::Result<u64> {
        Ok(self.file(life, inode)?.length())
    }

    pub fn read(&mut self, life: u64, inode: Inode, offset: u64, length: usize) -> io::Result<Bytes> {
        self.take_io_failure()?;
        let data = self.file(life, inode)?.read(offset, length);
        self.counters.rot_read += self.rot.read(inode, offset, data.len() as u64);
        Ok(data)
    }

    pub fn write(&mut self, life: u64, inode: Inode, offset: u64, data: Bytes) -> io::Result<()> {
        self.check_space(data.len() as u64)?;
        self.take_io_failure()?;
        self.rot.overwritten(inode, offset, data.len() as u64);
        self.file(life, inode)?.write(offset, data);
        Ok(())
    }

    pub fn set_len(&mut self, life: u64, inode: Inode, length: u64) -> io::Result<()> {
        self.check_space(0)?;
        self.file(life, inode)?.set_len(length);
        Ok(())
    }

    /// The first half of a sync: how far it will reach. It takes [`sync_latency`](Self::sync_latency).
    pub fn begin_sync(&mut self, life: u64, inode: Inode) -> io::Result<u64> {
        self.begun += 1;
        self.sync_waiter.take().into_iter().for_each(Waker::wake);
        Ok(self.file(life, inode)?.begin_sync())
    }

    /// The second half: durable, or failed with the dirty pages dropped.
    pub fn finish_sync(&mut self, life: u64, inode: Inode, mark: u64) -> io::Result<()> {
        self.check(life)?;
        if let Err(failure) = self.take_sync_failure() {
            let Drive {
                files,
                dice,
                counters,
                ..
            } = self;
            let damage = files.entry(inode).or_default().crash(dice);
            counters.crash.add(damage);
            return Err(failure);
        }
        self.counters.syncs += 1;
        match self.settings.lying_syncs_percent {
            0 => self.file(life, inode)?.finish_sync(mark),
            lies if self.dice.below(100) < u64::from(lies) => {}
            _ => self.write_everything(),
        }
        Ok(())
    }

    fn take_io_failure(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fail_next_io) {
            self.counters.io_errors += 1;
            return Err(io::Error::other("input/output error (EIO)"));
        }
        Ok(())
    }

    /// A disk that lies keeps the order of what it is told, at least.
    fn write_everything(&mut self) {
        self.tree.sync_all();
        self.files
            .values_mut()
            .for_each(|content| content.finish_sync(u64::MAX));
    }

    fn take_sync_failure(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fail_next_sync) {
            self.counters.failed_syncs += 1;
            return Err(io::Error::other("input/output error (EIO)"));
        }
        Ok(())
    }

    pub fn sync_latency(&mut self) -> Duration {
        let Settings {
            sync_latency_min,
            sync_latency_mean,
            ..
        } = self.settings;
        (sync_latency_min + self.dice.exponential(sync_latency_mean)) * self.sluggish
    }

    /// Until when the disk answers nothing.
    pub fn stalled_until(&self) -> Option<super::Nanos> {
        self.stall
    }
}

/// What a nemesis does to it.
impl Drive {
    /// The power fails.
    pub fn crash(&mut self) {
        self.crash_with(None);
    }

    /// The power fails; what was not synced meets with one fate, or each change with its own.
    pub fn crash_with(&mut self, tail: Option<Tail>) {
        self.life += 1;
        self.locks.clear();
        self.trap = Trap::default();
        let Drive {
            settings,
            tree,
            files,
            dice,
            counters,
            ..
        } = self;
        let lies = settings.lying_syncs_percent > 0;
        let journals = tree
            .files()
            .into_iter()
            .filter(|(path, _)| Target::is_journal(path));
        let journals: BTreeSet<Inode> = journals.map(|(_, inode)| inode).collect();
        let (_, lost) = match lies {
            true => (0, tree.lose()),
            false => tree.crash(dice),
        };
        counters.names_lost += lost;
        for (inode, content) in files {
            if content.is_dirty() {
                let damage = match lies {
                    true => content.lose(),
                    false => content.crash_with(tail, dice),
                };
                counters.crash.add(damage);
                if journals.contains(inode) {
                    counters.store_crash.add(damage);
                }
            }
        }
        self.forget_unreachable();
    }

    /// Whether the store's journal has something that was not synced.
    pub fn is_store_dirty(&self) -> bool {
        let mut journals = self
            .tree
            .files()
            .into_iter()
            .filter(|(path, _)| Target::is_journal(path));
        journals.any(|(_, inode)| self.files.get(&inode).is_some_and(Content::is_dirty))
    }

    /// The process ended, the system lives: nothing is lost.
    pub fn kill_process(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.trap = Trap::default();
        self.forget_unreachable();
    }

    fn forget_unreachable(&mut self) {
        let reachable: BTreeSet<Inode> = self.tree.reachable().collect();
        self.files.retain(|inode, _| reachable.contains(inode));
        self.rot.retain(|inode| reachable.contains(inode));
    }

    /// The disk is replaced by an empty one.
    pub fn wipe(&mut self) {
        self.life += 1;
        self.tree = Tree::default();
        self.files.clear();
        self.locks.clear();
        self.rot = Rot::default();
    }

    /// The next sync, of whatever file, fails.
    pub fn fail_next_sync(&mut self, fail: bool) {
        self.fail_next_sync = fail;
    }

    /// The next read or write, of whatever file, fails.
    pub fn fail_next_io(&mut self, fail: bool) {
        self.fail_next_io = fail;
    }

    /// Syncs take so many times as long as usual.
    pub fn slow_down(&mut self, times: u32) {
        self.sluggish = times.max(1);
    }

    /// The process is to be stopped at this point.
    pub fn set_trap(&mut self, point: Option<Point>) {
        self.trap.set(point);
    }

    /// Whether the process that reaches this point has to stop there, for good.
    pub fn reach(&mut self, point: Point) -> bool {
        self.trap.reach(point)
    }

    /// Whether the process was stopped at the point that was set.
    pub fn is_trapped(&self) -> bool {
        self.trap.is_reached()
    }

    /// Ready once the process was stopped at the point that was set. One task at a time may wait.
    pub fn poll_trapped(&mut self, cx: &Context<'_>) -> Poll<()> {
        self.trap.poll(cx)
    }

    /// A bit of a file goes bad that was synced long ago: something is synced behind it, so that whoever reads it can tell
    /// it from the end of what was written. `None` if there is nothing of that kind.
    pub fn rot(&mut self, target: Target) -> Option<String> {
        let paths = self.tree.files();
        let mut found: Vec<(String, Inode, u64)> = Vec::new();
        for (path, inode) in paths {
            if let Some(content) = self.files.get(&inode)
                && target.is_meant(&path)
                && content.settled() > 0
            {
                found.push((path, inode, content.settled()));
            }
        }
        if found.is_empty() {
            return None;
        }
        let (path, inode, settled) = self.dice.pick(&found).clone();
        let content = self.files.get_mut(&inode)?;
        let offset = content.rot(settled, &mut self.dice)?;
        self.rot.add(inode, offset);
        Some(format!("{path} at {offset}"))
    }

    /// Damaged bytes that nobody has read or overwritten yet.
    pub fn unread_rot(&self) -> usize {
        self.rot.len()
    }

    /// How many syncs were begun.
    pub fn syncs_begun(&self) -> u64 {
        self.begun
    }

    /// Ready when more than so many syncs were begun. One task at a time may wait.
    pub fn poll_sync_begun(&mut self, before: u64, cx: &Context<'_>) -> Poll<()> {
        if self.begun > before {
            return Poll::Ready(());
        }
        self.sync_waiter = Some(cx.waker().clone());
        Poll::Pending
    }

    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// A fault is set by which operations fail.
    pub fn may_fail(&self) -> bool {
        self.full || self.fail_next_sync || self.fail_next_io
    }

    /// Nothing is answered before this time.
    pub fn stall(&mut self, until: Option<super::Nanos>) {
        self.stall = until;
    }
}

impl Damage {
    fn add(&mut self, other: Damage) {
        self.kept += other.kept;
        self.lost += other.lost;
        self.torn += other.torn;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    fn drive(seed: u64) -> Drive {
        let settings = Settings {
            sync_latency_min: Duration::from_micros(100),
            sync_latency_mean: Duration::from_micros(400),
            capacity_bytes: 1 << 20,
            lying_syncs_percent: 0,
        };
        Drive::new(settings, Seed(seed).dice("disk"))
    }

    fn data(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_failed_sync_drops_dirty_pages_and_is_reported_once() {
        let mut lost = 0;
        for seed in 0..50 {
            let mut drive = drive(seed);
            let life = drive.begin_life();
            let file = drive.create(Path::new("f")).expect("created");
            drive.write(life, file, 0, data("dirty")).expect("written");
            drive.fail_next_sync(true);
            let mark = drive.begin_sync(life, file).expect("begun");
            assert!(drive.finish_sync(life, file, mark).is_err());
            let mark = drive.begin_sync(life, file).expect("begun");
            drive
                .finish_sync(life, file, mark)
                .expect("the second sync succeeds");
            let left = drive.read(life, file, 0, 10).expect("read");
            lost += u64::from(left != "dirty");
        }
        assert!(
            lost > 10,
            "a sync that succeeds after a failure must not mean durable"
        );
    }

    #[test]
    fn a_disk_that_lies_goes_back_to_its_last_true_sync() {
        let mut drive = drive(1);
        let life = drive.begin_life();
        let file = drive.create(Path::new("f")).expect("created");
        drive.write(life, file, 0, data("kept")).expect("written");
        drive.settings.lying_syncs_percent = 1;
        drive.write_everything();
        drive.settings.lying_syncs_percent = 100;
        drive.write(life, file, 0, data("lost")).expect("written");
        let mark = drive.begin_sync(life, file).expect("begun");
        drive.finish_sync(life, file, mark).expect("so it says");
        drive.create(Path::new("g")).expect("created");
        drive.sync_dir(Path::new("")).expect("so it says");
        drive.crash();
        let life = drive.begin_life();
        let file = drive.open(Path::new("f")).expect("there");
        assert_eq!(drive.read(life, file, 0, 10).expect("read"), "kept");
        assert!(drive.open(Path::new("g")).is_err());
    }

    #[test]
    fn a_process_end_loses_nothing_and_frees_its_locks() {
        let mut drive = drive(1);
        let life = drive.begin_life();
        let file = drive.create(Path::new("f")).expect("created");
        drive.write(life, file, 0, data("kept")).expect("written");
        let lock = drive.lock(life, Path::new("lock")).expect("free");
        assert!(drive.lock(life, Path::new("lock")).is_err());
        drive.unlock(life, lock);
        drive.lock(life, Path::new("lock")).expect("free again");
        drive.kill_process();
        assert!(drive.write(life, file, 0, data("late")).is_err(), "a dead handle");
        let life = drive.begin_life();
        drive.lock(life, Path::new("lock")).expect("free again");
        let file = drive.open(Path::new("f")).expect("there");
        assert_eq!(drive.read(life, file, 0, 10).expect("read"), "kept");
        drive.wipe();
        assert!(drive.open(Path::new("f")).is_err());
    }

    #[test]
    fn a_full_disk_refuses_and_recovers() {
        let mut drive = drive(1);
        let life = drive.begin_life();
        let file = drive.create(Path::new("f")).expect("created");
        drive.set_full(true);
        let refused = drive.write(life, file, 0, data("x")).expect_err("full");
        assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        drive.set_full(false);
        let refused = drive.write(life, file, 0, vec![0; 2 << 20].into());
        assert_eq!(refused.expect_err("too much").kind(), io::ErrorKind::StorageFull);
        drive.write(life, file, 0, data("x")).expect("room again");
    }
}
