//! The verdict on what clients saw: `quorate-jepsen`'s, as violations and counters of this crate's report.

use std::collections::BTreeMap;

use quorate_jepsen::history::History;
use quorate_jepsen::property;
use quorate_jepsen::report::{self, Counts, JudgeOptions, Outcomes};

use crate::coverage;
use crate::report::Violation;

/// Longest text of one violation.
const TEXT_BYTES_MAX: usize = 4_000;

/// The counter of checks that are neither passed nor failed.
pub const UNDECIDED: &str = "undecided checks";

/// Everything that the history violates, and what it exercised.
#[derive(Default)]
pub struct Judged {
    /// As the checks found it.
    pub found: Vec<property::Violation>,
    pub counters: BTreeMap<String, u64>,
}

pub fn judge(history: &History, options: &JudgeOptions) -> Judged {
    let judged = report::judge(history, options);
    let mut counters = counters(&judged.counts);
    counters.insert(UNDECIDED.into(), judged.undecided.len() as u64);
    Judged {
        found: judged.violations,
        counters,
    }
}

fn counters(counts: &Counts) -> BTreeMap<String, u64> {
    let exercised = [
        ("answered", counts.ok),
        ("refused", counts.denied),
        ("unknown results", counts.unknown),
        ("revisions", counts.revisions),
        ("revisions of unknown results", counts.revisions_of_unknown),
        ("revisions of ended leases", counts.revisions_of_expiry),
        ("failed compares", counts.failed_compares),
        ("watch streams", counts.watch_streams),
        ("watch events", counts.watch_events),
        ("watch progress", counts.watch_progress),
        ("watches overtaken", counts.watch_compacted),
        ("limited users' calls carried out", counts.permitted),
        ("limited users' calls refused", counts.not_permitted),
        ("alarms for lack of space", counts.alarms),
        ("refused for lack of space", counts.refused_for_space),
        ("answers who holds or leads", counts.claims),
    ];
    let of_kind = |(kind, outcomes): (&String, &Outcomes)| {
        let Outcomes { ok, denied, unknown } = *outcomes;
        let counted = [("ok", ok), ("denied", denied), ("unknown", unknown)];
        counted.map(|(outcome, count)| (format!("operation/{kind}/{outcome}"), count))
    };
    let kinds = counts.by_kind.iter().flat_map(of_kind);
    let named = exercised
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count));
    let again = counts.again.iter();
    let again = again.map(|(code, count)| (coverage::of_sent_again(code), *count));
    named.chain(kinds).chain(again).collect()
}

/// As this crate's report says it.
pub fn convert(found: &property::Violation) -> Violation {
    let mut text = format!("{} — {}", found.property.guarantee(), found.message);
    if text.len() > TEXT_BYTES_MAX {
        let end = text.floor_char_boundary(TEXT_BYTES_MAX);
        text.truncate(end);
        text.push('…');
    }
    Violation::new(found.property.name(), text)
}

#[cfg(test)]
mod tests {
    use quorate::base::Denied;
    use quorate_jepsen::history::is_definite_refusal;

    /// The judge has a rule of its own, for it judges other stores, too; but it must not be laxer than this one's promise, or
    /// a write that was called refused and happened would not be seen.
    #[test]
    fn the_judge_holds_members_to_what_they_say_of_a_write() {
        // Said before anything is proposed, with codes of which the judge does not know that.
        let also_refused = [Denied::NoLeader, Denied::Unhealthy];
        for denied in Denied::ALL {
            let code = tonic::Code::from_i32(denied.code() as i32);
            let definite = is_definite_refusal(code, denied.text());
            let promised = !denied.may_have_happened();
            assert!(promised || !definite, "the judge is too strict: {denied}");
            let coded = code != tonic::Code::Unknown && denied.text().starts_with("etcdserver: ");
            let known = coded || *denied == Denied::ContextDeadlineExceeded;
            if promised && known && !also_refused.contains(denied) {
                assert!(definite, "the judge is too lax: {denied}");
            }
        }
    }
}
