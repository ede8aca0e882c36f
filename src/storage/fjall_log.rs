//! What fjall says through the crate `log`: into our log, and the last error remembered.
//!
//! A background task of fjall that fails (a flush on a full disk) poisons the database, and what it then answers is
//! `Poisoned`. Why, it says only here. The logger of that crate belongs to the process, so two engines of one process
//! share what is remembered.

use std::io;
use std::sync::{Mutex, Once, PoisonError};

use log::{LevelFilter, Log, Metadata, Record};

static LAST_ERROR: Mutex<Option<String>> = Mutex::new(None);

struct Listener;

impl Log for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        let (from, text) = (record.target(), record.args());
        match record.level() {
            log::Level::Error => {
                tracing::error!(from, "{text}");
                *LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_string());
            }
            log::Level::Warn => tracing::warn!(from, "{text}"),
            _ => {}
        }
    }

    fn flush(&self) {}
}

/// Begins to listen. A program that has a logger for that crate keeps its own.
pub fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if log::set_logger(&Listener).is_ok() {
            log::set_max_level(LevelFilter::Warn);
        }
    });
}

/// Why a background task has failed.
pub fn last_error() -> io::Error {
    let last = LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner);
    let told = last.as_deref().unwrap_or("a background task failed");
    // The text is an `io::Error` in its debug form.
    let full = ["StorageFull", "QuotaExceeded"]
        .iter()
        .any(|kind| told.contains(kind));
    match full {
        true => io::Error::new(io::ErrorKind::StorageFull, told),
        false => io::Error::other(told),
    }
}
