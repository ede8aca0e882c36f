use super::*;
use crate::consensus::raft::format::entry::BatchName;
use crate::proto::etcdserverpb as pb;
use crate::proto::etcdserverpb::request_op::Request as Op;

const NAME: BatchName = BatchName {
    origin: 1,
    incarnation: 1,
    sequence: 1,
};

/// So many transactions in each other.
fn nested(levels: usize) -> Request {
    let mut txn = pb::TxnRequest::default();
    for _ in 1..levels {
        let inner = pb::RequestOp {
            request: Some(Op::RequestTxn(txn)),
        };
        txn = pb::TxnRequest {
            success: vec![inner],
            ..Default::default()
        };
    }
    Request::Txn(txn)
}

fn header() -> Header {
    Header {
        user: "root".into(),
        auth_revision: 1,
    }
}

#[test]
fn what_is_to_be_proposed_is_what_apply_will_read() {
    for levels in [1, 49, 50, 51, 129, limits::TXN_LEVELS_MAX] {
        let request = nested(levels);
        let encoded = EncodedCommand::new(Some(header()), request.clone()).unwrap();
        assert_eq!(decode(encoded.bytes()), Ok((Some(header()), request)), "{levels}");
    }
}

#[test]
fn what_apply_could_not_read_is_not_proposed() {
    let deeper = nested(limits::TXN_LEVELS_MAX + 1);
    let refused = EncodedCommand::new(None, deeper).unwrap_err();
    assert_eq!(refused, Denied::UnreadableCommand);
    let put = pb::PutRequest {
        key: "k".into(),
        value: vec![0; limits::COMMAND_BYTES_MAX].into(),
        ..Default::default()
    };
    let refused = EncodedCommand::new(None, Request::Put(put)).unwrap_err();
    assert_eq!(refused, Denied::RequestTooLarge);
}

#[test]
fn the_first_unreadable_command_of_a_batch_is_named() {
    let put = EncodedCommand::new(None, Request::Put(Default::default())).unwrap();
    let put = put.bytes().clone();
    let first_unreadable = |commands: &[Bytes]| {
        let commands: Vec<_> = (1..).zip(commands.iter().cloned()).collect();
        super::first_unreadable(&Batch::new(NAME, Level::FIRST, 1, &commands), Level::NEWEST)
    };
    assert_eq!(first_unreadable(&[put.clone(), put.clone()]), None);
    // A field that this version does not know is no request.
    let newer = Bytes::from_static(&[0xfa, 0x7f, 0]);
    let found = first_unreadable(&[put.clone(), newer, Bytes::from_static(b"\xff")]);
    assert_eq!(found, Some((1, Unreadable::Unknown)));
    let command = Command {
        header: None,
        request: Some(nested(limits::TXN_LEVELS_MAX + 1)),
    };
    let deep = command.encode_to_vec().into();
    assert_eq!(first_unreadable(&[put, deep]), Some((1, Unreadable::TooDeep)));
}

/// A batch above what this member knows would stop it, and all of its release, for good.
#[test]
fn a_batch_above_a_members_level_is_not_taken() {
    let put = EncodedCommand::new(None, Request::Put(Default::default())).unwrap();
    let batch = Batch::new(NAME, Level(9), 1, &[(1, put.bytes().clone())]);
    assert_eq!(
        super::first_unreadable(&batch, Level(8)),
        Some((0, Unreadable::Level(Level(9))))
    );
    assert_eq!(super::first_unreadable(&batch, Level(9)), None);
}

/// A leader of another version may not know a command: the others of its batch go on, and the offers come to an end.
#[test]
fn what_a_leader_cannot_apply_is_answered_and_the_rest_is_offered_again() {
    use super::super::queue::{Proposal, Proposals};
    use crate::runtime::Instant;
    use crate::runtime::channel::answer;
    use futures_util::FutureExt;
    let (proposals, _woken) = Proposals::new(1, 1);
    let mut answers = Vec::new();
    let later = Instant::from_nanos(1_000);
    for key in ["a", "b", "c"] {
        let put = pb::PutRequest {
            key: key.into(),
            ..Default::default()
        };
        let (answer, answered) = answer();
        answers.push(answered);
        let proposal = Proposal {
            needs_space: false,
            command: EncodedCommand::new(None, Request::Put(put)).unwrap(),
            only_in_term: None,
            answer,
        };
        proposals.push(proposal, later, 1);
    }
    let whole = proposals.next_batch(1, Level::NEWEST).unwrap();
    proposals.refused_one(whole.name().sequence, 1, Denied::UnreadableCommand);
    let rest = proposals.next_batch(1, Level::NEWEST).unwrap();
    let commands = |batch: &Batch| batch.commands().collect::<Vec<_>>();
    let whole = commands(&whole);
    assert_eq!(commands(&rest), [whole[0].clone(), whole[2].clone()]);
    assert_eq!(
        (&mut answers[1]).now_or_never(),
        Some(Some(Err(Denied::UnreadableCommand)))
    );
    assert!(
        [0, 2]
            .iter()
            .all(|at| (&mut answers[*at]).now_or_never().is_none())
    );
    // Whatever place is named.
    proposals.refused_one(rest.name().sequence, usize::MAX, Denied::UnreadableCommand);
    let last = proposals.next_batch(1, Level::NEWEST).unwrap();
    assert_eq!(commands(&last), [whole[0].clone()]);
    proposals.refused_one(last.name().sequence, 0, Denied::UnreadableCommand);
    assert!(proposals.next_batch(1, Level::NEWEST).is_none());
}
