//! Commands beside running a member: `snapshot save|status|restore`, `hashkv`, `verify`.
//!
//! Their flags and outputs are etcdutl's where it has the command.

mod arguments;
pub mod etcd_dir;
mod snapshot;
mod verify;

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use sha2::{Digest, Sha256};

use arguments::Arguments;

use crate::bbolt::ReadAt;

const USAGE: &str = "\
Usage:
  quorate snapshot save FILE [--endpoints=127.0.0.1:2379] [--cacert --cert --key]
      Store a snapshot of a running member.
  quorate snapshot status FILE [-w simple|table|json]
      Check a snapshot, and tell what is in it.
  quorate snapshot restore FILE --data-dir=DIR [--name --initial-cluster --initial-cluster-token]
      [--initial-advertise-peer-urls] [--wal-dir] [--skip-hash-check] [--bump-revision=N --mark-compacted]
      Make the data directory of a member of a new cluster.
  quorate hashkv FILE|DIR [--rev=N]
      The hash of all keys, as HashKV gives it.
  quorate verify DIR
      Check a data directory: log, store, and whether they agree.
";

/// Runs the command that the arguments name; `None` if they name none.
pub fn run(arguments: &[String]) -> Option<ExitCode> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (command, rest) = match words.as_slice() {
        ["snapshot", command @ ("save" | "status" | "restore"), ..] => (*command, arguments.get(2..)),
        ["snapshot", ..] => ("help", None),
        [command @ ("hashkv" | "verify"), ..] => (*command, arguments.get(1..)),
        _ => return None,
    };
    let done = Arguments::parse(rest.unwrap_or_default()).and_then(|arguments| match command {
        "save" => snapshot::save(arguments),
        "status" => snapshot::status(arguments),
        "restore" => snapshot::restore(arguments),
        "hashkv" => verify::hashkv(arguments),
        "verify" => verify::verify(arguments),
        _ => Err(USAGE.into()),
    });
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::print(&mut io::stderr(), &format!("Error: {error}\n"));
            ExitCode::FAILURE
        }
    })
}

/// Runs what needs an environment.
fn block_on<T>(work: impl AsyncFnOnce(crate::runtime::Env) -> Result<T, String>) -> Result<T, String> {
    let runtime = crate::runtime::tokio::new_runtime().map_err(|error| error.to_string())?;
    runtime.block_on(async { work(crate::runtime::tokio::env()).await })
}

/// A database on disk, without the checksum behind a snapshot.
pub struct DbFile {
    file: fs::File,
    bytes: u64,
}

impl DbFile {
    /// # Errors
    /// The file cannot be read, or `checked` and its checksum is wrong or missing.
    pub fn open(path: &Path, checked: bool) -> Result<DbFile, String> {
        let context = |error: io::Error| format!("{}: {error}", path.display());
        let file = fs::File::open(path).map_err(context)?;
        let length = file.metadata().map_err(context)?.len();
        // A database is whole pages; what is more is a SHA-256.
        let has_checksum = length % 512 == 32;
        let bytes = if has_checksum { length - 32 } else { length };
        let db = DbFile { file, bytes };
        if checked {
            if !has_checksum {
                return Err("snapshot missing hash but --skip-hash-check=false".into());
            }
            db.check()
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(db)
    }

    fn check(&self) -> Result<(), String> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < self.bytes {
            let length = usize::try_from(self.bytes - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let part = buffer.get_mut(..length).unwrap_or_default();
            self.file
                .read_exact_at(part, at)
                .map_err(|error| error.to_string())?;
            hash.update(&*part);
            at += length as u64;
        }
        let mut expected = [0; 32];
        self.file
            .read_exact_at(&mut expected, self.bytes)
            .map_err(|error| error.to_string())?;
        let found: [u8; 32] = hash.finalize().into();
        if found == expected {
            return Ok(());
        }
        Err(format!("expected sha256 {expected:?}, got {found:?}"))
    }
}

impl ReadAt for DbFile {
    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
