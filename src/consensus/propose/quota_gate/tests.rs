use super::super::command::EncodedCommand;
use super::*;
use crate::base::Level;
use crate::proto::command::command::Request;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest};

fn batch(sequence: u64, requests: impl IntoIterator<Item = Request>) -> Batch {
    let encoded = |request| {
        let command = EncodedCommand::new(None, request).expect("it can be applied");
        command.bytes().clone()
    };
    let commands: Vec<_> = (1..).zip(requests.into_iter().map(encoded)).collect();
    Batch::new(name(sequence), Level::FIRST, 1, &commands)
}

fn name(sequence: u64) -> BatchName {
    BatchName {
        origin: 1,
        incarnation: 1,
        sequence,
    }
}

fn put(sequence: u64, bytes: usize) -> Batch {
    let put = PutRequest {
        key: "k".into(),
        value: vec![0; bytes].into(),
        ..PutRequest::default()
    };
    batch(sequence, [Request::Put(put)])
}

#[test]
fn what_is_under_way_counts_until_it_is_applied_or_never_will_be() {
    let space = QuotaGate::new(Some(10_000), 0);
    assert!(space.admit(&put(1, 5_000), 3));
    assert!(!space.admit(&put(2, 5_000), 3), "the first is under way");
    assert!(space.admit(&put(3, 1_000), 3));
    space.settled(name(3));
    space.applied(3, 5_300, [name(1)].into_iter());
    assert!(space.admit(&put(4, 4_000), 3));
    assert!(!space.admit(&put(5, 4_000), 4));
    space.applied(4, 5_300, [].into_iter());
    assert!(space.admit(&put(6, 4_000), 4), "nothing of term 3 comes any more");
}

#[test]
fn what_needs_no_space_is_never_refused() {
    let space = QuotaGate::new(Some(10_000), 20_000);
    assert!(!space.admit(&put(1, 1), 1));
    assert!(space.admit(
        &batch(2, [Request::DeleteRange(DeleteRangeRequest::default())]),
        1
    ));
    assert!(QuotaGate::new(None, 20_000).admit(&put(1, 1), 1));
}

#[test]
fn far_from_the_quota_nothing_is_added_up() {
    let space = QuotaGate::new(Some(1 << 30), 0);
    assert!(space.admit(&put(1, 5_000), 1));
    assert!(space.under_way.borrow().is_empty());
}
