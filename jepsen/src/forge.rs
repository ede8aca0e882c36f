//! Forged histories for tests: a store that is a model, clients that overlap at random, answers that
//! are right, and, if asked, one lie of a chosen sort.
//!
//! Each step lets one client invoke, take effect, or return; so every history is linearizable by
//! construction until a lie is told.

mod once;

pub use once::{Once, OnceLie};

use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::Event;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::history::{Answer, History, OpId, Outcome, Recorder, Request, WatchEvent};
use crate::linearizability::is_serializable;
use crate::model::Model;
use crate::workload::{Generator, Shape, Weights};

/// One lie, told once, as soon as there is an occasion after half of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// A linearizable read shows an older state, with that state's revision.
    StaleRead,
    /// A read shows an older state under the current revision.
    WrongState,
    /// An acknowledged put has no effect.
    LostWrite,
    /// A put takes effect twice.
    TwiceApplied,
    /// A put is refused for certain, yet takes effect.
    RefusedYetApplied,
    /// A transaction with several puts shows only its first effect.
    HalfTxn,
    /// A serializable read shows a revision that does not exist yet.
    FutureRead,
}

#[derive(Clone, Copy, Debug)]
pub struct Forge {
    pub seed: u64,
    pub clients: u32,
    pub steps: u32,
    pub shape: Shape,
    /// Share of operations whose answer is lost, in percent.
    pub unknown_percent: u32,
    pub watches: bool,
    pub lie: Option<Lie>,
}

impl Forge {
    pub fn new(seed: u64) -> Self {
        Forge {
            seed,
            clients: 4,
            steps: 1_500,
            shape: Shape {
                compaction_keeps: 30,
                ..Shape::default()
            },
            unknown_percent: 5,
            watches: true,
            lie: None,
        }
    }

    /// Puts, gets, deletes and transactions on two keys: what the general search can judge.
    pub fn small(seed: u64) -> Self {
        let weights = Weights {
            serializable_get: 0,
            get_at_revision: 0,
            compact: 0,
            lease_grant: 0,
            lease_keep_alive: 0,
            lease_revoke: 0,
            leased_put: 0,
            ..Weights::DEFAULT
        };
        let shape = Shape {
            keys: 2,
            leased_keys: 1,
            weights,
            ..Shape::default()
        };
        Forge {
            clients: 3,
            steps: 40,
            shape,
            unknown_percent: 20,
            watches: false,
            ..Forge::new(seed)
        }
    }

    /// The history, and whether the lie found its occasion.
    pub fn run(self) -> (History, bool) {
        let mut forging = Forging::new(self);
        for step in 0..self.steps {
            forging.step(step);
        }
        forging.finish();
        (forging.recorder.take(), forging.lied)
    }
}

/// A call under way.
struct Pending {
    id: OpId,
    request: Request,
    /// Its answer, once it took effect.
    effect: Option<Outcome>,
    loses_answer: bool,
}

struct Forging {
    forge: Forge,
    rng: ChaCha8Rng,
    recorder: Recorder,
    model: Model,
    generators: Vec<Generator>,
    pending: Vec<Option<Pending>>,
    /// Requests whose client is gone; they may still take effect.
    ghosts: Vec<Request>,
    leases: Vec<i64>,
    /// Events of each revision, for watches.
    log: Vec<Vec<Event>>,
    watches: Vec<(usize, pb::WatchCreateRequest, i64)>,
    now: u64,
    lied: bool,
    occasion: bool,
}

impl Forging {
    fn new(forge: Forge) -> Self {
        let recorder = Recorder::new();
        let mut watches = Vec::new();
        if forge.watches {
            for plan in crate::workload::standard_watches() {
                let id = recorder.watch(1_000, plan.request());
                watches.push((id, plan.request(), 0));
            }
        }
        let mut forging = Forging {
            forge,
            rng: ChaCha8Rng::seed_from_u64(forge.seed),
            recorder,
            model: Model::strict(),
            generators: (0..forge.clients)
                .map(|client| Generator::new(forge.seed, client, forge.shape))
                .collect(),
            pending: (0..forge.clients).map(|_| None).collect(),
            ghosts: Vec::new(),
            leases: Vec::new(),
            log: Vec::new(),
            watches,
            now: 0,
            lied: false,
            occasion: false,
        };
        forging.open_watches();
        forging
    }

