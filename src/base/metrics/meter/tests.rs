use super::*;

#[test]
fn a_value_is_counted_below_the_first_bound_that_it_does_not_exceed() {
    let histogram = Histogram::seconds(Duration::from_millis(1), 14);
    let check = |micros: u64, place: usize| {
        let before: Vec<u64> = histogram
            .buckets
            .iter()
            .map(|bucket| bucket.load(Relaxed))
            .collect();
        histogram.observe(Duration::from_micros(micros));
        for (at, bucket) in histogram.buckets.iter().enumerate() {
            let expected = before[at] + u64::from(at == place);
            assert_eq!(bucket.load(Relaxed), expected, "{micros} us in bucket {at}");
        }
    };
    check(0, 0);
    check(1, 0);
    check(1_000, 0);
    check(1_001, 1);
    check(2_000, 1);
    check(2_001, 2);
    check(4_000, 2);
    check(8_192_000, 13);
    check(8_192_001, 14);
    check(3_600_000_000, 14);
    assert_eq!(histogram.count(), 10);
    let bounds: Vec<f64> = histogram.cumulative().iter().map(|(bound, _)| *bound).collect();
    assert_eq!(bounds.first(), Some(&0.001));
    assert_eq!(bounds.last(), Some(&8.192));
    assert_eq!(histogram.cumulative().last().map(|(_, below)| *below), Some(8));
    assert!(
        (histogram.sum() - 3_616.394_004).abs() < 1e-6,
        "{}",
        histogram.sum()
    );
}

#[test]
fn units_are_those_of_the_name() {
    let milliseconds = Histogram::milliseconds(Duration::from_micros(500), 14);
    milliseconds.observe(Duration::from_millis(3));
    assert_eq!(
        milliseconds.cumulative()[..4],
        [(0.5, 0), (1.0, 0), (2.0, 0), (4.0, 1)]
    );
    assert_eq!(milliseconds.sum(), 3.0);
    let numbers = Histogram::numbers(1, 24);
    numbers.observe_number(60);
    assert_eq!(numbers.cumulative()[5..7], [(32.0, 0), (64.0, 1)]);
    assert_eq!((numbers.sum(), numbers.count()), (60.0, 1));
}

#[test]
fn a_gauge_is_held_as_long_as_its_guard() {
    let gauge = Gauge::default();
    let (one, two) = (gauge.hold(), gauge.hold());
    assert_eq!(gauge.get(), 2);
    drop(one);
    assert_eq!(gauge.get(), 1);
    drop(two);
    assert_eq!(gauge.get(), 0);
}
