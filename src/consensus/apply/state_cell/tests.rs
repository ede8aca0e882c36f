use super::*;

#[tokio::test]
async fn a_look_within_a_look_is_refused() {
    let cell = StateCell::new(crate::runtime::tokio::env(), 1);
    let (a, b) = (|| drop(cell.read()), || drop(cell.write()));
    let looks: [&dyn Fn(); 2] = [&a, &b];
    for look in looks {
        let held = cell.read();
        let again = std::panic::catch_unwind(std::panic::AssertUnwindSafe(look));
        assert!(again.is_err(), "it was let in");
        drop(held);
        look();
    }
}

#[tokio::test]
async fn what_is_looked_at_meanwhile_is_counted() {
    let (env, metrics) = (crate::runtime::tokio::env(), HeldMetrics::default());
    let cell = RefCell::new(());
    effort::spend(1_000);
    let held = Held::new(cell.borrow_mut(), &env, &metrics);
    effort::spend(3);
    drop(held);
    assert_eq!((metrics.entries.count(), metrics.entries.sum()), (1, 3.0));
    assert_eq!(metrics.seconds.count(), 1);
}
