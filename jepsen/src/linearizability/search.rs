//! The general checker: a depth-first search for an order of all calls (Wing & Gong), with every
//! pair of "calls placed so far" and "state reached" visited once (Lowe), as porcupine does it.
//!
//! A call without a return may be placed anywhere after its invocation, or left out. The set of
//! placed calls is kept as a 128-bit sum of per-call random numbers, so that remembering it costs the
//! same for ten calls and for ten thousand.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::{BuildHasherDefault, Hash};

use quorate::proto::etcdserverpb as pb;

use crate::history::{Answer, History, Outcome, Request};
use crate::model::{Model, same_answer};

/// A sequential object.
pub trait Spec {
    type Op;
    type State: Clone + Eq + Hash;

    fn initial(&self) -> Self::State;
    /// The state after `op`, or `None` if the op's answer cannot be given in `state`. For an op whose
    /// answer is unknown, `None` means that it would change nothing.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// An operation with its interval, in running numbers.
#[derive(Clone, Debug)]
pub struct Call<O> {
    pub invoked: u64,
    /// `None`: unknown result; it may take effect at any time or never.
    pub returned: Option<u64>,
    pub op: O,
}

/// The search's answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Linearizable,
    /// No order works; the longest explained part leaves these required calls (by index) pending.
    NotLinearizable {
        pending: Vec<usize>,
    },
    OutOfBudget,
}

/// A point of the search: what could be placed next, and the state before.
struct Frame<S> {
    state: S,
    placed: u128,
    /// Required calls before this one are all placed.
    first: usize,
    next: Vec<usize>,
    /// The call placed on the way to this frame.
    call: Option<usize>,
}

/// Searches for an order of `calls`, trying at most `budget` placements.
pub fn search<S: Spec>(spec: &S, calls: &[Call<S::Op>], budget: u64) -> Verdict {
    let mut order: Vec<usize> = (0..calls.len()).collect();
    order.sort_by_key(|index| calls[*index].invoked);
    let (required, optional): (Vec<usize>, Vec<usize>) = order
        .into_iter()
        .partition(|index| calls[*index].returned.is_some());
    let mut search = Search {
        spec,
        calls,
        required,
        optional,
        is_placed: vec![false; calls.len()],
        visited: HashSet::default(),
        frames: Vec::new(),
        longest: Vec::new(),
        longest_count: 0,
        placed_count: 0,
    };
    search.run(budget)
}

struct Search<'a, S: Spec> {
    spec: &'a S,
    calls: &'a [Call<S::Op>],
    /// Sorted by invocation.
    required: Vec<usize>,
    optional: Vec<usize>,
    is_placed: Vec<bool>,
    /// Only asked for membership, never iterated: its order cannot matter.
    visited: HashSet<(u128, S::State), BuildHasherDefault<DefaultHasher>>,
    frames: Vec<Frame<S::State>>,
    longest: Vec<usize>,
    longest_count: usize,
    placed_count: usize,
}

