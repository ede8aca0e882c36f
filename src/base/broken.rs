//! [`Broken`]: durability or an invariant is lost, and the member stops.
//!
//! A variant is a thing that somebody acts on: the simulator judges by it whether a member may have stopped, and an
//! operator reads in its text what to do. Texts are made here and nowhere else, out of the fields; where one says which way
//! out there is, whoever made the error has said so. Nothing is decided by a text.
//!
//! Only the engine's and the log's own words are passed on as they are. No variant has a
//! [`source`](std::error::Error::source): the text is whole by itself, and raft would write the source behind it once more.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Level, Revision, RevisionAt};

/// What every refusal of a damaged log ends with.
pub const LOG_WAY_OUT: &str = "acknowledged entries may be lost, so this member cannot start from this log. \
    Remove the member from the cluster, delete its data directory and add it again as a new member";

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A file is not what was synced: bits have changed. `how` says which of its parts, and may be empty.
    #[error("{what} {} is damaged at offset {offset}{}{how}", .path.display(), colon(.how))]
    Damaged {
        what: &'static str,
        path: PathBuf,
        offset: u64,
        how: String,
    },
    /// A segment of the log is shorter than it was made.
    #[error(
        "log segment {} is truncated: it has {length} bytes instead of {expected}; {}", .path.display(), LOG_WAY_OUT
    )]
    Truncated {
        path: PathBuf,
        length: u64,
        expected: u64,
    },
    /// A part of what was stored is gone, a file or more.
    #[error("{what} {} {how}", .path.display())]
    Incomplete {
        what: &'static str,
        path: PathBuf,
        how: String,
    },
    /// Another member's log, or one of another cluster: cluster and member, as in the log's header.
    #[error(
        "log segment {} belongs to {}, but this member is {}: the data directory is another cluster's or another member's",
        .path.display(), hex(.theirs), hex(.ours)
    )]
    Foreign {
        path: PathBuf,
        theirs: [u8; 16],
        ours: [u8; 16],
    },
    /// Another release wrote it, in a way that this one does not know.
    #[error("{what}{found}")]
    OtherRelease { what: String, found: Unknown },
    /// Nothing is lost: there is no room to go on.
    #[error("{doing} {}: the disk is full ({error}): free space, then restart", .path.display())]
    DiskFull {
        doing: &'static str,
        path: PathBuf,
        error: String,
    },
    /// The system has refused to read, write or sync. What is on the disk is not known any more.
    #[error("{doing} {}: {error}", .path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        kind: io::ErrorKind,
        error: String,
    },
    /// A record of the store.
    #[error("record {}_{} {is}", .at.main, .at.sub)]
    Record { at: RevisionAt, is: BadRecord },
    /// It is what was written, says every checksum, and yet it cannot be read.
    #[error("{what}{}", .reason.as_ref().map_or(" is malformed".into(), |reason| format!(": {reason}")))]
    Malformed { what: String, reason: Option<String> },
    /// What is stored can be read and does not fit together.
    #[error("{0}")]
    Contradiction(String),
    /// Raft has stopped, or does not start. `cause`: what was broken below it, if it was that.
    #[error("{text}")]
    Raft {
        text: String,
        cause: Option<Arc<Broken>>,
    },
    /// Somebody who was to do the work is gone: a task of the log, the core.
    #[error("{0}")]
    Stopped(&'static str),
    /// A file of etcd's that was to be taken in.
    #[error("{0}")]
    Import(String),
    /// Something else that must not be.
    #[error("{0}")]
    Invariant(String),
}

/// What a release meets that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error(
        " has version {0} of the log's format, which this release does not read: start the release that wrote it, or \
         remove the member, delete its data directory and add it again as a new member"
    )]
    Log(char),
    #[error(
        " holds records at offset {offset} that this version does not know: it was written by another version"
    )]
    Records { offset: usize },
    #[error(": version {0} of the entry's format, which this release does not know: start a newer release")]
    Entry(u8),
    #[error(
        " has format {found}, and this release reads format {known} alone: start the release that wrote it, or add this \
         member anew"
    )]
    State { found: u32, known: u32 },
    #[error(
        " has level {needed}, and this release knows up to level {known}: start a newer release on this data directory"
    )]
    Level { needed: Level, known: Level },
}

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    #[error("is missing")]
    Missing,
    #[error("is malformed")]
    Malformed,
    #[error("does not belong where it is stored")]
    Misplaced,
    #[error("lies beyond revision {0}")]
    Beyond(Revision),
    #[error("has no possible place")]
    Impossible,
}

impl Broken {
    /// A file that is checked as a whole.
    pub fn damaged_file(path: &Path) -> Self {
        Broken::Damaged {
            what: "file",
            path: path.to_owned(),
            offset: 0,
            how: String::new(),
        }
    }

    /// What the system answered to an attempt: "could not read", say, and the path.
    pub fn io(doing: &'static str, path: &Path, error: &io::Error) -> Self {
        let (path, kind, error) = (path.to_owned(), error.kind(), error.to_string());
        match kind {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Broken::DiskFull { doing, path, error }
            }
            _ => Broken::Io {
                doing,
                path,
                kind,
                error,
            },
        }
    }

    pub fn record(at: RevisionAt, is: BadRecord) -> Self {
        Broken::Record { at, is }
    }

    pub fn malformed(what: impl fmt::Display) -> Self {
        Broken::Malformed {
            what: what.to_string(),
            reason: None,
        }
    }

    /// Malformed, and why is known.
    pub fn unreadable(what: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Broken::Malformed {
            what: what.to_string(),
            reason: Some(reason.to_string()),
        }
    }

    pub fn contradiction(what: impl fmt::Display) -> Self {
        Broken::Contradiction(what.to_string())
    }

    pub fn invariant(what: impl fmt::Display) -> Self {
        Broken::Invariant(what.to_string())
    }

    /// What it comes down to: below raft, if raft stopped for it.
    pub fn root(&self) -> &Broken {
        match self {
            Broken::Raft {
                cause: Some(cause), ..
            } => cause.root(),
            other => other,
        }
    }

    /// What was handed through an `io::Error`: the inverse of the conversion.
    pub fn inside(error: &io::Error) -> Option<&Broken> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        io::Error::other(broken)
    }
}

/// Between a text and what is said behind it, if anything is.
fn colon(behind: &str) -> &'static str {
    match behind {
        "" => "",
        _ => ": ",
    }
}

fn hex(identity: &[u8; 16]) -> String {
    identity.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
