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
mod tests {
    use openraft::StorageError;
    use openraft::impls::BoxedErrorSource;

    use super::*;

    #[test]
    fn what_was_broken_below_raft_is_known_when_raft_has_stopped() {
        let damage = Broken::damaged_file("/data/current".as_ref());
        let error = io::Error::from(damage.clone());
        let fatal = Fatal::StorageError(StorageError::read_logs(Cause::from_error(&error)));
        let stopped = stopped("raft cannot start: ", &fatal);
        assert_eq!(stopped.root(), &damage);
        assert_eq!(
            stopped.to_string(),
            "raft cannot start: when Read Logs: std::io::error::Error: file /data/current is damaged at offset 0"
        );
    }

    #[test]
    fn its_text_is_the_one_that_openraft_would_keep() {
        for error in [
            io::Error::from(io::ErrorKind::NotFound),
            Broken::malformed("x").into(),
        ] {
            let (ours, theirs) = (Cause::from_error(&error), BoxedErrorSource::from_error(&error));
            assert_eq!(ours.to_string(), theirs.to_string());
        }
        assert_eq!(Cause::from_string("why").to_string(), "why");
        assert_eq!(stopped("", &Fatal::Panicked).to_string(), "panicked");
    }
}
