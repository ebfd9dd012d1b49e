//! The two text formats: the one that Prometheus has always read, and OpenMetrics.

use std::fmt::{self, Write as _};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, text::encode},
    metrics::{MetricType, counter::ConstCounter, info::Info},
    registry::{Registry, Unit as Units},
};

use super::model::{Family, Histogram, Labels, Metrics, Unit};

/// `text/plain; version=0.0.4`
#[must_use]
pub fn classic(families: &[Family]) -> String {
    let mut out = String::new();
    for family in families {
        // Writing to memory cannot fail.
        let _ = classic_family(family, &mut out);
    }
    out
}

fn classic_family(family: &Family, out: &mut String) -> fmt::Result {
    let name = family.classic_name();
    let kind = match family.metrics {
        Metrics::Counters(_) => "counter",
        Metrics::Infos(_) => "gauge",
        Metrics::Histograms(_) => "histogram",
    };
    writeln!(out, "# HELP {name} {}", family.help)?;
    writeln!(out, "# TYPE {name} {kind}")?;
    match &family.metrics {
        Metrics::Counters(metrics) => {
            for (labels, count) in metrics {
                sample(out, &name, "", labels, None, count)?;
            }
        }
        Metrics::Infos(metrics) => {
            for labels in metrics {
                sample(out, &name, "", labels, None, 1)?;
            }
        }
        Metrics::Histograms(metrics) => {
            for (labels, histogram) in metrics {
                for &(bound, count) in &histogram.classic {
                    sample(out, &name, "_bucket", labels, Some(&number(bound)), count)?;
                }
                sample(out, &name, "_bucket", labels, Some("+Inf"), histogram.count)?;
                sample(out, &name, "_sum", labels, None, histogram.sum)?;
                sample(out, &name, "_count", labels, None, histogram.count)?;
            }
        }
    }
    Ok(())
}

fn sample(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &Labels,
    bound: Option<&str>,
    value: impl fmt::Display,
) -> fmt::Result {
    write!(out, "{name}{suffix}")?;
    let labels = labels.iter().map(|(key, value)| (*key, value.as_str()));
    let mut before = '{';
    for (key, value) in labels.chain(bound.map(|bound| ("le", bound))) {
        write!(out, "{before}{key}=\"")?;
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
    writeln!(out, " {value}")
}

/// As other exporters, and Prometheus itself where it reads protobuf, write bounds.
fn number(value: f64) -> String {
    if value >= 1e-4 {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => text,
    }
}

/// `application/openmetrics-text; version=1.0.0`
///
/// # Errors
/// When the library cannot write it.
pub fn openmetrics(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Shown(families)));
    let mut out = String::new();
    encode(&mut out, &registry)?;
    Ok(out)
}

/// Families for the library.
#[derive(Debug)]
struct Shown(Vec<Family>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in &self.0 {
            let unit = family.unit.map(|unit| match unit {
                Unit::Seconds => Units::Seconds,
                Unit::Bytes => Units::Bytes,
            });
            let kind = match family.metrics {
                Metrics::Counters(_) => MetricType::Counter,
                Metrics::Infos(_) => MetricType::Info,
                Metrics::Histograms(_) => MetricType::Histogram,
            };
            let mut encoder =
                encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
            match &family.metrics {
                Metrics::Counters(metrics) => {
                    for (labels, count) in metrics {
                        ConstCounter::new(*count).encode(encoder.encode_family(labels)?)?;
                    }
                }
                Metrics::Infos(metrics) => {
                    for labels in metrics {
                        Info::new(labels.clone()).encode(encoder.encode_family(&NONE)?)?;
                    }
                }
                Metrics::Histograms(metrics) => {
                    for (labels, histogram) in metrics {
                        let Histogram { count, sum, classic: _, native: _ } = histogram;
                        encoder.encode_family(labels)?.encode_histogram::<Labels>(
                            *sum,
                            *count,
                            &parts(histogram),
                            None,
                        )?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// No labels.
const NONE: Labels = Vec::new();

/// Buckets with the counts of their own, `+Inf` too.
fn parts(histogram: &Histogram) -> Vec<(f64, u64)> {
    let mut below = 0;
    let last = (f64::INFINITY, histogram.count);
    histogram
        .classic
        .iter()
        .chain([&last])
        .map(|&(bound, count)| {
            let own = count - below;
            below = count;
            (bound, own)
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::serve::buckets::Native;

    /// One of each.
    pub fn sample() -> Vec<Family> {
        let labels = |label: &'static str, value: &str| vec![(label, value.to_string())];
        let mut buckets = vec![0; forkscope_common::hist::BUCKETS];
        buckets[0] = 1;
        buckets[100] = 3;
        buckets[101] = 2;
        let histogram = Histogram {
            count: 6,
            sum: 5.02e-7,
            classic: vec![(9.9e-8, 1), (1.05e-7, 6), (0.25, 6)],
            native: Native::of(&buckets),
        };
        let counters = |name, unit, metrics| Family {
            name,
            help: "Helps.",
            unit,
            metrics: Metrics::Counters(metrics),
        };
        vec![
            counters("a", None, vec![(labels("comm", "x\\\"\n"), 7), (labels("comm", "other"), 0)]),
            counters("b", Some(Unit::Bytes), vec![(Vec::new(), 1 << 60)]),
            Family {
                name: "c",
                help: "Takes.",
                unit: Some(Unit::Seconds),
                metrics: Metrics::Histograms(vec![(labels("mechanism", "fork"), histogram)]),
            },
            Family {
                name: "d",
                help: "Is.",
                unit: None,
                metrics: Metrics::Infos(vec![labels("version", "1")]),
            },
        ]
    }

    #[test]
    fn the_classic_text() {
        assert_eq!(
            classic(&sample()),
            r#"# HELP a_total Helps.
# TYPE a_total counter
a_total{comm="x\\\"\n"} 7
a_total{comm="other"} 0
# HELP b_bytes_total Helps.
# TYPE b_bytes_total counter
b_bytes_total 1152921504606846976
# HELP c_seconds Takes.
# TYPE c_seconds histogram
c_seconds_bucket{mechanism="fork",le="9.9e-08"} 1
c_seconds_bucket{mechanism="fork",le="1.05e-07"} 6
c_seconds_bucket{mechanism="fork",le="0.25"} 6
c_seconds_bucket{mechanism="fork",le="+Inf"} 6
c_seconds_sum{mechanism="fork"} 0.000000502
c_seconds_count{mechanism="fork"} 6
# HELP d_info Is.
# TYPE d_info gauge
d_info{version="1"} 1
"#
        );
    }

    #[test]
    fn the_openmetrics_text() {
        assert_eq!(
            openmetrics(sample()).unwrap(),
            r#"# HELP a Helps.
# TYPE a counter
a_total{comm="x\\\"\n"} 7
a_total{comm="other"} 0
# HELP b_bytes Helps.
# TYPE b_bytes counter
# UNIT b_bytes bytes
b_bytes_total{} 1152921504606846976
# HELP c_seconds Takes.
# TYPE c_seconds histogram
# UNIT c_seconds seconds
c_seconds_sum{mechanism="fork"} 5.02e-7
c_seconds_count{mechanism="fork"} 6
c_seconds_bucket{le="9.9e-8",mechanism="fork"} 1
c_seconds_bucket{le="1.05e-7",mechanism="fork"} 6
c_seconds_bucket{le="0.25",mechanism="fork"} 6
c_seconds_bucket{le="+Inf",mechanism="fork"} 6
# HELP d Is.
# TYPE d info
d_info{version="1"} 1
# EOF
"#
        );
    }
}
