use futures_util::FutureExt;

use super::*;

const MAX: usize = limits::ANSWERS_UNREAD_BYTES_MAX;

fn has_room(answer: &Answer) -> bool {
    answer.room().now_or_never().is_some()
}

#[test]
fn one_answer_at_a_time_goes_beyond_the_bound() {
    let connection = Unread::default();
    let [first, second, third] = [0; 3].map(|_| connection.answer());
    first.add(MAX - 1);
    assert!(has_room(&second), "a byte is left");
    second.add(1);
    assert!(has_room(&first) && has_room(&first), "it is the one");
    first.add(MAX);
    assert!(!has_room(&second) && !has_room(&third));
    drop(first);
    assert!(has_room(&second) && has_room(&third), "below the bound");
}

#[test]
fn what_waits_goes_on_when_a_frame_was_written() {
    let connection = Unread::default();
    let large = connection.answer();
    large.add(2 * MAX);
    assert!(has_room(&large), "it goes beyond");
    let (frame, waiting) = (large.keep(Bytes::from_static(b"frame")), connection.answer());
    assert_eq!(frame, Bytes::from_static(b"frame"));
    drop(large);
    let mut room = Box::pin(waiting.room());
    assert!(room.as_mut().now_or_never().is_none());
    let rest = frame.slice(1..);
    drop(frame);
    assert!(room.as_mut().now_or_never().is_none(), "a part is not written");
    drop(rest);
    assert!(room.now_or_never().is_some());
    assert_eq!(connection.0.held.borrow().bytes, 0);
}

#[test]
fn frames_of_what_did_not_count_hold_themselves() {
    let connection = Unread::default();
    let stream = connection.answer();
    let small = stream.keep(Bytes::from(vec![0; FRAME_COUNTED_BYTES - 1]));
    assert_eq!(connection.0.held.borrow().bytes, 0);
    let large = stream.keep(Bytes::from(vec![0; FRAME_COUNTED_BYTES]));
    assert_eq!(connection.0.held.borrow().bytes, FRAME_COUNTED_BYTES);
    drop((small, large));
    assert_eq!(connection.0.held.borrow().bytes, 0);
    let anywhere = Answer::default();
    anywhere.add(2 * MAX);
    assert!(has_room(&anywhere));
}
