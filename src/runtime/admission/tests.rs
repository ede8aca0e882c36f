use std::future::{pending, ready};

use super::*;

const LONG: Duration = Duration::from_secs(600);

#[test]
fn descriptors_are_shared_out_and_too_few_are_refused() {
    let enough = 2 * limits::DESCRIPTORS_RESERVED;
    for all in [limits::DESCRIPTORS_RESERVED, enough, 1024, 4096, 1 << 20] {
        let (clients, newcomers) = (clients_max(Some(all)), peer_newcomers_max(Some(all)));
        match clients {
            Err(error) => assert!(all < enough, "{error}"),
            Ok(clients) => {
                assert_eq!(clients + newcomers + limits::DESCRIPTORS_RESERVED, all);
                assert!(newcomers >= 64 && clients >= all / 4);
            }
        }
    }
    assert_eq!(clients_max(None), Ok(usize::MAX));
}

#[tokio::test]
async fn the_quietest_goes_first_and_who_has_spoken_stays() {
    let env = crate::runtime::tokio::env();
    let newcomers = Newcomers::new(2);
    let (first, second) = (newcomers.enter(), newcomers.enter());
    assert_eq!(
        first.until(&env, LONG, ready(1)).await.unwrap(),
        1,
        "it has spoken"
    );
    let third = newcomers.enter();
    // There were two, as the first one has spoken.
    let fourth = newcomers.enter();
    let gone = second.until(&env, LONG, pending::<()>()).await.unwrap_err();
    assert_eq!(gone.kind(), io::ErrorKind::ConnectionAborted);
    newcomers.make_room();
    assert!(third.until(&env, LONG, pending::<()>()).await.is_err());
    let late = fourth
        .until(&env, Duration::ZERO, pending::<()>())
        .await
        .unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    assert!(newcomers.lock().places.is_empty());
}

#[test]
fn a_line_is_due_once_a_second() {
    let mut line = AtMostOncePerSecond::default();
    let start = Instant::from_nanos(0);
    let due = |line: &mut AtMostOncePerSecond, millis| line.is_due(start + Duration::from_millis(millis));
    let all = [0, 1, 999, 1_000, 1_500, 2_000].map(|millis| due(&mut line, millis));
    assert_eq!(all, [true, false, false, true, false, true]);
}
