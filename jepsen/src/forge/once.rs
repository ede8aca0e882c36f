//! A long run of the workload `once`: clients put keys of their own, now and then an answer is lost, and at the end every
//! member is asked for everything. Made without the model, which would take most of the time.

use quorate::proto::etcdserverpb as pb;
use quorate::proto::mvccpb::{Event, KeyValue};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::header;
use crate::history::{Answer, History, OpId, Outcome, Recorder, Request, WatchEvent, WatchId};
use crate::workload::ONCE;

const CLIENTS: usize = 96;
const MEMBERS: u32 = 3;
const WATCHER: u32 = 1_000;
const SETTLER: u32 = 999;

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnceLie {
    Nothing,
    /// An acknowledged put was applied again at the end.
    TwiceApplied,
    /// An acknowledged put is not there at the end, on one member.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub struct Once {
    pub seed: u64,
    pub keys: usize,
    /// Puts whose answer is lost. Of these, about a third take effect at once, a third later, and a third never.
    pub unknown: usize,
    pub lie: OnceLie,
}

impl Once {
    pub fn run(self) -> History {
        let recorder = Recorder::new();
        let request = pb::WatchCreateRequest {
            key: format!("{ONCE}0-").into(),
            range_end: format!("{ONCE}0.").into(),
            ..Default::default()
        };
        let mut run = Run {
            watches: (0..MEMBERS)
                .map(|_| recorder.watch(WATCHER, request.clone()))
                .collect(),
            rng: ChaCha8Rng::seed_from_u64(self.seed),
            recorder,
            now: 0,
            revision: 1,
            pairs: Vec::new(),
            late: Vec::new(),
        };
        run.open_watches();
        for round in 0..self.keys.div_ceil(CLIENTS) {
            let first = round * CLIENTS;
            run.round(first..self.keys.min(first + CLIENTS), self);
        }
        let recorder = run.recorder.clone();
        run.finish(self);
        recorder.take()
    }
}

struct Run {
    recorder: Recorder,
    rng: ChaCha8Rng,
    watches: Vec<WatchId>,
    now: u64,
    revision: i64,
    pairs: Vec<KeyValue>,
    /// Puts of unknown outcome that are under way.
    late: Vec<pb::PutRequest>,
}

fn put(key: String, value: String) -> pb::PutRequest {
    pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

impl Run {
    fn open_watches(&mut self) {
        for id in &self.watches {
            let opened = WatchEvent::Opened {
                stream: 1,
                member: 0,
                start_revision: 0,
            };
            self.recorder.watch_event(*id, 0, opened);
            let created = pb::WatchResponse {
                header: header(1),
                created: true,
                ..Default::default()
            };
            self.recorder
                .watch_event(*id, 0, WatchEvent::Received(created.into()));
        }
    }

    /// Every client puts one key, all at the same time.
    fn round(&mut self, keys: std::ops::Range<usize>, options: Once) {
        self.now += 1_000_000;
        let spacing = (options.keys / options.unknown.max(1)).max(1);
        let mut calls: Vec<(usize, OpId, pb::PutRequest)> = Vec::new();
        for number in keys {
            let client = number % CLIENTS;
            let request = put(format!("{ONCE}{client}-{number}"), format!("v{number}"));
            let sent = Request::Put(request.clone());
            let id = self.recorder.invoke(client as u32, 0, self.now, sent);
            calls.push((number, id, request));
        }
        while !calls.is_empty() {
            let (number, id, request) = calls.swap_remove(self.rng.random_range(0..calls.len()));
            if number % spacing == spacing / 2 {
                match self.rng.random_range(0..3) {
                    0 => drop(self.apply(&request)),
                    1 => self.late.push(request),
                    _ => {}
                }
                self.recorder.complete(id, self.now, Outcome::unknown("forged"));
                continue;
            }
            let answer = self.apply(&request);
            self.recorder.complete(id, self.now, Outcome::Ok(answer));
            if self.rng.random_ratio(1, 500) && !self.late.is_empty() {
                let request = self.late.swap_remove(0);
                self.apply(&request);
            }
        }
    }

    fn apply(&mut self, request: &pb::PutRequest) -> Answer {
        self.revision += 1;
        let pair = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            create_revision: self.revision,
            mod_revision: self.revision,
            version: 1,
            lease: 0,
        };
        if request.key.starts_with(format!("{ONCE}0-").as_bytes()) {
            let event = Event {
                kv: Some(pair.clone()),
                ..Default::default()
            };
            let response = pb::WatchResponse {
                header: header(self.revision),
                events: vec![event],
                ..Default::default()
            };
            for id in &self.watches {
                let received = WatchEvent::Received(response.clone().into());
                self.recorder.watch_event(*id, self.now, received);
            }
        }
        self.pairs.push(pair);
        pb::PutResponse {
            header: header(self.revision),
            prev_kv: None,
        }
        .into()
    }

    fn lie(&mut self, lie: OnceLie) {
        let victim = self.pairs.len() / 2 + 7;
        if lie == OnceLie::TwiceApplied {
            self.revision += 1;
            self.pairs[victim].mod_revision = self.revision;
            self.pairs[victim].version = 2;
        }
    }

    fn finish(mut self, options: Once) {
        self.lie(options.lie);
        self.now += 1_000_000;
        for member in 0..MEMBERS {
            let request = put(format!("settle/{member}"), format!("settled-{member}"));
            let sent = Request::Put(request.clone());
            let id = self.recorder.invoke(SETTLER, 0, self.now, sent);
            let answer = self.apply(&request);
            self.recorder.complete(id, self.now, Outcome::Ok(answer));
        }
        self.pairs.sort_by(|a, b| a.key.cmp(&b.key));
        let everything = pb::RangeRequest {
            key: b"\0".as_slice().into(),
            range_end: b"\0".as_slice().into(),
            ..Default::default()
        };
        let mut range = pb::RangeResponse {
            header: header(self.revision),
            count: self.pairs.len() as i64,
            kvs: std::mem::take(&mut self.pairs),
            more: false,
        };
        for _ in 0..MEMBERS {
            let sent = Request::Range(everything.clone());
            let id = self.recorder.invoke(SETTLER, 0, self.now, sent);
            self.recorder
                .complete(id, self.now, Outcome::Ok(range.clone().into()));
        }
        for member in 0..MEMBERS {
            if options.lie == OnceLie::Lost && member == MEMBERS - 1 {
                range.kvs.remove(range.kvs.len() / 2);
            }
            self.recorder
                .final_state(member, self.now, self.revision, range.clone(), None, None);
        }
        for id in &self.watches {
            let revision = self.revision;
            self.recorder
                .watch_event(*id, self.now, WatchEvent::Due { revision });
        }
    }
}
