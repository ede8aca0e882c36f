use std::collections::{BTreeMap, BTreeSet};

use openraft::Membership;

use super::*;
use crate::consensus::raft::types::{Peer, leader_of};

#[test]
fn what_is_noted_is_the_record_of_it() {
    let at = LogId::new(leader_of(4), 9);
    let nodes = BTreeMap::from([(3, Peer::default())]);
    let membership = Membership::new(vec![BTreeSet::from([3])], nodes).expect("well formed");
    let mut state = AppliedState::default();
    for _ in 0..2 {
        let record = AppliedStateRecord::new(state.applied, state.membership());
        assert_eq!(state.encode(), encode(&record));
        state.applied = Some(at);
        state.set_membership(StoredMembership::new(Some(at), membership.clone()));
    }
}
