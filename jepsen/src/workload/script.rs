//! What clients did, written down so that it can be done again: calls as data, with time and member.
//!
//! ```text
//!   run_client (draws) ──► Scripts ──► [ScriptedClient] ──► run_script        the same calls at the same times
//!                                        │ visits           a connection to a member
//!                                        └── calls          each an Intent
//! ```

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::Intent;
use crate::history::Nanos;

/// Everything that one client does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedClient {
    /// Its number, which its values and its leases carry.
    pub client: u32,
    pub visits: Vec<Visit>,
}

/// One connection to a member; without calls an attempt to connect that led to none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Visit {
    /// When it connects, since the run began.
    pub at_nanos: Nanos,
    pub member: usize,
    pub calls: Vec<ScriptedCall>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScriptedCall {
    /// Since the run began.
    pub at_nanos: Nanos,
    pub intent: Intent,
}

impl ScriptedClient {
    pub fn calls(&self) -> usize {
        self.visits.iter().map(|visit| visit.calls.len()).sum()
    }
}

/// The scripts of all clients as they come about. Clones write into the same one.
#[derive(Clone, Default)]
pub struct Scripts(Arc<Mutex<BTreeMap<u32, Vec<Visit>>>>);

impl Scripts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Vec<Visit>>> {
        self.0.lock().expect("nothing under this lock panics")
    }

    /// A client is about to connect.
    pub fn visit(&self, client: u32, at_nanos: Nanos, member: usize) {
        self.lock().entry(client).or_default().push(Visit {
            at_nanos,
            member,
            calls: Vec::new(),
        });
    }

    /// A client is about to call over its last connection.
    pub fn call(&self, client: u32, at_nanos: Nanos, intent: Intent) {
        let mut scripts = self.lock();
        let visit = scripts.entry(client).or_default().last_mut();
        let visit = visit.expect("a call follows a visit");
        visit.calls.push(ScriptedCall { at_nanos, intent });
    }

    pub fn take(&self) -> Vec<ScriptedClient> {
        let scripts = std::mem::take(&mut *self.lock());
        let scripted = |(client, visits)| ScriptedClient { client, visits };
        scripts.into_iter().map(scripted).collect()
    }
}
