//! From plain metrics to what Prometheus's encoder takes.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::base::metrics;

/// Families in the order in which they were added.
#[derive(Default)]
pub struct Families(pub Vec<MetricFamily>);

impl Families {
    pub fn counter(&mut self, name: &str, help: &str, counter: &metrics::Counter) {
        self.counters(name, help, [(Vec::new(), counter.get())]);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.gauges(name, help, [(Vec::new(), value)]);
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &metrics::Histogram) {
        self.histograms(name, help, [(Vec::new(), histogram)]);
    }

    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<LabelPair>, u64)>,
    ) {
        self.add(name, help, MetricType::COUNTER, values, |metric, value| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        });
    }

    pub fn gauges(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<LabelPair>, i64)>,
    ) {
        self.add(name, help, MetricType::GAUGE, values, |metric, value| {
            let mut gauge = Gauge::default();
            gauge.set_value(value as f64);
            metric.set_gauge(gauge);
        });
    }

    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<LabelPair>, &'a metrics::Histogram)>,
    ) {
        self.add(name, help, MetricType::HISTOGRAM, values, |metric, value| {
            metric.set_histogram(measured(value));
        });
    }

    /// A family without a metric is not shown: the encoder takes it for a mistake.
    fn add<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl IntoIterator<Item = (Vec<LabelPair>, V)>,
        set: impl Fn(&mut Metric, V),
    ) {
        let metric = |(labels, value)| {
            let mut metric = Metric::from_label(labels);
            set(&mut metric, value);
            metric
        };
        let metrics: Vec<Metric> = values.into_iter().map(metric).collect();
        if metrics.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.into());
        family.set_help(help.into());
        family.set_field_type(kind);
        family.set_metric(metrics);
        self.0.push(family);
    }
}

/// Labels in the order of their names, as Prometheus writes them.
pub fn labels(pairs: &[(&str, &str)]) -> Vec<LabelPair> {
    let label = |&(name, value): &(&str, &str)| {
        let mut label = LabelPair::default();
        label.set_name(name.into());
        label.set_value(value.into());
        label
    };
    pairs.iter().map(label).collect()
}

fn measured(histogram: &metrics::Histogram) -> Histogram {
    let bucket = |(bound, below): (f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(below);
        bucket
    };
    let buckets: Vec<Bucket> = histogram.cumulative().into_iter().map(bucket).collect();
    // Counted after the buckets: no bucket may hold more than there are.
    let mut proto = Histogram::default();
    proto.set_sample_count(histogram.count());
    proto.set_sample_sum(histogram.sum());
    proto.set_bucket(buckets);
    proto
}
