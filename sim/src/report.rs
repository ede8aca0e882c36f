//! What a run has to say: verdict, counters, and the hash by which two runs are compared.

use std::collections::BTreeMap;

use quorate_jepsen::workload::ScriptedClient;
use serde::{Deserialize, Serialize};

/// A property that was violated.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// The property's short name: what a mutant's catalogue entry expects.
    pub property: String,
    /// What the property says, and what was seen.
    pub text: String,
}

impl Violation {
    pub fn new(property: impl Into<String>, text: impl Into<String>) -> Self {
        Violation {
            property: property.into(),
            text: text.into(),
        }
    }
}

/// The outcome of one run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub seed: u64,
    pub members: usize,
    /// All that was found, the first one first.
    pub violations: Vec<Violation>,
    pub simulated_seconds: f64,
    pub operations: u64,
    pub acknowledged: u64,
    pub watch_responses: u64,
    /// Highest revision at the end.
    pub revision: i64,
    /// In hexadecimal.
    pub trace_hash: String,
    pub trace_lines: u64,
    /// How often each fault fired, and whatever else is counted.
    pub counters: BTreeMap<String, u64>,
    /// What the clients did, to be done again; empty unless it was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub script: Vec<ScriptedClient>,
    /// Where the campaign has stored the scenario of a failed run.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub file: String,
    /// Not part of the run: what it cost.
    pub cpu_seconds: f64,
    pub memory_mebibytes: u64,
}

impl Report {
    pub fn passed(&self) -> bool {
        self.violations.is_empty()
    }

    /// The short names of the properties that were violated, the first one first, each once.
    pub fn properties(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for violation in &self.violations {
            if !names.contains(&violation.property.as_str()) {
                names.push(violation.property.as_str());
            }
        }
        names
    }
}

/// Adds up counters.
pub fn add_counters(sum: &mut BTreeMap<String, u64>, counters: &BTreeMap<String, u64>) {
    for (name, count) in counters {
        *sum.entry(name.clone()).or_default() += count;
    }
}
