use quorate::proto::etcdserverpb as pb;

use super::check;
use crate::history::{Outcome, Recorder, Request};
use crate::model::Refusal;

#[derive(Default)]
struct Script(Recorder);

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Denied {
        code: refusal.code,
        text: refusal.text.into(),
    }
}

impl Script {
    fn call(&self, request: impl Into<Request>, outcome: Outcome) {
        let id = self.0.invoke(0, 0, 0, request.into());
        self.0.complete(id, 0, outcome);
    }

    fn compact(&self, revision: i64, outcome: Outcome) {
        let physical = false;
        self.call(pb::CompactionRequest { revision, physical }, outcome);
    }

    fn compacted(&self, revision: i64) {
        self.compact(revision, Outcome::Ok(pb::CompactionResponse::default().into()));
    }

    fn read(&self, revision: i64, serializable: bool, outcome: Outcome) {
        let request = pb::RangeRequest {
            key: "a".into(),
            revision,
            serializable,
            ..Default::default()
        };
        self.call(request, outcome);
    }

    fn count(&self) -> usize {
        self.violations_if(false)
    }

    fn violations_if(&self, auto_compaction: bool) -> usize {
        check(&self.0.history(), auto_compaction).len()
    }
}

fn found() -> Outcome {
    Outcome::Ok(pb::RangeResponse::default().into())
}

#[test]
fn what_is_compacted_is_refused_and_nothing_else() {
    let s = Script::default();
    s.read(4, false, found());
    s.compacted(5);
    s.read(5, false, found());
    s.read(4, false, refused(Refusal::COMPACTED));
    s.read(4, true, found());
    assert_eq!(
        s.count(),
        0,
        "a serializable read may come from a member that lags"
    );
    s.read(4, false, found());
    assert_eq!(s.count(), 1, "read although compacted");
    s.read(5, false, refused(Refusal::COMPACTED));
    assert_eq!(s.count(), 2, "refused although not compacted");
}

#[test]
fn a_compaction_with_unknown_result_explains_a_refusal_but_does_not_demand_one() {
    let s = Script::default();
    s.compact(9, Outcome::unknown("lost"));
    s.read(4, false, found());
    s.read(4, false, refused(Refusal::COMPACTED));
    assert_eq!(s.count(), 0);
}

#[test]
fn the_same_compaction_is_acknowledged_once() {
    let s = Script::default();
    s.compacted(5);
    s.compact(5, refused(Refusal::COMPACTED));
    s.compact(3, refused(Refusal::COMPACTED));
    s.compacted(6);
    assert_eq!(s.count(), 0);
    s.compacted(6);
    assert_eq!(s.count(), 1);
    s.compact(8, refused(Refusal::COMPACTED));
    assert_eq!(s.count(), 2, "nobody has compacted that far");
}

#[test]
fn what_lies_before_all_revisions_may_be_refused_as_compacted() {
    let s = Script::default();
    s.compact(-1, refused(Refusal::COMPACTED));
    assert_eq!(s.count(), 0);
    s.compact(0, refused(Refusal::COMPACTED));
    assert_eq!(s.count(), 1, "nobody has compacted so far");
}

#[test]
fn members_that_compact_by_themselves_may_refuse_what_nobody_compacted_but_not_what_is_newest() {
    let script = Script::default();
    let newest = pb::RangeResponse {
        header: Some(pb::ResponseHeader {
            revision: 9,
            ..Default::default()
        }),
        ..Default::default()
    };
    script.read(0, false, Outcome::Ok(newest.into()));
    script.read(5, false, refused(Refusal::COMPACTED));
    script.compact(4, refused(Refusal::COMPACTED));
    assert_eq!((script.violations_if(false), script.violations_if(true)), (2, 0));
    script.read(9, false, refused(Refusal::COMPACTED));
    assert_eq!(script.violations_if(true), 1);
    // What was asked for is still binding.
    script.compacted(8);
    script.read(5, false, Outcome::Ok(pb::RangeResponse::default().into()));
    assert_eq!(script.violations_if(true), 2);
}
