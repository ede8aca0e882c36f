use std::sync::{Arc, Mutex, PoisonError};

use futures_util::task::noop_waker;

use super::*;
use crate::seed::Seed;

const MILLI: Nanos = 1_000_000;
const PORT: u16 = 2380;

/// Two hosts, one connection; the timers that were asked for are collected.
struct Bench {
    net: Net,
    now: Nanos,
    timers: Arc<Mutex<Vec<Nanos>>>,
    dialer: EndId,
    acceptor: EndId,
    binding: Binding,
}

fn settings() -> Settings {
    Settings {
        speed: Speed {
            latency: MILLI,
            jitter: MILLI / 2,
            per_kibibyte: 1_000,
        },
        window: 1000,
        give_up: Duration::from_secs(20),
    }
}

impl Bench {
    fn new() -> Self {
        let timers = Arc::new(Mutex::new(Vec::new()));
        let kept = timers.clone();
        let timer = move |at, _| kept.lock().unwrap_or_else(PoisonError::into_inner).push(at);
        let mut net = Net::new(settings(), Seed(1).dice("network"), Box::new(timer));
        assert_eq!((net.add_host("m1"), net.add_host("m2")), (0, 1));
        let binding = net.bind(1, PORT).expect("a free port");
        let Knock::Opened(dialer) = net.knock(0, 1, PORT) else {
            panic!("the port is bound");
        };
        let waker = noop_waker();
        let Poll::Ready(Ok(acceptor)) = net.poll_accept(binding, &Context::from_waker(&waker)) else {
            panic!("a connection waits");
        };
        Bench {
            net,
            now: 0,
            timers,
            dialer,
            acceptor,
            binding,
        }
    }

    fn write(&mut self, id: EndId, data: &[u8]) -> Poll<io::Result<usize>> {
        let waker = noop_waker();
        let parts = [io::IoSlice::new(data)];
        self.net
            .poll_write(self.now, id, &parts, &Context::from_waker(&waker))
    }

    /// What can be read now: `None` if nothing, an empty string at the end of the stream.
    fn read(&mut self, id: EndId) -> Option<io::Result<String>> {
        let waker = noop_waker();
        let mut read = Vec::new();
        let put = |data: &[u8]| read.extend_from_slice(data);
        match self
            .net
            .poll_read(self.now, id, 64, put, &Context::from_waker(&waker))
        {
            Poll::Pending => None,
            Poll::Ready(result) => Some(result.map(|()| String::from_utf8(read).expect("text"))),
        }
    }

    fn read_ok(&mut self, id: EndId) -> Option<String> {
        self.read(id).map(|read| read.expect("an intact connection"))
    }

    fn read_error(&mut self, id: EndId) -> io::ErrorKind {
        self.read(id).expect("an answer").expect_err("a failure").kind()
    }

    fn pass(&mut self, millis: u64) {
        self.now += millis * MILLI;
    }
}

fn sent(result: Poll<io::Result<usize>>) -> usize {
    match result {
        Poll::Ready(Ok(length)) => length,
        other => panic!("not written: {other:?}"),
    }
}

#[test]
fn bytes_take_their_time_and_keep_their_order() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    assert!(bench.read(b).is_none());
    assert_eq!(sent(bench.write(a, b"one ")), 4);
    assert_eq!(sent(bench.write(a, b"two")), 3);
    assert!(bench.read(b).is_none(), "nothing travels in no time");
    assert!(
        !bench.timers.lock().expect("kept").is_empty(),
        "the reader is woken in time"
    );
    bench.pass(3);
    assert_eq!(bench.read_ok(b).as_deref(), Some("one two"));
    assert!(bench.read(b).is_none());
}

#[test]
fn a_full_window_stops_the_writer_until_somebody_reads() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    assert_eq!(sent(bench.write(a, &[b'x'; 1500])), 1000);
    assert!(bench.write(a, b"y").is_pending());
    bench.pass(5);
    assert!(bench.write(a, b"y").is_pending(), "arrived is not yet read");
    assert_eq!(bench.read_ok(b).map(|read| read.len()), Some(64));
    assert_eq!(sent(bench.write(a, &[b'y'; 100])), 64);
}

#[test]
fn a_cut_holds_data_and_its_end_back_until_it_is_healed() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    sent(bench.write(a, b"before"));
    bench.net.cut(bench.now, 0, 1);
    bench.net.cut(bench.now, 0, 1);
    sent(bench.write(a, b" after"));
    bench.net.finish(bench.now, a).expect("not failed");
    bench.pass(10_000);
    assert!(bench.read(b).is_none());
    sent(bench.write(b, b"back"));
    bench.pass(5);
    assert_eq!(
        bench.read_ok(a).as_deref(),
        Some("back"),
        "the other direction is open"
    );
    bench.net.heal(bench.now, 0, 1);
    bench.pass(5_000);
    assert!(bench.read(b).is_none(), "one cut is left");
    bench.net.heal(bench.now, 0, 1);
    assert!(bench.read(b).is_none(), "a retransmission travels too");
    bench.pass(2_000);
    assert_eq!(bench.read_ok(b).as_deref(), Some("before after"));
    assert_eq!(bench.read_ok(b).as_deref(), Some(""));
}

