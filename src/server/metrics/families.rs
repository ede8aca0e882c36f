//! From plain figures to what Prometheus's encoder takes.

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::base::figures;

/// Families in the order in which they were added.
#[derive(Default)]
pub struct Families(pub Vec<MetricFamily>);

impl Families {
    pub fn counter(&mut self, name: &str, help: &str, counter: &figures::Counter) {
        self.counters(name, help, [(Vec::new(), counter.get())]);
    }

    pub fn gauge(&mut self, name: &str, help: &str, value: i64) {
        self.gauges(name, help, [(Vec::new(), value)]);
    }

    pub fn histogram(&mut self, name: &str, help: &str, histogram: &figures::Histogram) {
        self.add(name, help, MetricType::HISTOGRAM, vec![measured(histogram)]);
    }

    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<LabelPair>, u64)>,
    ) {
        let metric = |(labels, value): (Vec<LabelPair>, u64)| {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            let mut metric = Metric::from_label(labels);
            metric.set_counter(counter);
            metric
        };
        self.add(
            name,
            help,
            MetricType::COUNTER,
            values.into_iter().map(metric).collect(),
        );
    }

    pub fn gauges(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<LabelPair>, i64)>,
    ) {
        let metric = |(labels, value): (Vec<LabelPair>, i64)| {
            let mut gauge = Gauge::default();
            gauge.set_value(value as f64);
            let mut metric = Metric::from_label(labels);
            metric.set_gauge(gauge);
            metric
        };
        self.add(
            name,
            help,
            MetricType::GAUGE,
            values.into_iter().map(metric).collect(),
        );
    }

    pub fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<LabelPair>, &'a figures::Histogram)>,
    ) {
        let metric = |(labels, histogram)| {
            let mut metric = measured(histogram);
            metric.set_label(labels);
            metric
        };
        let metrics = values.into_iter().map(metric).collect();
        self.add(name, help, MetricType::HISTOGRAM, metrics);
    }

    /// A family without a metric is not shown: the encoder takes it for a mistake.
    fn add(&mut self, name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) {
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

fn measured(histogram: &figures::Histogram) -> Metric {
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
    let mut metric = Metric::default();
    metric.set_histogram(proto);
    metric
}
