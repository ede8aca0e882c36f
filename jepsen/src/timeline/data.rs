//! What a timeline shows. Times are microseconds since the beginning of the run, so that a page holds
//! fewer digits; nodes are named by their index in [`Timeline::nodes`].

use serde::{Deserialize, Serialize};

/// Microseconds since the beginning of the run.
pub type Micros = u64;

/// A whole run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// Names the run, such as "seed 12".
    pub title: String,
    /// "passed", "failed" or "undecided".
    pub verdict: String,
    /// The command that runs it again; empty if nothing can.
    pub command: String,
    /// What is worth knowing of the run before one looks: sizes, time-outs.
    pub facts: Vec<Fact>,
    pub end: Micros,
    pub phases: Vec<Phase>,
    pub nodes: Vec<Node>,
    pub faults: Vec<Fault>,
    pub cuts: Vec<Cut>,
    pub clients: Vec<Client>,
    pub operations: Vec<Operation>,
    pub watches: Vec<Watch>,
    /// The first one first: it is the one that the page tells about.
    pub violations: Vec<Violation>,
    /// What was left out to keep the page small, in words.
    pub omitted: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fact {
    pub name: String,
    pub value: String,
}

/// A part of the run: calm, chaos, heal, settle.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub from: Micros,
    pub to: Micros,
}

/// A member of the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Node {
    pub name: String,
    pub lives: Vec<Life>,
    /// What it said of itself whenever that changed.
    pub states: Vec<State>,
    pub marks: Vec<Mark>,
}

/// One process of a member, from its start to its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Life {
    pub from: Micros,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// When it did not run although it was there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pauses: Vec<(Micros, Micros)>,
}

/// How a life ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ended {
    pub at: Micros,
    pub how: String,
}

/// What a member says of itself. Stored as a row: there are many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "StateRow", into = "StateRow")]
pub struct State {
    pub at: Micros,
    pub term: u64,
    /// The leader that it knows in that term.
    pub leader: Option<usize>,
    pub committed: u64,
    pub applied: u64,
    /// Highest index that its snapshot covers; 0: none.
    pub snapshot: u64,
}

type StateRow = (Micros, u64, Option<usize>, u64, u64, u64);

impl From<StateRow> for State {
    fn from((at, term, leader, committed, applied, snapshot): StateRow) -> Self {
        State {
            at,
            term,
            leader,
            committed,
            applied,
            snapshot,
        }
    }
}

impl From<State> for StateRow {
    fn from(state: State) -> Self {
        let State {
            at,
            term,
            leader,
            committed,
            applied,
            snapshot,
        } = state;
        (at, term, leader, committed, applied, snapshot)
    }
}

/// A remark on a node's lane.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub at: Micros,
    pub tone: Tone,
    pub text: String,
}

/// How much a mark matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tone {
    Vote,
    Snapshot,
    Remark,
    Warning,
}

/// Something that the tester did to the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Its class.
    pub name: String,
    pub from: Micros,
    pub to: Micros,
    /// The nodes it was aimed at; none: the cluster.
    pub nodes: Vec<usize>,
    pub text: String,
}

/// Nothing gets from one host to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cut {
    /// Hosts by name: a node's name, or a [`Client::host`].
    pub from_host: String,
    pub to_host: String,
    pub from: Micros,
    pub to: Micros,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Client {
    /// As in the history.
    pub number: u32,
    pub role: Role,
    /// The machine it runs on; empty if that is not known.
    pub host: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    Client,
    Watcher,
    /// Makes users, gives and takes permissions.
    Administrator,
    /// May do only what permissions say.
    Limited,
    /// Makes space.
    Operator,
    /// Asks all members at the quiet end.
    Settler,
    /// Does what a fault needs.
    Fault,
}

/// One call.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// As in the history.
    pub id: usize,
    pub client: u32,
    pub node: usize,
    pub from: Micros,
    /// `None`: no answer before the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Micros>,
    /// "get", "put", …
    pub kind: String,
    /// A few words that fit on a bar.
    pub label: String,
    /// Keys and ranges ("from..end", "from.." without an end) that it names.
    pub keys: Vec<String>,
    /// In full; empty if the page had to be kept small.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub answer: String,
    pub outcome: Outcome,
    /// Of the answer's header; 0: there was none.
    #[serde(default, skip_serializing_if = "is_zero_revision")]
    pub revision: i64,
    /// It made that revision.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub writes: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Ok,
    Denied,
    Unknown,
}

/// A watch over all its streams.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Watch {
    /// As in the history.
    pub id: usize,
    pub client: u32,
    pub label: String,
    pub entries: Vec<Entry>,
}

/// What happened to a watch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub at: Micros,
    /// "opened", "created", "events", "progress", "canceled", "closed", "due", …
    pub kind: String,
    /// The node of the stream, where it opens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<usize>,
    /// First and last revision of its events, or the revision it tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revisions: Option<(i64, i64)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

/// A property that does not hold, and where it shows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Violation {
    pub property: String,
    /// The property in words.
    pub promise: String,
    /// Where the promise is made: a paper's section, a manual's page.
    pub source: String,
    /// What was seen.
    pub text: String,
    /// When it showed.
    pub at: Micros,
    /// What it is about, the check's own first.
    pub operations: Vec<Involved>,
    pub watches: Vec<usize>,
    pub nodes: Vec<usize>,
    pub keys: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<i64>,
}

/// An operation and its part in a violation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Involved {
    pub operation: usize,
    pub part: String,
}

fn is_zero_revision(number: &i64) -> bool {
    *number == 0
}
