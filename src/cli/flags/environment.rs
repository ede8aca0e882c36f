//! `ETCD_*` variables: each flag has one, `--listen-client-urls` is `ETCD_LISTEN_CLIENT_URLS`.
//!
//! A variable counts only if its flag was not typed. If both are given the start fails: an operator who
//! sets both has made a mistake that must not be decided silently. An unknown `ETCD_*` variable is worth a
//! warning, since it is most often a misspelt one. An empty variable counts as not set (and, as in etcd,
//! is reported as unrecognized).
//!
//! [`apply`] decides and reports; it neither logs nor ends the process.

use std::collections::BTreeSet;

use super::{Flags, table};

const PREFIX: &str = "ETCD_";
/// A release's version, which start scripts often export; not a flag's variable.
pub const VERSION_VARIABLE: &str = "ETCD_VERSION";

/// What the environment said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Variables that set a flag, with their values.
    pub used: Vec<(String, String)>,
    /// `NAME=value` of variables that no flag has.
    pub unrecognized: Vec<String>,
    /// The variable of a flag that was typed, too: fatal.
    pub conflict: Option<String>,
    /// A value that a flag refuses: fatal.
    pub error: Option<String>,
}

/// The variable of a flag.
pub fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_ascii_uppercase().replace('-', "_"))
}

/// Sets the flags that were not typed from variables. `variables` are all of the process, in any order.
pub fn apply(flags: &mut Flags, variables: &[(String, String)]) -> Report {
    let mut report = Report::default();
    let value_of = |key: &str| {
        let found = variables
            .iter()
            .find(|(name, value)| name == key && !value.is_empty());
        found.map(|(_, value)| value.as_str())
    };
    let typed: BTreeSet<String> = flags.given().map(|(flag, _)| variable(flag.name)).collect();
    let mut all: Vec<_> = table::all().collect();
    all.sort_by_key(|flag| flag.name);
    for flag in all {
        let key = variable(flag.name);
        if typed.contains(&key) || key == VERSION_VARIABLE {
            continue;
        }
        if let Some(value) = value_of(&key) {
            match flags.set(flag, value) {
                Ok(()) => {}
                // The last one is told, as in etcd.
                Err(error) => report.error = Some(format!("invalid value {value:?} for {key}: {error}")),
            }
            report.used.push((key, value.to_owned()));
        }
    }
    let mut sorted: Vec<_> = variables
        .iter()
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect();
    sorted.sort();
    for (name, value) in sorted {
        let used = report.used.iter().any(|(key, _)| key == name);
        if used || name == VERSION_VARIABLE {
            continue;
        }
        if typed.contains(name) {
            report.conflict.get_or_insert_with(|| name.clone());
            continue;
        }
        report.unrecognized.push(format!("{name}={value}"));
    }
    report
}

#[cfg(test)]
mod tests;
