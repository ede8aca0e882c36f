use super::*;

/// Compactions of a plan that looks after each pause, one revision later each time.
fn compactions(mode: AutoCompaction, looks: i64) -> Vec<(u64, Revision)> {
    let start = crate::runtime::tokio::env().now();
    let mut plan = Plan::new(mode, start);
    let (mut found, mut now) = (Vec::new(), start);
    for revision in 1..=looks {
        plan.sample(revision);
        now += plan.pause();
        if let Some(due) = plan.due(revision + 1, now) {
            plan.done(due, now);
            found.push(((now - start).as_secs(), due));
        }
    }
    found
}

#[test]
fn a_period_is_kept_and_then_compaction_follows_at_most_an_hour_apart() {
    let minutes = AutoCompaction::Periodic(Duration::from_secs(600));
    assert_eq!(compactions(minutes, 31), [(600, 1), (1200, 10), (1800, 20)]);
    let hours = AutoCompaction::Periodic(Duration::from_secs(2 * 3600));
    assert_eq!(compactions(hours, 41), [(7200, 1), (10_800, 10), (14_400, 20)]);
}

#[test]
fn the_last_revisions_are_kept() {
    assert_eq!(
        compactions(AutoCompaction::Revision(3), 5),
        [(900, 1), (1200, 2), (1500, 3)]
    );
}