    fn step(&mut self, step: u32) {
        self.now += self.rng.random_range(0..2_000_000);
        self.occasion = self.forge.lie.is_some() && !self.lied && step >= self.forge.steps / 2;
        match self.rng.random_range(0..40) {
            0 => self.ghost(),
            1 => self.expire(),
            2..8 => self.deliver(),
            _ => {
                let client = self.rng.random_range(0..self.pending.len());
                self.client(client);
            }
        }
    }

    fn client(&mut self, client: usize) {
        let now = self.now;
        match self.pending[client].take() {
            None => {
                let request = self.generators[client].next_request();
                let id = self.recorder.invoke(client as u32, 0, now, request.clone());
                let loses_answer = self.rng.random_ratio(self.forge.unknown_percent, 100);
                self.pending[client] = Some(Pending {
                    id,
                    request,
                    effect: None,
                    loses_answer,
                });
            }
            Some(Pending {
                id,
                request,
                effect: None,
                loses_answer,
            }) => {
                if loses_answer && self.rng.random() {
                    self.recorder.complete(id, now, Outcome::unknown("forged"));
                    self.ghosts.push(request);
                    return;
                }
                // A lie whose answer is lost would be none.
                self.occasion &= !loses_answer;
                let effect = Some(self.take_effect(&request));
                self.pending[client] = Some(Pending {
                    id,
                    request,
                    effect,
                    loses_answer,
                });
            }
            Some(Pending {
                id,
                request,
                effect: Some(outcome),
                loses_answer,
            }) => {
                let outcome = match loses_answer {
                    true => Outcome::unknown("forged"),
                    false => outcome,
                };
                self.generators[client].observe(&request, &outcome);
                self.recorder.complete(id, now, outcome);
            }
        }
    }

    fn apply(&mut self, request: &Request) -> Outcome {
        let applied = self.model.apply(request, None);
        if !applied.events.is_empty() {
            self.log.push(applied.events);
        }
        match applied.result {
            Ok(answer) => {
                if let Answer::LeaseGrant(granted) = &answer {
                    self.leases.push(granted.id);
                }
                Outcome::Ok(answer)
            }
            Err(refusal) => Outcome::Denied {
                code: refusal.code,
                text: refusal.text.into(),
            },
        }
    }

    fn take_effect(&mut self, request: &Request) -> Outcome {
        if self.occasion
            && let Some(lie) = self.forge.lie
            && let Some(outcome) = self.tell(lie, request)
        {
            self.lied = true;
            return outcome;
        }
        if let (Request::Range(range), true) = (request, is_serializable(request)) {
            let lag = self.rng.random_range(0..20);
            let at = (self.model.revision() - lag).max(1);
            if let Ok(answer) = self.model.range(range, at) {
                return Outcome::Ok(answer.into());
            }
        }
        self.apply(request)
    }

    fn tell(&mut self, lie: Lie, request: &Request) -> Option<Outcome> {
        let revision = self.model.revision();
        match (lie, request) {
            (Lie::StaleRead, Request::Range(r)) if !r.serializable && r.revision == 0 => {
                let answer = self.model.range(r, revision - 40).ok()?;
                (revision > 41).then(|| Outcome::Ok(answer.into()))
            }
            (Lie::WrongState, Request::Range(r)) if r.revision == 0 => {
                let mut answer = self.model.range(r, revision - 40).ok()?;
                let right = self.model.range(r, revision).ok()?;
                answer.header = right.header;
                (answer != right).then(|| Outcome::Ok(answer.into()))
            }
            (Lie::LostWrite, Request::Put(r)) if r.lease == 0 => {
                let outcome = Model::apply(&mut self.model.clone(), request, None).result.ok()?;
                Some(Outcome::Ok(outcome))
            }
            (Lie::TwiceApplied, Request::Put(r)) if r.lease == 0 => {
                let outcome = self.apply(request);
                self.apply(request);
                Some(outcome)
            }
            (Lie::RefusedYetApplied, Request::Put(r)) if r.lease == 0 => {
                self.apply(request);
                Some(Outcome::Denied {
                    code: tonic::Code::InvalidArgument,
                    text: "etcdserver: key is not provided".into(),
                })
            }
            (Lie::HalfTxn, Request::Txn(r)) if r.compare.is_empty() && r.success.len() >= 3 => {
                let half = pb::TxnRequest {
                    success: r.success[..1].to_vec(),
                    ..Default::default()
                };
                let whole = Model::apply(&mut self.model.clone(), request, None).result.ok()?;
                self.apply(&half.into());
                Some(Outcome::Ok(whole))
            }
            (Lie::FutureRead, Request::Range(r)) if r.serializable && r.revision == 0 => {
                let answer = self.model.range(r, revision + 30).ok()?;
                Some(Outcome::Ok(answer.into()))
            }
            _ => None,
        }
    }

