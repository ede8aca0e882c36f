//! Names: directories as everybody sees them, and as a crash would leave them.
//!
//! A change of names (create, rename, remove) is one record. Syncing a directory makes every record that
//! touches it durable, whole: a rename between two directories is never half there. At a crash each record
//! that was not synced is there or not; mostly a prefix of them (a journal), sometimes any of them (what
//! POSIX allows).

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path};

use crate::seed::Dice;

/// A file or directory, whatever its names.
pub type Inode = u64;

pub const ROOT: Inode = 0;

type Names = BTreeMap<String, Inode>;

#[derive(Default)]
struct Directory {
    now: Names,
    durable: Names,
}

/// One name of one directory gets another meaning.
struct Change {
    directory: Inode,
    name: String,
    becomes: Option<Inode>,
}

/// Changes that happen together.
type Record = Vec<Change>;

/// The tree of one file system.
pub struct Tree {
    directories: BTreeMap<Inode, Directory>,
    pending: Vec<Record>,
    next: Inode,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    Directory(Inode),
    File(Inode),
}

impl Default for Tree {
    fn default() -> Self {
        Tree {
            directories: BTreeMap::from([(ROOT, Directory::default())]),
            pending: Vec::new(),
            next: ROOT + 1,
        }
    }
}

fn names(path: &Path) -> Vec<String> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    path.components().filter_map(name).collect()
}

fn error(kind: io::ErrorKind, path: &Path) -> io::Error {
    io::Error::new(kind, format!("{kind}: {}", path.display()))
}

impl Tree {
    fn directory(&self, inode: Inode) -> &Directory {
        self.directories
            .get(&inode)
            .expect("a directory is kept while a name leads to it")
    }

    fn enter(&self, at: Inode, name: &str) -> Option<Found> {
        let inode = *self.directories.get(&at)?.now.get(name)?;
        Some(match self.directories.contains_key(&inode) {
            true => Found::Directory(inode),
            false => Found::File(inode),
        })
    }

    pub fn find(&self, path: &Path) -> io::Result<Found> {
        let mut found = Found::Directory(ROOT);
        for name in names(path) {
            found = match found {
                Found::Directory(inode) => self
                    .enter(inode, &name)
                    .ok_or_else(|| error(io::ErrorKind::NotFound, path))?,
                Found::File(_) => return Err(error(io::ErrorKind::NotADirectory, path)),
            };
        }
        Ok(found)
    }

    pub fn find_file(&self, path: &Path) -> io::Result<Inode> {
        match self.find(path)? {
            Found::File(inode) => Ok(inode),
            Found::Directory(_) => Err(error(io::ErrorKind::IsADirectory, path)),
        }
    }

    pub fn find_directory(&self, path: &Path) -> io::Result<Inode> {
        match self.find(path)? {
            Found::Directory(inode) => Ok(inode),
            Found::File(_) => Err(error(io::ErrorKind::NotADirectory, path)),
        }
    }

