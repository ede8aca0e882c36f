//! A log file that is rotated: `--enable-log-rotation`. Names and limits are those of lumberjack, which etcd uses: the
//! file keeps its name, and becomes `name-2026-01-02T15-04-05.000.ext` when it is full.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::tz::TimeZone;
use serde::Deserialize;
use serde_json::error::Category;

use crate::runtime::Env;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MEGABYTE: u64 = 1 << 20;
/// For `maxsize` 0.
const MAX_MEGABYTES_DEFAULT: u64 = 100;
const TIME_FORMAT: &str = "%Y-%m-%dT%H-%M-%S.%3f";
const COMPRESSED: &str = ".gz";

/// `--log-rotation-config-json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Rotation {
    /// Megabytes of one file.
    maxsize: u64,
    /// Days that old files are kept; 0: for ever.
    maxage: u32,
    /// Old files that are kept; 0: all.
    maxbackups: usize,
    /// Name old files by the local time rather than by UTC.
    localtime: bool,
    compress: bool,
}

impl Rotation {
    pub fn parse(text: &str) -> Result<Rotation, String> {
        serde_json::from_str(text).map_err(|error| match error.classify() {
            Category::Data => format!("invalid log rotation config: {error}"),
            _ => format!("improperly formatted log rotation config: {error}"),
        })
    }
}

/// See the module.
pub struct RotatingFile {
    env: Env,
    path: PathBuf,
    rotation: Rotation,
    file: File,
    bytes: u64,
}

impl RotatingFile {
    pub fn open(env: &Env, path: &Path, rotation: Rotation) -> io::Result<RotatingFile> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(RotatingFile {
            env: env.clone(),
            path: path.to_owned(),
            bytes: file.metadata()?.len(),
            rotation,
            file,
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let now = jiff::Timestamp::from_nanosecond(self.env.wall_clock().as_nanos() as i128)
            .map_err(io::Error::other)?;
        let zone = match self.rotation.localtime {
            true => TimeZone::system(),
            false => TimeZone::UTC,
        };
        let time = now.to_zoned(zone).strftime(TIME_FORMAT).to_string();
        let (begin, end) = name_parts(&self.path);
        fs::rename(
            &self.path,
            self.path.with_file_name(format!("{begin}{time}{end}")),
        )?;
        self.file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        self.bytes = 0;
        // A failure here leaves files that the next rotation takes care of.
        let (path, rotation, now) = (self.path.clone(), self.rotation.clone(), self.env.wall_clock());
        let tidied = self.env.run_blocking(move || tidy(&path, &rotation, now));
        self.env.spawn_detached(async move {
            if let Err(error) = tidied.await {
                tracing::warn!(%error, "cannot tidy up old log files");
            }
        });
        Ok(())
    }
}

impl Write for RotatingFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let most = match self.rotation.maxsize {
            0 => MAX_MEGABYTES_DEFAULT,
            megabytes => megabytes,
        };
        if self.bytes > 0 && self.bytes + line.len() as u64 > most.saturating_mul(MEGABYTE) {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What an old file's name has before and after its time: "etcd-" and ".log".
fn name_parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let end = match path.extension() {
        Some(extension) => format!(".{}", text(Some(extension))),
        None => String::new(),
    };
    (format!("{}-", text(path.file_stem())), end)
}

/// Removes what is too old or too much, and compresses the rest.
fn tidy(path: &Path, rotation: &Rotation, now: Duration) -> io::Result<()> {
    let (begin, end) = name_parts(path);
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut old = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let plain = name.strip_suffix(COMPRESSED).unwrap_or(&name);
        let time = plain
            .strip_prefix(&begin)
            .and_then(|rest| rest.strip_suffix(&end));
        if let Some(time) = time
            && let Ok(time) = jiff::civil::DateTime::strptime(TIME_FORMAT, time)
        {
            old.push((time, name));
        }
    }
    // The newest first.
    old.sort_by(|a, b| b.cmp(a));
    let zone = match rotation.localtime {
        true => TimeZone::system(),
        false => TimeZone::UTC,
    };
    for (number, (time, name)) in old.into_iter().enumerate() {
        let written = time
            .to_zoned(zone.clone())
            .map_or(0, |at| at.timestamp().as_second());
        let age = now.saturating_sub(Duration::from_secs(u64::try_from(written).unwrap_or(0)));
        let too_many = rotation.maxbackups > 0 && number >= rotation.maxbackups;
        let too_old = rotation.maxage > 0 && age > DAY * rotation.maxage;
        let file = folder.join(&name);
        if too_many || too_old {
            fs::remove_file(file)?;
        } else if rotation.compress && !name.ends_with(COMPRESSED) {
            compress(&file)?;
        }
    }
    Ok(())
}

fn compress(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(COMPRESSED);
    let mut encoder = GzEncoder::new(File::create(target)?, Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests;
