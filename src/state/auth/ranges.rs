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
mod tests {
    use super::*;

    fn union(ranges: &[(&'static str, &'static str)]) -> Ranges {
        Ranges::union(ranges.iter().map(|(key, end)| (key.as_bytes(), end.as_bytes())))
    }

    #[test]
    fn a_request_has_to_lie_within_the_union() {
        let granted = union(&[("m", ""), ("c", "f"), ("a", "c"), ("e", "g"), ("x", "\0")]);
        for (key, end, expected) in [
            ("a", "", true),
            ("a", "g", true),
            ("b", "d", true),
            ("a", "h", false),
            ("f", "", true),
            ("g", "", false),
            ("m", "", true),
            ("m", "m\0", true),
            ("m", "n", false),
            ("m\0", "", false),
            ("x", "\0", true),
            ("y", "\0", true),
            ("w", "\0", false),
            ("zz", "", true),
            ("a", "\0", false),
            ("\0", "\0", false),
            ("`", "b", false),
        ] {
            assert_eq!(
                granted.contain(key.as_bytes(), end.as_bytes()),
                expected,
                "{key:?} {end:?}"
            );
        }
    }

    #[test]
    fn a_zero_byte_as_end_is_not_a_small_key() {
        // As a plain end it would make an empty range, which needs next to nothing.
        let granted = union(&[("a", "b")]);
        assert!(!granted.contain(b"a", b"\0"));
        assert!(union(&[("\0", "\0")]).contain(b"a", b"\0"));
    }

    #[test]
    fn a_grant_must_not_be_empty() {
        for (key, end, expected) in [
            ("", "", false),
            ("", "\0", false),
            ("a", "", true),
            ("a", "b", true),
            ("b", "a", false),
            ("a", "a", false),
            ("a", "\0", true),
            ("\0", "\0", true),
        ] {
            assert_eq!(
                is_valid(key.as_bytes(), end.as_bytes()),
                expected,
                "{key:?} {end:?}"
            );
        }
    }
}