    /// The directory that holds a name, and the name.
    fn parent(&self, path: &Path) -> io::Result<(Inode, String)> {
        let mut all = names(path);
        let name = all
            .pop()
            .ok_or_else(|| error(io::ErrorKind::InvalidInput, path))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.find_directory(parent)?, name))
    }

    /// Sorted.
    pub fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let inode = self.find_directory(path)?;
        Ok(self.directory(inode).now.keys().cloned().collect())
    }

    fn record(&mut self, record: Record) {
        for change in &record {
            let directory = self
                .directories
                .get_mut(&change.directory)
                .expect("a record names directories that exist");
            apply(&mut directory.now, change);
        }
        self.pending.push(record);
    }

    pub fn create_dir_all(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in names(path) {
            at = match self.enter(at, &name) {
                Some(Found::Directory(inode)) => inode,
                Some(Found::File(_)) => return Err(error(io::ErrorKind::NotADirectory, path)),
                None => {
                    let inode = self.allocate();
                    self.directories.insert(inode, Directory::default());
                    self.record(vec![Change {
                        directory: at,
                        name,
                        becomes: Some(inode),
                    }]);
                    inode
                }
            };
        }
        Ok(())
    }

    fn allocate(&mut self) -> Inode {
        let inode = self.next;
        self.next += 1;
        inode
    }

    /// A new name for a new file, or the file that has it.
    pub fn create(&mut self, path: &Path) -> io::Result<Inode> {
        let (directory, name) = self.parent(path)?;
        match self.enter(directory, &name) {
            Some(Found::File(inode)) => Ok(inode),
            Some(Found::Directory(_)) => Err(error(io::ErrorKind::IsADirectory, path)),
            None => {
                let inode = self.allocate();
                self.record(vec![Change {
                    directory,
                    name,
                    becomes: Some(inode),
                }]);
                Ok(inode)
            }
        }
    }

    pub fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let moved = match self.find(from)? {
            Found::File(inode) | Found::Directory(inode) => inode,
        };
        if let Ok(Found::Directory(inode)) = self.find(to)
            && inode != moved
            && !self.directory(inode).now.is_empty()
        {
            return Err(error(io::ErrorKind::DirectoryNotEmpty, to));
        }
        let (from_directory, from_name) = self.parent(from)?;
        let (directory, name) = self.parent(to)?;
        let leave = Change {
            directory: from_directory,
            name: from_name,
            becomes: None,
        };
        let arrive = Change {
            directory,
            name,
            becomes: Some(moved),
        };
        self.record(vec![leave, arrive]);
        Ok(())
    }

    pub fn remove_file(&mut self, path: &Path) -> io::Result<()> {
        self.find_file(path)?;
        self.unlink(path)
    }

    fn unlink(&mut self, path: &Path) -> io::Result<()> {
        let (directory, name) = self.parent(path)?;
        self.record(vec![Change {
            directory,
            name,
            becomes: None,
        }]);
        Ok(())
    }

    /// Removes the contents first, one record each, as `rm -r` does.
    pub fn remove_dir_all(&mut self, path: &Path) -> io::Result<()> {
        self.find_directory(path)?;
        for name in self.list(path)? {
            let inner = path.join(name);
            match self.find(&inner)? {
                Found::Directory(_) => self.remove_dir_all(&inner)?,
                Found::File(_) => self.remove_file(&inner)?,
            }
        }
        self.unlink(path)
    }

    /// Every record that touches this directory is durable.
    pub fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let inode = self.find_directory(path)?;
        let touches = |record: &Record| record.iter().any(|change| change.directory == inode);
        let (durable, pending) = std::mem::take(&mut self.pending).into_iter().partition(touches);
        self.pending = pending;
        let durable: Vec<Record> = durable;
        for record in &durable {
            self.make_durable(record);
        }
        Ok(())
    }

    /// Everything becomes durable.
    pub fn sync_all(&mut self) {
        for record in std::mem::take(&mut self.pending) {
            self.make_durable(&record);
        }
    }

    /// The power fails, and nothing that was not synced is there. Returns how many records that were.
    pub fn lose(&mut self) -> u64 {
        for directory in self.directories.values_mut() {
            directory.now = directory.durable.clone();
        }
        std::mem::take(&mut self.pending).len() as u64
    }

    fn make_durable(&mut self, record: &Record) {
        for change in record {
            if let Some(directory) = self.directories.get_mut(&change.directory) {
                apply(&mut directory.durable, change);
            }
        }
    }

    /// The power fails. Returns how many records were there after all, and how many not.
    pub fn crash(&mut self, dice: &mut Dice) -> (u64, u64) {
        let pending = std::mem::take(&mut self.pending);
        let survivors = dice.index(pending.len() + 1);
        let orderly = dice.chance(0.6);
        let (mut kept, mut lost) = (0, 0);
        for (position, record) in pending.iter().enumerate() {
            if if orderly {
                position < survivors
            } else {
                dice.chance(0.5)
            } {
                self.make_durable(record);
                kept += 1;
            } else {
                lost += 1;
            }
        }
        for directory in self.directories.values_mut() {
            directory.now = directory.durable.clone();
        }
        (kept, lost)
    }

    /// All files with their paths, in the order of their names.
    pub fn files(&self) -> Vec<(String, Inode)> {
        let mut found = Vec::new();
        self.collect(ROOT, "", &mut found);
        found
    }

    fn collect(&self, at: Inode, path: &str, found: &mut Vec<(String, Inode)>) {
        for (name, inode) in &self.directory(at).now {
            let path = format!("{path}/{name}");
            match self.directories.contains_key(inode) {
                true => self.collect(*inode, &path, found),
                false => found.push((path, *inode)),
            }
        }
    }

    /// Everything that a name leads to, now or after a crash.
    pub fn reachable(&self) -> impl Iterator<Item = Inode> {
        let named = self.directories.values().flat_map(|directory| {
            let now = directory.now.values();
            now.chain(directory.durable.values()).copied()
        });
        let pending = self.pending.iter().flatten().filter_map(|change| change.becomes);
        named.chain(pending)
    }
}