#[test]
fn a_long_cut_fails_the_sender_and_tells_the_receiver_nothing() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    bench.net.cut(bench.now, 0, 1);
    bench.pass(30_000);
    assert!(bench.read(a).is_none(), "nothing was under way");
    sent(bench.write(a, b"lost"));
    bench.pass(20_000);
    assert_eq!(bench.read_error(a), io::ErrorKind::TimedOut);
    bench.net.heal(bench.now, 0, 1);
    bench.pass(30_000);
    assert!(bench.read(b).is_none(), "half-open");
    sent(bench.write(b, b"x"));
    bench.net.close(bench.now, a);
    bench.pass(5);
    sent(bench.write(b, b"y"));
    bench.pass(5);
    assert_eq!(bench.read_error(b), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_on_a_cut_way_back_is_neither_early_nor_lost() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    bench.net.close(bench.now, b);
    bench.net.cut(bench.now, 1, 0);
    sent(bench.write(a, b"to nobody"));
    // Healed before the data could even have arrived.
    bench.net.heal(bench.now, 1, 0);
    bench.pass(20);
    assert_eq!(bench.read_error(a), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_held_up_by_a_cut_arrives_although_its_sender_is_gone() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    bench.net.cut(bench.now, 0, 1);
    assert_eq!(bench.net.reset(bench.now, 0, 1), 0, "no message was under way");
    bench.pass(20);
    assert_eq!(bench.read_error(a), io::ErrorKind::ConnectionReset);
    bench.net.close(bench.now, a);
    assert!(bench.read(b).is_none(), "the way is cut");
    bench.net.heal(bench.now, 0, 1);
    bench.pass(1_000);
    assert_eq!(bench.read_error(b), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_reset_strikes_in_the_middle_of_a_message() {
    let whole = "0123456789".repeat(5);
    let mut seen = std::collections::BTreeSet::new();
    let mut bench = Bench::new();
    let mut cut_off = 0;
    for _ in 0..200 {
        let Knock::Opened(a) = bench.net.knock(0, 1, PORT) else {
            panic!("the port is bound");
        };
        let b = a.opposite();
        sent(bench.write(a, whole.as_bytes()));
        cut_off += bench.net.reset(bench.now, 0, 1);
        let mut read = 0;
        while let Some(Ok(data)) = {
            bench.now += MILLI / 10;
            bench.read(b).or(Some(Ok(String::new())))
        } {
            assert!(whole[read..].starts_with(&data));
            read += data.len();
        }
        seen.insert(read);
        assert_eq!(bench.read_error(b), io::ErrorKind::ConnectionReset);
        bench.pass(4);
        assert_eq!(bench.read_error(a), io::ErrorKind::ConnectionReset);
        bench.net.close(bench.now, a);
        bench.net.close(bench.now, b);
    }
    assert!(seen.len() > 10, "lengths seen: {seen:?}");
    assert!(
        (150..=200).contains(&cut_off),
        "whole messages are not cut off: {cut_off}"
    );
}

#[test]
fn a_dead_process_closes_and_a_dead_machine_is_silent() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    bench.net.kill_process(bench.now, 1);
    bench.pass(5);
    assert_eq!(bench.read_ok(a).as_deref(), Some(""), "end of stream");
    assert!(bench.read(b).expect("an answer").is_err());
    assert_eq!(bench.net.knock(0, 1, PORT), Knock::Refused);

    let mut bench = Bench::new();
    let a = bench.dialer;
    sent(bench.write(a, b"under way"));
    bench.net.power_off(bench.now, 1);
    bench.pass(10_000);
    assert!(bench.read(a).is_none());
    assert_eq!(bench.net.knock(0, 1, PORT), Knock::Silence);
    assert!(bench.net.packet(bench.now, 0, 1).is_none());
    bench.net.power_on(bench.now, 1);
    bench.pass(3_000);
    assert_eq!(bench.read_error(a), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_half_open_connection_is_alive_for_one_end_alone() {
    for half in [Half::Refused, Half::Silent] {
        let mut bench = Bench::new();
        let (a, b) = (bench.dialer, bench.acceptor);
        sent(bench.write(a, b"arrives"));
        assert_eq!(bench.net.halve(bench.now, 0, 1, half), 1);
        assert_eq!(bench.read_error(a), io::ErrorKind::NotConnected);
        bench.pass(5);
        assert_eq!(bench.read_ok(b).as_deref(), Some("arrives"));
        assert!(bench.read(b).is_none(), "it learns nothing by waiting");
        assert_eq!(bench.net.into_halves, 0);
        sent(bench.write(b, b"into the void"));
        assert_eq!(bench.net.into_halves, 1);
        bench.pass(5);
        if half == Half::Silent {
            assert!(bench.read(b).is_none(), "nobody answers");
            bench.net.cut(bench.now, 1, 0);
            bench.net.heal(bench.now, 1, 0);
            bench.pass(20_000);
            assert_eq!(bench.read_error(b), io::ErrorKind::TimedOut);
        } else {
            assert_eq!(bench.read_error(b), io::ErrorKind::ConnectionReset);
        }
        bench.net.close(bench.now, b);
        assert!(bench.net.connections.is_empty());
    }
}

#[test]
fn behind_a_middle_box_the_end_of_one_direction_is_the_end_of_both() {
    for has_box in [false, true] {
        let mut bench = Bench::new();
        let (a, b) = (bench.dialer, bench.acceptor);
        if has_box {
            bench.net.put_middle_box(1, 0);
        }
        sent(bench.write(a, b"asked"));
        sent(bench.write(b, b"under way"));
        bench.net.finish(bench.now, a).expect("not failed");
        bench.pass(5);
        assert_eq!(bench.read_ok(b).as_deref(), Some("asked"));
        assert_eq!(bench.read_ok(b).as_deref(), Some(""), "the end");
        sent(bench.write(b, b", answered"));
        bench.pass(5);
        if has_box {
            assert_eq!(
                bench.read_ok(a).as_deref(),
                Some(""),
                "what was under way is lost"
            );
            assert_eq!(bench.read_error(b), io::ErrorKind::ConnectionReset);
        } else {
            assert_eq!(bench.read_ok(a).as_deref(), Some("under way, answered"));
        }
        assert_eq!(bench.net.touched(&[(0, 1)]).ended, u64::from(has_box));
        bench.net.close(bench.now, a);
        bench.net.close(bench.now, b);
        assert!(bench.net.connections.is_empty());
    }
}

#[test]
fn a_machine_without_power_retransmits_nothing() {
    let mut bench = Bench::new();
    let b = bench.acceptor;
    bench.net.cut(bench.now, 0, 1);
    sent(bench.write(bench.dialer, b"held up"));
    assert_eq!(bench.net.touched(&[(0, 1)]).blocked, 1);
    bench.net.power_off(bench.now, 0);
    bench.net.heal(bench.now, 0, 1);
    bench.pass(5_000);
    assert!(bench.read(b).is_none());
}

#[test]
fn closing_with_unread_data_resets() {
    let mut bench = Bench::new();
    let (a, b) = (bench.dialer, bench.acceptor);
    sent(bench.write(a, b"never read"));
    bench.pass(3);
    bench.net.close(bench.now, b);
    bench.pass(3);
    assert_eq!(bench.read_error(a), io::ErrorKind::ConnectionReset);
    bench.net.close(bench.now, a);
    assert!(
        bench.net.connections.is_empty(),
        "nothing is kept of what is over"
    );
}

#[test]
fn names_are_resolved_and_ports_are_bound_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.net.resolve(0, "m2:2379").expect("known"), (1, 2379));
    assert_eq!(bench.net.resolve(0, "localhost:1").expect("known"), (0, 1));
    assert_eq!(
        bench.net.resolve(0, "m9:1").expect_err("unknown").kind(),
        io::ErrorKind::NotFound
    );
    assert_eq!(
        bench.net.bind(1, PORT).expect_err("taken").kind(),
        io::ErrorKind::AddrInUse
    );
    let any = bench.net.bind(1, 0).expect("a free port");
    assert_ne!(any.port, bench.net.bind(1, 0).expect("another free port").port);
    bench.net.unbind(0, bench.binding);
    let again = bench.net.bind(1, PORT).expect("free again");
    bench.net.unbind(0, bench.binding);
    assert!(bench.net.bind(1, PORT).is_err(), "an old binding closes nothing");
    bench.net.unbind(0, again);
    bench.net.bind(1, PORT).expect("free once more");
}

#[test]
fn nothing_is_lost_repeated_or_reordered_whatever_the_network_does() {
    let letter = |at: u64| b'a' + (at % 26) as u8;
    for seed in 0..60 {
        let mut bench = Bench::new();
        let mut dice = Seed(seed).dice("test");
        let (a, b) = (bench.dialer, bench.acceptor);
        let (mut written, mut read) = (0, 0);
        while read < 3_000 {
            match dice.below(10) {
                0 if bench.net.is_cut(0, 1) => bench.net.heal(bench.now, 0, 1),
                0 => bench.net.cut(bench.now, 0, 1),
                1..4 => bench.pass(dice.below(20)),
                _ => {
                    let data: Vec<u8> = (written..written + 40).map(letter).collect();
                    if let Poll::Ready(result) = bench.write(a, &data) {
                        written += result.expect("cuts are short") as u64;
                    }
                }
            }
            for byte in bench.read_ok(b).unwrap_or_default().bytes() {
                assert_eq!(byte, letter(read), "seed {seed}");
                read += 1;
            }
        }
        assert!(read <= written);
    }
}
