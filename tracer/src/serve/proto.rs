//! The protobuf format, which alone has native histograms: the messages of
//! `io.prometheus.client` (prometheus/client_model, metrics.proto) that we write.

use prost::Message;

use super::{
    buckets::{SCHEMA, ZERO_THRESHOLD},
    model::{self, Family, Labels, Metrics},
};

const COUNTER: i32 = 0;
const GAUGE: i32 = 1;
const HISTOGRAM: i32 = 4;

#[derive(Clone, PartialEq, Message)]
struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    unit: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(message, repeated, tag = "1")]
    label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    gauge: Option<Value>,
    #[prost(message, optional, tag = "3")]
    counter: Option<Value>,
    #[prost(message, optional, tag = "7")]
    histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct LabelPair {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(string, optional, tag = "2")]
    value: Option<String>,
}

/// `Counter` and `Gauge` alike.
#[derive(Clone, Copy, PartialEq, Message)]
struct Value {
    #[prost(double, optional, tag = "1")]
    value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    positive_span: Vec<BucketSpan>,
    #[prost(sint64, repeated, packed = "false", tag = "13")]
    positive_delta: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    upper_bound: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct BucketSpan {
    #[prost(sint32, optional, tag = "1")]
    offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    length: Option<u32>,
}

/// All families, each behind its length.
#[must_use]
pub fn delimited(families: &[Family]) -> Vec<u8> {
    families.iter().flat_map(|one| family(one).encode_length_delimited_to_vec()).collect()
}

fn family(family: &Family) -> MetricFamily {
    let value = |value: f64| Some(Value { value: Some(value) });
    let (kind, metric) = match &family.metrics {
        Metrics::Counters(metrics) => {
            let counter = |(labels, count): &(Labels, u64)| Metric {
                counter: value(*count as f64),
                ..labelled(labels)
            };
            (COUNTER, metrics.iter().map(counter).collect())
        }
        Metrics::Infos(metrics) => {
            let info = |labels| Metric { gauge: value(1.0), ..labelled(labels) };
            (GAUGE, metrics.iter().map(info).collect())
        }
        Metrics::Histograms(metrics) => {
            let one = |(labels, it): &(Labels, model::Histogram)| Metric {
                histogram: Some(histogram(it)),
                ..labelled(labels)
            };
            (HISTOGRAM, metrics.iter().map(one).collect())
        }
    };
    MetricFamily {
        name: Some(family.classic_name()),
        help: Some(family.help.to_string()),
        kind: Some(kind),
        metric,
        unit: family.unit.map(|unit| unit.name().to_string()),
    }
}

fn labelled(labels: &Labels) -> Metric {
    let pair = |(name, value): &(&str, String)| LabelPair {
        name: Some((*name).to_string()),
        value: Some(value.clone()),
    };
    Metric { label: labels.iter().map(pair).collect(), ..Metric::default() }
}

fn histogram(histogram: &model::Histogram) -> Histogram {
    let model::Histogram { count, sum, classic, native } = histogram;
    // The bucket without an end need not be written.
    let bucket = |&(bound, count): &(f64, u64)| Bucket {
        cumulative_count: Some(count),
        upper_bound: Some(bound),
    };
    let span = |(offset, length)| BucketSpan { offset: Some(offset), length: Some(length) };
    Histogram {
        sample_count: Some(*count),
        sample_sum: Some(*sum),
        bucket: classic.iter().map(bucket).collect(),
        schema: Some(SCHEMA),
        zero_threshold: Some(ZERO_THRESHOLD),
        zero_count: Some(native.zeros),
        positive_span: native.spans().into_iter().map(span).collect(),
        positive_delta: native.deltas(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::texts::tests::sample;

    #[test]
    fn what_is_written_is_read_again() {
        let bytes = delimited(&sample());
        let mut rest = &bytes[..];
        let mut names = Vec::new();
        while !rest.is_empty() {
            let family = MetricFamily::decode_length_delimited(&mut rest).unwrap();
            names.push((family.name.clone().unwrap(), family.kind.unwrap()));
            if family.kind == Some(HISTOGRAM) {
                let histogram = family.metric[0].histogram.as_ref().unwrap();
                assert_eq!(histogram.sample_count, Some(6));
                assert_eq!(histogram.bucket.len(), 3);
                assert_eq!(histogram.zero_count, Some(1));
                let mut count = 0;
                let counts: i64 = histogram
                    .positive_delta
                    .iter()
                    .map(|delta| {
                        count += delta;
                        count
                    })
                    .sum();
                assert_eq!(counts, 5);
            }
        }
        let expected = [
            ("a_total", COUNTER),
            ("b_bytes_total", COUNTER),
            ("c_seconds", HISTOGRAM),
            ("d_info", GAUGE),
        ];
        assert_eq!(names, expected.map(|(name, kind)| (name.to_string(), kind)));
    }
}
