use quorate::proto::etcdserverpb as pb;

use super::check;
use crate::history::{Outcome, Recorder};
use crate::property::Property;

fn answer(cluster_id: u64, member_id: u64, raft_term: u64) -> Outcome {
    let header = pb::ResponseHeader {
        cluster_id,
        member_id,
        raft_term,
        revision: 1,
    };
    Outcome::Ok(
        pb::RangeResponse {
            header: Some(header),
            ..Default::default()
        }
        .into(),
    )
}

fn judge(answers: &[(u32, Outcome)]) -> Vec<Property> {
    let recorder = Recorder::new();
    for (member, outcome) in answers {
        let id = recorder.invoke(0, *member, 0, pb::RangeRequest::default().into());
        recorder.complete(id, 0, outcome.clone());
    }
    check(&recorder.take(), 0).iter().map(|v| v.property).collect()
}

#[test]
fn ids_stay_and_terms_rise() {
    assert_eq!(
        judge(&[
            (0, answer(1, 10, 2)),
            (1, answer(1, 11, 1)),
            (0, answer(1, 10, 3)),
            (1, answer(1, 11, 1)),
        ]),
        []
    );
}

#[test]
fn a_term_that_goes_back_is_refused() {
    let answers = [(0, answer(1, 10, 3)), (0, answer(1, 10, 2))];
    assert_eq!(judge(&answers), [Property::TermMonotonic]);
}

#[test]
fn overlapping_answers_may_show_terms_in_any_order() {
    let recorder = Recorder::new();
    let first = recorder.invoke(0, 0, 0, pb::RangeRequest::default().into());
    let second = recorder.invoke(1, 0, 0, pb::RangeRequest::default().into());
    recorder.complete(second, 0, answer(1, 10, 3));
    recorder.complete(first, 0, answer(1, 10, 2));
    assert_eq!(check(&recorder.take(), 0), []);
}

#[test]
fn another_cluster_or_member_is_refused() {
    let foreign = [(0, answer(1, 10, 1)), (1, answer(2, 11, 1))];
    assert_eq!(judge(&foreign), [Property::OneCluster]);
    let renamed = [(0, answer(1, 10, 1)), (0, answer(1, 11, 1))];
    assert_eq!(judge(&renamed), [Property::OneCluster]);
    let moved = [(0, answer(1, 10, 1)), (1, answer(1, 10, 1))];
    assert_eq!(judge(&moved), [Property::OneCluster]);
}

#[test]
fn a_member_may_be_replaced_as_often_as_it_was() {
    let history = || {
        let recorder = Recorder::new();
        for id in [10, 11, 11, 12] {
            let operation = recorder.invoke(0, 0, 0, pb::RangeRequest::default().into());
            recorder.complete(operation, 0, answer(1, id, 1));
        }
        recorder.take()
    };
    assert_eq!(check(&history(), 2), []);
    assert_eq!(check(&history(), 1).len(), 1);
}
