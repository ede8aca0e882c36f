//! HashKV against etcd 3.7.1: the hashes it gave for this session, revision by revision, with `physical` compactions.

use super::*;
use crate::state::KvHash;

/// Hashes at revisions, 0 for the current one; then what is answered as current and compacted revision.
type Hashes = &'static [(i64, u32)];

fn check(machine: &Machine, compact_revision: i64, hashes: Hashes) {
    for &(revision, hash) in hashes {
        let expected = KvHash {
            hash,
            compact_revision,
            hash_revision: if revision == 0 {
                machine.state.revision()
            } else {
                revision
            },
        };
        let found = machine.state.hash_kv(revision, &machine.store).unwrap();
        assert_eq!(
            found,
            Ok(expected),
            "at {revision}, compacted at {compact_revision}"
        );
    }
}

/// Dead records may be there or not, and the machine may be a restarted one.
fn check_in_every_way(machine: &mut Machine, compact_revision: i64, hashes: Hashes) {
    check(machine, compact_revision, hashes);
    check(&machine.reopened(), compact_revision, hashes);
    for at in machine.dead_records() {
        machine.store.remove_record(at);
    }
    check(machine, compact_revision, hashes);
    check(&machine.reopened(), compact_revision, hashes);
}

#[test]
fn hashes_are_those_of_etcd() {
    let mut machine = Machine::new();
    check_in_every_way(
        &mut machine,
        -1,
        &[(0, 1_084_519_789), (1, 1_084_519_789), (-3, 1_084_519_789)],
    );
    machine.put("a", "1");
    machine.put("b", "1");
    machine.put("a", "2");
    machine.ok(Request::Txn(then(vec![
        put_op("c", "1"),
        put_op("d", "1"),
        put_op("a", "3"),
    ])));
    machine.delete("b", "");
    machine.ok(Request::LeaseGrant(pb::LeaseGrantRequest { id: 77, ttl: 1000 }));
    machine.ok(leased("l", "leased", 77));
    machine.put("b", "again");
    machine.put("a", "");
    assert_eq!(machine.delete("c", "e"), 2);
    machine.put("e", "1");
    assert_eq!(machine.state.revision(), 11);
    let uncompacted: Hashes = &[
        (1, 1_084_519_789),
        (2, 2_587_454_935),
        (5, 3_081_492_093),
        (6, 3_690_283_697),
        (8, 2_388_247_219),
        (10, 268_605_014),
        (0, 364_828_592),
    ];
    check_in_every_way(&mut machine, -1, uncompacted);
    machine.ok(compact(6));
    let at_a_tombstone: Hashes = &[
        (7, 2_411_180_339),
        (8, 3_106_166_210),
        (9, 1_959_279_647),
        (10, 1_112_677_769),
        (0, 2_065_591_491),
    ];
    check_in_every_way(&mut machine, 6, at_a_tombstone);
    machine.ok(compact(10));
    check_in_every_way(&mut machine, 10, &[(11, 18_513_816), (0, 18_513_816)]);
    assert_eq!(machine.delete("a", "z"), 4);
    check_in_every_way(&mut machine, 10, &[(11, 18_513_816), (12, 3_148_445_245)]);
    machine.ok(compact(11));
    check_in_every_way(&mut machine, 11, &[(12, 3_148_445_245)]);
    machine.ok(compact(12));
    machine.put("x", "1");
    check_in_every_way(&mut machine, 12, &[(13, 3_202_329_011)]);
    machine.delete("x", "");
    check_in_every_way(&mut machine, 12, &[(14, 1_230_310_106), (13, 3_202_329_011)]);
    machine.ok(compact(13));
    check_in_every_way(&mut machine, 13, &[(14, 1_230_310_106)]);
}

#[test]
fn hashes_of_the_future_and_of_what_is_compacted_are_refused() {
    let mut machine = Machine::new();
    for value in ["1", "2", "3"] {
        machine.put("k", value);
    }
    machine.ok(compact(3));
    let refused = |revision| machine.state.hash_kv(revision, &machine.store).unwrap().err();
    assert_eq!(refused(5), Some(Denied::FutureRevision));
    assert_eq!(refused(2), Some(Denied::Compacted));
    assert_eq!(refused(3), None);
}
