use futures_util::FutureExt;

use super::*;

#[test]
fn a_receiver_sees_each_change_once_and_the_end() {
    let (sender, mut receiver) = channel(1);
    assert!(receiver.changed().now_or_never().is_none());
    sender.send(2);
    sender.send(3);
    assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
    assert_eq!(*receiver.borrow(), 3);
    assert!(receiver.changed().now_or_never().is_none());
    assert!(receiver.wait_until(|value| *value == 3).now_or_never().is_some());
    drop(sender);
    assert_eq!(receiver.changed().now_or_never(), Some(Err(Closed)));
}

#[test]
fn an_unmodified_value_wakes_nobody() {
    let (sender, mut receiver) = channel(1);
    assert!(!sender.send_if_modified(|_| false));
    assert!(receiver.changed().now_or_never().is_none());
}
