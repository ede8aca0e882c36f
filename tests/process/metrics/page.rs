//! What `/metrics` says, taken apart.

use std::collections::{BTreeMap, BTreeSet};

use super::super::support::Member;

/// A family of metrics as its page describes it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    /// Names of labels, without a histogram's own.
    pub labels: BTreeSet<String>,
    /// A histogram's bounds.
    pub bounds: BTreeSet<String>,
}

/// One look at a member.
pub struct Page {
    /// Each line's value, by all that stands before it.
    values: BTreeMap<String, f64>,
    pub families: BTreeMap<String, Family>,
}

impl Page {
    pub fn of(member: &Member) -> Page {
        let (status, text) = member.http_get("/metrics");
        assert_eq!(status, 200);
        Page::parse(&text)
    }

    pub fn parse(text: &str) -> Page {
        let mut page = Page {
            values: BTreeMap::new(),
            families: BTreeMap::new(),
        };
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# ") {
                let mut words = described.splitn(3, ' ');
                let (what, name) = (words.next(), words.next().unwrap_or_default());
                let family = page.families.entry(name.to_owned()).or_default();
                let rest = words.next().unwrap_or_default().to_owned();
                match what {
                    Some("HELP") => family.help = rest,
                    Some("TYPE") => family.kind = rest,
                    _ => {}
                }
            } else if let Some((series, value)) = line.rsplit_once(' ') {
                let value = value.parse().expect("a value is a number");
                let before = page.values.insert(series.to_owned(), value);
                assert_eq!(before, None, "{series} stands there twice");
                page.note_labels(series);
            }
        }
        page
    }

    fn note_labels(&mut self, series: &str) {
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let suffixes = ["_bucket", "_sum", "_count"];
        let base = suffixes.iter().find_map(|suffix| {
            let base = name.strip_suffix(suffix)?;
            self.families.contains_key(base).then_some(base)
        });
        let family = self.families.entry(base.unwrap_or(name).to_owned()).or_default();
        for pair in labels.trim_end_matches('}').split("\",") {
            match pair.split_once("=\"") {
                Some(("le", bound)) => {
                    let bound = bound.trim_end_matches('"');
                    // The same number may be written in two ways.
                    let bound: f64 = bound.parse().expect("a bound is a number");
                    family.bounds.insert(format!("{bound}"));
                }
                Some((label, _)) => {
                    family.labels.insert(label.to_owned());
                }
                None => {}
            }
        }
    }

    /// The value of one line; `None` if there is no such line.
    pub fn value(&self, series: &str) -> Option<f64> {
        self.values.get(series).copied()
    }

    /// The sum over all labels of one name, which has to be there.
    pub fn total(&self, name: &str) -> f64 {
        let of = |series: &&String| series.split('{').next() == Some(name);
        let mut found = self.values.keys().filter(of).peekable();
        assert!(found.peek().is_some(), "there is no {name}");
        found.map(|series| self.values[series]).sum()
    }

    /// How many values a histogram has seen.
    pub fn count(&self, histogram: &str) -> f64 {
        self.total(&format!("{histogram}_count"))
    }

    pub fn sum(&self, histogram: &str) -> f64 {
        self.total(&format!("{histogram}_sum"))
    }
}

#[test]
fn a_page_is_taken_apart() {
    let text = "# HELP a_seconds How long, and why.\n# TYPE a_seconds histogram\n\
                a_seconds_bucket{op=\"x\",le=\"0.5\"} 1\na_seconds_bucket{op=\"x\",le=\"+Inf\"} 2\n\
                a_seconds_sum{op=\"x\"} 3.5\na_seconds_count{op=\"x\"} 2\n# HELP b B\n# TYPE b gauge\nb 1e+06\n";
    let page = Page::parse(text);
    let family = &page.families["a_seconds"];
    assert_eq!(
        (family.kind.as_str(), family.help.as_str()),
        ("histogram", "How long, and why.")
    );
    assert_eq!(family.labels.iter().collect::<Vec<_>>(), ["op"]);
    assert_eq!(family.bounds.len(), 2);
    assert_eq!((page.count("a_seconds"), page.sum("a_seconds")), (2.0, 3.5));
    assert_eq!(page.value("b"), Some(1e6));
    assert_eq!(page.value("c"), None);
}
