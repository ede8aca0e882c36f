//! A plan in a file, with what is known of it: what a failure leaves behind, what is cut down, what the
//! corpus keeps.
//!
//! ```json
//! { "about": "a snapshot whose receiver lost its power was waited for without end",
//!   "violates": ["serves-reads"], "fixed_by": "c0ffee1", "plan": { "seed": 52, … } }
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quorate_jepsen::workload::Workload;
use serde::{Deserialize, Serialize};

use crate::plan::Plan;
use crate::report::Report;
use crate::seed::Seed;

/// See the module's text.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a line.
    #[serde(default)]
    pub about: String,
    /// The properties that it violated when it was stored; a property's short name each.
    #[serde(default)]
    pub violates: Vec<String>,
    /// The commit since which it violates nothing; empty: none yet.
    #[serde(default)]
    pub fixed_by: String,
    pub plan: Plan,
}

impl Scenario {
    /// A plan of which nothing else is known.
    fn of_plan(plan: Plan) -> Self {
        Scenario {
            plan,
            ..Scenario::default()
        }
    }

    /// What a failed run leaves behind.
    pub fn of_failure(plan: Plan, report: &Report) -> Self {
        let about = report.violations.first().map(|violation| &violation.text);
        let line = about.and_then(|text| text.lines().next()).unwrap_or_default();
        Scenario {
            about: line.chars().take(200).collect(),
            violates: report.properties().into_iter().map(str::to_owned).collect(),
            fixed_by: String::new(),
            plan,
        }
    }

    /// # Errors
    /// The file, and the line, the column and the name of what is wrong in it.
    pub fn load(path: &Path) -> io::Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| io::Error::other(format!("{}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| wrong(&error))?;
        let scenario: Scenario = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        scenario.plan.check().map_err(|error| wrong(&error))?;
        Ok(scenario)
    }

    /// Writes it, with the folders that it needs.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, self.to_json() + "\n")
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("plain data")
    }
}

/// What the command line names a run by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    Seed(u64),
    File(PathBuf),
}

impl std::str::FromStr for Source {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(seed) => Source::Seed(seed),
            Err(_) => Source::File(text.into()),
        })
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Seed(seed) => write!(f, "{seed}"),
            Source::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl Source {
    /// # Errors
    /// The file cannot be read.
    pub fn scenario(&self) -> io::Result<Scenario> {
        match self {
            Source::File(path) => Scenario::load(path),
            Source::Seed(seed) => Ok(Scenario::of_plan(Plan::draw(Seed(*seed)))),
        }
    }

    /// The same; a seed with the workload that is asked for, if one is.
    ///
    /// # Errors
    /// The file cannot be read, or is a file: that has its workload.
    pub fn scenario_of(&self, workload: Option<Workload>) -> io::Result<Scenario> {
        match (self, workload) {
            (_, None) => self.scenario(),
            (Source::Seed(seed), Some(workload)) => {
                Ok(Scenario::of_plan(Plan::draw_of(Seed(*seed), workload)))
            }
            (Source::File(_), Some(_)) => Err(io::Error::other(
                "a scenario in a file has its workload: --workload is for seeds",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Scenario, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    /// The run is a function of the plan: what is read back must be the same to the last bit.
    #[test]
    fn a_stored_plan_is_the_plan() {
        for seed in (0..200).chain([u64::MAX]) {
            let scenario = Source::Seed(seed).scenario().expect("no file");
            scenario.plan.check().expect("what is drawn can be carried out");
            let read = parse(&scenario.to_json()).expect("readable");
            assert_eq!(read, scenario, "seed {seed}");
        }
    }

    #[test]
    fn what_a_file_lacks_is_what_was_so_before() {
        let old = r#"{"plan": {"seed": 7, "members": 5, "chaos_end": "3s"}}"#;
        let read = parse(old).expect("enough");
        let plan = Plan {
            seed: Seed(7),
            members: 5,
            chaos_end: std::time::Duration::from_secs(3),
            ..Plan::default()
        };
        assert_eq!(read.plan, plan);
    }

    #[test]
    fn what_is_not_known_is_named() {
        let error = |text| parse(text).expect_err("unknown");
        assert!(error(r#"{"plan": {"sede": 7}}"#).contains("`sede`"));
        assert!(error(r#"{"plan": {"options": {"colour": 7}}}"#).contains("`colour`"));
        let fault = r#"{"plan": {"schedule": [{"at_ms": 1, "lasts_ms": 1, "class": "Flood", "member": 0, "choice": 1}]}}"#;
        assert!(error(fault).contains("`Flood`"));
        assert!(error(r#"{"plan": {"chaos_end": "soon"}}"#).contains("soon"));
        let read = parse(r#"{"plan": {"workload": "regster"}}"#).expect("text");
        let error = read.plan.check().expect_err("unknown");
        assert!(error.contains("\"regster\""), "{error}");
    }
}