    /// A request whose client is gone takes effect after all.
    fn ghost(&mut self) {
        if !self.ghosts.is_empty() {
            let number = self.rng.random_range(0..self.ghosts.len());
            let request = self.ghosts.remove(number);
            if self.rng.random() {
                self.apply(&request);
            }
        }
    }

    fn expire(&mut self) {
        if self.leases.is_empty() {
            return;
        }
        let number = self.rng.random_range(0..self.leases.len());
        let id = self.leases.remove(number);
        self.apply(&Request::LeaseRevoke(pb::LeaseRevokeRequest { id }));
    }

    fn open_watches(&mut self) {
        let revision = self.model.revision();
        for (id, request, position) in &mut self.watches {
            let start_revision = request.start_revision;
            let opened = WatchEvent::Opened {
                stream: 1,
                member: 0,
                start_revision,
            };
            self.recorder.watch_event(*id, 0, opened);
            let created = pb::WatchResponse {
                header: header(revision),
                created: true,
                ..Default::default()
            };
            self.recorder
                .watch_event(*id, 0, WatchEvent::Received(created.into()));
            *position = if start_revision > 0 {
                start_revision - 1
            } else {
                revision
            };
        }
    }

    /// Lets one watch catch up by a few revisions, with a progress answer now and then.
    fn deliver(&mut self) {
        if self.watches.is_empty() {
            return;
        }
        let number = self.rng.random_range(0..self.watches.len());
        let to = self.model.revision();
        let progress = self.rng.random_ratio(1, 4);
        self.deliver_to(number, to, progress);
    }

    fn deliver_to(&mut self, number: usize, to: i64, progress: bool) {
        let (id, request, position) = self.watches[number].clone();
        let expects = |event: &&Event| {
            let kv = event.kv.as_ref().expect("model events have a pair");
            let filter = event.r#type ^ 1;
            crate::model::covers(&request.key, &request.range_end, &kv.key)
                && !request.filters.contains(&(1 - filter))
        };
        let mut events: Vec<Event> = Vec::new();
        for revision in (position + 1).max(2)..=to {
            let of_revision = &self.log[revision as usize - 2];
            events.extend(of_revision.iter().filter(expects).cloned());
        }
        if !request.prev_kv {
            for event in &mut events {
                event.prev_kv = None;
            }
        }
        if !events.is_empty() {
            let response = pb::WatchResponse {
                header: header(to),
                events,
                ..Default::default()
            };
            self.recorder
                .watch_event(id, self.now, WatchEvent::Received(response.into()));
        } else if progress {
            let response = pb::WatchResponse {
                header: header(to),
                ..Default::default()
            };
            self.recorder
                .watch_event(id, self.now, WatchEvent::Received(response.into()));
        }
        self.watches[number].2 = to;
    }

    fn finish(&mut self) {
        self.occasion = false;
        for client in 0..self.pending.len() {
            while self.pending[client].is_some() {
                self.client(client);
            }
        }
        let revision = self.model.revision();
        for number in 0..self.watches.len() {
            self.deliver_to(number, revision, true);
            let id = self.watches[number].0;
            self.recorder
                .watch_event(id, self.now, WatchEvent::Due { revision });
        }
        let everything = pb::RangeRequest {
            key: b"\0".as_slice().into(),
            range_end: b"\0".as_slice().into(),
            ..Default::default()
        };
        let range = self
            .model
            .range(&everything, revision)
            .expect("the current revision can be read");
        for member in 0..3 {
            self.recorder
                .final_state(member, self.now, revision, range.clone(), None, Some(7));
        }
    }
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        revision,
        ..Default::default()
    })
}
