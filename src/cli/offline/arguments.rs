//! Arguments of a command: flags with values, and the rest.

use std::collections::BTreeMap;

/// Flags that stand alone.
const SWITCHES: [&str; 2] = ["skip-hash-check", "mark-compacted"];
/// Flags that have a value.
const VALUED: [&str; 14] = [
    "endpoints",
    "cacert",
    "cert",
    "key",
    "w",
    "write-out",
    "data-dir",
    "wal-dir",
    "name",
    "initial-cluster",
    "initial-cluster-token",
    "initial-advertise-peer-urls",
    "bump-revision",
    "rev",
];

#[derive(Default, Debug, PartialEq, Eq)]
pub struct Arguments {
    flags: BTreeMap<&'static str, String>,
    words: Vec<String>,
}

impl Arguments {
    pub fn parse(arguments: &[String]) -> Result<Arguments, String> {
        let mut parsed = Arguments::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let Some(flag) = argument
                .strip_prefix('-')
                .map(|flag| flag.trim_start_matches('-'))
            else {
                parsed.words.push(argument.clone());
                continue;
            };
            let (name, attached) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let unknown = || format!("unknown flag: --{name}\n{}", super::USAGE);
            if let Some(&switch) = SWITCHES.iter().find(|switch| **switch == name) {
                parsed
                    .flags
                    .insert(switch, attached.unwrap_or_else(|| "true".into()));
                continue;
            }
            let &known = VALUED.iter().find(|known| **known == name).ok_or_else(unknown)?;
            let value = attached.or_else(|| rest.next().cloned());
            let value = value.ok_or_else(|| format!("flag needs an argument: --{name}"))?;
            parsed.flags.insert(known, value);
        }
        Ok(parsed)
    }

    pub fn text(&self, flag: &str) -> Option<&str> {
        self.flags.get(flag).map(String::as_str)
    }

    pub fn switch(&self, flag: &str) -> bool {
        self.text(flag).is_some_and(|value| value != "false")
    }

    pub fn number(&self, flag: &str) -> Result<i64, String> {
        match self.text(flag) {
            None => Ok(0),
            Some(text) => text
                .parse()
                .map_err(|_| format!("--{flag}: {text:?} is not a number")),
        }
    }

    /// The one argument that is no flag.
    pub fn only(&self, what: &str) -> Result<&str, String> {
        match self.words.as_slice() {
            [word] => Ok(word),
            words => Err(format!(
                "one {what} is needed, {} are given\n{}",
                words.len(),
                super::USAGE
            )),
        }
    }
}

#[cfg(test)]
mod tests;
