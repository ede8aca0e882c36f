//! What the clients do: the same operations, clients and watchers on real processes and in the
//! simulator.
//!
//! ```text
//!   Generator (seeded) ─► run_client ─► call ─► gRPC channel over Env ─► member
//!        ▲ learns revisions   │ records invoke, return                    │
//!        └────────────────────┴──────────────── outcome ◄─────────────────┘
//!   run_watches: a stream of watches that resumes;   settle: the quiet end and what each member holds
//! ```
//!
//! Every value is written once in a run, so that a value that is seen names the write that made it.
//! Time, randomness and network come from an [`Env`]; the moments in the history come from the
//! [`Clock`] of whoever tests, since a simulated node's own clock may be wrong on purpose.

mod call;
mod client;
mod connection;
mod contender;
pub mod extreme;
mod generator;
mod intent;
mod keeper;
pub mod named;
mod operator;
mod retry;
mod script;
mod settle;
#[cfg(test)]
mod tests;
mod users;
mod watcher;
mod watching;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use quorate::runtime::Env;

pub use call::{call, wire_form};
pub use client::{ClientOptions, Desk, run_client, run_script};
pub use connection::{Calls, Connection, Token, User, is_stranger};
pub use contender::{ContenderOptions, run_contender};
pub use extreme::Extreme;
pub use generator::{Generator, Shape, Weights};
pub use intent::{Intent, Knowledge, ONCE, Put, Read, is_default};
pub use keeper::{KEPT_LEASES, KeeperOptions, run_keeper};
pub use named::{Load, MIXED, WORKLOADS, Workload};
pub use operator::{OperatorOptions, run_operator};
pub use retry::{Retry, clientv3_sends_again};
pub use script::{ScriptedCall, ScriptedClient, Scripts, Visit};
pub use settle::{SettleOptions, settle};
pub use users::{UsersOptions, found_users, run_administrator, run_limited};
pub use watcher::{WatcherOptions, run_watches};
pub use watching::{WatchPlan, Watching, standard_watches};

use crate::history::Nanos;

/// The tester's clock.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Nanos + Send + Sync>);

impl Clock {
    pub fn new(now: impl Fn() -> Nanos + Send + Sync + 'static) -> Self {
        Clock(Arc::new(now))
    }

    /// The clock of an environment.
    pub fn of(env: &Env) -> Self {
        let env = env.clone();
        Self::new(move || env.now().as_nanos())
    }

    /// The same, which shows zero now.
    pub fn from_now(env: &Env) -> Self {
        let (env, begun) = (env.clone(), env.now().as_nanos());
        Self::new(move || env.now().as_nanos() - begun)
    }

    pub fn now(&self) -> Nanos {
        (self.0)()
    }
}

/// What the reads on the wire are, compared with what the history says they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// The history tells the truth.
    #[default]
    Linearizable,
    /// Linearizable reads are sent as serializable ones: a run that has to be refused.
    Stale,
}

/// Tells clients and watchers when the run is over.
#[derive(Clone, Default)]
pub struct Stop(Arc<StopInner>);

#[derive(Default)]
struct StopInner {
    clients: AtomicBool,
    /// Watches end once they have seen this revision; 0: go on.
    watches_at: AtomicI64,
    watches_now: AtomicBool,
}

impl Stop {
    pub fn new() -> Self {
        Self::default()
    }

    /// Clients finish the call under way and end.
    pub fn stop_clients(&self) {
        self.0.clients.store(true, Ordering::SeqCst);
    }

    /// Watchers end when they have received everything up to `revision`.
    pub fn stop_watches_at(&self, revision: i64) {
        self.0.watches_at.store(revision, Ordering::SeqCst);
    }

    /// Watchers end, whatever they still miss.
    pub fn stop_watches_now(&self) {
        self.0.watches_now.store(true, Ordering::SeqCst);
    }

    pub fn clients_stopped(&self) -> bool {
        self.0.clients.load(Ordering::SeqCst)
    }

    /// The revision that watches have to reach, once there is one.
    fn watches_due(&self) -> Option<i64> {
        Some(self.0.watches_at.load(Ordering::SeqCst)).filter(|revision| *revision > 0)
    }

    fn watches_stopped(&self) -> bool {
        self.0.watches_now.load(Ordering::SeqCst)
    }
}
