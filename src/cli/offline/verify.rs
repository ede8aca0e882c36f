//! `hashkv` and `verify`.

use std::path::Path;

use indicatif::ProgressBar;

use super::{Arguments, DbFile, block_on};
use crate::bbolt::File;
use crate::config::Config;
use crate::node::{Inspected, inspect, inspect_file};

pub fn hashkv(arguments: Arguments) -> Result<(), String> {
    let path = Path::new(arguments.only("file or data directory")?);
    let revision = arguments.number("rev")?;
    let found = look(path, revision)?;
    let hash = found.hash.map_err(|denied| denied.text().to_owned())?;
    print(&format!(
        "{}, {}, {}",
        hash.hash, hash.hash_revision, hash.compact_revision
    ));
    Ok(())
}

fn look(path: &Path, revision: i64) -> Result<Inspected, String> {
    let bar = ProgressBar::new_spinner().with_message(format!("reading {}", path.display()));
    let found = block_on(async |env| {
        let found = if path.is_dir() {
            inspect(&env, &directory(path), revision).await
        } else {
            let file = File::open(DbFile::open(path, false)?)?;
            let scratch = std::env::temp_dir().join(format!("quorate-hashkv-{}", std::process::id()));
            let found = inspect_file(&env, &scratch, &file, revision, &mut || bar.inc(1)).await;
            let _ = std::fs::remove_dir_all(&scratch);
            found
        };
        found.map_err(|error| error.to_string())
    });
    bar.finish_and_clear();
    found
}

fn directory(path: &Path) -> Config {
    Config {
        data_dir: path.to_owned(),
        ..Config::default()
    }
}

pub fn verify(arguments: Arguments) -> Result<(), String> {
    let path = Path::new(arguments.only("data directory")?);
    if !path.is_dir() {
        return Err(format!("{} is no directory", path.display()));
    }
    let found = look(path, 0)?;
    let hash = found.hash.map_err(|denied| denied.text().to_owned())?;
    print(&format!(
        "member {:x} of cluster {:x}\nlog: entries up to {}, purged up to {}\nstore: index {}, term {}, revision {}, \
         compacted at {}, {} keys, digest {:016x}, hash {}\nno damage found",
        found.member,
        found.cluster,
        found.log_last,
        found.log_purged,
        found.position.index,
        found.position.term,
        hash.hash_revision,
        hash.compact_revision,
        found.keys,
        found.digest,
        hash.hash
    ));
    Ok(())
}

fn print(line: &str) {
    crate::cli::print(&mut std::io::stdout(), &format!("{line}\n"));
}
