//! What raft stopped for, with its type.
//!
//! ```text
//!   log, state machine ──► Broken ──► io::Error ──► openraft: Cause in a StorageError ──► Fatal ──► Broken::Raft
//! ```
//!
//! openraft takes `io::Error`s from what lies below it, and keeps what its configuration makes of them. Its own choice is a
//! text; a [`Cause`] has the same text, and the [`Broken`] that was handed up.

use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use openraft::AnyError;
use openraft::errors::{ErrorSource, Fatal};

use super::types::TypeConfig;
use crate::base::Broken;

/// See the module. In a box, since it is part of every result of openraft's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cause(Box<Inner>);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Inner {
    text: AnyError,
    broken: Option<Broken>,
}

impl Cause {
    fn new(text: AnyError, broken: Option<Broken>) -> Self {
        Cause(Box::new(Inner { text, broken }))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.text.fmt(f)
    }
}

impl Error for Cause {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.text.source()
    }
}

impl ErrorSource for Cause {
    fn from_error<E: Error + 'static>(error: &E) -> Self {
        let any: &(dyn Error + 'static) = error;
        let broken = any.downcast_ref::<io::Error>().and_then(Broken::inside);
        Cause::new(AnyError::new(error), broken.cloned())
    }

    fn from_string(text: impl ToString) -> Self {
        Cause::new(AnyError::error(text), None)
    }
}

/// Raft has stopped; `before` is said before its own text.
pub fn stopped(before: &str, fatal: &Fatal<TypeConfig>) -> Broken {
    Broken::Raft {
        text: format!("{before}{fatal}"),
        cause: broken_below(fatal).map(Arc::new),
    }
}

fn broken_below(fatal: &Fatal<TypeConfig>) -> Option<Broken> {
    match fatal {
        Fatal::StorageError(error) => error.source()?.downcast_ref::<Cause>()?.0.broken.clone(),
        Fatal::Panicked | Fatal::Stopped => None,
    }
}

#[cfg(test)]
mod tests;
