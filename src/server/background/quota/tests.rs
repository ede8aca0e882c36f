use super::*;

#[test]
fn the_allowance_is_what_was_found_free_and_no_more() {
    let allowance = Allowance::default();
    assert!(!allowance.take(1), "nothing is known yet");
    allowance.refill(1000);
    assert!(allowance.take(300) && allowance.take(200));
    assert!(!allowance.take(1), "half of what was free is used up");
    allowance.refill(1 << 40);
    assert!(!allowance.take(LOOK_EVERY_BYTES + 1));
}
