//! Sets of keys as unions of ranges: what is granted, and whether a request lies within it.

use bytes::Bytes;

use crate::state::validate::RangeEnd;

/// A range of keys: from its start to before its end, or to the end of all keys.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Span {
    start: Bytes,
    end: Option<Bytes>,
}

impl Span {
    fn of(key: &[u8], range_end: &[u8]) -> Span {
        let end = match RangeEnd::of(range_end) {
            RangeEnd::Single => Some([key, &[0]].concat().into()),
            RangeEnd::Open => None,
            RangeEnd::Before(end) => Some(Bytes::copy_from_slice(end)),
        };
        Span {
            start: Bytes::copy_from_slice(key),
            end,
        }
    }

    /// Whether `end` lies within or at the end of this span.
    fn reaches(&self, end: Option<&[u8]>) -> bool {
        match (&self.end, end) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(own), Some(end)) => own.as_ref() >= end,
        }
    }
}

/// Disjoint spans in order, with a gap between any two.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Ranges(Vec<Span>);

impl Ranges {
    /// The union of ranges that are given as key and range end. Ranges that touch become one.
    pub fn union<'a>(ranges: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Ranges {
        let mut spans: Vec<Span> = ranges.map(|(key, end)| Span::of(key, end)).collect();
        spans.sort_by(|a, b| a.start.cmp(&b.start));
        let mut merged: Vec<Span> = Vec::new();
        for span in spans {
            match merged.last_mut() {
                Some(last) if last.reaches(Some(&span.start)) => {
                    if !last.reaches(span.end.as_deref()) {
                        last.end = span.end;
                    }
                }
                _ => merged.push(span),
            }
        }
        Ranges(merged)
    }

    /// Whether all keys of a range are in here. A single zero byte as end is an open one, before anything else
    /// is made of it (GHSA-xg4h-6gfc-h4m8).
    pub fn contain(&self, key: &[u8], range_end: &[u8]) -> bool {
        let asked = Span::of(key, range_end);
        let end = asked.end.as_deref();
        let before = self.0.partition_point(|span| span.start.as_ref() <= key);
        match end {
            // An empty range, as etcd judges it: some granted range has to span it the wrong way round.
            Some(end) if end <= key => self.0.iter().any(|span| {
                span.start.as_ref() < end && span.end.as_ref().is_none_or(|own| own.as_ref() > key)
            }),
            _ => before > 0 && self.0.get(before - 1).is_some_and(|span| span.reaches(end)),
        }
    }
}

/// Whether a range can be granted: not empty, and it begins somewhere.
pub fn is_valid(key: &[u8], range_end: &[u8]) -> bool {
    !key.is_empty()
        && match RangeEnd::of(range_end) {
            RangeEnd::Single | RangeEnd::Open => true,
            RangeEnd::Before(end) => key < end,
        }
}

#[cfg(test)]
mod tests;
