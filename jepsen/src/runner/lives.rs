//! What became of the members' processes, for the timeline.

use quorate_jepsen::history::Nanos;
use quorate_jepsen::timeline::{Ended, Life, Micros, Node};

/// The lives of all members so far.
#[derive(Clone, Debug)]
pub struct Lives(Vec<Node>);

fn micros(nanos: Nanos) -> Micros {
    nanos / 1_000
}

impl Lives {
    pub fn of(names: impl Iterator<Item = String>) -> Self {
        let node = |name| Node {
            name,
            ..Node::default()
        };
        Lives(names.map(node).collect())
    }

    pub fn started(&mut self, now: Nanos, member: usize) {
        self.0[member].lives.push(Life {
            from: micros(now),
            ended: None,
            pauses: Vec::new(),
        });
    }

    pub fn ended(&mut self, now: Nanos, member: usize, how: &str) {
        if let Some(life) = self.0[member].lives.last_mut() {
            let how = how.to_owned();
            life.ended = Some(Ended { at: micros(now), how });
        }
    }

    pub fn paused(&mut self, now: Nanos, member: usize) {
        if let Some(life) = self.0[member].lives.last_mut() {
            life.pauses.push((micros(now), Micros::MAX));
        }
    }

    pub fn resumed(&mut self, now: Nanos, member: usize) {
        let life = self.0[member].lives.last_mut();
        if let Some((_, to)) = life.and_then(|life| life.pauses.last_mut()) {
            *to = micros(now);
        }
    }

    /// The nodes of a timeline that ends at `end`.
    pub fn nodes(&self, end: Micros) -> Vec<Node> {
        let mut nodes = self.0.clone();
        for life in nodes.iter_mut().flat_map(|node| &mut node.lives) {
            let last = life.ended.as_ref().map_or(end, |ended| ended.at);
            for (_, to) in &mut life.pauses {
                *to = (*to).min(last);
            }
        }
        nodes
    }
}
