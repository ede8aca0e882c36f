use super::*;
use crate::consensus::raft::types::leader_of;

#[test]
fn what_is_written_down_comes_back() {
    for vote in [Vote::new(3, 7), Vote::new_committed(u64::MAX, 7)] {
        let bytes = encode_vote(&vote);
        assert_eq!(decode_vote(&bytes), Ok(vote));
        assert_eq!(term_in(&bytes), vote.leader_id.term);
    }
    let nodes = BTreeMap::from([(3, Peer::default()), (7, Peer::default())]);
    let joint = vec![BTreeSet::from([3]), BTreeSet::from([3, 7])];
    let membership = Membership::new(joint, nodes).expect("well formed");
    let at = LogId::new(leader_of(4), 9);
    for (applied, membership) in [
        (Some(at), StoredMembership::new(Some(at), membership)),
        (None, StoredMembership::default()),
    ] {
        let record = AppliedStateRecord::new(applied, &membership);
        let back: AppliedStateRecord = decode(&encode(&record)).expect("just encoded");
        assert_eq!(back.into_parts(), Ok((applied, membership)));
    }
}
