use super::*;
use crate::base::kv::{Batch, Read};
use crate::bbolt::{Encoder, File};
use crate::proto::command::command::Request;
use crate::proto::{authpb, etcdserverpb as pb, membershippb};
use crate::state::State;
use crate::state::tests::{Machine, Maps};

fn put(key: &str, value: &str, lease: i64) -> Request {
    Request::Put(pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease,
        ..Default::default()
    })
}

fn delete(key: &str) -> Request {
    Request::DeleteRange(pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    })
}

/// A store with something of everything.
fn lived_in() -> Machine {
    let mut machine = compacted();
    machine.sweep();
    machine
}

/// The same before it is swept.
fn compacted() -> Machine {
    let mut machine = Machine::new();
    let urls = |port: u16| vec![format!("http://127.0.0.1:{port}")];
    machine.state.found([(11, urls(1)), (12, urls(2))].into_iter());
    let mut requests = vec![
        Request::ClusterVersionSet(membershippb::ClusterVersionSetRequest { ver: "3.7.0".into() }),
        Request::ClusterMemberAttrSet(membershippb::ClusterMemberAttrSetRequest {
            member_id: 11,
            member_attributes: Some(membershippb::Attributes {
                name: "one".into(),
                client_urls: urls(3),
            }),
        }),
        Request::LeaseGrant(pb::LeaseGrantRequest { id: 77, ttl: 600 }),
        Request::LeaseGrant(pb::LeaseGrantRequest { id: 78, ttl: 600 }),
        Request::MemberRemove(crate::proto::command::MemberRemoveCommand { id: 12 }),
        Request::AuthRoleAdd(pb::AuthRoleAddRequest {
            name: "reader".into(),
        }),
        Request::AuthRoleGrantPermission(pb::AuthRoleGrantPermissionRequest {
            name: "reader".into(),
            perm: Some(authpb::Permission {
                perm_type: 0,
                key: "a".into(),
                range_end: "b".into(),
            }),
        }),
    ];
    for n in 0..300 {
        requests.push(put(
            &format!("k{}", n % 40),
            &format!("{n}"),
            if n % 7 == 0 { 77 } else { 0 },
        ));
        if n % 11 == 0 {
            requests.push(delete(&format!("k{}", n % 13)));
        }
    }
    requests.push(put("of a lease", "that goes", 78));
    requests.push(Request::LeaseRevoke(pb::LeaseRevokeRequest { id: 78 }));
    requests.push(Request::Compaction(pb::CompactionRequest {
        revision: 200,
        ..Default::default()
    }));
    requests.push(put("large", &"x".repeat(10_000), 0));
    requests.push(Request::Alarm(pb::AlarmRequest {
        action: 1,
        member_id: 11,
        alarm: 1,
    }));
    for request in requests {
        machine.apply(request).answer.unwrap();
    }
    machine
}

fn exported(machine: &Machine) -> Vec<u8> {
    let mut encoder = Encoder::new(Export::new(machine.store.clone()).unwrap()).unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = encoder.next_part().unwrap() {
        bytes.extend_from_slice(&part);
    }
    bytes
}

fn imported(bytes: Vec<u8>, options: &Import) -> (State, Maps, Imported) {
    let mut store = Maps::default();
    let empty = Maps::default();
    let mut batches: Vec<Batch> = Vec::new();
    let file = File::open(bytes).unwrap();
    let write = &mut |batch| {
        batches.push(batch);
        Ok(())
    };
    let told = import(&file, options, &empty, write, &mut || ()).unwrap();
    batches.into_iter().for_each(|batch| store.write(batch));
    (State::open(&store).unwrap(), store, told)
}

const AS_IT_WAS: Import = Import {
    position: None,
    members: None,
    bump_revision: 0,
};

#[test]
fn what_goes_out_comes_back() {
    let before = lived_in();
    let (after, store, told) = imported(exported(&before), &AS_IT_WAS);
    let state = &before.state;
    assert_eq!(
        (told.revision, told.position),
        (state.revision(), state.position())
    );
    assert_eq!(after.revision(), state.revision());
    assert_eq!(after.compact_revision(), state.compact_revision());
    for revision in [0, 200, 250] {
        let hashes = (
            after.hash_kv(revision, &store).unwrap().unwrap(),
            state.hash_kv(revision, &before.store).unwrap().unwrap(),
        );
        assert_eq!(hashes.0, hashes.1, "revision {revision}");
    }
    assert_eq!(after.members(), state.members());
    assert!(after.is_removed(12) && after.attributes(11).is_some());
    assert_eq!(after.alarms(), state.alarms());
    assert_eq!(after.cluster_version(), state.cluster_version());
    let leases = |state: &State| {
        state
            .leases()
            .map(|(id, lease)| (id, lease.ttl, lease.keys.len()))
            .collect::<Vec<_>>()
    };
    assert_eq!(leases(&after), leases(state));
    // A second way round shows that nothing is left out or made up; what the log says differs.
    let (again, ours) = (
        Export::new(store).unwrap(),
        Export::new(before.store.clone()).unwrap(),
    );
    assert_eq!(again.hash(true).unwrap(), ours.hash(true).unwrap());
}

/// A file that is written in the middle of a sweep holds what is dead, and says so.
#[test]
fn what_is_not_swept_does_not_come_back() {
    let (before, swept) = (compacted(), lived_in());
    let (after, store, _) = imported(exported(&before), &AS_IT_WAS);
    assert_eq!(after.compact_revision(), 200);
    assert_eq!(after.logical_bytes(), swept.state.logical_bytes());
    for revision in [0, 200, 250] {
        let hash = |state: &State, store: &dyn Read| state.hash_kv(revision, store).unwrap().unwrap();
        assert_eq!(hash(&after, &store), hash(&swept.state, &swept.store));
    }
}

#[test]
fn a_raised_revision_forgets_the_past() {
    let before = lived_in();
    let options = Import {
        members: Some(vec![(5, vec!["http://127.0.0.1:9".into()])]),
        bump_revision: 1_000,
        ..AS_IT_WAS
    };
    let (after, store, _) = imported(exported(&before), &options);
    let raised = before.state.revision() + 1_000;
    assert_eq!((after.revision(), after.compact_revision()), (raised, raised));
    assert_eq!(after.members().len(), 1);
    let all = |state: &State, store: &dyn Read| {
        let request = pb::RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            ..Default::default()
        };
        state.range(&request, store).unwrap().unwrap().kvs
    };
    assert_eq!(all(&after, &store), all(&before.state, &before.store));
}

#[test]
fn rows_that_make_no_sense_are_refused() {
    assert_eq!(
        parse_revision_key(b"12345678_12345678t").map(|(_, tombstone)| tombstone),
        Some(true)
    );
    for key in [
        &b"12345678-12345678"[..],
        b"12345678_1234567",
        b"\xff2345678_12345678",
        b"12345678_12345678x",
    ] {
        assert_eq!(parse_revision_key(key), None);
    }
}
