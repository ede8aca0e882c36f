//! What was typed: the command line and the environment, before anybody asks what it means.
//!
//! ```text
//!   arguments ──► parse ─┐
//!                        ├─► Flags ──► config (checks, node::Config)
//!   ETCD_* ──► environment  (or file, which replaces both)
//! ```
//!
//! The rules are those of Go's `flag` package: `-f v`, `--f v`, `-f=v` and `--f=v` are the same; a bool
//! takes a value only after `=`; the first argument that is no flag, or `--`, ends the flags. Existing
//! start scripts depend on each of these, and on the texts and exit codes. No library for command lines
//! in Rust can be bent to them (clap, for one, insists on two dashes for long names and on its own
//! texts), so this is a table and a small parser of its own.
//!
//! This module does not know what a flag is for, and starts nothing.

pub mod environment;
pub mod file;
pub mod gates;
pub mod help;
pub mod table;
pub mod value;

use std::collections::BTreeMap;

pub use table::{Flag, Kind, Support};

/// `--initial-cluster` unless given.
pub const DEFAULT_INITIAL_CLUSTER: &str = "default=http://localhost:2380";
/// `--log-rotation-config-json` unless given.
pub const DEFAULT_LOG_ROTATION: &str =
    r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;

/// Flags that were given, by argument or by variable, in their normal form.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Flags {
    given: BTreeMap<&'static str, String>,
}

/// What a command line asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed {
    Flags(Flags),
    /// `--help`: usage on stdout, exit code 0.
    Help,
    /// A flag that cannot be understood: this line and the short usage on stderr, exit code 2.
    Misuse(String),
    /// An argument that is no flag: refused like a value that makes no sense, exit code 1.
    Stray(String),
}

/// Reads a command line, without the program's name.
pub fn parse(arguments: &[String]) -> Parsed {
    let mut flags = Flags::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let Some(body) = flag_body(argument) else {
            return Parsed::Stray(argument.clone());
        };
        if body.is_empty() {
            // "--" ends the flags; what follows is positional.
            return match rest.next() {
                Some(stray) => Parsed::Stray(stray.clone()),
                None => Parsed::Flags(flags),
            };
        }
        if body.starts_with(['-', '=']) {
            return Parsed::Misuse(format!("bad flag syntax: {argument}"));
        }
        let (name, attached) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        let Some(flag) = table::find(name) else {
            if name == "help" || name == "h" {
                return Parsed::Help;
            }
            return Parsed::Misuse(format!("flag provided but not defined: -{name}"));
        };
        if let Err(misuse) = flags.take(flag, attached, &mut rest) {
            return Parsed::Misuse(misuse);
        }
    }
    Parsed::Flags(flags)
}

/// What follows the one or two dashes; `None` if the argument is no flag. A lone dash is none.
fn flag_body(argument: &str) -> Option<&str> {
    let body = argument.strip_prefix('-').filter(|body| !body.is_empty())?;
    Some(body.strip_prefix('-').unwrap_or(body))
}

impl Flags {
    /// Sets a flag to the value attached to it, or to the next argument.
    fn take<'a>(
        &mut self,
        flag: &'static Flag,
        attached: Option<String>,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), String> {
        let name = flag.name;
        let boolean = matches!(flag.kind, Kind::Bool | Kind::Ignored);
        let value = match attached {
            Some(value) => value,
            None if boolean => "true".to_owned(),
            None => {
                let next = rest.next();
                next.cloned()
                    .ok_or_else(|| format!("flag needs an argument: -{name}"))?
            }
        };
        let wrong = |error| match flag.kind {
            Kind::Bool => format!("invalid boolean value {value:?} for -{name}: {error}"),
            _ => format!("invalid value {value:?} for flag -{name}: {error}"),
        };
        self.set(flag, &value).map_err(wrong)
    }

    /// Sets a flag; the error is what is wrong with the value.
    pub fn set(&mut self, flag: &'static Flag, text: &str) -> Result<(), String> {
        let value = value::canonical(flag.kind, text)?;
        self.given.insert(flag.name, value);
        Ok(())
    }

    /// Whether a flag was given, be it with its default value.
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Flags that were given, sorted by name, with their normal values.
    pub fn given(&self) -> impl Iterator<Item = (&'static Flag, &str)> {
        self.given.iter().map(|(name, value)| {
            let flag = table::find(name).expect("only flags of the table are set");
            (flag, value.as_str())
        })
    }

    /// Flags that differ from their default.
    pub fn changed(&self) -> impl Iterator<Item = (&'static Flag, &str)> {
        self.given()
            .filter(|(flag, value)| normal_default(flag) != *value)
    }

    /// The value of a flag, given or default, in its normal form.
    pub fn text(&self, name: &str) -> String {
        match self.given.get(name) {
            Some(value) => value.clone(),
            None => normal_default(table::find(name).expect("flags are asked for by names of the table")),
        }
    }

    pub fn boolean(&self, name: &str) -> bool {
        self.text(name) == "true"
    }

    /// The value of a flag of kind `Uint` or `Uint32`.
    pub fn unsigned(&self, name: &str) -> u64 {
        let value = self.text(name);
        value.parse().expect("values are checked when they are set")
    }

    pub fn signed(&self, name: &str) -> i64 {
        let value = self.text(name);
        value.parse().expect("values are checked when they are set")
    }

    /// Nanoseconds.
    pub fn duration(&self, name: &str) -> i64 {
        let value = self.text(name);
        value::duration(&value).expect("values are checked when they are set")
    }
}

fn normal_default(flag: &Flag) -> String {
    value::canonical(flag.kind, flag.default).expect("defaults are well formed: a test reads them all")
}

#[cfg(test)]
mod tests;
