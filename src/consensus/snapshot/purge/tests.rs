use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_follower_holds_the_log_from_its_snapshot_on_and_as_long_as_it_moves() {
    let start = crate::runtime::tokio::env().now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let holds = Holds::default();
    assert_eq!(holds.end(at(0), PATIENCE, |_| 0), u64::MAX);
    let sending = holds.sending(7, 100, at(0));
    // However long it takes.
    assert_eq!(holds.end(at(1000), PATIENCE, |_| 0), 100);
    let again = holds.sending(7, 150, at(1000));
    drop(sending);
    assert_eq!(holds.end(at(1020), PATIENCE, |_| 0), 150);
    drop(again);
    // What comes after the snapshot is still to be sent.
    assert_eq!(holds.end(at(1020), PATIENCE, |_| 0), 150);
    let other = holds.sending(8, 120, at(1021));
    assert_eq!(
        holds.end(at(1021), PATIENCE, |id| if id == 7 { 200 } else { 0 }),
        120
    );
    drop(other);
    // The one goes on, the other does not.
    assert_eq!(
        holds.end(at(1029), PATIENCE, |id| if id == 7 { 300 } else { 0 }),
        120
    );
    assert_eq!(
        holds.end(at(1032), PATIENCE, |id| if id == 7 { 300 } else { 0 }),
        300
    );
    assert_eq!(
        holds.end(at(1042), PATIENCE, |id| if id == 7 { 300 } else { 0 }),
        u64::MAX
    );
}