fn apply(names: &mut Names, change: &Change) {
    match change.becomes {
        Some(inode) => names.insert(change.name.clone(), inode),
        None => names.remove(&change.name),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Seed;

    fn crash(tree: &mut Tree, seed: u64) {
        tree.crash(&mut Seed(seed).dice("disk"));
    }

    #[test]
    fn names_are_durable_after_their_directory_is_synced() {
        let (mut kept, mut lost) = (0, 0);
        for seed in 0..100 {
            let mut tree = Tree::default();
            tree.create_dir_all(Path::new("/data/wal")).expect("created");
            for synced in ["/", "/data"] {
                tree.sync_dir(Path::new(synced)).expect("a directory");
            }
            let first = tree.create(Path::new("/data/wal/1")).expect("created");
            tree.sync_dir(Path::new("/data/wal")).expect("a directory");
            tree.create(Path::new("/data/wal/2")).expect("created");
            crash(&mut tree, seed);
            assert_eq!(tree.find_file(Path::new("/data/wal/1")).ok(), Some(first));
            match tree.find_file(Path::new("/data/wal/2")) {
                Ok(_) => kept += 1,
                Err(_) => lost += 1,
            }
        }
        assert!(kept > 10 && lost > 10);
    }

    #[test]
    fn a_rename_is_whole_or_has_not_happened() {
        let mut seen = [0, 0];
        for seed in 0..100 {
            let mut tree = Tree::default();
            tree.create_dir_all(Path::new("a/b")).expect("created");
            let old = tree.create(Path::new("a/file")).expect("created");
            let new = tree.create(Path::new("a/file.tmp")).expect("created");
            for synced in ["", "a"] {
                tree.sync_dir(Path::new(synced)).expect("a directory");
            }
            tree.rename(Path::new("a/file.tmp"), Path::new("a/file"))
                .expect("renamed");
            assert_eq!(tree.find_file(Path::new("a/file")).ok(), Some(new));
            crash(&mut tree, seed);
            let temporary = tree.find(Path::new("a/file.tmp")).is_ok();
            let file = tree.find_file(Path::new("a/file")).expect("one of them");
            assert_eq!(file == old, temporary);
            seen[usize::from(temporary)] += 1;
        }
        assert!(seen[0] > 10 && seen[1] > 10);
    }

    #[test]
    fn directories_move_with_their_contents_and_errors_are_the_systems() {
        let mut tree = Tree::default();
        tree.create_dir_all(Path::new("x/new")).expect("created");
        tree.create(Path::new("x/new/db")).expect("created");
        tree.create_dir_all(Path::new("x/old/deep")).expect("created");
        let not_empty = tree.rename(Path::new("x/new"), Path::new("x/old"));
        assert_eq!(
            not_empty.expect_err("full").kind(),
            io::ErrorKind::DirectoryNotEmpty
        );
        tree.remove_dir_all(Path::new("x/old")).expect("removed");
        tree.rename(Path::new("x/new"), Path::new("x/old"))
            .expect("moved");
        assert_eq!(tree.list(Path::new("x")).expect("a directory"), ["old"]);
        let db = tree.find_file(Path::new("x/old/db")).expect("there");
        assert_eq!(tree.files(), [("/x/old/db".to_owned(), db)]);
        assert_eq!(tree.list(Path::new("x/old")).expect("a directory"), ["db"]);
        let missing = tree.find(Path::new("x/none"));
        assert_eq!(missing.expect_err("missing").kind(), io::ErrorKind::NotFound);
        assert!(tree.remove_file(Path::new("x")).is_err());
        assert!(tree.create(Path::new("none/file")).is_err());
    }
}
