use super::*;

fn at(seconds: u64) -> Instant {
    Instant::from_nanos(seconds * 1_000_000_000)
}

fn link() -> Link {
    let link = Link::new(Duration::from_secs(2));
    assert_eq!(link.connected_since(at(10)), None, "nobody was heard yet");
    link.heard(at(10));
    link
}

#[test]
fn late_answers_end_nothing_and_silence_does() {
    let link = link();
    link.heard(at(14));
    assert_eq!(link.connected_since(at(19)), Some(at(10)));
    assert_eq!(link.connected_since(at(20)), None);
    link.heard(at(20));
    assert_eq!(link.connected_since(at(20)), Some(at(20)));
}

#[test]
fn a_lost_connection_counts_at_once_and_is_mended_or_not() {
    let link = link();
    link.lost();
    assert_eq!(link.connected_since(at(10)), None);
    link.heard(at(12));
    assert_eq!(link.connected_since(at(12)), Some(at(10)));
    link.lost();
    link.heard(at(15));
    assert_eq!(link.connected_since(at(15)), Some(at(15)));
}
