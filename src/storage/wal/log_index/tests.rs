use super::*;

fn record(term: u64, index: u64, length: usize) -> LogRecord {
    LogRecord {
        term,
        node: 1,
        index,
        payload: Bytes::from(vec![7; length]),
    }
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term, node: 1, index }
}

fn place(offset: u64) -> Place {
    Place {
        segment: 1,
        offset,
        checksum: 0,
    }
}

fn filled(entries: u64) -> (LogIndex, Vec<u64>) {
    let mut log_index = LogIndex::default();
    let tickets = (0..entries).map(|index| log_index.append(&record(1, index, 10)).unwrap());
    let tickets = tickets.collect();
    (log_index, tickets)
}

#[test]
fn a_hole_is_refused() {
    let (mut log_index, _) = filled(3);
    assert!(log_index.append(&record(1, 4, 1)).is_err());
    assert!(log_index.append(&record(1, 2, 1)).is_err());
    assert!(log_index.append(&record(1, 3, 1)).is_ok());
}

#[test]
fn a_place_of_a_truncated_entry_is_not_given_to_its_successor() {
    let (mut log_index, tickets) = filled(3);
    log_index.truncate(Some(id(1, 1)));
    let second = log_index.append(&record(2, 2, 10)).unwrap();
    log_index.placed(2, tickets[2], place(512));
    log_index.placed(0, tickets[0], place(0));
    log_index.placed(1, tickets[1], place(1));
    log_index.evict(0);
    // Entry 2 of term 2 is not durable: it must still be served from memory.
    let (stored, cached) = log_index.plan(0, 9, None);
    assert_eq!(stored.len(), 2);
    assert_eq!(cached, vec![record(2, 2, 10)]);
    log_index.placed(2, second, place(1024));
    log_index.evict(0);
    assert_eq!(log_index.plan(2, 3, None).0[0].place, place(1024));
}

#[test]
fn a_look_shows_what_is_new_and_what_is_durable() {
    let (mut log_index, tickets) = filled(3);
    log_index.placed(0, tickets[0], place(0));
    let first = log_index.look(0);
    assert_eq!((first.start, first.end, first.durable_end), (0, 3, 1));
    assert_eq!(first.added.len(), 3);
    assert_eq!(log_index.look(first.ticket).added, vec![]);
    log_index.truncate(Some(id(1, 0)));
    assert_eq!(
        (
            log_index.look(first.ticket).end,
            log_index.look(first.ticket).durable_end
        ),
        (1, 1)
    );
    log_index.append(&record(2, 1, 5)).unwrap();
    let second = log_index.look(first.ticket);
    assert_eq!(second.added.len(), 1);
    assert_eq!(second.added[0].id, id(2, 1));
    assert_eq!(second.added[0].checksum, crc32c::crc32c(&[7; 5]));
    assert_eq!(second.added[0].payload.as_deref(), Some(&[7; 5][..]));
    log_index.reset(id(3, 9));
    let third = log_index.look(second.ticket);
    assert_eq!((third.start, third.end, third.durable_end), (10, 10, 10));
}

#[test]
fn a_purge_beyond_the_end_empties_the_log_and_moves_its_end() {
    let (mut log_index, _) = filled(3);
    log_index.purge(id(2, 10));
    assert_eq!(log_index.last(), Some(id(2, 10)));
    assert_eq!(log_index.plan(0, 99, None), (vec![], vec![]));
    assert!(log_index.append(&record(2, 12, 1)).is_err());
    assert!(log_index.append(&record(2, 11, 1)).is_ok());
}

#[test]
fn a_purge_keeps_what_is_behind_it() {
    let (mut log_index, _) = filled(5);
    log_index.purge(id(1, 2));
    let (_, cached) = log_index.plan(0, 99, None);
    assert_eq!(cached, vec![record(1, 3, 10), record(1, 4, 10)]);
    assert_eq!(log_index.state().purged, Some(id(1, 2)));
    assert_eq!(log_index.state().last, Some(id(1, 4)));
}

#[test]
fn a_read_gives_one_entry_at_least_and_no_more_than_wanted() {
    let (log_index, _) = filled(5);
    let lengths = |max| log_index.plan(1, 4, max).1.len();
    assert_eq!(lengths(Some(0)), 1);
    assert_eq!(lengths(Some(19)), 1);
    assert_eq!(lengths(Some(20)), 2);
    assert_eq!(lengths(None), 3);
}
