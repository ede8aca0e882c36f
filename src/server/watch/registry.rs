//! Who watches a key: exact keys in a map, ranges in an interval tree, so that an event finds its watches
//! in logarithmic time however many there are.
//!
//! The tree is a treap over (start, end) in which each node knows how far its subtree reaches. Priorities come from
//! a counter, so the same sequence of watches always builds the same tree.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use bytes::Bytes;

/// The keys of a watch.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Keys {
    One(Bytes),
    /// From a key on, up to another or to the end of all keys.
    Range(Bytes, Option<Bytes>),
}

impl Keys {
    /// What they take in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Keys::One(key) => key.len(),
            Keys::Range(start, end) => start.len() + end.as_ref().map_or(0, Bytes::len),
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Keys::One(one) => one == key,
            Keys::Range(start, end) => start <= key && ends_behind(end, key),
        }
    }
}

/// Whether a range with this end (`None`: open) goes on behind `key`.
fn ends_behind(end: &Option<Bytes>, key: &[u8]) -> bool {
    end.as_ref().is_none_or(|end| end > key)
}

/// Watches by number.
type Items<T> = BTreeMap<u64, T>;

/// Watches of every stream, by their keys.
pub struct Registry<T> {
    exact: BTreeMap<Bytes, Items<T>>,
    ranges: Link<T>,
    len: usize,
    nodes_made: u64,
}

type Link<T> = Option<Box<Node<T>>>;

struct Node<T> {
    start: Bytes,
    end: Option<Bytes>,
    items: Items<T>,
    /// Greater than that of every node below: random-like, so the tree is balanced.
    priority: u64,
    /// The farthest end in this subtree.
    reach: Option<Bytes>,
    left: Link<T>,
    right: Link<T>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Registry {
            exact: BTreeMap::new(),
            ranges: None,
            len: 0,
            nodes_made: 0,
        }
    }
}

impl<T> Registry<T> {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a watch under a number that no other has.
    pub fn insert(&mut self, keys: &Keys, number: u64, item: T) {
        self.len += 1;
        match keys {
            Keys::One(key) => {
                self.exact.entry(key.clone()).or_default().insert(number, item);
            }
            Keys::Range(start, end) => {
                self.nodes_made += 1;
                let node = Node {
                    start: start.clone(),
                    end: end.clone(),
                    items: Items::from([(number, item)]),
                    priority: scramble(self.nodes_made),
                    reach: end.clone(),
                    left: None,
                    right: None,
                };
                insert(&mut self.ranges, node);
            }
        }
    }

    /// Removes a watch, if it is there.
    pub fn remove(&mut self, keys: &Keys, number: u64) -> Option<T> {
        let removed = match keys {
            Keys::One(key) => {
                let items = self.exact.get_mut(key)?;
                let removed = items.remove(&number);
                if items.is_empty() {
                    self.exact.remove(key);
                }
                removed
            }
            Keys::Range(start, end) => remove(&mut self.ranges, start, end, number),
        };
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Visits every watch whose keys hold `key`.
    pub fn visit<'a>(&'a self, key: &[u8], visit: &mut impl FnMut(u64, &'a T)) {
        for (&number, item) in self.exact.get(key).into_iter().flatten() {
            visit(number, item);
        }
        stab(&self.ranges, key, visit);
    }
}

/// splitmix64: distinct inputs give distinct, evenly spread outputs.
fn scramble(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl<T> Node<T> {
    fn place_of(&self, start: &Bytes, end: &Option<Bytes>) -> Ordering {
        (start, end).cmp(&(&self.start, &self.end))
    }

    fn update(&mut self) {
        let children = self.left.iter().chain(&self.right);
        let mut reach = &self.end;
        for child in children {
            // `None` reaches farthest.
            if reach
                .as_ref()
                .is_some_and(|reach| ends_behind(&child.reach, reach))
            {
                reach = &child.reach;
            }
        }
        self.reach = reach.clone();
    }
}

fn insert<T>(link: &mut Link<T>, new: Node<T>) {
    let Some(node) = link else {
        *link = Some(Box::new(new));
        return;
    };
    match node.place_of(&new.start, &new.end) {
        Ordering::Equal => node.items.extend(new.items),
        Ordering::Less => {
            insert(&mut node.left, new);
            if node
                .left
                .as_ref()
                .is_some_and(|left| left.priority > node.priority)
            {
                rotate(link, |node| &mut node.left, |node| &mut node.right);
            } else {
                node.update();
            }
        }
        Ordering::Greater => {
            insert(&mut node.right, new);
            if node
                .right
                .as_ref()
                .is_some_and(|right| right.priority > node.priority)
            {
                rotate(link, |node| &mut node.right, |node| &mut node.left);
            } else {
                node.update();
            }
        }
    }
}

/// Lifts the child on side `up` above its parent.
fn rotate<T>(
    link: &mut Link<T>,
    up: impl Fn(&mut Node<T>) -> &mut Link<T>,
    down: impl Fn(&mut Node<T>) -> &mut Link<T>,
) {
    let Some(mut parent) = link.take() else { return };
    let Some(mut child) = up(&mut parent).take() else {
        *link = Some(parent);
        return;
    };
    *up(&mut parent) = down(&mut child).take();
    parent.update();
    *down(&mut child) = Some(parent);
    child.update();
    *link = Some(child);
}

fn remove<T>(link: &mut Link<T>, start: &Bytes, end: &Option<Bytes>, number: u64) -> Option<T> {
    let node = link.as_mut()?;
    let removed = match node.place_of(start, end) {
        Ordering::Less => remove(&mut node.left, start, end, number),
        Ordering::Greater => remove(&mut node.right, start, end, number),
        Ordering::Equal => {
            let removed = node.items.remove(&number);
            if node.items.is_empty() {
                let (left, right) = (node.left.take(), node.right.take());
                *link = merge(left, right);
                return removed;
            }
            removed
        }
    };
    node.update();
    removed
}

/// Joins two subtrees, all of `left` before all of `right`.
fn merge<T>(left: Link<T>, right: Link<T>) -> Link<T> {
    let (mut left, mut right) = match (left, right) {
        (None, only) | (only, None) => return only,
        (Some(left), Some(right)) => (left, right),
    };
    if left.priority > right.priority {
        left.right = merge(left.right.take(), Some(right));
        left.update();
        Some(left)
    } else {
        right.left = merge(Some(left), right.left.take());
        right.update();
        Some(right)
    }
}

fn stab<'a, T>(link: &'a Link<T>, key: &[u8], visit: &mut impl FnMut(u64, &'a T)) {
    let Some(node) = link else { return };
    if !ends_behind(&node.reach, key) {
        return;
    }
    stab(&node.left, key, visit);
    // What lies to the right starts no earlier than this node.
    if node.start.as_ref() <= key {
        if ends_behind(&node.end, key) {
            node.items.iter().for_each(|(&number, item)| visit(number, item));
        }
        stab(&node.right, key, visit);
    }
}

#[cfg(test)]
mod tests;
