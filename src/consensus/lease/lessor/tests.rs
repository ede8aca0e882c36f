use super::*;

const HOUR: i64 = 3600;
const TERM: u64 = 5;

/// Time jumps when everybody sleeps.
async fn pass(time: i64) {
    crate::runtime::tokio::env().sleep(seconds(time)).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_from_a_checkpoint_until_the_lease_is_renewed() {
    let env = crate::runtime::tokio::env();
    let [old, new] = [(); 2].map(|()| Lessor::new(env.clone(), true));
    for lessor in [&old, &new] {
        lessor.granted(1, HOUR);
        lessor.granted(2, 200);
    }
    old.promote(TERM, Duration::ZERO);
    pass(299).await;
    assert_eq!(old.due_checkpoints(TERM), []);
    pass(1).await;
    // The short lease is over before anybody would write down what is left of it.
    assert_eq!(old.due_checkpoints(TERM), [(1, HOUR - 300)]);
    // It may be applied behind a renewal that does not know of it.
    assert_eq!(old.renew(&[1, 2]), Some(Err(vec![1])));
    assert_eq!(old.due_checkpoints(TERM), []);
    new.checkpointed(1, HOUR - 300);
    pass(300).await;
    assert_eq!(old.due_checkpoints(TERM), [(1, HOUR - 600)]);
    new.promote(TERM, Duration::ZERO);
    assert_eq!(new.remaining(1), Some(Some(HOUR - 300)));
    assert_eq!(new.renew(&[1, 2]), Some(Err(vec![1])));
    new.checkpointed(1, 0);
    assert_eq!(new.renew(&[1]), Some(Ok(vec![Renewal::Renewed(HOUR)])));
    assert_eq!(new.remaining(1), Some(Some(HOUR)));
    new.revoked(1);
    pass(300).await;
    assert_eq!(new.due_checkpoints(TERM), []);
}

/// A leader that lost its quorum for a while leads again in its term: what it proposed is in its log, and may be committed.
#[tokio::test(start_paused = true)]
async fn what_is_being_revoked_stays_over_when_its_leader_leads_again() {
    let lessor = Lessor::new(crate::runtime::tokio::env(), false);
    lessor.granted(1, 2);
    lessor.granted(2, 4);
    lessor.promote(TERM, Duration::ZERO);
    pass(2).await;
    assert_eq!(lessor.expired(TERM, 10), [1]);
    lessor.demote();
    lessor.promote(TERM, Duration::ZERO);
    let renewed = [Renewal::Ending, Renewal::Renewed(4)];
    assert_eq!(lessor.renew(&[1, 2]), Some(Ok(renewed.to_vec())));
    assert_eq!(lessor.expired(TERM, 10), [1]);
    // In another term it is in the log that this leader has applied, or nowhere.
    lessor.demote();
    lessor.promote(TERM + 1, Duration::ZERO);
    assert_eq!(lessor.renew(&[1]), Some(Ok(vec![Renewal::Renewed(2)])));
}

#[tokio::test(start_paused = true)]
async fn without_checkpoints_none_is_due() {
    let lessor = Lessor::new(crate::runtime::tokio::env(), false);
    lessor.granted(1, HOUR);
    lessor.promote(TERM, Duration::ZERO);
    pass(2 * 300).await;
    assert_eq!(lessor.due_checkpoints(TERM), []);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_over_is_neither_renewed_nor_unknown_until_it_is_revoked() {
    let lessor = Lessor::new(crate::runtime::tokio::env(), false);
    lessor.granted(1, 2);
    lessor.granted(2, HOUR);
    assert_eq!(lessor.renew(&[1]), None, "not the leader");
    lessor.promote(TERM, Duration::ZERO);
    pass(2).await;
    let renewed = [Renewal::Renewed(HOUR), Renewal::Ending, Renewal::Unknown];
    assert_eq!(lessor.renew(&[2, 1, 3]), Some(Ok(renewed.to_vec())));
    assert_eq!(lessor.expired(TERM, 10), [1]);
    assert_eq!(lessor.renew(&[1]), Some(Ok(vec![Renewal::Ending])));
    lessor.revoked(1);
    assert_eq!(lessor.renew(&[1]), Some(Ok(vec![Renewal::Unknown])));
}

/// Deposed and elected again before anybody looked: meanwhile another leader has renewed what looks over here.
#[tokio::test(start_paused = true)]
async fn deadlines_of_an_earlier_term_end_nothing() {
    let lessor = Lessor::new(crate::runtime::tokio::env(), false);
    lessor.granted(1, 2);
    lessor.promote(TERM, Duration::ZERO);
    pass(2).await;
    assert!(lessor.expired(TERM + 2, 10).is_empty());
    lessor.promote(TERM + 2, Duration::ZERO);
    assert!(lessor.expired(TERM + 2, 10).is_empty());
    pass(2).await;
    assert_eq!(lessor.expired(TERM + 2, 10), [1]);
}