impl<S: Spec> Search<'_, S> {
    fn run(&mut self, budget: u64) -> Verdict {
        self.enter(self.spec.initial(), 0, 0, None);
        for _ in 0..budget {
            let Some(frame) = self.frames.last_mut() else {
                let pending = std::mem::take(&mut self.longest);
                return Verdict::NotLinearizable { pending };
            };
            if frame.first == self.required.len() {
                return Verdict::Linearizable;
            }
            let Some(call) = frame.next.pop() else {
                self.leave();
                continue;
            };
            let (placed, first) = (frame.placed ^ number(call), frame.first);
            let Some(state) = self.spec.step(&frame.state, &self.calls[call].op) else {
                continue;
            };
            if self.visited.insert((placed, state.clone())) {
                self.enter(state, placed, first, Some(call));
            }
        }
        Verdict::OutOfBudget
    }

    fn enter(&mut self, state: S::State, placed: u128, mut first: usize, call: Option<usize>) {
        if let Some(call) = call {
            self.is_placed[call] = true;
            self.placed_count += usize::from(self.calls[call].returned.is_some());
        }
        while self.required.get(first).is_some_and(|call| self.is_placed[*call]) {
            first += 1;
        }
        let next = self.next_calls(first);
        if self.longest.is_empty() || self.placed_count > self.longest_count {
            self.longest_count = self.placed_count;
            self.longest = self.window(first);
        }
        self.frames.push(Frame {
            state,
            placed,
            first,
            next,
            call,
        });
    }

    fn leave(&mut self) {
        let frame = self.frames.pop().expect("leave() is called on a frame");
        if let Some(call) = frame.call {
            self.is_placed[call] = false;
            self.placed_count -= usize::from(self.calls[call].returned.is_some());
        }
    }

    /// Required calls that are pending and invoked before any pending one returned.
    fn window(&self, first: usize) -> Vec<usize> {
        let mut earliest_return = u64::MAX;
        let mut window = Vec::new();
        for call in self.required.iter().skip(first).copied() {
            if self.calls[call].invoked > earliest_return {
                break;
            }
            if !self.is_placed[call] {
                let returned = self.calls[call].returned.unwrap_or(u64::MAX);
                earliest_return = earliest_return.min(returned);
                window.push(call);
            }
        }
        window
    }

    /// What may be placed next, the most promising last: required calls in order of their return,
    /// before them those with unknown result.
    fn next_calls(&self, first: usize) -> Vec<usize> {
        let mut window = self.window(first);
        let returned = |call: &usize| self.calls[*call].returned.unwrap_or(u64::MAX);
        let earliest_return = window.iter().map(returned).min().unwrap_or(u64::MAX);
        window.sort_by_key(|call| std::cmp::Reverse(returned(call)));
        let mut next: Vec<usize> = self
            .optional
            .iter()
            .copied()
            .take_while(|call| self.calls[*call].invoked < earliest_return)
            .filter(|call| !self.is_placed[*call])
            .collect();
        next.append(&mut window);
        next
    }
}

/// A fixed pseudo-random number for each call (splitmix64, twice).
fn number(call: usize) -> u128 {
    let mix = |seed: u64| {
        let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let call = call as u64 + 1;
    (u128::from(mix(call)) << 64) | u128::from(mix(call ^ 0xa5a5_a5a5_5a5a_5a5a))
}

/// The whole store as one object: requests with the answers that were seen.
pub struct Store;

impl Spec for Store {
    type Op = (Request, Option<Answer>);
    type State = Model;

    fn initial(&self) -> Model {
        Model::strict()
    }

    fn step(&self, state: &Model, (request, seen): &Self::Op) -> Option<Model> {
        let mut next = state.clone();
        let applied = next.apply(request, seen.as_ref());
        match (&applied.result, seen) {
            (Ok(expected), Some(seen)) => same_answer(request, expected, seen).then_some(next),
            (Err(_), Some(_)) => None,
            (_, None) => (next != *state).then_some(next),
        }
    }
}

/// A history as calls on the [`Store`]. Refused operations are left out (they had no effect),
/// serializable reads too (they promise less), and each lease may end by itself.
pub fn store_calls(history: &History) -> Vec<Call<(Request, Option<Answer>)>> {
    let mut calls = Vec::new();
    for operation in &history.operations {
        if operation.outcome.is_denied() || super::is_serializable(&operation.request) {
            continue;
        }
        let answer = operation.outcome.answer().cloned();
        let returned = operation.returned.filter(|_| answer.is_some());
        let id = match (&operation.request, &operation.outcome) {
            (_, Outcome::Ok(Answer::LeaseGrant(granted))) => granted.id,
            (Request::LeaseGrant(r), _) => r.id,
            _ => 0,
        };
        let invoked = operation.invoked.order;
        let returned = returned.map(|moment| moment.order);
        let op = (operation.request.clone(), answer);
        calls.push(Call {
            invoked,
            returned,
            op,
        });
        if id != 0 {
            let end = Request::LeaseRevoke(pb::LeaseRevokeRequest { id });
            let (returned, op) = (None, (end, None));
            calls.push(Call {
                invoked,
                returned,
                op,
            });
        }
    }
    calls
}
